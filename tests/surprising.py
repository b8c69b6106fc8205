"""A learner made by hand, whose family is known exactly, and tasks of its family and of others."""

import math

import torch
from torch import Tensor

from bmaml.densities import with_precisions
from bmaml.learners import Learned
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.surprise import START_SHARES, Surprise
from bmaml.networks import MLP
from bmaml.task import Examples
from tests.closed_form import generator

FREQUENCIES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
NOISE = 0.01
"""Standard deviation of the noise that the learner knows."""


def sine_learner() -> tuple[Collapsed, Learned]:
    """One particle for each frequency, whose features are the sine and the cosine of it."""
    surprise = Surprise(lengths=(4.0, 1.0, 0.25), broad_scales=(0.5, 1.0, 2.0), noisy_every=1)
    learner = Collapsed(
        MLP(1, (2,), 1, "sine"),
        particles=len(FREQUENCIES),
        scales=(0.5, 1.0, 2.0),
        surprise=surprise,
    )
    start = learner.initialise(generator())
    rows = [[omega, omega, 0.0, math.pi / 2, 0.0, 0.0, 0.0] for omega in FREQUENCIES]
    initial = with_precisions(torch.tensor(rows).to(start["initial"]), -2 * math.log(NOISE), -math.log(3))
    return learner, {**start, "initial": initial, "log_shares": torch.tensor(START_SHARES).log()}


def sines(tasks: int, rows: int, size: float = 1.0, noise: float = NOISE, seed: int = 0) -> Examples:
    """Tasks of the learner's family; resembling it where labels are `size` times as large, or noisier."""
    draw = generator(seed)
    x = _inputs(tasks, rows, draw)
    omega = torch.tensor(FREQUENCIES)[torch.randint(len(FREQUENCIES), (tasks, 1, 1), generator=draw)]
    amplitude = 0.5 + torch.rand(tasks, 1, 1, generator=draw)
    phase = 2 * math.pi * torch.rand(tasks, 1, 1, generator=draw)
    error = noise * torch.randn(tasks, rows, 1, generator=draw)
    return Examples.full(x, size * (amplitude * torch.sin(omega * x + phase) + error))


def steps(tasks: int, rows: int, seed: int = 0) -> Examples:
    """Tasks of another family: a step up, which no sum of two waves of low frequency resembles."""
    draw = generator(seed)
    x = _inputs(tasks, rows, draw)
    where = torch.rand(tasks, 1, 1, generator=draw) - 0.5
    error = NOISE * torch.randn(tasks, rows, 1, generator=draw)
    return Examples.full(x, (x > where).to(x) - 0.5 + error)


def _inputs(tasks: int, rows: int, draw: torch.Generator) -> Tensor:
    return 5 * torch.rand(tasks, rows, 1, generator=draw) - 2.5
