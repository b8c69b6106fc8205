"""Labelling: problems, rounds and paired errors."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.accuracy.active_learning import REGRESSION, run
from benchmarks.accuracy.labelling_problems import curve_problem, measured_rows, split_rows
from benchmarks.accuracy.labelling_report import comparison, difference, labels_needed, table
from benchmarks.accuracy.labelling_tables import MADE_UP
from bmaml.acquisition import ACQUISITIONS, DEFAULT_ACQUISITION
from tests.benchmarks.accuracy.curve_file import write_curves
from tests.published import SIZE, Y, publish

GROUPS = np.arange(4)


@pytest.fixture
def problem(tmp_path):
    draw = np.random.default_rng(0)
    tasks = [(draw.uniform(-5, 5, (rows, 1)), draw.normal(10, 3, rows)) for rows in (9, 7, 8)]
    return measured_rows("tiny: all for sale", publish(tmp_path), tasks, 2, 3, ["a", "b", "b"], "report")


def test_the_error_of_independent_differences_is_that_of_their_mean():
    ours, theirs = np.array([1.0, 2.0, 4.0, 9.0]), np.array([0.0, 2.0, 1.0, 3.0])
    found = difference(ours, theirs, GROUPS)
    assert found.mean == (ours - theirs).mean()
    assert found.error == pytest.approx((ours - theirs).std(ddof=1) / 2)


def test_tasks_that_repeat_each_other_count_once():
    ours, theirs = np.array([1.0, 2.0, 4.0, 9.0]), np.zeros(4)
    twice = difference(np.repeat(ours, 2), np.repeat(theirs, 2), np.repeat(GROUPS, 2))
    assert twice.error == pytest.approx(difference(ours, theirs, GROUPS).error)


def test_labels_needed_is_the_first_round_at_the_goal():
    scores = np.array([[3.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    assert [labels_needed(scores, goal) for goal in (4.0, 2.0, 1.5, 0.5)] == [0, 1, 2, None]


def test_every_acquisition_starts_alike_and_is_scored_after_every_label(problem):
    found = {name: run(problem, name) for name in REGRESSION}
    for scores in found.values():
        for name, values in scores.items():
            assert values.shape == (3, 4)
            assert np.isfinite(values).all()
            np.testing.assert_array_equal(values[:, 0], found["random"][name][:, 0])
    assert set(REGRESSION) <= set(ACQUISITIONS)


def test_after_all_labels_all_acquisitions_are_alike(tmp_path):
    draw = np.random.default_rng(0)
    tasks = [(draw.uniform(-5, 5, (12, 1)), draw.normal(10, 3, 12)) for _ in range(3)]
    problem = split_rows("tiny: four", publish(tmp_path), tasks, start=1, pool=4, rounds=3, role="report")
    ends = [run(problem, name)["NLL"][:, -1] for name in REGRESSION]
    for end in ends:
        np.testing.assert_allclose(end, ends[0], rtol=1e-4)


def test_the_tables_mark_the_default_and_name_what_beats_it(problem):
    base = np.ones((3, 4))
    found = {name: {"NLL": base, "RMSE": base} for name in REGRESSION}
    found[DEFAULT_ACQUISITION] = {"NLL": base - 0.5, "RMSE": base - 0.5}
    marked = f"| **{DEFAULT_ACQUISITION}** (default) |"
    assert sum(line.startswith(marked) for line in table(problem, found)) == 1
    for line in _last_of_each_table(comparison([(problem, found)])):
        assert line.endswith("| best |")
    found["entropy"] = {"NLL": base - 0.6, "RMSE": base}
    of_nll, of_rmse = _last_of_each_table(comparison([(problem, found)]))
    assert of_nll.endswith("| +0.100 ± 0.000 (entropy) |")
    assert of_rmse.endswith("| best |")


def _last_of_each_table(lines):
    return [line for line, after in pairwise(lines) if line.startswith("|") and not after]


def test_halves_of_learning_curves_are_problems_of_their_own(tmp_path):
    path = write_curves(tmp_path / "curves.parquet")
    publish(tmp_path / "store", "sized", inputs=(SIZE,), outputs=(Y,))
    halves = [curve_problem(path, 9, tmp_path / "store", "sized", half) for half in ("choose", "report")]
    assert [half.role for half in halves] == ["choose", "report"]
    assert not np.intersect1d(*(half.y[:, 0, 0].numpy() for half in halves)).size
    for half in halves:
        assert len(np.unique(half.groups)) == 3
        assert torch.equal(half.test.x, half.rows)


@pytest.mark.parametrize("name", MADE_UP)
def test_a_made_up_table_has_noise_that_depends_on_x(name):
    made_up = MADE_UP[name]
    x, y = made_up.draw(4000, np.random.default_rng(0))
    assert x.shape == (4000, len(made_up.inputs))
    order = x[:, 0].argsort()
    jumps = np.abs(np.diff(y[order]))
    ends = np.median(jumps[:400]), np.median(jumps[-400:])
    assert max(ends) > 2 * min(ends)
