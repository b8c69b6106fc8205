"""Learning curves of the shift suite: what a shift changes, and what it leaves."""

import numpy as np
import pytest

from benchmarks.accuracy.curve_shifts import (
    CLASSIFIER,
    CLASSIFIER_SHIFTS,
    CURVE_SHIFTS,
    PERCENT,
    curve_tasks,
    last_value,
    mean_by_size,
)
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.problems import CURVE_SHOTS, training_curves, validation_curves
from benchmarks.accuracy.shift_tables import CURVES, number_table
from benchmarks.accuracy.shifts import FEW_POINTS, curve_errors, curve_panels
from benchmarks.accuracy.strata import strata_table
from model_store import SHIPPED, Model, Store
from tests.benchmarks.accuracy.curve_file import CLASSIFIERS, SIZES, write_curves

PLAIN, NAMED = "learning-curves", "learning-curves-by-classifier"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_curves(tmp_path_factory.mktemp("curves") / "learning_curves.parquet")


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: Store(SHIPPED).load(name) for name in (PLAIN, NAMED)}


@pytest.fixture(scope="module")
def tasks(path, models):
    return {name: curve_tasks(model, validation_curves(path), 5) for name, model in models.items()}


def shifted(tasks, shift):
    for seed, task in enumerate(tasks):
        yield task, shift(task, np.random.default_rng(seed))


def test_the_first_anchors_are_shown_and_all_others_asked(tasks):
    for task in tasks[PLAIN]:
        assert [*task.x[:, 0], *task.query[:, 0]] == SIZES.tolist()
        assert (len(task.y), len(task.truth)) == (5, len(SIZES) - 5)
        assert task.groups[CLASSIFIER] in CLASSIFIERS


def test_the_classifier_is_among_the_inputs_of_a_model_that_takes_it(tasks, models):
    columns = [each.name for each in models[NAMED].manifest.inputs]
    for task in tasks[NAMED]:
        told = columns.index(f"learner={task.groups[CLASSIFIER]}")
        for x in (task.x, task.query):
            assert (x[:, 1:].sum(1) == 1).all()
            assert (x[:, told] == 1).all()


def test_a_curve_without_a_later_anchor_is_left_out(path, models):
    assert not curve_tasks(models[PLAIN], validation_curves(path), len(SIZES))


@pytest.mark.parametrize("name", sorted(set(CURVE_SHIFTS) - {FAMILY}))
def test_a_shift_changes_the_rows(name, tasks):
    for before, after in shifted(tasks[PLAIN], CURVE_SHIFTS[name]):
        assert not (np.array_equal(before.y, after.y) and np.array_equal(before.x, after.x))


def test_labels_on_a_plateau_leave_the_later_values(tasks):
    shift = CURVE_SHIFTS["given labels all the last one, ± 0.00001"]
    for before, after in shifted(tasks[PLAIN], shift):
        assert np.abs(after.y - before.y[-1]).max() <= 1e-5
        assert np.array_equal(before.truth, after.truth)


def test_one_odd_label_stays_an_accuracy(tasks):
    for before, after in shifted(tasks[PLAIN], CURVE_SHIFTS["one given label off by 0.3"]):
        assert (before.y != after.y).sum() == 1
        assert np.abs(before.y - after.y).max() == pytest.approx(0.3)
        assert after.y.min() >= 0
        assert after.y.max() <= 1


@pytest.mark.parametrize("name", sorted(set(CURVE_SHIFTS) - {PERCENT}))
def test_labels_stay_accuracies(name, tasks):
    for _, after in shifted(tasks[PLAIN], CURVE_SHIFTS[name]):
        for labels in (after.y, after.truth):
            assert ((labels >= 0) & (labels <= 1)).all()


def test_another_classifier_is_told_alike_in_all_rows(tasks):
    for before, after in shifted(tasks[NAMED], CLASSIFIER_SHIFTS["told another classifier"]):
        assert np.array_equal(before.x[:, 0], after.x[:, 0])
        assert (np.concatenate([after.x, after.query])[:, 1:] == after.x[0, 1:]).all()
        assert after.x[0, 1:].sum() == 1
        assert not np.array_equal(before.x, after.x)
    for _, after in shifted(tasks[NAMED], CLASSIFIER_SHIFTS["told no classifier"]):
        assert not np.concatenate([after.x, after.query])[:, 1:].any()


@pytest.mark.parametrize("name", [PLAIN, NAMED])
def test_every_shift_but_a_unit_outside_the_bounds_is_answered_with_finite_numbers(name, path, models):
    curves = validation_curves(path)
    panels = list(curve_panels(models[name], curves))
    shifts = [*CURVE_SHIFTS, *(CLASSIFIER_SHIFTS if name == NAMED else ())]
    assert [(panel.points, panel.shift) for panel in panels] == [
        *((points, FAMILY) for points in FEW_POINTS),
        *((points, shift) for points in CURVE_SHOTS for shift in shifts),
    ]
    for panel in panels:
        assert len(panel.answered) == (0 if panel.shift == PERCENT else len(curves))
        assert all(score.finite for score in panel.answered), (panel.points, panel.shift)
    errors = curve_errors(models[name], path, curves)
    lines = number_table(panels, CURVES, errors)
    assert len(lines) == 2 + len(panels) + len(errors)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert any(line.startswith("| worst classifier | ") for line in strata_table(panels))


def test_forecasts_without_a_model_are_those_of_their_names(path, models):
    curves = validation_curves(path)
    one = curve_tasks(models[PLAIN], curves, 1)
    squares = [np.square(task.y[0] - task.truth).mean() for task in one]
    assert last_value(one) == pytest.approx(np.sqrt(np.mean(squares)))
    training = training_curves(path)
    means = np.mean([curve.accuracies for curve in training], axis=0)
    none = curve_tasks(models[PLAIN], curves, 0)
    squares = [np.square(means - task.truth).mean() for task in none]
    assert mean_by_size(training, none) == pytest.approx(np.sqrt(np.mean(squares)))
