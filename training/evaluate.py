"""Error, likelihood and calibration on held-out tasks: means within each task, then over tasks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch
from bmaml.transformed import Transformed
from model_store.model import Model
from training.families.splits import Indices
from training.standard_errors import error_of_mean, error_of_median

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
            (weighted, of the particles' own means), nll (of the mixture, nats per value; of labels with a
            step that of the log probability of a cell per unit, for whole numbers a log probability), crps,
            coverage_50 … coverage_95 (fraction of truths in the central interval), sharpness (mean width
            of the 90 % interval) and effective_particles; where the model answers conformal intervals of
            90 %, conformal_coverage_90. Several outputs have metrics of their own, as `flow.nll`: no mean
            over units says anything.
        standard_errors: of the metrics whose tasks are a sample of all there could be, by name.
    """

    tasks: int
    metrics: dict[str, float]
    standard_errors: dict[str, float] = field(default_factory=dict)


def evaluate(
    model: Model, batches: Iterable[TaskBatch], steps: int | None = None, groups: Indices | None = None
) -> Evaluation:
    """The metrics of a model on batches of tasks, after adaptation to every support set.

    Args:
        steps: inner steps; None takes the learner's.
        groups: the group of each task, `[task]`; None takes tasks for independent.
    """
    scores: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            for block in blocks(len(batch), TASKS_PER_BLOCK):
                part = batch.tasks(block)
                posterior = model.learner.adapt(model.learned, part.support, steps)
                standardised = model.predict(posterior, part.query.x, part.support)
                belief = model.in_callers_units(standardised)
                effective = model.learner.effective_particles(posterior)
                query = _in_callers_units(model, part.query)
                outputs = [column.name for column in model.manifest.outputs]
                scores.append(metrics_by_task(belief, query, outputs) | {"effective_particles": effective})
                if _has_conformal(model, steps):
                    own_scale = model.on_own_scale(standardised)
                    held = conformal_coverage(model, own_scale, TaskBatch(part.support, query))
                    scores[-1] |= _by_output("conformal_coverage_90", held, outputs)
    return mean_metrics({name: torch.cat([score[name] for score in scores]) for name in scores[0]}, groups)


def metrics_by_task(
    belief: Predictive | Transformed, query: Examples, outputs: Sequence[str] = ("",)
) -> dict[str, Tensor]:
    """The mean metrics of each task, `[task]`, by the names in `Evaluation`.

    Args:
        outputs: names of the outputs; one has no part in the metrics' names.
    """

    def mean(values: Tensor) -> Tensor:
        weights = query.mask.unsqueeze(-1)
        return torch.where(weights, values, 0).sum(1) / weights.sum(1)

    nll = mean(-belief.log_density(query.y))  # with all components: the lightest may explain an outlier
    belief = belief.pruned(UNSCORED_WEIGHT)
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
        result[f"coverage_{100 * level:.0f}"] = mean(belief.holds(query.y, level).to(nll.dtype))
    named = [_by_output(name, values, outputs) for name, values in result.items()]
    return {name: values for each in named for name, values in each.items()}


def _by_output(name: str, values: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    """A metric `[task, output]` by output."""
    names = [name] if len(outputs) == 1 else [f"{output}.{name}" for output in outputs]
    return dict(zip(names, values.unbind(-1), strict=True))


def conformal_coverage(
    model: Model, belief: Predictive, tasks: TaskBatch, level: float = CONFORMAL_LEVEL
) -> Tensor:
    """The fraction of each task's truths in their conformal interval, `[task, output]`.

    Args:
        belief: about the query rows, on the scales of the outputs' links.
        tasks: with query targets in the caller's units.
    """
    assert model.manifest.conformal is not None
    scale = np.array([column.std for column in model.manifest.outputs])
    means, stds = belief.mean(), belief.variance().sqrt()
    held = []
    for task, mask in enumerate(tasks.query.mask):
        y, mean, std = (values[task, mask].double() for values in (tasks.query.y, means, stds))
        shots = int(tasks.support.mask[task].sum())
        reach = torch.from_numpy(model.manifest.conformal.half_widths(shots, std.numpy(), scale, level))
        lower, upper = model.values(mean - reach), model.values(mean + reach)
        held.append(((y >= lower) & (y <= upper)).double().mean(0))
    return torch.stack(held)


def _has_conformal(model: Model, steps: int | None) -> bool:
    """Whether the model answers conformal intervals of `CONFORMAL_LEVEL` after so many inner steps."""
    conformal = model.manifest.conformal
    calibrated = conformal is not None and conformal.max_level >= CONFORMAL_LEVEL
    return calibrated and steps in (None, model.learner.steps)


def _mean_crps(belief: Predictive | Transformed, query: Examples) -> Tensor:
    last = query.counts().unsqueeze(1) - 1
    place = torch.linspace(0, 1, min(MAX_CRPS_ROWS, query.y.shape[1]), device=last.device)
    rows = (place * last).round().long().unsqueeze(-1)  # [task, row, 1]
    y = query.y.gather(1, rows.expand(-1, -1, query.y.shape[-1]))
    return belief.at_rows(rows.squeeze(-1)).crps(y).mean(1)


def mean_metrics(scores: dict[str, Tensor], groups: Indices | None = None) -> Evaluation:
    """The means over tasks of metrics by name, each `[task]`, and their standard errors.

    Args:
        groups: the group of each task, `[task]`; None takes tasks for independent.
    """
    metrics = {name: float(values.double().mean()) for name, values in scores.items()}
    errors = {name: error_of_mean(values, groups) for name, values in scores.items()}
    for name, values in scores.items():
        if (output := name.removesuffix("mse")) != name and not output.endswith("particle_"):
            metrics[f"{output}median_mse"] = float(values.double().median())
            errors[f"{output}median_mse"] = error_of_median(values, groups)
            metrics[f"{output}rmse"] = root = math.sqrt(metrics[name])
            errors[f"{output}rmse"] = errors[name] / (2 * root) if root else 0.0
    tasks = len(next(iter(scores.values())))
    return Evaluation(tasks, dict(sorted(metrics.items())), dict(sorted(errors.items())))


def _in_callers_units(model: Model, examples: Examples) -> Examples:
    return Examples(examples.x, model.labels(examples.y), examples.mask)
