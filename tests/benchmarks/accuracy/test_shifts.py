"""The shift suite: tasks are what their names say, and the answers of `sinusoid` keep laws."""

import math

import numpy as np
import pytest
import torch

from benchmarks.accuracy.number_scores import HALF_CELL, Panel, log_cell_density, score_shifts
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.shift_tables import number_table
from benchmarks.accuracy.shifts import FEW_POINTS, sine_panels
from benchmarks.accuracy.sine_shifts import POINTS, QUERIES, SINE_SHIFTS, sine_tasks
from bmaml.predictive import Predictive
from model_store import SHIPPED, Model, Store
from training.families.sinusoid import AMPLITUDE, FREQUENCY

TASKS, FAMILY_TASKS = 12, 200
"""Tasks of each shift, and of the family itself."""
UNLIKE_POINTS, UNLIKE_TASKS = 10, 200
"""Points and tasks of the families that training did not show: the very tasks of the page's table.

A share of 90 % has a standard error of 2 % over so many. Fewer tasks would need lower floors.
"""
FLOORS = {
    "constant labels": 0.9,
    "labels 10 higher": 0.85,
    "points in a width of 1": 0.8,
    "queries outside the range": 0.9,
    "x in degrees": 0.75,
}
"""The least coverage of the 90 % interval under a shift, at any of `POINTS`."""
UNLIKE_FLOORS = {
    "noise × 10": 0.8,
    "amplitudes of 7.5 to 15": 0.8,
    "frequencies of 3 to 5": 0.8,
    "a square wave": 0.8,
    "a straight line": 0.9,
}
"""The least coverage of the 90 % interval from `UNLIKE_POINTS` of a family that training did not show."""


@pytest.fixture(scope="module")
def model() -> Model:
    return Store(SHIPPED).load("sinusoid")


@pytest.fixture(scope="module")
def panels(model) -> dict[tuple[int, str], Panel]:
    """The answers of `sinusoid`, by number of points and shift."""
    return {(panel.points, panel.shift): panel for panel in sine_panels(model, TASKS)}


@pytest.fixture(scope="module")
def family(model) -> dict[int, dict[str, float]]:
    """The metrics of the family, by number of points."""
    shifts = {FAMILY: SINE_SHIFTS[FAMILY]}
    found = (next(score_shifts(model, shifts, sine_tasks(FAMILY_TASKS, each), each)) for each in POINTS)
    return {panel.points: panel.metrics(panel.width) for panel in found}


@pytest.fixture(scope="module")
def unlike(model) -> dict[str, dict[str, float]]:
    """The metrics of families that training did not show, by name."""
    shifts = {name: SINE_SHIFTS[name] for name in UNLIKE_FLOORS}
    found = score_shifts(model, shifts, sine_tasks(UNLIKE_TASKS, UNLIKE_POINTS), UNLIKE_POINTS)
    return {panel.shift: panel.metrics(panel.width) for panel in found}


def shifted(name: str, points: int = 8, count: int = 50):
    """Pairs of tasks: as training knows them, and shifted."""
    for seed, task in enumerate(sine_tasks(count, points)):
        yield task.rows, SINE_SHIFTS[name](task, np.random.default_rng(seed))


def test_every_shift_is_answered_with_finite_numbers(panels):
    assert set(panels) == {(points, FAMILY) for points in FEW_POINTS} | {
        (points, name) for points in POINTS for name in SINE_SHIFTS
    }
    for key, panel in panels.items():
        assert len(panel.answered) == TASKS, key
        assert all(score.finite for score in panel.answered), key


def test_the_family_is_covered(family):
    for points, metrics in family.items():
        assert 0.86 <= metrics["coverage"] <= 0.96, points


def test_the_family_is_not_warned_of_and_an_empty_support_set_is(family, panels):
    assert panels[0, FAMILY].metrics(1.0)["warned"] == 1
    for points, metrics in family.items():
        assert metrics["warned"] <= 0.02, points


@pytest.mark.parametrize(
    "name", ["labels 10 higher", "labels × 1000", "x in degrees", "queries outside the range"]
)
def test_values_outside_the_training_range_are_warned_of(panels, name):
    for points in POINTS:
        assert panels[points, name].metrics(1.0)["warned"] == 1, points


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_the_interval_holds_under_a_shift(panels, name, floor):
    for points in POINTS:
        assert panels[points, name].metrics(1.0)["coverage"] >= floor, points


@pytest.mark.parametrize(("name", "floor"), UNLIKE_FLOORS.items())
def test_the_interval_holds_and_a_warning_tells_where_the_family_is_unlike_that_of_training(
    unlike, name, floor
):
    assert unlike[name]["coverage"] >= floor
    assert unlike[name]["answered_nll"] <= 3
    assert unlike[name]["warned"] >= 0.9


@pytest.mark.parametrize("name", ["points in a width of 1", "queries outside the range", "x in degrees"])
def test_the_interval_is_wide_where_points_say_little(panels, name):
    for points in POINTS:
        assert panels[points, name].metrics(panels[points, FAMILY].width)["relative_width"] > 5, points


