"""Units: the caller's on one side, standardised on the other."""

import numpy as np
import pytest

from model_store import Column, OutsideDomain
from model_store.columns import distance_outside, restored, standardised


def test_a_fitted_column_has_mean_zero_and_unit_variance_on_its_own_scale():
    values = np.array([16.0, 64.0, 256.0, 4096.0])
    column = Column.fitted("size", "log2", values)
    found = standardised([column], values[:, None])[:, 0]
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std() == pytest.approx(1)
    assert (column.lower, column.upper) == (16, 4096)
    assert np.diff(found)[:2] == pytest.approx([found[1] - found[0]] * 2)


@pytest.mark.parametrize("transform", ["none", "log", "log2"])
def test_what_was_standardised_can_be_restored(transform):
    values = np.array([[16.0], [64.0], [300.0]])
    column = Column.fitted("size", transform, values[:, 0])
    assert restored([column], standardised([column], values)) == pytest.approx(values)


def test_logarithms_of_what_is_not_positive_name_the_row():
    with pytest.raises(OutsideDomain, match="row 1") as caught:
        standardised([Column(name="s", transform="log", lower=1, upper=2)], np.array([[1.0], [0.0]]))
    assert caught.value.row == 1


def test_constant_columns_are_refused():
    with pytest.raises(ValueError, match="constant"):
        Column.fitted("x", "none", np.full(3, 0.1))


def test_distance_is_measured_on_the_column_s_scale_value_by_value():
    size = Column(name="s", transform="log2", lower=16, upper=256)  # four doublings wide
    rows = np.array([[8.0], [16.0], [100.0], [256.0], [1024.0]])
    assert distance_outside([size], rows)[:, 0] == pytest.approx([0.25, 0, 0, 0, 0.5])
    both = [size, Column(name="t", lower=0, upper=10)]
    found = distance_outside(both, np.array([[8.0, 15.0], [8.0, 5.0]]))
    assert found == pytest.approx(np.array([[0.25, 0.5], [0.25, 0.0]]))
