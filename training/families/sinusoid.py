"""Sine curves, as in Yoon et al. 2018: y = A sin(ωx − b) + ε.

A ∈ [0.1, 5], ω ∈ [0.5, 2], b ∈ [0, 2π] and x ∈ [−5, 5] are uniform; ε ~ N(0, (0.01 A)²). The queries of
validation and held-out tasks are noiseless, so that an error is the learner's alone.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bmaml.task import Examples, TaskBatch
from model_store.columns import Column
from training.config import Shots, SinusoidConfig
from training.families.family import HELD_OUT_SEED, VALIDATION_SEED_OFFSET
from training.families.splits import Indices

AMPLITUDE = (0.1, 5.0)
FREQUENCY = (0.5, 2.0)
PHASE = (0.0, 2 * math.pi)
INPUT_RANGE = (-5.0, 5.0)
RELATIVE_NOISE = 0.01
HELD_OUT_TASKS, HELD_OUT_POINTS = 500, 200
"""Held-out tasks, and query points of each."""
VALIDATION_TASKS = 200


class Sinusoid:
    """Sine curves: `config.tasks` of them with fixed points, or new ones for every batch."""

    inputs = (Column(name="x", lower=INPUT_RANGE[0], upper=INPUT_RANGE[1]),)
    outputs = (Column(name="y", lower=-AMPLITUDE[1], upper=AMPLITUDE[1]),)

    def __init__(self, config: SinusoidConfig, seed: int) -> None:
        self.config = config
        self._seed = seed
        self._points: tuple[Tensor, Tensor] | None = None
        if config.tasks is not None:
            generator = torch.Generator().manual_seed(seed)
            rows = config.shots.highest + config.queries
            self._points = curves(config.tasks, rows, generator)[:2]

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks; the number of shots is drawn for each task."""
        rows = self.config.shots.highest + self.config.queries
        if self._points is None:
            x, y, _ = curves(tasks, rows, generator)
        else:
            chosen = torch.randint(len(self._points[0]), (tasks,), generator=generator)
            x, y = (values[chosen] for values in self._points)
            if self.config.resplit:
                deal = torch.rand(tasks, rows, 1, generator=generator).argsort(1)
                x, y = x.gather(1, deal), y.gather(1, deal)
        return _split(x, y, y, self.config.shots, generator)

    def validation(self, spread: bool = True) -> Iterator[TaskBatch]:
        """Tasks with queries like the held-out ones, from a seed of their own; labels have no step."""
        del spread
        generator = torch.Generator().manual_seed(self._seed + VALIDATION_SEED_OFFSET)
        x, y, clean = curves(VALIDATION_TASKS, self.config.shots.highest + HELD_OUT_POINTS, generator)
        yield _split(x, y, clean, self.config.shots, generator)

    @property
    def validation_tasks(self) -> int:
        """The number of validation tasks, all different."""
        return VALIDATION_TASKS

    @property
    def validation_groups(self) -> Indices:
        """The group of each validation task: its own."""
        return np.arange(VALIDATION_TASKS)

    def held_out(self, shots: int | None = None) -> Iterator[TaskBatch]:
        """500 tasks × 200 noiseless points; the seed does not depend on the run's.

        Args:
            shots: support points; None draws them for each task as in training.
        """
        wanted = self.config.shots if shots is None else Shots(shots, shots)
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        x, y, clean = curves(HELD_OUT_TASKS, wanted.highest + HELD_OUT_POINTS, generator)
        yield _split(x, y, clean, wanted, generator)


def curves(tasks: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x, noisy y and noiseless y of random curves, each `[task, row, 1]`."""

    def uniform(bounds: tuple[float, float], rows: int = 1) -> Tensor:
        low, high = bounds
        return low + (high - low) * torch.rand(tasks, rows, 1, generator=generator)

    amplitude, frequency, phase = uniform(AMPLITUDE), uniform(FREQUENCY), uniform(PHASE)
    x = uniform(INPUT_RANGE, rows)
    clean = amplitude * torch.sin(frequency * x - phase)
    noise = torch.randn(clean.shape, generator=generator)
    return x, clean + RELATIVE_NOISE * amplitude * noise, clean


def _split(x: Tensor, shown: Tensor, asked: Tensor, shots: Shots, generator: torch.Generator) -> TaskBatch:
    most = shots.highest
    count = torch.randint(shots.lowest, most + 1, (len(x), 1), generator=generator)
    support = Examples(x[:, :most], shown[:, :most], torch.arange(most) < count)
    return TaskBatch(support, Examples.full(x[:, most:], asked[:, most:]))
