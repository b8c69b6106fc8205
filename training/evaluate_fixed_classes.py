"""Likelihood, accuracy and calibration of a classifier whose classes mean the same in every task."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml.blocks import blocks
from model_store.model import Model
from training.calibration_error import expected_calibration_error
from training.evaluate import Evaluation
from training.families.table import Table

SHOTS = (0, 1, 3, 8)
"""Support rows of the published figures."""
TASKS_PER_BLOCK = 20
"""Tasks evaluated at once: a bound on the memory of a belief."""
MIN_SUPPORT_SETS = 200
"""Support sets of a figure: few tasks are drawn several times."""
SMOOTHING = 0.5
"""Rows of each class beside those of training, in its frequency."""


@dataclass(frozen=True)
class _Scores:
    """The scores of query rows, task by task.

    Attributes:
        probabilities, truth: `[row, class]`, the truth one-hot.
        weights: of each row, `[row]`; equal within a task and in sum over it, 1 in total.
        support_sets: how many there are.
    """

    probabilities: Tensor
    truth: Tensor
    weights: Tensor
    support_sets: int

    def mean(self, values: Tensor) -> float:
        """The mean of values `[row]` within each task first, then over tasks."""
        return float((self.weights * values.double()).sum())


def evaluate_fixed_classes(model: Model, family: Table, steps: int | None = None) -> Evaluation:
    """The metrics of a model on the test tasks with 0, 1, 3 and 8 support rows, where tasks have more.

    They are nll (log loss in nats per row), accuracy and ece (expected calibration error), the log loss of
    the classes' frequencies in the training tasks where the family has any, and for ordered classes the
    ranked probability score. Each is a mean within a task first, then over tasks; every task counts alike
    in ece, too.

    Args:
        steps: inner steps; None takes the learner's.
    """
    tasks = int((family.rows.roles == "test").sum())
    trained = bool((family.rows.roles == "train").any())
    frequencies = class_frequencies(family)
    ordered = model.manifest.target is not None and model.manifest.target.ordered
    metrics: dict[str, float] = {}
    for shots in SHOTS:
        there = int(((family.rows.roles == "test") & (family.rows.counts > shots)).sum())
        if not there:
            continue
        scores = _scores(model, family, shots, max(1, MIN_SUPPORT_SETS // there), steps)
        truth, best = scores.truth, scores.probabilities.max(-1)
        right = truth.gather(-1, best.indices.unsqueeze(-1)).squeeze(-1)
        found = {
            "nll": scores.mean(-(scores.probabilities * truth).sum(-1).log()),
            "accuracy": scores.mean(right),
            "ece": expected_calibration_error(right, best.values, scores.weights),
        }
        if trained:
            found["frequencies_nll"] = scores.mean(-(frequencies * truth).sum(-1).log())
        if ordered:
            misses = (scores.probabilities - truth).cumsum(-1)[:, :-1]
            found["rps"] = scores.mean(misses.square().sum(-1))
        metrics |= {f"{name}_{shots}rows": value for name, value in found.items()}
        if there < tasks:
            metrics[f"tasks_{shots}rows"] = there
    return Evaluation(tasks, metrics)


def class_frequencies(family: Table) -> Tensor:
    """The frequency of each class in the rows of the training tasks, never zero, `[class]`."""
    counts = torch.full((len(family.labels),), SMOOTHING, dtype=torch.float64)
    rows = family.rows
    for start, count, role in zip(rows.starts, rows.counts, rows.roles, strict=True):
        if role == "train":
            counts += torch.from_numpy(rows.y[start : start + count].sum(0))
    return counts / counts.sum()


def _scores(model: Model, family: Table, shots: int, draws: int, steps: int | None) -> _Scores:
    probabilities, truth, weights, support_sets = [], [], [], 0
    with torch.no_grad():
        for batch in family.held_out_at(shots, draws):
            for block in blocks(len(batch), TASKS_PER_BLOCK):
                part = batch.tasks(block)
                posterior = model.learner.adapt(model.learned, part.support, steps)
                found = model.classify(posterior, part.query.x, part.support).probabilities().double()
                mask = part.query.mask
                each = mask / mask.sum(1, keepdim=True)
                probabilities.append(found[mask])
                truth.append(part.query.y[mask].double())
                weights.append(each[mask].double())
                support_sets += len(part)
    return _Scores(
        torch.cat(probabilities), torch.cat(truth), torch.cat(weights) / support_sets, support_sets
    )
