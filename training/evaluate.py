"""Error, likelihood and calibration on held-out tasks: a mean within each task first, then over tasks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch
from model_store.model import Model

LEVELS = (0.5, 0.8, 0.9, 0.95)
TASKS_AT_ONCE = 10
CRPS_ROWS = 25
"""Query rows of a task, evenly spaced, that the CRPS is averaged over: it is quadratic in the components."""
NEGLIGIBLE = 1e-3
"""Weight of the components that CRPS, coverage and width leave out: below the last digit that is shown."""


@dataclass(frozen=True)
class Evaluation:
    """How a model did, in the units of its outputs.

    Attributes:
        tasks: how many were scored.
        metrics: mse (of the mixture's mean), median_mse (of the median task), rmse (√mse),
            particle_mse (of the particles' own means, weighted), nll (of the mixture, nats per value),
            crps, coverage_50 … coverage_95 (fraction of truths inside the central interval), sharpness
            (mean width of the 90 % interval), effective_particles.
    """

    tasks: int
    metrics: dict[str, float]


def evaluate(model: Model, batches: Iterable[TaskBatch], steps: int | None = None) -> Evaluation:
    """Adapt to every support set and score every query row."""
    scores: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            for start in range(0, len(batch), TASKS_AT_ONCE):
                part = batch.tasks(slice(start, start + TASKS_AT_ONCE))
                posterior = model.learner.adapt(model.learned, part.support, steps)
                belief = model.in_callers_units(model.predict(posterior, part.query.x))
                effective = model.learner.effective_particles(posterior)
                query = _restored(model, part.query)
                scores.append({**scored(belief, query), "effective_particles": effective})
    return summarised({name: torch.cat([score[name] for score in scores]) for name in scores[0]})


def scored(belief: Predictive, query: Examples) -> dict[str, Tensor]:
    """Each task's mean scores, `[task]`, by the names of `Evaluation`."""

    def mean(values: Tensor) -> Tensor:
        weights = query.mask.unsqueeze(-1).expand_as(values)
        return torch.where(weights, values, 0).sum((1, 2)) / weights.sum((1, 2))

    nll = mean(-belief.log_density(query.y))  # of the whole: the lightest may explain an outlier
    belief = belief.without_negligible(NEGLIGIBLE)
    probability = belief.cdf(query.y)
    lower, upper = belief.interval(0.9)
    weights = belief.log_weights.exp()[..., None, None]
    result = {
        "mse": mean((belief.mean() - query.y).square()),
        "particle_mse": mean((weights * (belief.means - query.y.unsqueeze(1)).square()).sum(1)),
        "nll": nll,
        "crps": _mean_crps(belief, query),
        "sharpness": mean(upper - lower),
    }
    for level in LEVELS:
        inside = (probability - 0.5).abs() <= level / 2
        result[f"coverage_{100 * level:.0f}"] = mean(inside.to(probability.dtype))
    return result


def _mean_crps(belief: Predictive, query: Examples) -> Tensor:
    last = query.counts().unsqueeze(1) - 1
    place = torch.linspace(0, 1, min(CRPS_ROWS, query.y.shape[1]), device=last.device)
    rows = (place * last).round().long().unsqueeze(-1)  # [task, row, 1]
    y = query.y.gather(1, rows.expand(-1, -1, query.y.shape[-1]))
    return belief.at_rows(rows.squeeze(-1)).crps(y).mean((1, 2))


def summarised(scores: dict[str, Tensor]) -> Evaluation:
    """The means over tasks of scores by name, each `[task]`."""
    metrics = {name: float(values.double().mean()) for name, values in scores.items()}
    metrics["median_mse"] = float(scores["mse"].double().median())
    metrics["rmse"] = math.sqrt(metrics["mse"])
    return Evaluation(len(scores["mse"]), dict(sorted(metrics.items())))


def _restored(model: Model, examples: Examples) -> Examples:
    shift = examples.y.new_tensor([column.mean for column in model.manifest.outputs])
    scale = examples.y.new_tensor([column.std for column in model.manifest.outputs])
    return Examples(examples.x, examples.y * scale + shift, examples.mask)
