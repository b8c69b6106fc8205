"""Conformal thresholds hold by count: over new tasks, over random splits, in every group."""

import math

import numpy as np
import pytest
import torch

from benchmarks.accuracy.conformal import counted, over_splits
from bmaml.learners import settings_of
from bmaml.learners.collapsed import Collapsed
from bmaml.networks import MLP
from model_store import Store
from tests.published import X, Y, publish
from training.config import Shots, SinusoidConfig, TableConfig
from training.conformal import (
    LEVELS,
    MIN_GROUP_UNITS,
    Borders,
    ScoredRows,
    borders,
    calibration,
    conformal_calibration,
    scored_rows,
    scores,
)
from training.families import Sinusoid, Table

ONE_GROUP = Borders(((0, 100),), (((),),))
ASKED = (0.5, 0.8, 0.9, 0.95)


def tasks_of(draw, tasks, fewest=1, most=8, shots=3, correlated=1.0):
    """Exchangeable tasks: rows of a task share a factor of their scores, and an offset of their widths."""
    counts = draw.integers(fewest, most + 1, tasks)
    task = np.repeat(np.arange(tasks), counts)
    size = np.exp(correlated * draw.normal(size=tasks))[task]
    widths = np.exp(draw.normal(size=tasks)[task] + draw.normal(size=len(task)))
    # Narrow predictions are wrong more often, and tasks with many rows less often.
    found = scores(size * np.abs(draw.normal(size=len(task))) / counts[task], np.sqrt(widths))
    rows = np.full(len(task), shots)
    return ScoredRows(tasks, tasks, task, task, rows, widths[:, None], found[:, None])


def within_bounds(rows, between, level):
    """Over 200 random splits, by group and over all, within three standard errors."""
    found = over_splits(rows, between, level)
    assert (found.coverage >= level - 3 * found.error).all(), found
    assert (found.coverage <= found.bound + 3 * found.error).all(), found
    return len(found.coverage)


@pytest.mark.parametrize("tasks", [19, 39, 99])
def test_a_row_of_a_new_task_is_held_with_the_probability_asked_for(tasks):
    """The law itself: new calibration tasks and a new task every time."""
    draw = np.random.default_rng(tasks)
    inside, bounds = [], []
    for _ in range(1500):
        rows = tasks_of(draw, tasks + 1)
        part = calibration(rows.of_units(np.arange(tasks)), ONE_GROUP)
        (group,) = part.outputs[0]
        new = rows.scores[rows.unit == tasks, 0]
        inside.append([(new <= part.threshold(group, level)).mean() for level in ASKED])
        bounds.append([part.upper_bound(group, level) for level in ASKED])
    error = 3 * np.std(inside, 0) / math.sqrt(len(inside))
    assert (np.mean(inside, 0) >= np.array(ASKED) - error).all()
    assert (np.mean(inside, 0) <= np.mean(bounds, 0) + error).all()
    assert (np.mean(bounds, 0) <= np.array(ASKED) + 2.01 / tasks).all()


@pytest.mark.parametrize("tasks", [9, 19, 99, 400])
def test_tasks_of_one_row_give_the_quantile_of_split_conformal_prediction(tasks):
    """Closed form: the ⌈level (n + 1)⌉-th smallest score."""
    draw = np.random.default_rng(0)
    rows = tasks_of(draw, tasks, 1, 1)
    part = calibration(rows, ONE_GROUP)
    (group,) = part.outputs[0]
    ordered = np.sort(rows.scores[:, 0])
    for level in LEVELS:
        rank = math.ceil(level * (tasks + 1) - 1e-9)
        expected = ordered[rank - 1] if rank <= tasks else math.inf
        assert part.threshold(group, level) == expected
    assert group.max_level == pytest.approx(tasks / (tasks + 1))
    assert part.threshold(group, group.max_level) == ordered[-1]
    assert group.atom == pytest.approx(np.unique(ordered, return_counts=True)[1].max() / tasks)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_equal_rows_within_a_task_count_as_one(level):
    """Closed form: tasks whose rows are all alike have the thresholds of tasks with one row."""
    draw = np.random.default_rng(1)
    one = tasks_of(draw, 50, 1, 1)
    times = draw.integers(1, 9, 50)
    many = ScoredRows(50, 50, *(np.repeat(each, times, 0) for each in vars_of(one)))
    (group,), (other,) = calibration(one, ONE_GROUP).outputs[0], calibration(many, ONE_GROUP).outputs[0]
    assert group.scores == other.scores
    assert (group.units, group.weight) == (other.units, pytest.approx(other.weight))


