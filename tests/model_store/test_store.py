"""A version is whole or not there, and is believed only when it agrees with its manifest."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bmaml.learners.surprise import START_SHARES, Surprise
from model_store import CorruptModel, InvalidName, Store, UnknownModel
from model_store import __main__ as command
from model_store.manifest import MANIFEST_FILE, WEIGHTS_FILE
from tests.published import Y, publish, publish_policy


def test_what_is_loaded_is_what_was_published(tmp_path):
    published = publish(tmp_path)
    loaded = Store(tmp_path).load("tiny")
    assert loaded.manifest == published.manifest
    assert loaded.learner == published.learner
    assert loaded.sha256 == published.sha256
    for name, tensor in published.learned.items():
        assert torch.equal(loaded.learned[name], tensor)
    assert Store(tmp_path).card("tiny") == "# A card\n"


def test_surprising_hypotheses_come_back_with_the_frequencies_of_their_features(tmp_path):
    surprise = Surprise(wide_scales=(9.0,), noisy_every=2, lengths=(2.0, 0.5), frequencies=7)
    published = publish(tmp_path, surprise=surprise, resolution=0.01)
    loaded = Store(tmp_path).load("tiny")
    assert loaded.learner == published.learner
    assert loaded.learner.surprise == surprise
    assert torch.equal(loaded.learned["frequencies"], surprise.draw_frequencies(1))
    assert torch.equal(loaded.learned["log_shares"], torch.tensor(START_SHARES).log())


def test_a_policy_comes_back_with_its_learner(tmp_path):
    published = publish_policy(tmp_path, alpha=0.2)
    loaded = Store(tmp_path).load("walker")
    assert loaded.learner == published.learner
    assert loaded.learner.alpha == 0.2
    assert (loaded.manifest.kind, loaded.manifest.learner) == ("policy", "bmaml")
    assert torch.equal(loaded.learned["initial"], published.learned["initial"])
    assert torch.equal(loaded.prior_posterior.particles[0], loaded.learned["initial"])


def test_versions_count_up_and_the_newest_is_the_default(tmp_path):
    publish(tmp_path, seed=1)
    publish(tmp_path, seed=2)
    store = Store(tmp_path)
    assert store.names() == ["tiny"]
    assert store.versions("tiny") == [1, 2]
    assert store.load("tiny").manifest.seed == 2
    assert store.load("tiny", 1).manifest.seed == 1


def test_unknown_names_and_versions_say_what_there_is(tmp_path):
    publish(tmp_path)
    with pytest.raises(UnknownModel, match="tiny"):
        Store(tmp_path).load("huge")
    with pytest.raises(UnknownModel, match="versions 1, not 7"):
        Store(tmp_path).load("tiny", 7)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 65, "a\n"])
def test_names_that_could_leave_the_store_are_refused(tmp_path, name):
    with pytest.raises(InvalidName):
        Store(tmp_path).load(name)
    with pytest.raises(InvalidName):
        publish(tmp_path, name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", [WEIGHTS_FILE, "MODEL_CARD.md"])
def test_an_altered_file_is_refused(tmp_path, file):
    publish(tmp_path)
    path = tmp_path / "tiny" / "1" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptModel, match="hashes to"):
        Store(tmp_path).load("tiny")


@pytest.mark.parametrize("file", [WEIGHTS_FILE, "MODEL_CARD.md", MANIFEST_FILE])
def test_a_missing_file_is_refused(tmp_path, file):
    publish(tmp_path)
    (tmp_path / "tiny" / "1" / file).unlink()
    with pytest.raises(CorruptModel, match="missing"):
        Store(tmp_path).load("tiny")


@pytest.mark.parametrize(
    "change",
    [
        {"learner": "nobody"},
        {"format": 2},
        {"version": 3},
        {"name": "other"},
        {"surprise": 1},
        {"outputs": []},
        {"files": {"../../etc/passwd": "0" * 64}},
        {"tensors": {"initial": [1, 2]}},
        {"settings": {"network": {"inputs": 1, "hidden": [6, 5], "outputs": 1}, "particles": "many"}},
        {"outputs": [Y.model_dump(), Y.model_dump()]},
    ],
)
def test_a_manifest_that_does_not_describe_the_weights_is_refused(tmp_path, change):
    publish(tmp_path)
    path = tmp_path / "tiny" / "1" / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptModel):
        Store(tmp_path).load("tiny")


def test_links_out_of_the_store_are_refused(tmp_path):
    publish(tmp_path / "elsewhere")
    root = tmp_path / "store"
    (root / "tiny").mkdir(parents=True)
    (root / "tiny" / "1").symlink_to(tmp_path / "elsewhere" / "tiny" / "1")
    with pytest.raises(CorruptModel, match="outside the store"):
        Store(root).load("tiny")
    publish(root, name="other")
    weights = root / "other" / "1" / WEIGHTS_FILE
    weights.rename(tmp_path / "moved")
    weights.symlink_to(tmp_path / "moved")
    with pytest.raises(CorruptModel):
        Store(root).load("other")


def test_weights_that_are_not_finite_are_never_published(tmp_path):
    good = publish(tmp_path / "good")
    described = good.manifest.model_dump(exclude={"format", "name", "version", "tensors", "files"})
    spoilt = {name: tensor.clone().fill_(torch.nan) for name, tensor in good.learned.items()}
    with pytest.raises(CorruptModel, match="not finite"):
        Store(tmp_path).publish("tiny", "", spoilt, **described)
    assert list((tmp_path / "tiny").iterdir()) == []


def _publish_some(root: Path, count: int) -> None:
    torch.set_num_threads(1)
    for seed in range(count):
        publish(root, seed=seed)


def test_concurrent_publishers_never_share_a_number(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_publish_some, args=(tmp_path, 5)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    store = Store(tmp_path)
    assert store.versions("tiny") == list(range(1, 21))
    for version in range(1, 21):
        assert store.load("tiny", version).manifest.version == version
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir() if path.name[0] == ".") == []


def _publish_until_killed(root: Path, started: "multiprocessing.synchronize.Event") -> None:
    torch.set_num_threads(1)
    started.set()
    while True:
        publish(root)


def test_a_publisher_killed_at_any_moment_leaves_whole_versions_and_no_rubbish(tmp_path):
    context, store = multiprocessing.get_context("fork"), Store(tmp_path)
    for round_ in range(10):
        started, wanted = context.Event(), len(store.versions("tiny")) + 1 + round_ % 3
        worker = context.Process(target=_publish_until_killed, args=(tmp_path, started))
        worker.start()
        started.wait()
        while len(store.versions("tiny")) < wanted:
            os.sched_yield()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        for version in store.versions("tiny"):
            assert store.load("tiny", version).manifest.version == version
    publish(tmp_path)
    assert [path.name for path in (tmp_path / "tiny").iterdir() if path.name[0] == "."] == []


def test_removing_takes_one_version_whole(tmp_path):
    publish(tmp_path)
    publish(tmp_path)
    Store(tmp_path).remove("tiny", 1)
    assert Store(tmp_path).versions("tiny") == [2]
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["2"]


def test_the_number_of_a_removed_version_is_not_given_again(tmp_path):
    store = Store(tmp_path)
    for expected in (1, 2):
        assert publish(tmp_path).manifest.version == expected
    for removed in (2, 1):
        store.remove("tiny", removed)
    assert store.names() == []
    assert publish(tmp_path).manifest.version == 3
    store.remove("tiny", 3)
    assert publish(tmp_path).manifest.version == 4


def test_the_command_lists_shows_verifies_and_removes(tmp_path, capsys):
    publish(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        code = command.main(["--store", str(tmp_path), *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    assert run("list")[1].splitlines()[1].split()[:3] == ["tiny", "1", "collapsed"]
    assert json.loads(run("show", "tiny")[1])["name"] == "tiny"
    assert run("show", "tiny", "--card") == (0, "# A card\n\n")
    assert run("verify")[0] == 0
    (tmp_path / "tiny" / "1" / WEIGHTS_FILE).write_bytes(b"")
    code, text = run("verify")
    assert code == 1
    assert text.startswith("BAD")
    assert run("list")[0] == 1
    assert run("verify", "nobody")[0] == 1
    assert run("remove", "tiny", "1")[0] == 0
    assert run("remove", "tiny", "1")[0] == 1


def test_a_reader_who_has_seen_enough_leaves_no_traceback(tmp_path):
    publish(tmp_path)
    verify = [sys.executable, "-m", "model_store", "--store", str(tmp_path), "verify"]
    with subprocess.Popen(verify, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as verifying:
        verifying.stdout.close()
        assert verifying.stderr.read() == b""
    assert verifying.returncode == 1


def test_what_is_no_model_may_lie_beside_the_models(tmp_path):
    store = Store(tmp_path)
    publish(tmp_path, "tiny")
    for name in ("lost+found", "Backup", "@eaDir"):
        (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / "README.md").write_text("ours")
    assert store.names() == ["tiny"]
    with pytest.raises(UnknownModel, match="the store has tiny"):
        store.load("other")
