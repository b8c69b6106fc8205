"""Class targets of tables: which labels there are, one-hot rows, and tables that cannot be classes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from training.config import InvalidConfig, MissingOption, Shots, TableConfig
from training.errors import UnusableTable
from training.families import Table

TASKS, ROWS = 12, 8


@pytest.fixture
def data():
    draw = np.random.default_rng(0)
    rows = TASKS * ROWS
    roles = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    level = draw.integers(0, 3, rows)
    return {
        "task": np.repeat([f"t{i}" for i in range(TASKS)], ROWS).tolist(),
        "part": np.repeat(roles, ROWS).tolist(),
        "x": draw.standard_normal(rows).tolist(),
        "grade": [("low", "mid", "high")[each] for each in level],
        "score": (3 + 0.5 * level).tolist(),
        "count": level.tolist(),
        "passed": (level > 0).tolist(),
    }


def table(tmp_path, data, **changes):
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table(data), path)
    settings = {"task": "task", "x": (("x", "none"),), "split": "part", "shots": Shots(0, 3), **changes}
    return Table(TableConfig(str(path), **settings), seed=0)


@pytest.mark.parametrize(
    ("y", "given", "labels"),
    [
        ("grade", {}, ("high", "low", "mid")),
        ("passed", {}, (False, True)),
        ("count", {"target": "classes"}, (0, 1, 2)),
        ("grade", {"levels": ("low", "mid", "high")}, ("low", "mid", "high")),
        ("grade", {"target": "ordered", "levels": ("low", "mid", "high")}, ("low", "mid", "high")),
        ("score", {"target": "ordered"}, (3, 3.5, 4)),
        ("count", {"target": "ordered", "levels": ("2", "1", "0")}, (2, 1, 0)),
    ],
)
def test_labels_keep_their_type_and_stand_in_order(tmp_path, data, y, given, labels):
    found = table(tmp_path, data, y=(y,), **given)
    assert found.labels == labels
    assert [type(each) for each in found.labels] == [type(each) for each in labels]
    assert found.config.target == ("ordered" if given.get("target") == "ordered" else "classes")
    assert found.rows.y.sum(1).tolist() == [1.0] * len(found.rows.y)
    named = [labels[place] for place in found.rows.y.argmax(1)]
    by_task = sorted(range(len(named)), key=lambda row: data["task"][row])
    assert named == [data[y][row] for row in by_task]


def test_a_csv_gives_the_same_classes(tmp_path, data):
    lines = [",".join(data), *(",".join(map(str, row)) for row in zip(*data.values(), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    for y, given in (("grade", {}), ("passed", {}), ("count", {"target": "classes"})):
        settings = {"task": "task", "x": (("x", "none"),), "split": "part", "shots": Shots(0, 3), **given}
        csv = Table(TableConfig(str(tmp_path / "t.csv"), y=(y,), **settings), seed=0)
        typed = table(tmp_path, data, y=(y,), **given)
        assert csv.labels == typed.labels
        assert np.array_equal(csv.rows.y, typed.rows.y)


def test_tasks_show_classes_as_one_hot_rows_and_may_show_none(tmp_path, data):
    batch = table(tmp_path, data, y=("grade",)).batch(64, torch.Generator().manual_seed(0))
    counts = batch.support.counts()
    assert sorted(set(counts.tolist())) == [0, 1, 2, 3]
    assert batch.support.y.shape[-1] == 3
    assert bool((batch.query.y.sum(-1)[batch.query.mask] == 1).all())


def test_held_out_tasks_come_with_any_number_of_support_rows(tmp_path, data):
    found = table(tmp_path, data, y=("grade",))
    for shots in (0, 1, 3, 7):
        batch = next(found.held_out_at(shots, draws=2))
        assert batch.support.counts().tolist() == [shots] * 4
        assert batch.query.counts().tolist() == [ROWS - shots] * 4
    assert list(found.held_out_at(ROWS)) == []


def test_rows_without_a_label_are_counted_and_left_out(tmp_path, data):
    data["grade"][0], data["grade"][9] = None, "NA"
    found = table(tmp_path, data, y=("grade",))
    assert found.labels == ("high", "low", "mid")
    assert any("left out 2 of 96 rows with no value in 'grade'" in note for note in found.notes)
    assert found.rows.counts.sum() == 94


def test_notes_count_classes_name_rare_ones_and_those_of_no_training_task(tmp_path, data):
    data["grade"][0] = "rare"
    data["grade"][-1] = "late"
    found = table(tmp_path, data, y=("grade",))
    assert found.labels == ("high", "low", "mid", "rare")
    told = " ".join(found.notes)
    assert "'rare' 1" in told
    assert "1 of 4 classes have fewer than 10 training rows: 'rare'" in told
    assert "left out 1 of 96 rows whose 'grade' is no known class: 'late'" in told
    levels = table(tmp_path, data, y=("grade",), levels=("low", "mid", "high", "rare", "late"))
    assert levels.labels[-1] == "late"
    assert levels.rows.counts.sum() == 96


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": ("many",)}, "has 64 different labels .* 2 to 50 .*--new-classes"),
        ({"y": ("same",)}, "has 1 different labels"),
        ({"y": ("score",), "target": "classes"}, r"has 3\.5 in row .*--target numbers, or ordered"),
        ({"y": ("grade",), "target": "ordered"}, "from lowest to highest with --levels"),
        ({"y": ("grade",), "target": "numbers"}, "'grade' holds string, not numbers"),
        ({"y": ("day",), "target": "classes"}, "holds dates; classes are texts"),
    ],
)
def test_columns_that_are_no_classes_are_refused(tmp_path, data, given, message):
    data["many"] = [f"v{row}" for row in range(TASKS * ROWS)]
    data["same"] = ["a"] * (TASKS * ROWS)
    data["day"] = ["2020-01-01", "2020-01-02"] * (TASKS * ROWS // 2)
    with pytest.raises(UnusableTable, match=message):
        table(tmp_path, data, **given)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"task": None}, MissingOption, "--task needs"),
        ({"y": ("grade", "passed"), "target": "classes"}, InvalidConfig, "named by one column"),
        ({"levels": ("a", "b"), "target": "numbers"}, InvalidConfig, "--levels names classes"),
        ({"levels": ("a", "a")}, InvalidConfig, "names a label twice"),
        ({"ways": 5}, InvalidConfig, "give --new-classes, too"),
        ({"new_classes": True}, InvalidConfig, "--task is no option of --new-classes"),
        ({"new_classes": True, "task": None, "order": "x"}, InvalidConfig, "--order is no option"),
        ({"new_classes": True, "task": None, "target": "ordered"}, InvalidConfig, "no order"),
        ({"new_classes": True, "task": None, "ways": 1}, InvalidConfig, "two new classes"),
        ({"new_classes": True, "task": None, "x": (("d", "elapsed"),)}, InvalidConfig, "use days"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, kind, message):
    settings = {"path": "t.csv", "task": "t", "x": (("x", "none"),), "y": ("y",), **given}
    with pytest.raises(kind, match=message):
        TableConfig(**settings)
