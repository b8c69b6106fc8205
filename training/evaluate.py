"""Error, likelihood and calibration on held-out tasks: means within each task, then over tasks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch
from model_store.model import Model

COVERAGE_LEVELS = (0.5, 0.8, 0.9, 0.95)
TASKS_PER_BLOCK = 10
"""Tasks evaluated at once: a bound on the memory of a belief."""
MAX_CRPS_ROWS = 25
"""Query rows of a task, evenly spaced, in the mean CRPS, whose cost is quadratic in the components."""
CONFORMAL_LEVEL = 0.9
UNSCORED_WEIGHT = 1e-3
"""Total weight of the components that CRPS, coverage and width ignore: less than the last digit shown."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model, in the units of its outputs.

    Attributes:
        tasks: the number of tasks.
        metrics: mse (of the mixture's mean), median_mse (of the median task), rmse (√mse), particle_mse
            (weighted, of the particles' own means), nll (of the mixture, nats per value), crps,
            coverage_50 … coverage_95 (fraction of truths in the central interval), sharpness (mean width
            of the 90 % interval) and effective_particles; where the model answers conformal intervals of
            90 %, conformal_coverage_90.
    """

    tasks: int
    metrics: dict[str, float]


def evaluate(model: Model, batches: Iterable[TaskBatch], steps: int | None = None) -> Evaluation:
    """The metrics of a model on batches of tasks, after adaptation to every support set.

    Args:
        steps: inner steps; None takes the learner's.
    """
    scores: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            for block in blocks(len(batch), TASKS_PER_BLOCK):
                part = batch.tasks(block)
                posterior = model.learner.adapt(model.learned, part.support, steps)
                belief = model.in_callers_units(model.predict(posterior, part.query.x, part.support))
                effective = model.learner.effective_particles(posterior)
                query = _in_callers_units(model, part.query)
                scores.append({**metrics_by_task(belief, query), "effective_particles": effective})
                if _has_conformal(model, steps):
                    held = conformal_coverage(model, belief, TaskBatch(part.support, query))
                    scores[-1]["conformal_coverage_90"] = held
    return mean_metrics({name: torch.cat([score[name] for score in scores]) for name in scores[0]})


def metrics_by_task(belief: Predictive, query: Examples) -> dict[str, Tensor]:
    """The mean metrics of each task, `[task]`, by the names in `Evaluation`."""

    def mean(values: Tensor) -> Tensor:
        weights = query.mask.unsqueeze(-1).expand_as(values)
        return torch.where(weights, values, 0).sum((1, 2)) / weights.sum((1, 2))

    nll = mean(-belief.log_density(query.y))  # with all components: the lightest may explain an outlier
    belief = belief.pruned(UNSCORED_WEIGHT)
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
    for level in COVERAGE_LEVELS:
        inside = (probability - 0.5).abs() <= level / 2
        result[f"coverage_{100 * level:.0f}"] = mean(inside.to(probability.dtype))
    return result


def conformal_coverage(
    model: Model, belief: Predictive, tasks: TaskBatch, level: float = CONFORMAL_LEVEL
) -> Tensor:
    """The fraction of each task's truths in their conformal interval, `[task]`.

    Args:
        belief: about the query rows, in the caller's units.
        tasks: with query targets in the caller's units.
    """
    assert model.manifest.conformal is not None
    scale = np.array([column.std for column in model.manifest.outputs])
    errors, stds = (tasks.query.y - belief.mean()).abs(), belief.variance().sqrt()
    held = []
    for task, mask in enumerate(tasks.query.mask):
        error, std = (values[task, mask].double().numpy() for values in (errors, stds))
        shots = int(tasks.support.mask[task].sum())
        reach = model.manifest.conformal.half_widths(shots, std, scale, level)
        held.append(float((error <= reach).mean()))
    return torch.tensor(held, dtype=torch.float64)


def _has_conformal(model: Model, steps: int | None) -> bool:
    """Whether the model answers conformal intervals of `CONFORMAL_LEVEL` after so many inner steps."""
    conformal = model.manifest.conformal
    calibrated = conformal is not None and conformal.max_level >= CONFORMAL_LEVEL
    return calibrated and steps in (None, model.learner.steps)


def _mean_crps(belief: Predictive, query: Examples) -> Tensor:
    last = query.counts().unsqueeze(1) - 1
    place = torch.linspace(0, 1, min(MAX_CRPS_ROWS, query.y.shape[1]), device=last.device)
    rows = (place * last).round().long().unsqueeze(-1)  # [task, row, 1]
    y = query.y.gather(1, rows.expand(-1, -1, query.y.shape[-1]))
    return belief.at_rows(rows.squeeze(-1)).crps(y).mean((1, 2))


def mean_metrics(scores: dict[str, Tensor]) -> Evaluation:
    """The means over tasks of metrics by name, each `[task]`."""
    metrics = {name: float(values.double().mean()) for name, values in scores.items()}
    metrics["median_mse"] = float(scores["mse"].double().median())
    metrics["rmse"] = math.sqrt(metrics["mse"])
    return Evaluation(len(scores["mse"]), dict(sorted(metrics.items())))


def _in_callers_units(model: Model, examples: Examples) -> Examples:
    shift = examples.y.new_tensor([column.mean for column in model.manifest.outputs])
    scale = examples.y.new_tensor([column.std for column in model.manifest.outputs])
    return Examples(examples.x, examples.y * scale + shift, examples.mask)
