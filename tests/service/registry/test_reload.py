"""New versions are picked up while serving, bad ones refused, and the answers in between are whole."""

import asyncio
import errno
import os
import shutil
import threading

import httpx
import numpy as np
import pytest

import service.registry.registry as versions_module
from model_store import Store
from service.settings import Settings
from tests.published import publish, publish_policy
from tests.service.conftest import serve

ROWS = {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}
BODY = {"model": "tiny", "support": ROWS, "query": {"x": [[0.0], [2.0]]}}


@pytest.fixture
def living(tmp_path):
    publish(tmp_path, "tiny", seed=1)
    for served in serve(Settings(store=tmp_path, device="cpu", reload_s=0.02)):
        yield tmp_path, served


def ask(client, **body):
    return client.post("/adapt-predict", json={**BODY, **body})


def wait_for(condition):
    """Until it holds; pytest's own timeout ends a wait in vain."""
    while not condition():
        pass


def versions(client):
    return client.get("/models").json()["models"][0]["versions"]


def test_a_new_version_answers_and_the_old_one_by_its_number(living):
    root, served = living
    old = ask(served.client).json()
    publish(root, "tiny", seed=2)
    wait_for(lambda: versions(served.client) == [1, 2])
    new = ask(served.client).json()
    assert (old["model"]["version"], new["model"]["version"]) == (1, 2)
    assert new["prediction"]["mean"] != old["prediction"]["mean"]
    again = ask(served.client, version=1).json()
    assert again["prediction"]["mean"] == pytest.approx(old["prediction"]["mean"], rel=1e-5)


def test_a_posterior_is_asked_of_the_version_it_belongs_to(living):
    root, served = living
    kept = served.client.post("/posteriors", json={"model": "tiny", "support": ROWS}).json()
    publish(root, "tiny", seed=2)
    wait_for(lambda: versions(served.client) == [1, 2])
    asked = {"model": "tiny", "posterior": kept["posterior"]["id"], "query": BODY["query"]}
    answer = served.client.post("/adapt-predict", json=asked).json()
    assert (answer["model"]["version"], answer["posterior"]["cache"]) == (1, "hit")
    Store(root).remove("tiny", 1)
    wait_for(lambda: versions(served.client) == [2])
    assert served.client.post("/adapt-predict", json=asked).status_code == 410
    assert ask(served.client, version=1).status_code == 404


