"""Sine curves like those of training, and curves that training never showed; all truths are noiseless."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.number_tasks import (
    FAMILY,
    NumberTask,
    RowShift,
    Shift,
    contradicting,
    duplicated,
    offset,
    other_unit,
    outlier,
    scaled,
)
from training.families.sinusoid import AMPLITUDE, FREQUENCY, INPUT_RANGE, PHASE, RELATIVE_NOISE

POINTS = (5, 10, 20)
QUERIES = 50


@dataclass(frozen=True)
class SineTask:
    """One sine curve and the places where it is shown and asked.

    Attributes:
        x, query: places of support and query rows, `[row]`.
        noise: standard normal draws, one for each support row.
        relative_noise: standard deviation of the noise, in amplitudes.
        wave: the curve's value at places.
    """

    amplitude: float
    frequency: float
    phase: float
    x: Array
    noise: Array
    query: Array
    wave: Callable[["SineTask", Array], Array]
    relative_noise: float = RELATIVE_NOISE

    @property
    def rows(self) -> NumberTask:
        """The rows of the task."""
        y = self.wave(self, self.x) + self.relative_noise * self.amplitude * self.noise
        return NumberTask(self.x[:, None], y, self.query[:, None], self.wave(self, self.query))


def sine(task: SineTask, x: Array) -> Array:
    """A sin(ωx − b)."""
    return task.amplitude * np.sin(task.frequency * x - task.phase)


def square(task: SineTask, x: Array) -> Array:
    """A · sign(sin(ωx − b))."""
    return task.amplitude * np.sign(np.sin(task.frequency * x - task.phase))


def line(task: SineTask, x: Array) -> Array:
    """A (sin b + x/5 · cos b), a straight line of any slope."""
    return task.amplitude * (math.sin(task.phase) + x / INPUT_RANGE[1] * math.cos(task.phase))


def sine_tasks(count: int, points: int) -> list[SineTask]:
    """Curves of the family, each from a seed of its own: more of them begin with the same ones."""
    found = []
    for seed in range(count):
        random = np.random.default_rng([seed, points])
        amplitude, frequency, phase = (random.uniform(*bounds) for bounds in (AMPLITUDE, FREQUENCY, PHASE))
        x, query = (random.uniform(*INPUT_RANGE, rows) for rows in (points, QUERIES))
        found.append(SineTask(amplitude, frequency, phase, x, random.standard_normal(points), query, sine))
    return found


def _of_rows(change: Callable[[SineTask], RowShift]) -> Shift[SineTask]:
    """A change of the rows that depends on the curve."""
    return lambda task, random: change(task)(task.rows, random)


def _moved(value: float, old: tuple[float, float], new: tuple[float, float]) -> float:
    """The value at the same place of another range."""
    return new[0] + (value - old[0]) / (old[1] - old[0]) * (new[1] - new[0])


def _large(task: SineTask, _: np.random.Generator) -> NumberTask:
    return replace(task, amplitude=_moved(task.amplitude, AMPLITUDE, (7.5, 15.0))).rows


def _fast(task: SineTask, _: np.random.Generator) -> NumberTask:
    return replace(task, frequency=_moved(task.frequency, FREQUENCY, (3.0, 5.0))).rows


def _constant(task: SineTask, _: np.random.Generator) -> NumberTask:
    """All labels, and the truth, are the curve's value at zero."""
    rows, value = task.rows, float(task.wave(task, np.zeros(1))[0])
    return replace(rows, y=np.full_like(rows.y, value), truth=np.full_like(rows.truth, value))


def _narrow(task: SineTask, random: np.random.Generator) -> NumberTask:
    """Support rows in a width of 1, somewhere in the range."""
    low, high = INPUT_RANGE
    start = random.uniform(low, high - 1)
    return replace(task, x=start + (task.x - low) / (high - low)).rows


def _beyond(task: SineTask, _: np.random.Generator) -> NumberTask:
    """Query rows outside the range, up to its half width away."""
    return replace(task, query=task.query + np.copysign(INPUT_RANGE[1], task.query)).rows


SINE_SHIFTS: Mapping[str, Shift[SineTask]] = {
    FAMILY: lambda task, _: task.rows,
    "noise × 10": lambda task, _: replace(task, relative_noise=10 * RELATIVE_NOISE).rows,
    "amplitudes of 7.5 to 15": _large,
    "frequencies of 3 to 5": _fast,
    "a square wave": lambda task, _: replace(task, wave=square).rows,
    "a straight line": lambda task, _: replace(task, wave=line).rows,
    "constant labels": _constant,
    "labels 10 higher": _of_rows(lambda _: offset(10)),
    "labels × 10": _of_rows(lambda _: scaled(10)),
    "labels × 1000": _of_rows(lambda _: scaled(1000)),
    "x in degrees": _of_rows(lambda _: other_unit(180 / math.pi)),
    "x ÷ 10": _of_rows(lambda _: other_unit(0.1)),
    "one label off by three amplitudes": _of_rows(lambda task: outlier(3 * task.amplitude)),
    "each x twice, labels half an amplitude up and down": _of_rows(
        lambda task: contradicting(task.amplitude / 2)
    ),
    "each row twice": _of_rows(lambda _: duplicated),
    "points in a width of 1": _narrow,
    "queries outside the range": _beyond,
}
