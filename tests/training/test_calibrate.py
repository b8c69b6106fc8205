"""What only unseen tasks can tell is fitted on validation tasks, where there is something to fit."""

import math

import pytest
import torch

from bmaml.learners.bfa import BFA
from bmaml.learners.bmaml import BMAML
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.llama import LLAMA
from bmaml.learners.surprise import GROUPS, LEAST_SHARES, Surprise
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.surprising import sine_learner, sines, steps
from training.calibrate import (
    POOLED_LOGIT_STD,
    SHARE_PRIOR_TASKS,
    START_POOLED_LOGIT,
    Looks,
    calibrated,
    calibrated_shares,
    with_pooled_share,
    with_surprising_share,
)
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
        std = learner.calibrated["log_widening"].prior_std
        prior = 0.5 * float(moved["log_widening"] - learned["log_widening"]) ** 2 / std**2
        return validation_nll(learner, moved, family) + prior / family.validation_tasks

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


class Made:
    """Validation tasks that are given; their first rows are the support set, the others the query set."""

    def __init__(self, *parts, shown=12):
        self.parts, self.shown = parts, shown
        self.validation_tasks = sum(map(len, parts))

    def validation(self):
        for part in self.parts:
            yield TaskBatch(
                Examples(part.x[:, : self.shown], part.y[:, : self.shown], part.mask[:, : self.shown]),
                Examples(part.x[:, self.shown :], part.y[:, self.shown :], part.mask[:, self.shown :]),
            )


def test_the_shares_of_the_groups_count_the_tasks_that_each_explains():
    learner, learned = sine_learner()
    made = Made(sines(30, 20), sines(12, 20, size=10.0, seed=1), steps(18, 20))
    found = dict(zip(GROUPS[:4], calibrated_shares(learner, learned, made).exp().tolist(), strict=True))
    assert found["wide"] == pytest.approx(less_an_error(12, 60), abs=0.02)
    assert found["noisy"] + found["broad"] == pytest.approx(less_an_error(18, 60), abs=0.03)


def test_a_task_that_may_be_chance_raises_no_share():
    learner, learned = sine_learner()
    made = Made(sines(59, 20), sines(1, 20, size=10.0, seed=1))
    found = dict(zip(GROUPS[:4], calibrated_shares(learner, learned, made).exp().tolist(), strict=True))
    assert found["wide"] == pytest.approx(LEAST_SHARES[1], rel=1e-4)


def less_an_error(explained, tasks):
    """The share of a group that explains so many of the tasks, less its standard error.

    `SHARE_PRIOR_TASKS` others count as tasks that it does not explain.
    """
    tasks += SHARE_PRIOR_TASKS
    share = explained / tasks
    return share - math.sqrt(share * (1 - share) / tasks)


def test_two_validation_tasks_raise_no_share_though_both_are_unlike_the_family():
    learner, learned = sine_learner()
    few, many = (calibrated_shares(learner, learned, Made(steps(tasks, 20))).exp() for tasks in (2, 40))
    assert float(few[1:4].sum()) < 0.35
    assert float(many[1:4].sum()) > 0.6


CURVATURE = 0.2
"""Of the NLL of each task as a function of the odds."""


class Given:
    """Looks whose NLL of each task is a given function of the log odds of pooled processes."""

    def __init__(self, *nlls):
        self.nlls = nlls

    def answered_nlls(self, learned):
        pooled, known = (learned["log_shares"][GROUPS.index(name)] for name in ("pooled", "known"))
        return torch.stack([nll(float(pooled - known)) for nll in self.nlls]).double()


def best_at(logit):
    return lambda odds: torch.tensor(CURVATURE / 2 * (odds - logit) ** 2)


def between(logit, tasks):
    """The optimum of that many such tasks and the prior: their mean, weighted by precision."""
    prior = POOLED_LOGIT_STD**-2 / tasks
    return (CURVATURE * logit + prior * START_POOLED_LOGIT) / (CURVATURE + prior)


