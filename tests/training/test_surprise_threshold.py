"""The warning about unlike tasks has a threshold that few validation tasks reach."""

from dataclasses import dataclass

import pytest
import torch

from bmaml.learners.collapsed import Collapsed
from bmaml.learners.surprise import DEFAULT_THRESHOLD, GROUPS, SURPRISING
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.surprising import sine_learner, sines, steps
from training.cards import surprise_sentence
from training.publish import unpublished
from training.surprise_threshold import FALSE_WARNINGS, MOST, surprise_threshold


@dataclass
class _Tasks:
    """Validation tasks that are these support sets."""

    support: Examples

    @property
    def validation_tasks(self):
        return len(self.support.x)

    def validation(self):
        yield TaskBatch(self.support, self.support)


def _model(learner, learned):
    columns = [{"name": name, "lower": -3.0, "upper": 3.0} for name in "xy"]
    return unpublished(
        {
            "name": "m",
            "learner": learner.name,
            "settings": {},
            "training": {},
            "seed": 0,
            "code_version": "0",
            "inputs": columns[:1],
            "outputs": columns[1:],
        },
        learner,
        learned,
    )


def _joined(*parts):
    return Examples.full(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))


def _gained(model, support):
    """The part of the known hypotheses' prior weight that surprising ones gain, `[task]`."""
    places = [GROUPS.index(group) for group in SURPRISING]
    groups = model.learner.adapt(model.learned, support).group_weights[:, places].double().sum(-1)
    return (groups - model.surprising_prior) / (1 - model.surprising_prior)


def test_a_family_that_never_surprises_keeps_the_least_threshold():
    assert surprise_threshold(_model(*sine_learner()), _Tasks(sines(100, 10))) == DEFAULT_THRESHOLD


def test_at_most_so_many_validation_tasks_are_warned_of_and_no_smaller_threshold_does_that():
    model, support = _model(*sine_learner()), sines(200, 4, noise=0.02)
    gained = _gained(model, support)
    threshold = surprise_threshold(model, _Tasks(support))
    assert DEFAULT_THRESHOLD < threshold < MOST
    assert float((gained > DEFAULT_THRESHOLD).double().mean()) > FALSE_WARNINGS  # a fixed one warns of more
    assert float((gained > threshold).double().mean()) <= FALSE_WARNINGS
    assert float((gained > threshold - 1e-6).double().mean()) > FALSE_WARNINGS - 1 / len(gained)


def test_half_of_the_weight_is_always_warned_of():
    assert surprise_threshold(_model(*sine_learner()), _Tasks(steps(50, 20))) == MOST


def test_tasks_without_rows_say_nothing():
    empty = Examples.empty(1, 1, like=torch.zeros(50, 1))
    assert surprise_threshold(_model(*sine_learner()), _Tasks(empty)) == DEFAULT_THRESHOLD


def test_a_learner_without_surprising_hypotheses_has_no_threshold():
    learner = Collapsed(MLP(1, (2,), 1, "sine"), particles=2)
    model = _model(learner, learner.initialise(torch.Generator().manual_seed(0)))
    assert surprise_threshold(model, _Tasks(sines(5, 5))) is None


@pytest.mark.parametrize("like_training", [0.5, 0.9])
def test_unlike_tasks_among_the_validation_tasks_raise_it(like_training):
    model = _model(*sine_learner())
    family, others = sines(int(100 * like_training), 10), steps(int(100 * (1 - like_training)), 10)
    assert surprise_threshold(model, _Tasks(_joined(family, others))) > DEFAULT_THRESHOLD


def test_the_card_promises_few_false_warnings_only_where_the_threshold_keeps_them_few():
    assert "14% of the others' weight. At most about 2%" in surprise_sentence(0.14)
    assert "expect false warnings" in surprise_sentence(MOST)
    assert surprise_sentence(None) == ""