def vars_of(rows):
    return rows.unit, rows.support_set, rows.support_rows, rows.widths, rows.scores


def test_one_long_task_has_no_more_to_say_than_the_others():
    """Closed form: nine tasks of score 1 and one with a thousand rows of score 2."""
    task = np.r_[np.arange(9), np.full(1000, 9)]
    found = np.where(task < 9, 1.0, 2.0)[:, None]
    rows = ScoredRows(10, 10, task, task, np.ones(len(task), int), np.ones((len(task), 1)), found)
    part = calibration(rows, ONE_GROUP)
    (group,) = part.outputs[0]
    assert part.threshold(group, 0.81) == 1  # below 9/11
    assert part.threshold(group, 0.82) == 2
    assert part.threshold(group, 0.9091) == math.inf  # above 10/11
    assert group.atom == pytest.approx(0.9)


def test_ties_are_held_together_and_counted_in_the_bound():
    draw = np.random.default_rng(2)
    found = draw.integers(1, 4, 60).astype(float)[:, None]
    rows = ScoredRows(60, 60, np.arange(60), np.arange(60), np.ones(60, int), np.ones((60, 1)), found)
    part = calibration(rows, ONE_GROUP)
    (group,) = part.outputs[0]
    assert set(group.scores) == {1.0, 2.0, 3.0}
    assert group.atom == pytest.approx(np.bincount(found[:, 0].astype(int)).max() / 60)
    for level in ASKED:
        within_bounds(rows, ONE_GROUP, level)


def test_the_order_of_rows_and_tasks_does_not_matter():
    draw = np.random.default_rng(3)
    rows = tasks_of(draw, 120)
    between = Borders(((0, 100),), (((0.5, 2.0),),))
    order, names = draw.permutation(len(rows.unit)), draw.permutation(120)
    turned = ScoredRows(120, 120, *(each[order] for each in vars_of(rows)))
    renamed = ScoredRows(120, 120, names[rows.unit], *vars_of(rows)[1:])
    assert calibration(rows, between) == calibration(turned, between) == calibration(renamed, between)


def test_thresholds_never_fall_with_the_level():
    part = calibration(tasks_of(np.random.default_rng(4), 300), Borders(((0, 9),), (((1.0,),),)))
    for group in part.outputs[0]:
        found = [part.threshold(group, level) for level in np.linspace(0.001, 0.9999, 500)]
        assert found == sorted(found)
        assert found[-1] == math.inf


def test_a_score_that_is_no_number_is_the_worst_there_is():
    found = scores(np.array([0.0, 1.0, np.nan, np.inf, 2.0]), np.array([0.0, 0.0, 1.0, 1.0, np.nan]))
    assert (found == math.inf).all()
    rows = ScoredRows(5, 5, np.arange(5), np.arange(5), np.ones(5, int), np.ones((5, 1)), found[:, None])
    (group,) = calibration(rows, ONE_GROUP).outputs[0]
    assert (group.max_level, group.scores) == (0, ())
    rows.scores[:3] = 1.5
    (group,) = calibration(rows, ONE_GROUP).outputs[0]
    assert group.max_level == pytest.approx(3 / 6)
    assert set(group.scores) == {1.5}


def test_scores_are_rounded_up_and_keep_their_order():
    draw = np.random.default_rng(5)
    errors = np.sort(10.0 ** draw.uniform(-12, 12, 1000))
    found = scores(errors, np.ones(1000))
    assert (found >= errors * (1 - 1e-12)).all()
    assert (found <= errors * (1 + 1.1e-4)).all()
    assert (np.diff(found) >= 0).all()
    assert scores(np.array([0.0]), np.ones(1)) == 0


