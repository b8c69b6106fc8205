"""Stores elsewhere and the folders that follow them: the same laws on every file system that is installed."""

import importlib.util
import os
import threading
from contextlib import contextmanager

import fsspec
import pytest

import model_store.__main__ as command
import training.__main__ as training_command
from model_store import BadAddress, Mirror, NotAMirror, RemoteStore, Store, UnknownModel, Unreachable
from model_store.manifest import MANIFEST_FILE, WEIGHTS_FILE
from model_store.model import CorruptModel
from tests.published import publish

S3 = importlib.util.find_spec("moto") is not None and importlib.util.find_spec("s3fs") is not None


@pytest.fixture(scope="session")
def s3_endpoint():
    if not S3:
        pytest.skip("needs moto[server] and s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def address(request, tmp_path, monkeypatch):
    """The address of an empty store."""
    if request.param == "file":
        return f"file://{tmp_path}/elsewhere/models"
    if request.param == "memory":
        return f"memory://{tmp_path.name}/models"
    endpoint = request.getfixturevalue("s3_endpoint")
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = tmp_path.name.replace("_", "-").lower().strip("-")[-60:].strip("-")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/models"


@pytest.fixture
def here(tmp_path):
    """A store in a folder, from which versions are published elsewhere."""
    publish(tmp_path / "here", "tiny", seed=1)
    return Store(tmp_path / "here")


@pytest.fixture
def mirror(address, tmp_path):
    return Mirror(RemoteStore(address), tmp_path / "cache")


def files(mirror):
    """The file system of a mirror's store, and the path of its root."""
    return mirror.remote._files, mirror.remote._root


def served(mirror):
    return {name: mirror.store.versions(name) for name in mirror.store.names()}


@contextmanager
def unreachable(mirror, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route to it")

    with monkeypatch.context() as patched:
        patched.setattr(mirror.remote._files, "find", fail)
        yield


def test_what_is_published_elsewhere_is_mirrored_and_loads_alike(mirror, here):
    assert mirror.remote.publish(here, "tiny") == 1
    mirror.refresh()
    mirrored, local = mirror.store.load("tiny"), here.load("tiny")
    assert mirrored.manifest == local.manifest
    assert mirrored.learned.keys() == local.learned.keys()
    assert all((mirrored.learned[each] == local.learned[each]).all() for each in local.learned)
    assert mirror.store.card("tiny") == here.card("tiny")


def test_numbers_are_those_of_the_store_elsewhere(mirror, here):
    publish(here.root, "tiny", seed=2)
    assert [mirror.remote.publish(here, "tiny", version) for version in (2, 1, 2)] == [1, 2, 3]
    mirror.refresh()
    assert served(mirror) == {"tiny": [1, 2, 3]}
    assert mirror.store.load("tiny", 2).manifest.version == 2


def test_an_upload_without_its_manifest_is_not_seen(mirror, here):
    mirror.remote.publish(here, "tiny")
    system, root = files(mirror)
    system.pipe_file(f"{root}/tiny/2/{WEIGHTS_FILE}", here.contents("tiny")[WEIGHTS_FILE])
    mirror.refresh()
    assert served(mirror) == {"tiny": [1]}
    assert mirror.remote.publish(here, "tiny") == 3  # the other publisher may still be at it


def test_an_altered_byte_is_refused_and_does_not_replace_what_was_good(mirror, here):
    mirror.remote.publish(here, "tiny")
    mirror.refresh()
    system, root = files(mirror)
    path = f"{root}/tiny/1/{WEIGHTS_FILE}"
    content = bytearray(system.cat_file(path))
    content[-1] ^= 1
    system.pipe_file(path, bytes(content))
    mirror.refresh()
    assert mirror.store.load("tiny", 1).manifest.version == 1
    fresh = Mirror(mirror.remote, mirror.store.root.with_name("fresh"))
    fresh.refresh()
    with pytest.raises(CorruptModel, match="hashes to"):
        fresh.store.load("tiny", 1)
    system.pipe_file(path, here.contents("tiny")[WEIGHTS_FILE])
    if os.path.exists(path):  # of the same size, and on a coarse clock of the same time
        os.utime(path, (0, 0))
    fresh.refresh()
    assert fresh.store.load("tiny", 1).manifest.version == 1


def test_a_removal_drops_and_its_number_is_not_given_again(mirror, here):
    for _ in range(2):
        mirror.remote.publish(here, "tiny")
    mirror.refresh()
    mirror.remote.remove("tiny", 2)
    mirror.refresh()
    assert served(mirror) == {"tiny": [1]}
    assert mirror.remote.publish(here, "tiny") == 3
    with pytest.raises(UnknownModel):
        mirror.remote.remove("tiny", 2)


def test_an_empty_listing_all_at_once_keeps_what_is_there(mirror, here):
    mirror.remote.publish(here, "tiny")
    mirror.refresh()
    system, root = files(mirror)
    system.rm(root, recursive=True)
    mirror.refresh()
    assert served(mirror) == {"tiny": [1]}


def test_a_dead_endpoint_changes_nothing(mirror, here, monkeypatch):
    mirror.remote.publish(here, "tiny")
    mirror.refresh()
    with unreachable(mirror, monkeypatch), pytest.raises(Unreachable, match="no route to it"):
        mirror.refresh()
    assert served(mirror) == {"tiny": [1]}


def test_a_download_that_breaks_leaves_nothing_and_the_others_come(mirror, here, monkeypatch):
    publish(here.root, "other", seed=3)
    mirror.remote.publish(here, "tiny")
    mirror.remote.publish(here, "other")
    get = mirror.remote._files.get_file

    def broken(path, target, **more):
        if "other" in str(path) and str(path).endswith(WEIGHTS_FILE):
            raise ConnectionError("cut off")
        return get(path, target, **more)

    with monkeypatch.context() as patched:
        patched.setattr(mirror.remote._files, "get_file", broken)
        with pytest.raises(Unreachable, match="cut off"):
            mirror.refresh()
    assert served(mirror) == {"tiny": [1]}
    assert [each.name for each in mirror.store.root.iterdir()] == ["tiny"]
    mirror.refresh()
    assert served(mirror) == {"tiny": [1], "other": [1]}


@pytest.mark.parametrize("address", ["file", "s3"], indirect=True)  # that of memory: has no lock
def test_two_publishers_never_take_one_number(address, here):
    numbers: list[int] = []

    def publisher() -> None:
        remote = RemoteStore(address)
        numbers.extend(remote.publish(here, "tiny") for _ in range(4))

    threads = [threading.Thread(target=publisher) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(numbers) == list(range(1, 13))
    assert [version for _, version in RemoteStore(address).versions()] == list(range(1, 13))


def test_the_manifest_comes_last_and_only_where_none_is(address, here, monkeypatch):
    remote = RemoteStore(address)
    written: list[str] = []
    opened, piped = remote._files.open, remote._files.pipe_file

    def noting_open(path, mode="rb", **more):
        written.append(f"{path} {mode}")
        return opened(path, mode, **more)

    def noting_pipe(path, content, **more):
        written.append(path)
        return piped(path, content, **more)

    monkeypatch.setattr(remote._files, "open", noting_open)
    monkeypatch.setattr(remote._files, "pipe_file", noting_pipe)
    remote.publish(here, "tiny")
    assert written[0].endswith("/tiny/1/claimed xb")
    assert written[-1].endswith(f"/tiny/1/{MANIFEST_FILE} xb")
    with pytest.raises(FileExistsError):
        remote._create(("tiny", 1), MANIFEST_FILE, b"{}")


def test_files_of_something_else_are_left_alone(mirror, here):
    system, root = files(mirror)
    for path in (
        "README.md",
        "tiny/notes.txt",
        "Not A Name/1/manifest.json",
        "tiny/1/.hidden",
        "tiny/x/manifest.json",
    ):
        system.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{root}/{path}", b"{}")
    assert mirror.remote.versions() == {}
    mirror.remote.publish(here, "tiny")
    mirror.refresh()
    assert served(mirror) == {"tiny": [1]}
    assert not (mirror.store.root / "tiny" / "1" / ".hidden").exists()


def test_a_folder_with_versions_of_its_own_is_not_taken_for_a_mirror(address, here, tmp_path):
    with pytest.raises(NotAMirror, match="choose an empty folder"):
        Mirror(RemoteStore(address), here.root)
    Mirror(RemoteStore(address), tmp_path / "cache").remote.publish(here, "tiny")
    first = Mirror(RemoteStore(address), tmp_path / "cache")
    first.refresh()
    with pytest.raises(NotAMirror, match="is from"):
        Mirror(RemoteStore(f"{address}-of-another"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("nowhere://bucket/models", "nowhere"),
        ("models", "s3://bucket/models"),
        pytest.param(
            "gs://bucket/models",
            r"pip install 'bmaml-service\[gcs\]'",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed"
            ),
        ),
    ],
)
def test_an_address_that_nothing_can_read_says_what_to_do(address, complaint):
    with pytest.raises(BadAddress, match=complaint):
        RemoteStore(address)


def test_commands_look_after_a_store_elsewhere(address, here, capsys):
    def run(*arguments: str) -> str:
        assert command.main([*arguments]) == 0
        return capsys.readouterr().out

    for number in (1, 2):
        said = run("--store", str(here.root), "push", "tiny", "--to", address)
        assert said == f"published tiny version {number} in {address}\n"
    assert run("--store", address, "list").count("\ntiny") == 2
    assert "ok   tiny version 2" in run("--store", address, "verify")
    assert '"version": 2' in run("--store", address, "show", "tiny")
    run("--store", address, "remove", "tiny", "2")
    assert run("--store", address, "list").count("\ntiny") == 1
    assert command.main(["--store", address, "remove", "tiny", "2"]) == 1
    assert "has no tiny version 2" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["s3://bucket/models", "file:///models"])
def test_an_address_in_place_of_a_folder_is_refused_before_a_training(store, capsys, monkeypatch):
    monkeypatch.setenv("BMAML_STORE", store)
    assert training_command.main(["sinusoid", "--name", "waves"]) == 1
    assert "bmaml-store push NAME --to ADDRESS" in capsys.readouterr().err
