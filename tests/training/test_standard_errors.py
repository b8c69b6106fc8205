"""Standard errors against closed forms and against the spread of many samples."""

import math

import numpy as np
import pytest
import torch

from training.evaluate import mean_metrics
from training.standard_errors import error_of_mean, error_of_median, jackknifed_error

GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.randn(50, generator=GENERATOR, dtype=torch.float64)


def test_the_error_of_a_mean_is_the_textbooks():
    assert error_of_mean(VALUES) == pytest.approx(float(VALUES.std()) / 50**0.5)
    assert error_of_mean(VALUES, np.arange(50)) == pytest.approx(error_of_mean(VALUES))


def test_tasks_that_repeat_their_group_count_once():
    groups = np.repeat(np.arange(50), 4)
    assert error_of_mean(VALUES.repeat_interleave(4), groups) == pytest.approx(error_of_mean(VALUES))


@pytest.mark.parametrize("error", [error_of_mean, error_of_median])
def test_one_group_says_nothing_about_others(error):
    assert math.isnan(error(VALUES, np.zeros(50, dtype=int)))
    assert math.isnan(error(VALUES[:1]))


def test_the_error_of_a_median_is_its_spread_over_samples():
    draws = torch.randn(400, 801, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    told = np.mean([error_of_median(draw) for draw in draws])
    assert told == pytest.approx(float(draws.median(1).values.std()), rel=0.15)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    parts = torch.stack([VALUES, torch.ones_like(VALUES)], -1)
    found = jackknifed_error(lambda sums: sums[..., 0] / sums[..., 1], parts)
    assert found == pytest.approx(error_of_mean(VALUES))


def test_every_metric_has_a_standard_error():
    found = mean_metrics({"mse": VALUES.square(), "nll": VALUES})
    assert found.standard_errors.keys() == found.metrics.keys() == {"mse", "nll", "median_mse", "rmse"}
    assert found.standard_errors["rmse"] == pytest.approx(
        error_of_mean(VALUES.square()) / (2 * found.metrics["rmse"])
    )
