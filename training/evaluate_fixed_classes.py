"""Likelihood, accuracy and calibration of a classifier whose classes mean the same in every task."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bmaml.blocks import blocks
from model_store.model import Model
from training.calibration_error import CALIBRATION_BINS, expected_calibration_error
from training.evaluate import Evaluation
from training.families.table import Table
from training.standard_errors import jackknifed_error

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
        group: the place of each row's group of tasks, `[row]`.
    """

    probabilities: Tensor
    truth: Tensor
    weights: Tensor
    group: Tensor

    def mean(self, values: Tensor) -> float:
        """The mean of values `[row]` within each task first, then over tasks."""
        return float((self.weights * values.double()).sum())

    def error(self, values: Tensor) -> float:
        """The standard error of the same, with the groups of tasks as independent."""
        return self._jackknifed((self.weights * values.double()).unsqueeze(-1), lambda sums: sums[..., 0])

    def calibration_error(self, right: Tensor, confidence: Tensor) -> tuple[float, float]:
        """The expected calibration error and its standard error; see `expected_calibration_error`."""
        bins = (confidence.double() * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
        gaps = (self.weights * (confidence.double() - right)).unsqueeze(-1)
        by_bin = torch.zeros(len(bins), CALIBRATION_BINS, dtype=torch.float64).scatter(
            1, bins.unsqueeze(-1), gaps
        )
        error = self._jackknifed(by_bin, lambda sums: sums.abs().sum(-1))
        return expected_calibration_error(right, confidence, self.weights), error

    def _jackknifed(self, values: Tensor, figure: Callable[[Tensor], Tensor]) -> float:
        """The standard error of a figure of weighted sums of values `[row, part]`, over their weight."""
        groups = int(self.group.max()) + 1
        parts = torch.cat([values, self.weights.unsqueeze(-1)], -1)
        sums = parts.new_zeros(groups, parts.shape[-1]).index_add(0, self.group, parts)
        return jackknifed_error(lambda left: figure(left[..., :-1]) / left[..., -1], sums)


def evaluate_fixed_classes(model: Model, family: Table, steps: int | None = None) -> Evaluation:
    """The metrics of a model on the test tasks with 0, 1, 3 and 8 support rows, where tasks have more.

    They are nll (log loss in nats per row), accuracy and ece (expected calibration error), the log loss of
    the classes' frequencies in the training tasks where the family has any, and for ordered classes the
    ranked probability score. Each is a mean within a task first, then over tasks; every task counts alike
    in ece, too.

    Args:
        steps: inner steps; None takes the learner's.
    """
    tasks = len(family.held_out_tasks())
    trained = bool((family.rows.roles == "train").any())
    frequencies = class_frequencies(family)
    ordered = model.manifest.target is not None and model.manifest.target.ordered
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for shots in SHOTS:
        chosen = family.held_out_tasks(shots)
        if not (there := len(chosen)):
            continue
        scores = _scores(model, family, shots, max(1, MIN_SUPPORT_SETS // there), steps)
        truth, best = scores.truth, scores.probabilities.max(-1)
        right = truth.gather(-1, best.indices.unsqueeze(-1)).squeeze(-1)
        values = {"nll": -(scores.probabilities * truth).sum(-1).log(), "accuracy": right}
        if trained:
            values["frequencies_nll"] = -(frequencies * truth).sum(-1).log()
        if ordered:
            values["rps"] = (scores.probabilities - truth).cumsum(-1)[:, :-1].square().sum(-1)
        metrics |= {f"{name}_{shots}rows": scores.mean(each) for name, each in values.items()}
        errors |= {f"{name}_{shots}rows": scores.error(each) for name, each in values.items()}
        ece, error = scores.calibration_error(right, best.values)
        metrics[f"ece_{shots}rows"], errors[f"ece_{shots}rows"] = ece, error
        if there < tasks:
            metrics[f"tasks_{shots}rows"] = there
    return Evaluation(tasks, metrics, errors)


def class_frequencies(family: Table) -> Tensor:
    """The frequency of each class in the rows of the training tasks, never zero, `[class]`."""
    counts = torch.full((len(family.labels),), SMOOTHING, dtype=torch.float64)
    counts += torch.from_numpy(family.rows.y[family.rows.of_role("train")].sum(0))
    return counts / counts.sum()


def _scores(model: Model, family: Table, shots: int, draws: int, steps: int | None) -> _Scores:
    probabilities, truth, weights, counts = [], [], [], []
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
                counts.append(mask.sum(1))
    _, groups = np.unique(family.rows.groups[family.held_out_tasks(shots)], return_inverse=True)
    group = torch.from_numpy(groups).repeat(draws).repeat_interleave(torch.cat(counts))
    return _Scores(
        torch.cat(probabilities), torch.cat(truth), torch.cat(weights) / (len(groups) * draws), group
    )
