"""A small conjugate learner, and tasks of classes for it."""

import torch

from bmaml.learners.conjugate import Conjugate
from bmaml.networks import MLP
from tests.closed_form import generator

CLASSES = 4


def learner_and_start(particles=3, dimensions=2, **settings):
    learner = Conjugate(MLP(5, (), dimensions), particles=particles, **settings)
    noise = generator(1)
    return learner, {
        name: value.double() + 0.3 * torch.randn(value.shape, generator=noise, dtype=torch.float64)
        for name, value in learner.initialise(generator()).items()
    }


def rows(counts, seed=0):
    """x and one-hot y of a task with so many rows in each class."""
    y = torch.eye(len(counts)).repeat_interleave(torch.tensor(counts), 0)
    return torch.randn(len(y), 5, generator=generator(seed)), y
