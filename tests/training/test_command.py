"""bmaml-train: the same seed gives the same version, and an interrupted run loses nothing."""

import os
import signal

import pytest
import torch

from bmaml.learners.collapsed import Collapsed
from bmaml.networks import MLP
from model_store import Store
from training import loop
from training.__main__ import main
from training.checkpoint import occupied
from training.config import Optimisation, SinusoidConfig, TrainingConfig
from training.families import Sinusoid
from training.loop import learning_rate, train


def arguments(tmp_path, name="s", runs="runs", **changes):
    settings = {
        "learner": "bmaml",
        "particles": 3,
        "hidden": 6,
        "meta-steps": 20,
        "meta-batch": 3,
        "evaluate-every": 5,
        "shots": 4,
        "queries": 4,
        "activation": "tanh",
        "patience": 0,
        "store": tmp_path / "store",
        "runs": tmp_path / runs,
        "device": "cpu",
        **changes,
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return ["sinusoid", "--name", name, *flags]


@pytest.fixture(autouse=True)
def few_held_out_tasks(monkeypatch):
    monkeypatch.setattr("training.families.sinusoid.HELD_OUT_TASKS", 20)
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 10)


@pytest.mark.parametrize(
    ("learner", "figure"),
    [
        ("maml", "nll"),
        ("emaml", "nll"),
        ("llama", "mse"),
        ("bfa", "nll"),
        ("bmaml", "mse"),
        ("collapsed", "nll"),
    ],
)
def test_training_improves_and_publishes_with_measured_figures(tmp_path, learner, figure, capsys):
    one = {"learner": learner, "particles": 1 if learner == "maml" else 3}
    assert main(arguments(tmp_path, **one, **{"meta-steps": 5})) == 0
    assert main(arguments(tmp_path, **one, **{"meta-steps": 200, "evaluate-every": 50})) == 0
    store = Store(tmp_path / "store")
    before, after = (store.load("s", version).manifest.metrics for version in (1, 2))
    assert after[figure] < before[figure]
    assert set(after) == {
        "mse",
        "median_mse",
        "rmse",
        "particle_mse",
        "crps",
        "nll",
        "sharpness",
        "effective_particles",
        "coverage_50",
        "coverage_80",
        "coverage_90",
        "coverage_95",
    }
    assert "published s version 2" in capsys.readouterr().out
    assert "| nll |" in store.card("s")


def test_a_seed_gives_the_same_version_twice(tmp_path):
    for run in ("one", "two"):
        assert main(arguments(tmp_path, name=run, runs=run)) == 0
    store = Store(tmp_path / "store")
    one, two = store.load("one").manifest, store.load("two").manifest
    assert one.files["particles.safetensors"] == two.files["particles.safetensors"]
    assert one.metrics == two.metrics
    assert main(arguments(tmp_path, name="three", seed=1)) == 0
    assert store.load("three").manifest.files != one.files


