"""Scores of the service's answers to tasks whose labels are classes."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.class_shifts import ClassTask
from benchmarks.accuracy.service_path import ask
from model_store import Model
from service.schemas.predictions import ClassPrediction, ScoredClassPrediction
from service.schemas.responses import AdaptPredictResponse
from training.calibration_error import expected_calibration_error


@dataclass(frozen=True)
class ClassScore:
    """The scores of one answer, `[row]`; without a truth, accuracy and NLL are NaN.

    Attributes:
        right: whether the most probable class is the true one.
        confidence: probability of the most probable class.
        nll: of the true class, nats.
        entropy, epistemic: of the answer, nats.
        warned: whether the answer has a warning.
    """

    right: Array
    confidence: Array
    nll: Array
    entropy: Array
    epistemic: Array
    warned: bool

    @property
    def finite(self) -> bool:
        """Whether every answered number is finite."""
        return all(bool(np.isfinite(each).all()) for each in (self.confidence, self.entropy, self.epistemic))


def score_classes(model: Model, tasks: Sequence[ClassTask]) -> list[ClassScore | None]:
    """The scores of the service's answers, in order; None where it refuses."""
    bodies = [
        {
            "support": {"x": _tensor(task.support), "y": task.labels.tolist()},
            "query": {"x": _tensor(task.query), **_scored(task)},
            "log_density": task.truth is not None,
        }
        for task in tasks
    ]
    return [
        None if response is None else _score(task, response)
        for task, response in zip(tasks, ask(model, bodies), strict=True)
    ]


def class_metrics(scores: Sequence[ClassScore | None]) -> dict[str, float]:
    """Means over tasks, the worst task's NLL, and the calibration error over all rows."""
    answered = [score for score in scores if score is not None]
    if not answered:
        return {"answered": 0.0}
    nlls = [float(score.nll.mean()) for score in answered]
    right, confidence = (
        torch.from_numpy(np.concatenate([getattr(score, name) for score in answered]))
        for name in ("right", "confidence")
    )
    return {
        "accuracy": float(np.mean([score.right.mean() for score in answered])),
        "nll": float(np.mean(nlls)),
        "worst_nll": max(nlls),
        "ece": expected_calibration_error(right, confidence),
        "confidence": float(np.mean([score.confidence.mean() for score in answered])),
        "entropy": float(np.mean([score.entropy.mean() for score in answered])),
        "epistemic": float(np.mean([score.epistemic.mean() for score in answered])),
        "warned": float(np.mean([score.warned for score in answered])),
        "answered": len(answered) / len(scores),
    }


def _score(task: ClassTask, response: AdaptPredictResponse) -> ClassScore:
    answer = response.prediction
    assert isinstance(answer, ClassPrediction)
    confidence = answer.probabilities.astype(np.float64).max(-1)
    right = nll = np.full(len(confidence), math.nan)
    if isinstance(answer, ScoredClassPrediction):
        right, nll = (np.array(answer.label) == task.truth).astype(np.float64), -answer.log_density
    return ClassScore(
        right=right,
        confidence=confidence,
        nll=nll,
        entropy=answer.entropy.total.astype(np.float64),
        epistemic=answer.entropy.mutual_information.astype(np.float64),
        warned=bool(response.diagnostics.warnings),
    )


def _scored(task: ClassTask) -> Mapping[str, Any]:
    """The truth as a request posts it to be scored; nothing without one."""
    return {} if task.truth is None else {"y": task.truth.tolist()}


def _tensor(images: NDArray[np.uint8]) -> Mapping[str, Any]:
    """Images as a request holds them."""
    content = base64.b64encode(np.ascontiguousarray(images).tobytes()).decode()
    return {"dtype": "uint8", "shape": list(images.shape), "base64": content}
