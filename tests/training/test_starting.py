"""The parameters that a run takes from a published version."""

from types import SimpleNamespace

import pytest
import torch

from bmaml.learners.conjugate import Conjugate
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.closed_form import generator
from training.starting import starting_parameters

CENTRES = 4 * torch.eye(3, 5)


def tasks():
    """A batch of tasks with three separate classes."""

    def rows(seed):
        y = torch.eye(3).repeat(2, 1)
        noise = 0.1 * torch.randn(7, 6, 5, generator=generator(seed))
        return Examples.full(y @ CENTRES + noise, y.expand(7, -1, -1))

    return SimpleNamespace(validation=lambda: iter([TaskBatch(rows(1), rows(2))]))


def source(evidence_weights=True):
    """Five particles with an embedding that doubles its rows; the evidence of the fourth is the highest."""
    learner = Conjugate(MLP(5, (), 2), particles=5, evidence_weights=evidence_weights)
    learned = learner.initialise(generator(3))
    learned["initial"][3] *= 0.01
    learned["embedding.0.kernel"] = torch.ones(5)
    return SimpleNamespace(learner=learner, learned=learned, embedded=lambda x: 2 * x)


def test_a_run_of_the_same_shape_takes_every_tensor():
    base = source()
    assert starting_parameters(base, base.learner, tasks()) == base.learned


def test_frozen_features_are_not_learned():
    base = source()
    assert "embedding.0.kernel" not in starting_parameters(base, base.learner, tasks(), frozen=True)


def test_a_temperature_goes_with_the_weights_it_belongs_to():
    equal = Conjugate(MLP(5, (), 2), particles=5, evidence_weights=False)
    assert "log_temperature" not in starting_parameters(source(), equal, tasks())


@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_of_fewer_particles_takes_the_heaviest(frozen):
    base = source()
    found = starting_parameters(base, Conjugate(MLP(5, (), 2), particles=1), tasks(), frozen)
    for name in ("initial", "log_between", "log_within"):
        torch.testing.assert_close(found[name], base.learned[name][3:4])
    torch.testing.assert_close(found["log_knee"], base.learned["log_knee"])
