"""Conformal calibrations: which threshold a row gets, and what a manifest may say."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from model_store import CorruptModel, Store
from model_store.conformal import Conformal, ConformalGroup
from tests.published import conformal, publish


def group(rows, below, scores, tasks=9):
    return ConformalGroup(
        support_rows=rows,
        width_below=below,
        units=tasks,
        weight=tasks,
        max_level=tasks / (tasks + 1),
        atom=1 / tasks,
        scores=scores,
    )


GROUPS = (
    group((0, 3), 0.5, (1.0, 2.0, 3.0)),
    group((0, 3), None, (4.0, 5.0, 6.0)),
    group((5, 8), None, (7.0, 8.0, 9.0)),
)
CALIBRATION = Conformal(tasks=9, units=9, levels=(0.5, 0.8, 0.95), outputs=(GROUPS,))


@pytest.mark.parametrize(
    ("level", "threshold"),
    [(0.1, 1), (0.5, 1), (0.50001, 2), (0.8, 2), (0.81, 3), (0.9, 3), (0.9001, math.inf), (0.99, math.inf)],
)
def test_a_level_takes_the_next_stored_one_up_to_the_highest(level, threshold):
    assert CALIBRATION.threshold(GROUPS[0], level) == threshold


@pytest.mark.parametrize(
    ("support_rows", "expected"),
    [(0, [1, 4, 4]), (3, [1, 4, 4]), (4, [7, 7, 7]), (5, [7, 7, 7]), (99, [7, 7, 7])],
)
def test_rows_belong_to_the_group_of_their_support_set_and_width(support_rows, expected):
    widths = np.array([[0.4999], [0.5], [30.0]])
    assert CALIBRATION.thresholds(support_rows, widths, 0.5)[:, 0].tolist() == expected
    std = widths * 3
    half = CALIBRATION.half_widths(support_rows, std, np.array([3.0]), 0.5)
    np.testing.assert_allclose(half[:, 0], std[:, 0] * expected)


def test_outputs_have_thresholds_of_their_own():
    both = Conformal(tasks=9, units=9, levels=(0.5, 0.8, 0.95), outputs=(GROUPS, GROUPS[2:]))
    found = both.thresholds(2, np.array([[0.1, 0.1], [0.6, 0.6]]), 0.8)
    assert found.tolist() == [[2.0, 8.0], [5.0, 8.0]]


def test_the_bounds_are_those_of_the_level_that_is_taken():
    assert CALIBRATION.upper_bound(GROUPS[0], 0.4) == pytest.approx(0.5 + 1 / 9 + 1 / 9)
    assert CALIBRATION.upper_bound(GROUPS[0], 0.7) == CALIBRATION.upper_bound(GROUPS[0], 0.95) == 1
    assert CALIBRATION.max_level == 0.9
    assert CALIBRATION.support_rows == (0, 8)


def test_a_group_without_tasks_answers_nothing():
    empty = ConformalGroup(support_rows=(0, 1), units=0, weight=0, max_level=0, atom=0, scores=())
    calibration = Conformal(tasks=9, units=9, levels=CALIBRATION.levels, outputs=((empty, GROUPS[2]),))
    assert calibration.threshold(empty, 1e-12) == math.inf
    assert calibration.max_level == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": (0.8, 0.5, 0.95)}, "do not ascend"),
        ({"outputs": ((),)}, "no conformal group"),
        ({"outputs": (GROUPS[::-1],)}, "order of their"),
        ({"outputs": (GROUPS[:1],)}, "order of their widths"),
        ({"outputs": ((GROUPS[1], GROUPS[2], group((4, 6), None, (1, 2, 3))),)}, "order of their support"),
        ({"outputs": ((group((0, 1), None, (1.0, 2.0)),),)}, "one score for each level"),
        ({"outputs": ((group((0, 1), None, (1.0, 3.0, 2.0)),),)}, "scores fall"),
        ({"tasks": 0}, "greater than or equal to 1"),
    ],
)
def test_calibrations_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Conformal.model_validate(CALIBRATION.model_dump() | changes)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_scores_are_finite_and_not_negative(bad):
    with pytest.raises(ValidationError):
        group((0, 1), None, (1.0, 2.0, bad))


def test_a_version_keeps_its_calibration(tmp_path):
    published = publish(tmp_path, conformal=conformal())
    assert Store(tmp_path).load("tiny").manifest.conformal == conformal()
    assert Store(tmp_path).load("tiny").sha256 == published.sha256


def test_a_version_without_calibration_says_nothing_of_it(tmp_path):
    publish(tmp_path)
    assert Store(tmp_path).load("tiny").manifest.conformal is None
    assert "conformal" not in (tmp_path / "tiny" / "1" / "manifest.json").read_text()


def test_a_calibration_of_other_outputs_is_refused(tmp_path):
    publish(tmp_path, conformal=conformal())
    manifest = tmp_path / "tiny" / "1" / "manifest.json"
    said = Store(tmp_path).load("tiny").manifest
    assert said.conformal is not None
    twice = said.conformal.model_copy(update={"outputs": said.conformal.outputs * 2})
    manifest.write_bytes(said.model_copy(update={"conformal": twice}).dumped())
    with pytest.raises(CorruptModel, match="another number of outputs"):
        Store(tmp_path).load("tiny")
