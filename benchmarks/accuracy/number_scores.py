"""Scores of the service's answers to tasks whose labels are numbers, task by task."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.number_tasks import NumberTask, Shift, TaskT
from benchmarks.accuracy.service_path import ask
from bmaml.blocks import blocks
from bmaml.predictive import Predictive
from bmaml.task import Examples
from bmaml.transformed import Transformed
from model_store import Model
from service.schemas.predictions import ScoredPrediction
from service.schemas.responses import AdaptPredictResponse

LEVEL = 0.9
"""Probability of the interval whose coverage is scored."""
HALF_CELL = 0.001
"""Half the width of a label's cell: its resolution, where the score is the probability of the cell."""
MAX_CELLS = 1 << 21
"""Tasks × hypotheses × rows of one block of full mixtures."""


@dataclass(frozen=True)
class NumberScore:
    """The scores of one answer; means over query rows.

    Attributes:
        inside: whether the truth lies in the 90 % interval, `[row]`.
        distance: standardised distance from the nearest support row, `[row]`; ∞ without support rows.
        width: of the 90 % interval.
        normal_nll: by a normal distribution of the answered mean and std, nats per value.
        answered_nll: by the answered mixture, as the service scores the truths.
        mixture_nll: by the mixture of all hypotheses, those of negligible weight included.
        cell_nll: the same, of the probability of the cell ± `HALF_CELL` over its width.
        effective_particles: as answered.
        warned: whether the answer has a warning.
        finite: whether every answered number and score is finite.
        groups: of the task.
    """

    inside: NDArray[np.bool_]
    distance: Array
    width: float
    squared_error: float
    normal_nll: float
    answered_nll: float
    mixture_nll: float
    cell_nll: float
    effective_particles: float
    warned: bool
    finite: bool
    groups: Mapping[str, str]


def score_numbers(model: Model, tasks: Sequence[NumberTask]) -> list[NumberScore | None]:
    """The scores of the service's answers, in order; None where it refuses."""
    bodies = [
        {
            "support": {"x": task.x.tolist(), "y": task.y.tolist()},
            "query": {"x": task.query.tolist(), "y": task.truth.tolist()},
            "interval": LEVEL,
            "log_density": True,
        }
        for task in tasks
    ]
    responses = ask(model, bodies)
    answered = [index for index, response in enumerate(responses) if response is not None]
    found: list[NumberScore | None] = [None] * len(tasks)
    mixture = _mixture_nlls(model, [tasks[index] for index in answered])
    for index, nlls in zip(answered, mixture, strict=True):
        response = responses[index]
        assert response is not None
        found[index] = _score(model, tasks[index], response, *nlls)
    return found


def _score(
    model: Model, task: NumberTask, response: AdaptPredictResponse, mixture_nll: float, cell_nll: float
) -> NumberScore:
    answer, truth = response.prediction, task.truth
    assert isinstance(answer, ScoredPrediction)
    lower, upper = (end.astype(np.float64) for end in (answer.interval.lower, answer.interval.upper))
    mean, std = (moment.astype(np.float64) for moment in (answer.mean, answer.std))
    normal = -0.5 * np.square((truth - mean) / std) - np.log(std) - 0.5 * math.log(2 * math.pi)
    scores = {
        "width": float((upper - lower).mean()),
        "squared_error": float(np.square(mean - truth).mean()),
        "normal_nll": -float(normal.mean()),
        "answered_nll": -float(answer.log_density.mean()),
        "mixture_nll": mixture_nll,
        "cell_nll": cell_nll,
        "effective_particles": response.diagnostics.effective_particles,
    }
    return NumberScore(
        inside=(lower <= truth) & (truth <= upper),
        distance=_distance(model, task),
        warned=bool(response.diagnostics.warnings),
        finite=bool(np.isfinite(np.concatenate([mean, std, lower, upper, [*scores.values()]])).all()),
        groups=task.groups,
        **scores,
    )


def _distance(model: Model, task: NumberTask) -> Array:
    """Standardised distance of each query row from the nearest support row, `[row]`."""
    if not len(task.x):
        return np.full(len(task.query), np.inf)
    support, query = (model.standardised_inputs(x).astype(np.float64) for x in (task.x, task.query))
    distance: Array = np.linalg.norm(query[:, None] - support, axis=-1).min(1)
    return distance