@pytest.mark.parametrize("level", ASKED)
def test_splits_of_the_tasks_are_held_within_the_bound_in_every_group(level):
    """200 random splits, with rows of unequal difficulty by support rows and by width."""
    draw = np.random.default_rng(6)
    parts = [tasks_of(draw, 200, shots=shots, correlated=0.3 * shots) for shots in (1, 2, 5)]
    rows = ScoredRows(600, 600, *(np.concatenate(each) for each in zip(*map(vars_of, parts), strict=True)))
    own = rows.unit + 200 * np.repeat(np.arange(3), [len(part.unit) for part in parts])
    rows = ScoredRows(600, 600, own, own, *vars_of(rows)[2:])
    between = borders(rows, 600, 1)
    assert len(between.support_rows) > 1
    assert any(between.widths[0])
    assert within_bounds(rows, between, level) == len(calibration(rows, between).outputs[0]) + 1


@pytest.mark.parametrize(
    ("tasks", "draws", "shot_groups"), [(1, 1, 1), (60, 1, 1), (60, 40, 4), (120, 1, 2), (1000, 1, 4)]
)
def test_there_are_as_many_groups_as_tasks_allow(tasks, draws, shot_groups):
    draw = np.random.default_rng(7)
    rows = tasks_of(draw, 200)
    rows = ScoredRows(200, 200, *vars_of(rows)[:2], draw.integers(0, 17, 200)[rows.unit], *vars_of(rows)[3:])
    between = borders(rows, tasks, draws)
    assert len(between.support_rows) == shot_groups
    assert between.support_rows[0][0] == 0
    assert between.support_rows[-1][1] == 16
    for (_, one), (other, _) in zip(between.support_rows[:-1], between.support_rows[1:], strict=True):
        assert other == one + 1
    if tasks < 2 * MIN_GROUP_UNITS:
        assert not any(between.widths[0])
    if tasks == 1000:
        assert all(len(each) == 2 for each in between.widths[0])


def test_widths_that_are_all_alike_make_one_group():
    rows = tasks_of(np.random.default_rng(8), 200)
    rows.widths[:] = 0.3
    assert borders(rows, 1000, 1).widths == (((),),)


@pytest.fixture
def model(tmp_path):
    """Not trained at all: far too wide in some places and too narrow in others."""
    publish(tmp_path, outputs=(Y.model_copy(update={"mean": 0.0, "std": 1.0}),), inputs=(X,))
    return Store(tmp_path).load("tiny")


def test_a_model_that_knows_nothing_still_holds_what_it_promises(model):
    """From a real belief: calibrated on some sine curves, and counted on new ones."""
    family = Sinusoid(SinusoidConfig(Shots(0, 8), 10), seed=0)
    part = conformal_calibration(model, family)
    assert part.tasks == 200
    assert part.support_rows == (0, 8)
    rows = scored_rows(model, family.held_out(), np.arange(500))
    for level in ASKED:
        inside, weight, bound = counted(part, rows, level).T
        spread = 3 * math.sqrt(level * (1 - level) / 60)
        assert (inside / weight >= level - spread).all()
        assert (inside / weight <= bound + spread).all()
        assert abs(inside.sum() / weight.sum() - level) < 0.07


