"""The outer loop: interruption, early stopping, divergence, first parameters, learning rate."""

import math
import os
import signal

import pytest
import torch

from bmaml.learners.collapsed import Collapsed
from bmaml.networks import MLP
from model_store import Store
from tests.training.sine_run import arguments
from training import loop
from training.__main__ import main
from training.config import Optimisation, SinusoidConfig, TrainingConfig
from training.families import Sinusoid
from training.loop import learning_rate, train

pytestmark = pytest.mark.usefixtures("few_held_out_tasks")


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
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0)
    monkeypatch.setattr(loop, "meta_step", dying)
    with pytest.raises(Killed):
        main(arguments(tmp_path, runs="cut"))
    monkeypatch.setattr(loop, "meta_step", meta_step)
    assert main([*arguments(tmp_path, runs="cut"), "--resume"]) == 0
    store = Store(tmp_path / "store")
    assert store.load("s", 1).manifest.files == store.load("s", 2).manifest.files


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


def test_a_family_that_overfits_at_once_is_looked_at_early_and_given_up_early(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "EARLY_LOOKS", (2, 5, 10))
    verdicts = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    seen = []

    def scripted(learner, learned, family, device, embedding):
        seen.append({name: tensor.detach().clone() for name, tensor in learned.items()})
        return next(verdicts)

    monkeypatch.setattr(loop, "validation_nll", scripted)
    monkeypatch.setattr(loop, "EARLY_STOP", 3)
    assert main(arguments(tmp_path, **{"patience": 9, "meta-steps": 100, "evaluate-every": 15})) == 0
    model = Store(tmp_path / "store").load("s")
    assert [point.step for point in model.manifest.history] == [2, 5, 10, 15, 30]
    assert torch.equal(model.learned["initial"], seen[1]["initial"])
    assert "stopped at step 30 of 100, since 3 evaluations" in capsys.readouterr().err


def test_a_diverging_run_publishes_nothing(tmp_path, capsys):
    assert main(arguments(tmp_path, **{"step-size": 1e30})) == 1
    assert "loss at step" in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize("unusable", [math.inf, math.nan])
def test_a_look_that_is_not_finite_is_never_kept_nor_published(tmp_path, monkeypatch, capsys, unusable):
    verdicts = iter([unusable, 1.0, unusable, 2.0])
    monkeypatch.setattr(loop, "validation_nll", lambda *_: next(verdicts))
    changes = {"patience": 9, "meta-steps": 20, "evaluate-every": 5}
    assert main(arguments(tmp_path, **changes)) == 0
    assert [point.step for point in Store(tmp_path / "store").load("s").manifest.history] == [10, 20]
    assert "kept the parameters of step 10" in capsys.readouterr().err


def test_a_run_without_a_finite_look_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "validation_nll", lambda *_: math.nan)
    assert main(arguments(tmp_path)) == 1
    assert "the validation NLL at step 20 is not finite" in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []


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


def test_the_rate_rises_then_decays_to_its_final_fraction():
    plan = Optimisation(meta_steps=1000, learning_rate=1.0, final_rate=0.13, warmup=9)
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 1000) == pytest.approx(0.13)
    cosine = Optimisation(meta_steps=1000, learning_rate=1.0, final_rate=0.1, decay="cosine", warmup=0)
    assert learning_rate(cosine, 500) == pytest.approx(0.55)