@pytest.mark.parametrize(
    ("optima", "expected"),
    [
        ((-2.0,), START_POOLED_LOGIT),  # one task has no standard error
        ((-2.0, -2.0, -2.1, -1.9), between(-2.0, 4)),  # they agree
        ((-2.0, -2.1, -1.9) * 100, between(-2.0, 300)),  # so many leave nothing to the prior
        ((5.0, -4.0, 5.0, -4.0), START_POOLED_LOGIT),  # they do not
    ],
)
def test_pooled_processes_have_the_prior_unless_validation_tasks_agree_on_less(optima, expected):
    learned = {"log_shares": torch.tensor([0.3, 0.1, 0.1, 0.1, 0.4]).log()}
    found = with_pooled_share(learned, Given(*map(best_at, optima)), len(optima))
    assert float(found[-1] - found[0]) == pytest.approx(expected, abs=0.02)
    torch.testing.assert_close(found[1:4], learned["log_shares"][1:4])
    torch.testing.assert_close(found.exp().sum(), torch.ones(()))


@pytest.mark.parametrize("tasks", [sines(20, 20), sines(20, 20, size=10.0), steps(20, 20)])
def test_no_group_has_less_than_its_least_share_and_together_they_have_one(tasks):
    learner, learned = sine_learner()
    shares = calibrated_shares(learner, learned, Made(tasks)).exp()
    assert bool((shares >= torch.tensor(LEAST_SHARES[:4]) * (1 - 1e-6)).all())
    torch.testing.assert_close(shares.sum(), torch.ones(()))
    assert float(shares.max()) > 0.8


def with_shares(learned, **shares):
    """The learner's parameters with such shares of the surprising groups, the rest with the particles."""
    wanted = torch.tensor(
        [shares.get(group, least) for group, least in zip(GROUPS, LEAST_SHARES, strict=True)]
    )
    wanted = wanted[: len(learned["log_shares"])]
    wanted[0] = 1 - wanted[1:].sum()
    return {**learned, "log_shares": wanted.log()}


def test_shares_that_make_answers_from_few_rows_too_wide_are_lowered():
    learner, learned = sine_learner()
    learned = with_shares(learned, wide=0.3)
    made = Made(sines(30, 20), shown=3)
    shares = with_surprising_share(learned, Looks(learner, learned, made), made.validation_tasks).exp()
    assert float(shares[1]) < 0.1
    assert bool((shares >= torch.tensor(LEAST_SHARES[: len(shares)]) * (1 - 1e-6)).all())
    torch.testing.assert_close(shares.sum(), torch.ones(()))


def test_shares_that_answers_need_stay():
    learner, learned = sine_learner()
    learned = with_shares(learned, wide=0.3)
    made = Made(sines(15, 20), sines(15, 20, size=10.0, seed=1), shown=3)
    assert torch.equal(
        with_surprising_share(learned, Looks(learner, learned, made), made.validation_tasks),
        learned["log_shares"],
    )


def test_shares_at_their_least_stay():
    learner, learned = sine_learner()
    learned = with_shares(learned)
    made = Made(sines(4, 20))
    assert torch.equal(
        with_surprising_share(learned, Looks(learner, learned, made), made.validation_tasks),
        learned["log_shares"],
    )


def test_calibration_finds_the_shares_of_a_learner_with_surprising_hypotheses(family):
    learner = Collapsed(MLP(1, (8, 8), 1, "sine"), particles=4, surprise=Surprise(frequencies=8))
    learned = learner.initialise(torch.Generator().manual_seed(0))
    fitted = calibrated(learner, learned, family)
    assert not torch.equal(fitted["log_shares"], learned["log_shares"])
    torch.testing.assert_close(fitted["log_shares"].exp().sum(), torch.ones(()))
    assert torch.equal(fitted["frequencies"], learned["frequencies"])