def test_the_table_has_a_line_for_every_panel(panels):
    lines = number_table(list(panels.values()))
    assert len(lines) == 2 + len(panels)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert any(line.startswith("| 10 | noise × 10 |") for line in lines)


def test_tasks_are_of_the_family_and_begin_alike():
    few, many = sine_tasks(3, 10), sine_tasks(50, 10)
    for one, other in zip(few, many, strict=False):
        assert np.array_equal(one.rows.truth, other.rows.truth)
    for task in many:
        assert AMPLITUDE[0] <= task.amplitude <= AMPLITUDE[1]
        assert FREQUENCY[0] <= task.frequency <= FREQUENCY[1]
        assert task.rows.x.shape == (10, 1)
        assert task.rows.query.shape == (QUERIES, 1)


def test_noise_reaches_labels_alone():
    for before, after in shifted("noise × 10", points=200, count=5):
        clean = 10 * (after.y - before.y) / 9  # ten times the noise
        assert np.array_equal(before.truth, after.truth)
        assert np.allclose(after.y - clean, before.y - clean / 10)


@pytest.mark.parametrize(
    ("name", "factor", "by"),
    [("labels × 10", 10, 0), ("labels × 1000", 1000, 0), ("labels 10 higher", 1, 10)],
)
def test_scale_and_offset_change_labels_and_truths(name, factor, by):
    for before, after in shifted(name):
        assert np.allclose(after.y, factor * before.y + by)
        assert np.allclose(after.truth, factor * before.truth + by)
        assert np.array_equal(after.x, before.x)


@pytest.mark.parametrize(("name", "factor"), [("x in degrees", 180 / math.pi), ("x ÷ 10", 0.1)])
def test_another_unit_changes_support_and_query_rows(name, factor):
    for before, after in shifted(name):
        assert np.allclose(after.x, factor * before.x)
        assert np.allclose(after.query, factor * before.query)
        assert np.array_equal(after.y, before.y)


def test_other_curves_have_other_truths():
    for before, after in shifted("amplitudes of 7.5 to 15"):
        assert np.abs(after.truth).max() > np.abs(before.truth).max()
    for _, after in shifted("a square wave"):
        assert len(np.unique(np.abs(after.truth))) == 1
    for _, after in shifted("a straight line"):
        slope, start = np.polyfit(after.query[:, 0], after.truth, 1)
        assert np.allclose(slope * after.query[:, 0] + start, after.truth)
    for _, after in shifted("constant labels"):
        assert len({*after.y, *after.truth}) == 1


def test_odd_labels_leave_the_truth():
    for name, rows in [
        ("one label off by three amplitudes", 8),
        ("each x twice, labels half an amplitude up and down", 16),
        ("each row twice", 16),
    ]:
        for before, after in shifted(name):
            assert np.array_equal(before.truth, after.truth)
            assert len(after.x) == len(after.y) == rows
    for before, after in shifted("one label off by three amplitudes"):
        assert (before.y != after.y).sum() == 1
    for before, after in shifted("each x twice, labels half an amplitude up and down"):
        assert np.allclose((after.y[:8] + after.y[8:]) / 2, before.y)


def test_places_of_points_and_queries_are_those_that_are_told():
    for _, after in shifted("points in a width of 1"):
        assert np.ptp(after.x) <= 1
        assert np.abs(after.x).max() <= 5
    for _, after in shifted("queries outside the range"):
        assert np.abs(after.query).min() >= 5


def test_a_shift_draws_the_same_however_many_tasks_there_are(model):
    name = "one label off by three amplitudes"
    few, many = (
        next(score_shifts(model, {name: SINE_SHIFTS[name]}, sine_tasks(count, 5), 5)).answered
        for count in (2, 4)
    )
    assert [score.normal_nll for score in few] == pytest.approx([s.normal_nll for s in many[:2]], rel=1e-3)


def test_the_density_of_a_cell_is_its_probability_over_its_width():
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    belief = Predictive(
        random(2, 3, 4, 1), random(2, 3, 4, 1) / 10, random(2, 3, 4, 1) / 10, random(2, 3).log_softmax(-1)
    )
    y = random(2, 4, 1)
    half = 0.2
    exact = (belief.cdf(y + half) - belief.cdf(y - half)) / (2 * half)
    assert torch.allclose(log_cell_density(belief, y, half).exp(), exact)
    assert torch.allclose(log_cell_density(belief, y, 1e-6), belief.log_density(y), rtol=1e-6)


def test_the_density_of_a_cell_is_bounded_and_finite_far_away():
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    spike = Predictive(0.7 * one, 1e-10 * one, 0 * one, torch.zeros(1, 1, dtype=torch.float64))
    at, away = (log_cell_density(spike, y * one[:, 0], HALF_CELL).item() for y in (0.7, 1.7))
    assert at == pytest.approx(-math.log(2 * HALF_CELL))
    assert away == pytest.approx(-0.5 * (0.999 / 1e-5) ** 2, rel=1e-6)
