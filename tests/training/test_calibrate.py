"""What only unseen tasks can tell is fitted on validation tasks, where there is something to fit."""

import pytest
import torch

from bmaml.learners.bfa import BFA
from bmaml.learners.bmaml import BMAML
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.llama import LLAMA
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from training.calibrate import calibrated
from training.config import Shots, SinusoidConfig
from training.families import Sinusoid
from training.loop import validation_nll


@pytest.fixture
def family(monkeypatch):
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 20)
    return Sinusoid(SinusoidConfig(Shots(5, 10), 10), seed=0)


def test_the_fitted_width_has_the_lowest_validation_nll(family):
    learner = Collapsed(MLP(1, (8, 8), 1, "sine"), particles=4)
    learned = learner.initialise(torch.Generator().manual_seed(0))
    learned["initial"][:, -2] = -1.5  # noise of the right order of magnitude
    fitted = calibrated(learner, learned, family)

    def nll(shift):
        moved = {**fitted, "log_widening": fitted["log_widening"] + shift}
        return validation_nll(learner, moved, family)

    assert fitted["log_widening"] != learned["log_widening"]
    assert nll(0) < min(nll(-0.05), nll(0.05))
    assert nll(0) <= validation_nll(learner, learned, family)
    assert torch.equal(fitted["initial"], learned["initial"])


@pytest.mark.parametrize("log_precision", [-1.0, -3.0])
def test_what_rows_have_not_spoken_of_is_as_wide_as_the_tasks_are(log_precision, monkeypatch):
    """Particles that are too sure, and some that are too careful, before there are rows."""
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 100)
    family = Sinusoid(SinusoidConfig(Shots(0, 1), 10), seed=0)
    learner = Collapsed(MLP(1, (8, 8), 1, "sine"), particles=4, prior_widening=True)
    learned = learner.initialise(torch.Generator().manual_seed(0))
    learned["initial"][:, -1] = log_precision
    fitted = calibrated(learner, learned, family)
    assert validation_nll(learner, fitted, family) < validation_nll(learner, learned, family)

    def held(learned):
        """Of truths without any rows, inside the 90 % interval."""
        (batch,) = family.validation()
        nobody = torch.zeros_like(batch.support.mask)
        support = Examples(batch.support.x, batch.support.y, nobody)
        low, high = learner.predict(learner.adapt(learned, support), batch.query.x).interval(0.9)
        return float(((batch.query.y >= low) & (batch.query.y <= high)).float().mean())

    assert abs(held(learned) - 0.9) > 0.05
    assert abs(held(fitted) - 0.9) < 0.02


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        (LLAMA, {"particles": 3}, "log_weight_precision"),
        (BFA, {"particles": 3, "evidence_weights": True}, "log_temperature"),
    ],
)
def test_each_learner_names_what_is_fitted(kind, settings, name, family):
    learner = kind(MLP(1, (8, 8), 1), **settings)
    learned = learner.initialise(torch.Generator().manual_seed(0))
    fitted = calibrated(learner, learned, family)
    assert validation_nll(learner, fitted, family) < validation_nll(learner, learned, family)
    assert {each for each in learned if not torch.equal(learned[each], fitted[each])} == {name}


class Repeated:
    """Tasks whose support rows are measured with an error each, and written down so many times."""

    def __init__(self, family, times):
        self.family, self.times, self.batch = family, times, family.batch
        self.validation_tasks = family.validation_tasks

    def validation(self):
        draw = torch.Generator().manual_seed(5)
        for batch in self.family.validation():
            support = batch.support
            measured = support.y + 0.5 * torch.randn(support.y.shape, generator=draw)
            rows = (each.repeat_interleave(self.times, 1) for each in (support.x, measured, support.mask))
            yield TaskBatch(Examples(*rows), batch.query)


def test_rows_that_repeat_one_another_are_found_to_be_alike(monkeypatch):
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 60)
    family = Sinusoid(SinusoidConfig(Shots(1, 10), 10), seed=0)
    learner = Collapsed(MLP(1, (12,), 1, "sine"), particles=8, correlated=(1, 40), bands=(0.5, 2.0))
    learned = learner.initialise(torch.Generator().manual_seed(0))
    learned["initial"][:, -2] = 1.4  # the noise of a measurement, and near enough all that is wrong
    once, often = (
        float(calibrated(learner, learned, Repeated(family, times))["correlation"]) for times in (1, 4)
    )
    assert once == 0
    assert often > 0.9
    one_task = Repeated(family, 4)
    one_task.validation_tasks = 1  # repeated, it says nothing about other tasks
    assert float(calibrated(learner, learned, one_task)["correlation"]) == 0


def test_learners_with_nothing_to_fit_come_back_as_they_are(family):
    learner = BMAML(MLP(1, (8, 8), 1), particles=2)
    learned = learner.initialise(torch.Generator().manual_seed(0))
    assert calibrated(learner, learned, family) == learned