def test_a_posterior_that_is_kept_while_its_version_is_dropped_is_gone_as_well(store, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(store / "tiny", root / "tiny")
    for served in serve(Settings(store=root, device="cpu", reload_s=1000)):
        kept = {"model": "tiny", "version": 1, "support": ROWS}
        posterior = served.client.post("/posteriors", json=kept).json()["posterior"]["id"]
        registry, posteriors = served.app.state.runtime.registry, served.app.state.runtime.posteriors
        entry = posteriors.get(posterior)
        Store(root).remove("tiny", 1)
        assert registry.refresh()
        posteriors.put(entry.id, entry.job, entry.kept, 100.0)  # as by a batch that was under way
        asked = {"model": "tiny", "posterior": posterior, "query": BODY["query"]}
        assert served.client.post("/adapt-predict", json=asked).status_code == 410
        assert posteriors.get(posterior) is None


def test_a_bad_version_is_refused_and_served_once_it_is_whole(living):
    root, served = living
    publish(root, "tiny", seed=2)
    wait_for(lambda: versions(served.client) == [1, 2])
    shutil.copytree(root / "tiny" / "2", root / "aside")
    weights = root / "tiny" / "2" / "particles.safetensors"
    shutil.rmtree(root / "tiny" / "2")
    wait_for(lambda: versions(served.client) == [1])
    (root / "tiny" / "2").mkdir()
    shutil.copy(root / "aside" / "manifest.json", root / "tiny" / "2" / "manifest.json")
    weights.write_bytes(b"half of it")
    wait_for(lambda: served.client.get("/models").json()["refused"])
    refused = served.client.get("/models").json()["refused"]
    assert {(each["name"], each["version"]) for each in refused} == {("tiny", 2)}
    assert ask(served.client).json()["model"]["version"] == 1
    for file in (root / "aside").iterdir():
        shutil.copy(file, root / "tiny" / "2" / file.name)
    wait_for(lambda: versions(served.client) == [1, 2])
    wait_for(lambda: not served.client.get("/models").json()["refused"])


def test_a_version_that_goes_bad_goes_on_answering_from_memory(living):
    root, served = living
    before = ask(served.client).json()["prediction"]["mean"]
    (root / "tiny" / "1" / "particles.safetensors").write_bytes(b"overwritten")
    wait_for(lambda: served.client.get("/models").json()["refused"])
    assert ask(served.client).json()["prediction"]["mean"] == before


def test_a_store_that_cannot_be_reached_is_no_reason_to_stop_answering(living):
    root, served = living
    root.rename(root.with_name("elsewhere"))
    counter = "bmaml_reloads_total"
    text = served.client.get("/metrics").text
    assert f'{counter}{{outcome="dropped"}} 0.0' in text
    assert ask(served.client).status_code == 200
    root.with_name("elsewhere").rename(root)


def test_versions_published_in_a_row_never_mix(living):
    root, served = living
    digests, done = {Store(root).load("tiny").sha256}, threading.Event()

    def publisher():
        for seed in range(10):
            digests.add(publish(root, "tiny", seed=seed + 5).sha256)
        done.set()

    async def asking():
        answers = []
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            while not done.is_set() or not answers or answers[-1].json()["model"]["version"] < 11:
                answers += await asyncio.gather(*(client.post("/adapt-predict", json=BODY) for _ in range(8)))
        return answers

    thread = threading.Thread(target=publisher)
    thread.start()
    answers = asyncio.run(asking())
    thread.join()
    assert {reply.status_code for reply in answers} == {200}
    said = {}
    for reply in answers:
        body = reply.json()
        assert body["model"]["sha256"] in digests
        mean = said.setdefault(body["model"]["version"], body["prediction"]["mean"])
        np.testing.assert_allclose(body["prediction"]["mean"], mean, rtol=1e-4)
    assert max(said) == 11


@pytest.fixture
def forgetful(tmp_path):
    """Two versions, and a service that soon lets go of what nobody asks for."""
    publish(tmp_path, "tiny", seed=1)
    publish(tmp_path, "tiny", seed=2)
    for served in serve(Settings(store=tmp_path, device="cpu", reload_s=0.02, idle_s=0.05)):
        yield tmp_path, served


def loaded(served):
    return set(served.app.state.runtime.catalogue.models["tiny"])


def test_an_old_version_that_nobody_asks_is_let_go_and_loaded_again_for_who_does(forgetful):
    root, served = forgetful
    first = ask(served.client, version=1).json()
    wait_for(lambda: loaded(served) == {2})
    assert versions(served.client) == [1, 2]
    card = served.client.get("/models/tiny/versions/1").json()
    assert card["sha256"] == first["model"]["sha256"]
    assert loaded(served) == {2}
    again = ask(served.client, version=1).json()
    assert (again["model"], again["prediction"]) == (first["model"], first["prediction"])
    wait_for(lambda: loaded(served) == {2})
    Store(root).remove("tiny", 2)
    wait_for(lambda: versions(served.client) == [1])
    assert ask(served.client).json()["model"] == first["model"]


def test_who_asks_whether_a_version_is_ready_does_not_keep_it_loaded(forgetful):
    _, served = forgetful
    wait_for(lambda: loaded(served) == {2})
    for path in ("/v2/models/tiny/versions/1/ready", "/v2/models/tiny/versions/1"):
        assert served.client.get(path).status_code == 200
    assert loaded(served) == {2}
    assert served.client.get("/v2/models/tiny/versions/9/ready").status_code == 404


def test_an_old_version_is_answered_while_new_ones_are_loaded_and_stays(forgetful, monkeypatch):
    root, served = forgetful
    registry = served.app.state.runtime.registry
    wait_for(lambda: loaded(served) == {2})
    before, reached, opened = registry._prepare, threading.Event(), threading.Event()

    def slow(model):
        if model.manifest.version == 3:
            reached.set()
            assert opened.wait(30)
        before(model)

    monkeypatch.setattr(registry, "_prepare", slow)
    monkeypatch.setattr(registry, "shelve_idle", lambda: None)
    publish(root, "tiny", seed=3)
    assert reached.wait(30)
    assert ask(served.client, version=1).json()["model"]["version"] == 1
    assert loaded(served) == {1, 2}
    opened.set()
    wait_for(lambda: loaded(served) == {1, 2, 3})


def test_what_was_replaced_while_it_was_loaded_is_not_served_for_long(forgetful, monkeypatch):
    root, served = forgetful
    registry = served.app.state.runtime.registry
    wait_for(lambda: loaded(served) == {2})
    before, loads = registry._prepare, []

    def replaced(model):
        before(model)
        if model.manifest.version == 1 and not loads:
            loads.append(model.sha256)
            Store(root).remove("tiny", 1)
            publish(root.parent / "elsewhere", "tiny", seed=7)
            (root.parent / "elsewhere" / "tiny" / "1").rename(root / "tiny" / "1")
            wait_for(lambda: registry.catalogue.shelved.get(("tiny", 1), model.sha256) != model.sha256)

    monkeypatch.setattr(registry, "_prepare", replaced)
    old = ask(served.client, version=1).json()["model"]["sha256"]
    assert [old] == loads  # the request began before
    new = ask(served.client, version=1).json()["model"]["sha256"]
    assert new != old


def test_of_new_versions_the_newest_is_loaded_and_the_others_once_they_are_asked_for(tmp_path):
    for seed in (1, 2, 3):
        publish(tmp_path, "tiny", seed=seed)
    for served in serve(Settings(store=tmp_path, device="cpu", reload_s=0.02)):
        assert loaded(served) == {3}
        assert versions(served.client) == [1, 2, 3]
        assert ask(served.client, version=2).json()["model"]["version"] == 2
        assert loaded(served) == {2, 3}
        publish(tmp_path, "tiny", seed=4)
        wait_for(lambda served=served: versions(served.client) == [1, 2, 3, 4])
        assert loaded(served) == {2, 3, 4}


def test_a_version_whose_posteriors_are_kept_is_not_let_go(forgetful):
    root, served = forgetful
    body = {"model": "tiny", "version": 1, "support": ROWS}
    kept = served.client.post("/posteriors", json=body).json()["posterior"]["id"]
    ask(served.client, version=1)  # loads it again, should it have been let go before the posterior was kept
    publish(root, "tiny", seed=3)
    wait_for(lambda: loaded(served) == {1, 3})
    served.client.delete(f"/posteriors/{kept}")
    wait_for(lambda: loaded(served) == {3})


def test_a_store_that_fails_again_and_again_is_told_once(living, monkeypatch, caplog):
    _, served = living
    registry, looks = served.app.state.runtime.registry, []

    def fault():
        looks.append(None)
        raise OSError("the disk is away")

    monkeypatch.setattr(registry, "refresh", fault)
    wait_for(lambda: len(looks) > 4)
    assert sum("cannot look at the store" in each.getMessage() for each in caplog.records) == 1
    monkeypatch.undo()
    monkeypatch.setattr(registry, "shelve_idle", lambda: looks.clear())
    wait_for(lambda: not looks)
    monkeypatch.setattr(registry, "refresh", fault)
    wait_for(lambda: len(looks) > 1)
    assert sum("cannot look at the store" in each.getMessage() for each in caplog.records) == 2


def test_a_version_that_cannot_be_loaded_again_stops_nothing_else(forgetful):
    root, served = forgetful
    wait_for(lambda: loaded(served) == {2})
    weights = root / "tiny" / "1" / "particles.safetensors"
    stamp, content = weights.stat(), weights.read_bytes()
    other = root.parent / "other"  # at once: the watcher is to see neither half of it nor another time
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(weights)
    reply = ask(served.client, version=1)
    assert (reply.status_code, reply.json()["type"]) == (503, "urn:bmaml:problem:not-ready")
    assert str(root) not in reply.text
    manifest = root / "tiny" / "1" / "manifest.json"
    whole = manifest.read_bytes()
    assert served.client.get("/models/tiny/versions/1").status_code == 200
    manifest.write_bytes(whole[:-9])
    card = served.client.get("/models/tiny/versions/1")
    assert (card.status_code, card.json()["type"]) in (
        (503, "urn:bmaml:problem:not-ready"),
        (404, "urn:bmaml:problem:unknown-model"),  # where the watcher was faster
    )
    assert str(root) not in card.text
    manifest.write_bytes(whole)
    publish(root, "another", seed=4)
    wait_for(lambda: len(served.client.get("/models").json()["models"]) == 2)
    Store(root).remove("tiny", 2)
    wait_for(lambda: [each["name"] for each in served.client.get("/models").json()["models"]] == ["another"])
    listed = served.client.get("/models").json()
    (refused,) = listed["refused"]
    assert (refused["name"], refused["version"]) == ("tiny", 1)
    assert refused["reason"].startswith("tiny/1/particles.safetensors hashes to")


def test_a_policy_is_served_beside_models_of_other_kinds(tmp_path):
    publish(tmp_path, "tiny", seed=1)
    publish_policy(tmp_path, "walker")
    for served in serve(Settings(store=tmp_path, device="cpu")):
        listed = served.client.get("/models").json()
        assert [(each["name"], each["kind"]) for each in listed["models"]] == [
            ("tiny", "regression"),
            ("walker", "policy"),
        ]
        assert listed["refused"] == []
        assert ask(served.client).status_code == 200


def test_an_error_that_nobody_expected_is_logged_with_its_traceback_once(tmp_path, monkeypatch, caplog):
    publish(tmp_path, "tiny", seed=1)
    whole, times = versions_module.warm_up, []

    def failing(model, most_work, answer):
        if len(times) < 4:
            times.append(model)
            raise ZeroDivisionError("by what is no number")
        whole(model, most_work, answer)

    monkeypatch.setattr(versions_module, "warm_up", failing)
    settings = Settings(store=tmp_path, device="cpu", reload_s=0.02)
    for served in serve(settings, ready=lambda client: client.get("/readyz").status_code == 200):
        assert ask(served.client).status_code == 200
    logged = [record for record in caplog.records if record.exc_info and record.name == "service.registry"]
    assert [record.getMessage() for record in logged] == ["tiny version 1 cannot be run"]
    assert logged[0].exc_info[0] is ZeroDivisionError
    assert [r.getMessage() for r in caplog.records if "refused tiny" in r.getMessage()] == [
        "refused tiny version 1: it cannot be run"
    ]


def test_a_version_refused_for_a_passing_cause_is_looked_at_again(tmp_path, monkeypatch):
    publish(tmp_path, "tiny", seed=1)
    whole, times = versions_module.warm_up, []

    def failing(model, most_work, answer):
        times.append(model)
        if len(times) < 4:
            raise MemoryError
        whole(model, most_work, answer)

    monkeypatch.setattr(versions_module, "warm_up", failing)
    for served in serve(Settings(store=tmp_path, device="cpu", reload_s=0.02)):
        wait_for(lambda client=served.client: client.get("/readyz").status_code == 200)
        assert ask(served.client).status_code == 200
        assert served.client.get("/models").json()["refused"] == []


def test_an_older_version_that_steps_in_is_tried_again_after_a_passing_failure(tmp_path, monkeypatch):
    publish(tmp_path, "tiny", seed=1)
    publish(tmp_path, "tiny", seed=2)
    whole, times = versions_module.warm_up, []

    def failing(model, most_work, answer):
        times.append(model.manifest.version)
        if times.count(1) == 2:  # it is tried, shelved, and needed again when the newer one is gone
            raise MemoryError
        whole(model, most_work, answer)

    monkeypatch.setattr(versions_module, "warm_up", failing)
    for served in serve(Settings(store=tmp_path, device="cpu", reload_s=0.02)):
        assert ask(served.client).json()["model"]["version"] == 2
        Store(tmp_path).remove("tiny", 2)
        wait_for(lambda client=served.client: times.count(1) > 2 and ask(client).status_code == 200)
        assert ask(served.client).json()["model"]["version"] == 1


def test_a_version_whose_files_cannot_be_read_for_a_moment_is_served_after_it(living, monkeypatch):
    root, served = living
    opened, left = os.open, [3]

    def short_of_descriptors(path, *arguments, **named):
        if str(path).endswith("2/particles.safetensors") and left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", short_of_descriptors)
    publish(root, "tiny", seed=2)
    wait_for(lambda: ask(served.client).json()["model"]["version"] == 2)
    assert left == [0]


def test_what_is_kept_of_a_version_after_it_was_dropped_is_dropped_too(living):
    root, served = living
    publish(root, "tiny", seed=2)
    wait_for(lambda: ask(served.client).json()["model"]["version"] == 2)
    body = {"model": "tiny", "version": 1, "support": ROWS}
    assert served.client.post("/posteriors", json=body).status_code in (200, 201)
    runtime = served.app.state.runtime
    (entry,) = runtime.posteriors._entries.values()
    Store(root).remove("tiny", 1)
    wait_for(lambda: not runtime.posteriors.models())
    runtime.posteriors.put(entry.id, entry.job, entry.kept, 600.0)  # by a batch that was under way
    wait_for(lambda: not runtime.posteriors.models())
