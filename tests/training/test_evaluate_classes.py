"""The calibration error of a classifier."""

import pytest
import torch

from training.calibration_error import expected_calibration_error


def test_calibration_error_by_hand():
    right = torch.tensor([1.0, 0.0, 1.0, 1.0])
    confidence = torch.tensor([0.7, 0.7, 0.99, 0.99])
    assert expected_calibration_error(right, confidence) == pytest.approx((2 * 0.2 + 2 * 0.01) / 4)
