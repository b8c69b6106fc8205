"""The expected calibration error of a classifier."""

import torch
from torch import Tensor

CALIBRATION_BINS = 15


def expected_calibration_error(right: Tensor, confidence: Tensor, weights: Tensor | None = None) -> float:
    """Σ over 15 bins of confidence: share of the bin × |mean confidence − accuracy| there (Guo et al. 2017).

    Args:
        right: one where the most probable class is the true one, else zero, `[row]`.
        confidence: the probability of the most probable class, `[row]`.
        weights: of the rows; None weighs all alike.
    """
    right, confidence = right.double(), confidence.double()
    each = torch.ones_like(right) if weights is None else weights.double()
    place = (confidence * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
    gaps = each * (confidence - right)
    sums = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(0, place, gaps)
    return float(sums.abs().sum() / each.sum())
