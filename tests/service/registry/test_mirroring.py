"""A service whose store is elsewhere: callers notice neither its end nor its beginning."""

import hashlib
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import fsspec
import pytest
from pydantic import ValidationError

from model_store import NotAMirror, RemoteStore, Store, Unreachable
from service.app import create_app
from service.settings import Settings
from tests.published import publish
from tests.service.conftest import serve
from tests.service.registry.test_reload import BODY, ask, versions, wait_for

serving = contextmanager(serve)


@pytest.fixture
def elsewhere(tmp_path):
    """A store elsewhere with one version, and the settings of a service that follows it."""
    publish(tmp_path / "here", "tiny", seed=1)
    remote = RemoteStore(f"file://{tmp_path}/elsewhere")
    remote.publish(Store(tmp_path / "here"), "tiny")
    settings = Settings(
        store=remote.address, store_cache=tmp_path / "cache", device="cpu", reload_s=0.02, mirror_s=0.02
    )
    return remote, settings


def ready(client):
    return client.get("/readyz").status_code == 200


def test_versions_are_served_from_elsewhere_and_followed(elsewhere, tmp_path):
    remote, settings = elsewhere
    with serving(settings, ready) as served:
        assert ask(served.client).json()["model"]["version"] == 1
        publish(tmp_path / "here", "tiny", seed=2)
        remote.publish(Store(tmp_path / "here"), "tiny")
        wait_for(lambda: versions(served.client) == [1, 2])
        remote.remove("tiny", 1)
        wait_for(lambda: versions(served.client) == [2])


def test_a_bad_version_from_elsewhere_is_refused_by_name(elsewhere, tmp_path):
    _, settings = elsewhere
    with serving(settings, ready) as served:
        place, bad = tmp_path / "elsewhere" / "tiny" / "2", tmp_path / "bad"
        bad.mkdir()
        for file in place.with_name("1").iterdir():
            (bad / file.name).write_bytes(file.read_bytes().replace(b'"version": 1', b'"version": 2'))
        with (bad / "particles.safetensors").open("ab") as weights:
            weights.write(b"\0")
        bad.rename(place)
        wait_for(lambda: served.client.get("/models").json()["refused"])
        (refused,) = served.client.get("/models").json()["refused"]
        assert (refused["name"], refused["version"]) == ("tiny", 2)
        assert ask(served.client).json()["model"]["version"] == 1


def test_an_endpoint_that_never_answers_holds_up_neither_callers_nor_the_end(elsewhere, monkeypatch):
    """Its look is still under way when the service ends; the cache alone makes it ready."""
    _, settings = elsewhere
    with serving(settings, ready) as served:
        assert versions(served.client) == [1]
    asked, over = threading.Event(), threading.Event()

    def never(self):
        asked.set()
        over.wait()
        raise Unreachable("at last")

    monkeypatch.setattr(RemoteStore, "versions", never)
    try:
        with serving(settings, ready) as served:
            assert asked.wait(60)
            assert ask(served.client).status_code == 200
            publish(settings.store_folder, "late", seed=3)  # the watch of the folder goes on
            wait_for(lambda: len(served.client.get("/models").json()["models"]) == 2)
    finally:
        over.set()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_a_bucket_whose_server_goes_away_holds_up_no_caller_no_key_and_no_start(tmp_path, monkeypatch):
    """The S3 client takes seconds to say that nobody answers; a revoked key ends meanwhile."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    bucket = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    bucket.start()
    host, port = bucket.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "known")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
    publish(tmp_path / "here", "tiny", seed=1)
    remote = RemoteStore("s3://bucket/models")
    remote.publish(Store(tmp_path / "here"), "tiny")
    ada, ben = (f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in ("ada", "ben"))
    keys = tmp_path / "keys"
    keys.write_text(f"{ada}\n{ben}\n")
    settings = Settings(
        store=remote.address,
        store_cache=tmp_path / "cache",
        keys_file=keys,
        device="cpu",
        reload_s=0.02,
        mirror_s=0.02,
    )
    try:
        with serving(settings, ready) as served:

            def status(name):
                return served.client.post("/adapt-predict", json=BODY, headers=bearer(name)).status_code

            assert (status("ada"), status("ben")) == (200, 200)
            bucket.stop()
            keys.write_text(f"{ada}\n")
            wait_for(lambda: status("ben") == 401)
            assert (status("ada"), ready(served.client)) == (200, True)
        with serving(settings, ready) as served:
            assert (status("ada"), status("ben")) == (200, 401)
    finally:
        bucket.stop()


def test_without_a_cache_and_without_an_endpoint_the_service_waits_and_says_why(elsewhere, monkeypatch):
    _, settings = elsewhere
    found = RemoteStore.versions

    def fail(self):
        raise Unreachable(f"{self.address} fails: no route to it")

    monkeypatch.setattr(RemoteStore, "versions", fail)
    with serving(settings) as served:
        wait_for(lambda: "no route to it" in served.client.get("/readyz").json()["detail"])
        monkeypatch.setattr(RemoteStore, "versions", found)
        wait_for(lambda: ready(served.client))
        assert ask(served.client).status_code == 200


def test_the_age_of_the_mirror_counts_from_the_last_answer(elsewhere, tmp_path, monkeypatch):
    _, settings = elsewhere
    now, rounds, found = [0.0], [], RemoteStore.versions
    monkeypatch.setattr("service.registry.mirroring.time", SimpleNamespace(monotonic=lambda: now[0]))

    def fail(self):
        rounds.append(now[0])
        raise Unreachable("no route to it")

    with serving(settings, ready) as served:
        assert "bmaml_mirror_age_seconds 0.0" in served.client.get("/metrics").text
        monkeypatch.setattr(RemoteStore, "versions", fail)
        wait_for(lambda: len(rounds) > 1)  # the round before has ended
        now[0] = 1000.0
        wait_for(lambda: rounds.count(1000.0) > 1)
        assert "bmaml_mirror_age_seconds 1000.0" in served.client.get("/metrics").text
        monkeypatch.setattr(RemoteStore, "versions", found)
        wait_for(lambda: "bmaml_mirror_age_seconds 0.0" in served.client.get("/metrics").text)
    with serving(Settings(store=tmp_path / "here", device="cpu"), ready) as served:
        assert "bmaml_mirror_age" not in served.client.get("/metrics").text


def test_an_address_needs_a_cache_and_a_folder_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("BMAML_STORE", "s3://bucket/models")
    with pytest.raises(ValidationError, match="needs a folder here"):
        Settings()
    monkeypatch.setenv("BMAML_STORE_CACHE", str(tmp_path))
    settings = Settings()
    assert (settings.store, settings.store_folder) == ("s3://bucket/models", tmp_path)
    with pytest.raises(ValidationError, match="leave it out"):
        Settings(store=tmp_path / "store")


def test_a_cache_with_versions_of_its_own_ends_the_start(elsewhere):
    _, settings = elsewhere
    publish(settings.store_folder, "own", seed=3)
    with pytest.raises(NotAMirror, match="choose an empty folder"):
        create_app(settings)
