"""bmaml-train world: policies train, publish, resume, and are scored and drawn."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib import image

from model_store import Store
from training import loop
from training.__main__ import main
from training.families.worlds import WORLDS, Navigation


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    monkeypatch.setattr("training.families.world_tasks.HELD_OUT_TASKS", 6)
    monkeypatch.setattr("training.families.world_tasks.VALIDATION_TASKS", 4)
    monkeypatch.setattr("training.policies.HELD_OUT_TASKS", 6)
    monkeypatch.setitem(WORLDS, "navigation", partial(Navigation, horizon=20))


def arguments(tmp_path, world="navigation", name="n", runs="runs", **changes):
    settings = {
        "learner": "bmaml",
        "particles": 3,
        "hidden": 8,
        "episodes": 3,
        "meta-steps": 4,
        "meta-batch": 3,
        "evaluate-every": 2,
        "store": tmp_path / "store",
        "runs": tmp_path / runs,
        "device": "cpu",
        **changes,
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return ["world", world, "--name", name, *flags]


@pytest.mark.parametrize(
    ("learner", "objective", "particles"),
    [("maml", "mean", 1), ("emaml", "mean", 3), ("bmaml", "chaser", 3), ("bmaml", "mixture", 3)],
)
def test_policies_train_and_publish_with_measured_returns(tmp_path, learner, objective, particles, capsys):
    changes = {"learner": learner, "objective": objective, "particles": particles}
    assert main(arguments(tmp_path, **changes)) == 0
    store = Store(tmp_path / "store")
    model = store.load("n")
    assert (model.manifest.kind, model.manifest.learner) == ("policy", learner)
    assert model.learner.objective == objective
    assert [column.name for column in model.manifest.outputs] == ["dx", "dy"]
    columns = ("return", "chosen", "served")
    assert set(model.manifest.metrics) == {f"{name}_{after}" for name in columns for after in range(4)}
    assert [point.step for point in model.manifest.history] == [2, 4]
    assert "published n version 1" in capsys.readouterr().out
    assert "| chosen_1 |" in store.card("n")


def test_training_raises_the_return_after_an_update(tmp_path):
    changes = {"particles": 2, "hidden": 16, "episodes": 6, "meta-batch": 10, "evaluate-every": 40}
    assert main(arguments(tmp_path, **changes, **{"meta-steps": 1})) == 0
    assert main(arguments(tmp_path, **changes, **{"meta-steps": 40})) == 0
    before, after = (Store(tmp_path / "store").load("n", version).manifest.metrics for version in (1, 2))
    assert after["return_2"] > before["return_2"] + 1
    assert after["return_2"] > after["return_0"] + 1


def test_worlds_of_sparse_rewards_tell_in_how_many_tasks_one_is_found(tmp_path):
    assert main([*arguments(tmp_path, "ring", objective="mixture"), "--shaped"]) == 0
    model = Store(tmp_path / "store").load("n")
    assert 0 <= model.manifest.metrics["found_0"] <= 1
    assert model.manifest.training["family"] == {
        "world": "ring",
        "episodes": 3,
        "shaped": True,
        "kind": "world",
        "vary": [],
        "horizon": None,
    }


def test_an_interrupted_run_resumes_to_the_same_version(tmp_path, monkeypatch):
    assert main(arguments(tmp_path, runs="whole")) == 0

    def interrupting(state, *rest):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return meta_step(state, *rest)

    meta_step = loop.meta_step
    monkeypatch.setattr(loop, "meta_step", interrupting)
    assert main(arguments(tmp_path, runs="cut")) == 130
    monkeypatch.setattr(loop, "meta_step", meta_step)
    assert main([*arguments(tmp_path, runs="cut"), "--resume"]) == 0
    store = Store(tmp_path / "store")
    assert store.load("n", 1).manifest.files == store.load("n", 2).manifest.files


def test_a_run_begins_with_the_parameters_of_a_published_version(tmp_path):
    assert main(arguments(tmp_path)) == 0
    more = {"meta-steps": 1, "learning-rate": 1e-9, "start-from": "n"}
    assert main(arguments(tmp_path, name="more", **more)) == 0
    store = Store(tmp_path / "store")
    one, two = (store.load(name).learned["initial"] for name in ("n", "more"))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_a_version_is_scored_again_and_drawn(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 0
    published = Store(tmp_path / "store").load("n").manifest.metrics
    capsys.readouterr()
    where = ["n", "navigation", "--store", str(tmp_path / "store")]
    assert main(["evaluate", *where]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert {name: pytest.approx(float(value), rel=1e-3) for name, value in printed.items()} == published
    assert main(["plot", *where]) == 0
    paths = capsys.readouterr().out.split()
    assert [path.rpartition("/")[2] for path in paths] == ["returns.png", "paths.png", "history.png"]
    for path in paths:
        pixels = image.imread(path)
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50  # not an empty sheet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "maze"}, "no world 'maze'"),
        ({"episodes": 1}, "at least two episodes"),
        ({"learner": "llama"}, "llama is no learner for policies"),
        ({"learner": "emaml", "alpha": 0.1}, "has no setting alpha"),
        ({"learner": "maml", "particles": 2}, "maml has one particle"),
        ({"meta-steps": 0}, "meta_steps must be"),
        ({"name": "No Such"}, "not a model name"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(tmp_path, changes, message, capsys):
    assert main(arguments(tmp_path, **changes)) == 1
    assert message in capsys.readouterr().err


def test_policies_are_not_compiled(tmp_path, capsys):
    assert main([*arguments(tmp_path), "--compile"]) == 1
    assert "without --compile" in capsys.readouterr().err
