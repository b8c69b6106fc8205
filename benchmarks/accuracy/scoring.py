"""How well a method answers a problem's held-out tasks, and how fast."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.baselines import Method
from benchmarks.accuracy.problems import Problem
from bmaml.learners import Learner
from bmaml.task import Examples, TaskBatch
from model_store import Model
from service.compute.adaptation import NEGLIGIBLE
from training.evaluate import TASKS_AT_ONCE, scored, summarised

LEVELS = [step / 20 for step in range(1, 20)]


def method_of(learner: Learner[Any], learned: Mapping[str, Tensor]) -> Method:
    """What answers from a support set about query rows."""

    def method(support: Examples, x: Tensor) -> Any:
        return learner.predict(learner.adapt(learned, support), x)

    return method


def as_served(model: Model) -> Method:
    """What the service answers with, in the network's units."""

    def method(support: Examples, x: Tensor) -> Any:
        return model.predict(model.learner.adapt(model.learned, support, lost=NEGLIGIBLE), x)

    return method


def score(problem: Problem, method: Method) -> dict[str, dict[str, Any]]:
    """By shots: the metrics of `Evaluation`, coverage at many levels, milliseconds for one task."""
    found = {}
    with torch.no_grad():
        for shots, batch in problem.held_out.items():
            parts, pits = [], []
            truths = problem.truths(shots)
            for start in range(0, len(batch), TASKS_AT_ONCE):
                some = slice(start, start + TASKS_AT_ONCE)
                belief = problem.in_units(method(batch.support.tasks(some), batch.query.x[some]))
                truth = truths.tasks(some)
                parts.append(scored(belief, truth))
                pits.append(belief.cdf(truth.y)[truth.mask].flatten())
            metrics = summarised({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
            offsets = (torch.cat(pits) - 0.5).abs()
            found[str(shots)] = {
                **metrics.metrics,
                "reliability": [float((offsets <= level / 2).double().mean()) for level in LEVELS],
                "ms": _milliseconds(method, batch),
                "tasks": len(batch),
            }
    return found


def validation_crps(method: Method, problem: Problem) -> float:
    """Mean over the validation tasks: proper like the NLL, and in the targets' units like the error."""
    scores = []
    with torch.no_grad():
        for batch in problem.family.validation():
            for start in range(0, len(batch), TASKS_AT_ONCE):
                part = batch.tasks(slice(start, start + TASKS_AT_ONCE))
                scores.append(scored(method(part.support, part.query.x), part.query)["crps"])
    mean = float(torch.cat(scores).double().mean())
    return mean if math.isfinite(mean) else math.inf


def _milliseconds(method: Method, batch: TaskBatch) -> float:
    """Median of one task alone, from support set to the mean of fifty query rows."""
    support = batch.support.tasks(slice(1))
    x = batch.query.x[:1, :1].expand(1, 50, -1)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        method(support, x).mean()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
