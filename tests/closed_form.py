"""Problems with known answers."""

import torch
from torch import Tensor

from bmaml import learners
from bmaml.learners import Learned
from bmaml.learners.conjugate import Conjugate
from bmaml.learners.interface import Learner
from bmaml.learners.laplace import Laplace
from bmaml.learners.maml import MAML
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch

LEARNERS = tuple(kind for kind in learners.LEARNERS.values() if kind not in (Conjugate, Laplace))
"""Learners of regressions: all but those that know classes alone."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner_of(kind: type, particles: int = 5, **settings: object) -> tuple[Learner, Learned]:
    """A small learner with two inputs and two outputs, and a start that is nowhere special."""
    particles = 1 if kind is MAML else particles
    learner = kind(MLP(2, (6, 5), 2, "tanh"), particles=particles, **settings)
    learned = learner.initialise(generator())
    noise = generator(1)
    return learner, {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=noise, dtype=torch.float64)
        for name, value in learned.items()
    }


def ragged(tasks: int = 3, rows: int = 6, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Tasks with 0, 1, … rows; two inputs, two outputs."""
    draw = generator(seed)
    counts = [(2 * task) % (rows + 1) for task in range(tasks)]
    return [
        (torch.randn(count, 2, generator=draw), torch.randn(count, 2, generator=draw)) for count in counts
    ]


def full_batch(tasks: int = 3, shots: int = 4, queries: int = 5, seed: int = 0) -> TaskBatch:
    draw = generator(seed)

    def examples(rows: int) -> Examples:
        return Examples.full(
            torch.randn(tasks, rows, 2, generator=draw), torch.randn(tasks, rows, 2, generator=draw)
        )

    return TaskBatch(examples(shots), examples(queries))


def bayesian_regression(
    features: Tensor, y: Tensor, mean: Tensor, weight_precision: float, noise_precision: float
) -> tuple[Tensor, Tensor]:
    """Posterior mean and covariance of w in y = Φw + ε, in weight space (Bishop 2006, 3.50–3.51)."""
    precision = weight_precision * torch.eye(features.shape[1]) + noise_precision * features.T @ features
    covariance = torch.linalg.inv(precision)
    right = weight_precision * mean + noise_precision * features.T @ y
    return covariance @ right, covariance
