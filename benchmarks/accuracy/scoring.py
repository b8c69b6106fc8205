"""Scores of a forecaster on a problem's held-out tasks, and its time."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.baselines import Forecaster
from benchmarks.accuracy.problems import Problem
from bmaml.blocks import blocks
from bmaml.learners import Learner
from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch
from bmaml.transformed import Transformed
from model_store import Model
from model_store.columns import Column
from model_store.model import NEGLIGIBLE_WEIGHT
from training.evaluate import TASKS_PER_BLOCK, mean_metrics, metrics_by_task

LEVELS = [step / 20 for step in range(1, 20)]
"""Central intervals of the reliability plot."""


def learner_forecaster(learner: Learner[Any], learned: Mapping[str, Tensor]) -> Forecaster:
    """The forecaster of a regression learner."""

    def forecast(support: Examples, x: Tensor) -> Predictive:
        belief = learner.predict(learner.adapt(learned, support), x)
        assert isinstance(belief, Predictive)
        return belief

    return forecast


def served_forecaster(model: Model, output: Column) -> Forecaster:
    """The forecaster of a model as the service computes it.

    A belief about real numbers is in the network's units, one about other values in the caller's.

    Args:
        output: the column by which the labels of support sets are standardised.
    """

    def forecast(support: Examples, x: Tensor) -> Predictive | Transformed:
        if not model.plain:
            (link,) = model.links
            labels = (support.y.double() * output.std + output.mean).clamp(link.low, link.high)
            y = torch.from_numpy(model.standardised_targets(labels.flatten(0, 1).numpy()))
            support = Examples(support.x, y.view_as(support.y), support.mask)
        posterior = model.learner.adapt_pruned(model.learned, support, NEGLIGIBLE_WEIGHT)
        belief = model.predict(posterior, x, support)
        return belief if model.plain else model.in_callers_units(belief)

    return forecast


def score(problem: Problem, forecast: Forecaster) -> dict[str, dict[str, Any]]:
    """The metrics of `Evaluation`, coverage at all `LEVELS` and milliseconds per task, by shots as text."""
    found = {}
    with torch.no_grad():
        for shots, batch in problem.held_out.items():
            parts, held = [], []
            queries = problem.query_rows(shots)
            for some in blocks(len(batch), TASKS_PER_BLOCK):
                belief = problem.in_units(forecast(batch.support.tasks(some), batch.query.x[some]))
                truth = queries.tasks(some)
                parts.append(metrics_by_task(belief, truth))
                held.append(torch.stack([belief.holds(truth.y, level)[truth.mask] for level in LEVELS]))
            metrics = mean_metrics({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
            found[str(shots)] = {
                **metrics.metrics,
                "reliability": torch.cat(held, 1).double().mean((1, 2)).tolist(),
                "ms": _milliseconds(forecast, batch),
                "tasks": len(batch),
            }
    return found


def validation_crps(forecast: Forecaster, problem: Problem) -> float:
    """The mean CRPS of the validation tasks, in standardised units; infinite where it is not a number."""
    scores = []
    with torch.no_grad():
        for batch in problem.family.validation():
            for block in blocks(len(batch), TASKS_PER_BLOCK):
                part = batch.tasks(block)
                scores.append(metrics_by_task(forecast(part.support, part.query.x), part.query)["crps"])
    mean = float(torch.cat(scores).double().mean())
    return mean if math.isfinite(mean) else math.inf


def _milliseconds(forecast: Forecaster, batch: TaskBatch) -> float:
    """The median time of one task alone, from support set to the mean of fifty query rows."""
    support = batch.support.tasks(slice(1))
    x = batch.query.x[:1, :1].expand(1, 50, -1)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        forecast(support, x).mean()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