def _mixture_nlls(model: Model, tasks: Sequence[NumberTask]) -> list[tuple[float, float]]:
    """NLL of the truths, and of their cells, under the mixtures of all hypotheses; means over query rows."""
    found = []
    rows = max((len(task.query) + len(task.x) for task in tasks), default=0)
    for some in blocks(len(tasks), MAX_CELLS, model.learner.hypotheses * rows):
        part = tasks[some]
        support = _standardised(model, [(task.x, task.y) for task in part])
        query = _standardised(model, [(task.query, task.truth) for task in part])
        with torch.no_grad():
            posterior = model.learner.adapt(model.learned, support)
            belief = model.in_callers_units(model.predict(posterior, query.x, support))
        for index, task in enumerate(part):
            own = belief.part(slice(index, index + 1), slice(len(task.truth)))
            truth = torch.from_numpy(task.truth)[None, :, None]
            density = own.log_density(truth.to(own.means)).double().mean()
            cell = log_cell_density(own, truth, HALF_CELL).mean()
            found.append((-float(density), -float(cell)))
    return found


def _standardised(model: Model, rows: Sequence[tuple[Array, Array]]) -> Examples:
    return Examples.padded(
        [
            (
                torch.from_numpy(model.standardised_inputs(x)),
                torch.from_numpy(model.standardised_targets(y[:, None])),
            )
            for x, y in rows
        ]
    ).to(model.device)


def log_cell_density(belief: Predictive | Transformed, y: Tensor, half: float) -> Tensor:
    """Logarithm of the mixture's probability of y ± half over the cell's width, `[task, row, output]`."""
    if isinstance(belief, Transformed):
        return belief.log_cell_density(y, half)
    means = belief.means.double()
    scale = (belief.noise + belief.within).double().sqrt().expand_as(means)
    # Below the mean, where the logarithm of the distribution function keeps its digits.
    distance = -(y.unsqueeze(1).double() - means).abs()
    upper, lower = (torch.special.log_ndtr((distance + end) / scale) for end in (half, -half))
    logs = upper + (-torch.expm1(lower - upper)).log() - math.log(2 * half)
    return (logs + belief.log_weights.double()[..., None, None]).logsumexp(1)


@dataclass(frozen=True)
class Panel:
    """The answers to tasks of one kind: one line of the table.

    Attributes:
        points: support rows, before a shift shows some of them twice.
        scores: one for each task; None where the service refused.
    """

    points: int
    shift: str
    scores: Sequence[NumberScore | None]

    @property
    def answered(self) -> list[NumberScore]:
        """The scores of the tasks that were answered."""
        return [score for score in self.scores if score is not None]

    @property
    def width(self) -> float:
        """Mean width of the intervals."""
        return _mean([score.width for score in self.answered])

    def metrics(self, family_width: float) -> dict[str, float]:
        """Means over tasks, and the worst task of each NLL, by name.

        Args:
            family_width: the mean width of the family itself from as many points.
        """
        answered = self.answered
        found = {
            "coverage": _mean([score.inside.mean() for score in answered]),
            "under_half": _mean([score.inside.mean() < 0.5 for score in answered]),
            "rmse": math.sqrt(_mean([score.squared_error for score in answered])),
            "width": self.width,
            "relative_width": self.width / family_width,
            "warned": _mean([score.warned for score in answered]),
            "answered": len(answered) / len(self.scores),
        }
        for name in ("normal_nll", "answered_nll", "mixture_nll", "cell_nll"):
            values = [getattr(score, name) for score in answered]
            found |= {name: _mean(values), f"worst_{name}": max(values, default=math.nan)}
        return found


def score_shifts(
    model: Model, shifts: Mapping[str, Shift[TaskT]], tasks: Sequence[TaskT], points: int
) -> Iterator[Panel]:
    """The answers to the tasks under each shift; the same draws for every shift."""
    for name, shift in shifts.items():
        shifted = [shift(task, np.random.default_rng(seed)) for seed, task in enumerate(tasks)]
        yield Panel(points, name, score_numbers(model, shifted))


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