def test_scored_rows_are_those_of_the_belief(model):
    family = Sinusoid(SinusoidConfig(Shots(2, 5), 4), seed=1)
    batch = family.batch(23, torch.Generator().manual_seed(0))
    rows = scored_rows(model, [batch, batch], np.arange(23))
    assert len(rows.unit) == 2 * batch.query.mask.sum()
    assert set(rows.unit) == set(range(23))
    assert len(set(rows.support_set)) == 46
    one = rows.support_set == 30
    part = batch.tasks(slice(7, 8))
    posterior = model.learner.adapt(model.learned, part.support)
    belief = model.predict(posterior, part.query.x, part.support)
    std = belief.variance().sqrt()
    expected = ((part.query.y - belief.mean()).abs() / std)[0].detach().numpy()
    np.testing.assert_allclose(rows.widths[one], std[0].detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(rows.scores[one], expected, rtol=1e-3)
    assert set(rows.support_rows[one]) == {int(part.support.mask.sum())}


def of_table(tmp_path, family):
    """A version for the columns of a table, not trained."""
    learner = Collapsed(MLP(1, (6,), 1, "tanh"), particles=2)
    return Store(tmp_path / "store").publish(
        "few",
        "# few",
        learner.initialise(torch.Generator().manual_seed(0)),
        inputs=family.inputs,
        outputs=family.outputs,
        learner="collapsed",
        settings=settings_of(learner),
        training={},
        seed=0,
        code_version="0",
        metrics={},
    )


def test_tasks_that_are_drawn_several_times_stay_one_unit_each(tmp_path):
    """Few tasks in a table are drawn many times: the highest level is that of few tasks all the same."""
    draw = np.random.default_rng(0)
    file = tmp_path / "table.csv"
    lines = [f"{task},{x},{task % 3 + x + draw.normal()}" for task in range(30) for x in range(12)]
    file.write_text("\n".join(["t,x,y", *lines]))
    config = TableConfig(str(file), (("x", "none"),), ("y",), "t", shots=Shots(2, 6))
    family = Table(config, 0)
    part = conformal_calibration(of_table(tmp_path, family), family)
    (group,) = part.outputs[0]
    count = family.validation_tasks
    assert part.tasks == part.units == group.units == count < 10
    assert group.max_level == pytest.approx(count / (count + 1))


def test_tasks_that_the_split_keeps_together_are_one_unit(tmp_path):
    """A new task comes from a new group: sixty curves of six groups have no more to say than six tasks."""
    draw = np.random.default_rng(0)
    file = tmp_path / "table.csv"
    offsets = draw.normal(size=60)
    rows = [(f"t{task}", f"g{task // 10}", x) for task in range(600) for x in range(6)]
    lines = [f"{task},{group},{x},{offsets[int(group[1:])] + x / 9}" for task, group, x in rows]
    file.write_text("\n".join(["t,g,x,y", *lines]))
    config = TableConfig(str(file), (("x", "none"),), ("y",), "t", group="g", shots=Shots(2, 4))
    family = Table(config, 0)
    assert (family.validation_tasks, len(set(family.validation_groups.tolist()))) == (60, 6)
    part = conformal_calibration(of_table(tmp_path, family), family)
    (group,) = part.outputs[0]
    assert (part.tasks, part.units, group.units) == (60, 6, 6)
    assert group.max_level == pytest.approx(6 / 7)
    assert part.unit_name == "groups of tasks"


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_groups_of_tasks_are_held_as_units_where_single_tasks_would_not_be(level):
    """Tasks of a group are alike: counted one by one, the promise to a task of a new group breaks."""
    draw = np.random.default_rng(9)
    inside = {True: [], False: []}
    for _ in range(800):
        group = np.repeat(np.arange(11), 20)
        size = np.exp(2 * draw.normal(size=11))[group]
        task = np.arange(220)
        found = scores(size * np.abs(draw.normal(size=220)), np.ones(220))[:, None]
        ones = np.ones(220, int)
        for units, own in ((True, group), (False, task)):
            rows = ScoredRows(220, len(set(own)), own, task, ones, np.ones((220, 1)), found)
            part = calibration(rows.of_units(np.unique(own[group < 10])), ONE_GROUP)
            (only,) = part.outputs[0]
            inside[units].append((found[group == 10, 0] <= part.threshold(only, level)).mean())
    error = 3 * np.std(inside[True]) / math.sqrt(800)
    assert level - error <= np.mean(inside[True]) <= level + 2 / 10 + error
    assert np.mean(inside[False]) < np.mean(inside[True])


def test_labels_with_a_step_are_held_as_they_are(tmp_path):
    """Labels of 0 and 1, taken for real numbers: spread over their cells, they would lie elsewhere."""
    draw, file = np.random.default_rng(0), tmp_path / "table.csv"
    lines = [f"{task},{x},{int(draw.random() < 0.1)}" for task in range(300) for x in range(6)]
    file.write_text("\n".join(["t,x,y", *lines]))
    config = TableConfig(
        str(file), (("x", "none"),), ("y",), "t", target="numbers", shots=Shots(2, 3), kinds=("real",)
    )
    family = Table(config, 0)
    assert family.outputs[0].link.step == 1
    version = of_table(tmp_path, family)
    part = conformal_calibration(version, family)
    rows = scored_rows(version, family.validation(spread=False), family.validation_groups)
    for level in (0.05, 0.1, 0.2, *ASKED):
        inside, weight, _ = counted(part, rows, level).T
        assert level <= inside.sum() / weight.sum() < level + 0.04