def test_an_interrupted_run_resumes_to_the_same_version(tmp_path, monkeypatch, capsys):
    assert main(arguments(tmp_path, name="whole", runs="whole")) == 0
    steps = 0

    def interrupting(*args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return meta_step(*args, **kwargs)

    meta_step = loop.meta_step
    monkeypatch.setattr(loop, "meta_step", interrupting)
    assert main(arguments(tmp_path, name="whole", runs="cut")) == 130
    assert "--resume" in capsys.readouterr().err
    assert Store(tmp_path / "store").versions("whole") == [1]
    monkeypatch.setattr(loop, "meta_step", meta_step)
    assert main([*arguments(tmp_path, name="whole", runs="cut"), "--resume"]) == 0
    store = Store(tmp_path / "store")
    assert store.load("whole", 1).manifest.files == store.load("whole", 2).manifest.files


def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_version(tmp_path, monkeypatch):
    class Killed(BaseException):
        """What no handler of the loop catches, like SIGKILL."""

    def dying(state, *args):
        if state.step == 11:
            raise Killed
        return meta_step(state, *args)

    meta_step = loop.meta_step
    assert main(arguments(tmp_path, runs="whole")) == 0
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(loop, "meta_step", dying)
    with pytest.raises(Killed):
        main(arguments(tmp_path, runs="cut"))
    monkeypatch.setattr(loop, "meta_step", meta_step)
    assert main([*arguments(tmp_path, runs="cut"), "--resume"]) == 0
    store = Store(tmp_path / "store")
    assert store.load("s", 1).manifest.files == store.load("s", 2).manifest.files


def test_two_runs_of_one_name_do_not_share_a_folder(tmp_path, capsys):
    with occupied(tmp_path / "runs" / "s"):
        assert main(arguments(tmp_path)) == 1
    assert "another run is at work in" in capsys.readouterr().err
    assert main(arguments(tmp_path)) == 0


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    assert main(arguments(tmp_path)) == 0
    assert main([*arguments(tmp_path, seed=9), "--resume"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert main([*arguments(tmp_path, runs="nowhere"), "--resume"]) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_early_stopping_keeps_the_best_parameters(tmp_path, monkeypatch):
    verdicts = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    seen = []

    def scripted(learner, learned, family, device, embedding):
        seen.append({name: tensor.detach().clone() for name, tensor in learned.items()})
        return next(verdicts)

    monkeypatch.setattr(loop, "validation_nll", scripted)
    assert main(arguments(tmp_path, **{"patience": 2, "meta-steps": 100, "evaluate-every": 2})) == 0
    assert len(seen) == 4
    published = Store(tmp_path / "store").load("s").learned
    assert torch.equal(published["initial"], seen[1]["initial"])


def test_a_diverging_run_publishes_nothing(tmp_path, capsys):
    assert main(arguments(tmp_path, **{"step-size": 1e30})) == 1
    assert "loss at step" in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"particles": 0}, "at least one particle"),
        ({"shots": "5:2"}, "lowest <= highest"),
        ({"shots": "0"}, "nothing to adapt to"),
        ({"meta-steps": 0}, "meta_steps must be"),
        ({"learning-rate": -1}, "learning rates must be"),
        ({"name": "No Such"}, "not a model name"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(tmp_path, changes, message, capsys):
    changes = dict(changes)
    name = changes.pop("name", "s")
    assert main(arguments(tmp_path, name=name, **changes)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("correlated", [(1, 6), None])
def test_what_is_not_trained_begins_anew_whatever_a_run_starts_from(tmp_path, correlated):
    start = Collapsed(MLP(1, (6,), 1), particles=2, correlated=(1, 6)).initialise(torch.Generator())
    start |= {"correlation": torch.tensor(0.9), "log_widening": torch.tensor(0.3)}
    plan = Optimisation(meta_steps=1, meta_batch=1, learning_rate=1e-9)
    config = TrainingConfig("s", SinusoidConfig(), "collapsed", {}, plan, start_from="other")
    learner = Collapsed(MLP(1, (6,), 1), particles=2, correlated=correlated)
    learned = train(config, Sinusoid(config.family, 0), learner, tmp_path, start=start).learned
    assert learned.get("correlation") == (None if correlated is None else 0)
    for name in ("log_widening", "initial"):
        torch.testing.assert_close(learned[name], start[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--shots", "2:6"], (2, 6)),
        (["--shots", "4"], None),
        (["--shots", "2:6", "--no-correlated"], None),
        (["--shots", "2:6", "--no-evidence-weights"], None),
    ],
)
def test_rows_of_tables_are_correlated_where_that_can_be_found(tmp_path, flags, expected):
    file = tmp_path / "table.csv"
    rows = [f"{task},{x},{task + x}" for task in range(9) for x in range(9)]
    file.write_text("\n".join(["t,x,y", *rows]))
    where = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    command = ["table", str(file), "--name", "t", "--task", "t", "--x", "x", "--y", "y", "--meta-steps", "1"]
    assert main([*command, "--particles", "2", "--hidden", "4", *where, *flags]) == 0
    assert Store(tmp_path / "store").load("t").learner.correlated == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--shots", "0:4"], True),
        (["--shots", "1:4"], False),
        (["--shots", "0:4", "--no-prior-widening"], False),
    ],
)
def test_how_wide_to_predict_without_rows_is_found_where_tasks_have_none(tmp_path, flags, expected):
    where = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    command = ["sinusoid", "--name", "s", "--meta-steps", "1", "--particles", "2", "--hidden", "4"]
    assert main([*command, *where, *flags]) == 0
    model = Store(tmp_path / "store").load("s")
    assert model.learner.prior_widening == expected
    assert ("log_prior_widening" in model.learned) == expected


def test_any_version_can_be_scored_again(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 0
    published = Store(tmp_path / "store").load("s").manifest.metrics
    capsys.readouterr()
    store = ["--store", str(tmp_path / "store")]
    assert main(["evaluate", "s", "sinusoid", "--shots", "4", *store]) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(said["nll"]) == pytest.approx(published["nll"], rel=1e-3)
    assert main(["evaluate", "s", "sinusoid", "--shots", "0", *store]) == 0  # the prior's own figures
    prior = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(prior["nll"]) != float(said["nll"])
    assert main(["evaluate", "nobody", "sinusoid", *store]) == 1
    assert "no model 'nobody'" in capsys.readouterr().err


def test_the_rate_rises_then_decays_to_its_final_fraction():
    plan = Optimisation(meta_steps=1000, learning_rate=1.0, final_rate=0.13, warmup=9)
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 1000) == pytest.approx(0.13)
    cosine = Optimisation(meta_steps=1000, learning_rate=1.0, final_rate=0.1, decay="cosine", warmup=0)
    assert learning_rate(cosine, 500) == pytest.approx(0.55)
