"""Tables from Parquet and CSV: columns, roles, tasks, and the reasons of a refusal."""

import csv
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from tests.closed_form import generator
from training.config import InvalidConfig, Shots, TableConfig
from training.families import Table, UnusableData, UnusableTable


def columns(tasks=12, rows=8, seed=0):
    draw = np.random.default_rng(seed)
    task = np.repeat([f"t{i:02d}" for i in range(tasks)], rows)
    size = np.tile(2.0 ** np.arange(rows), tasks)
    return {
        "task": task.tolist(),
        "size": size.tolist(),
        "kind": np.where(draw.random(len(task)) < 0.5, "steel", "wood").tolist(),
        "y": (np.log2(size) + draw.normal(size=len(task))).tolist(),
        "part": np.repeat(["train"] * (tasks - 4) + ["validation"] * 4, rows).tolist(),
    }


def written(tmp_path, data, name="t.parquet"):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.table(data), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(data)
            writer.writerows(zip(*data.values(), strict=True))
    return str(path)


def config(path, **changes):
    settings = {
        "path": path,
        "task": "task",
        "x": (("size", "log2"),),
        "y": ("y",),
        "split": "part",
        "shots": Shots(2, 3),
    }
    return TableConfig(**{**settings, **changes})


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_parquet_and_csv_give_the_same_tasks(tmp_path, name):
    data = columns()
    table = Table(config(written(tmp_path, data, name)), seed=0)
    assert table.inputs[0].transform == "log2"
    assert table.inputs[0].mean == pytest.approx(3.5)
    trained = np.array(data["y"]).reshape(12, 8)[table.rows.roles == "train"]
    assert trained.shape == (7, 8)  # of eight, one decides when to stop
    assert table.outputs[0].mean == pytest.approx(trained.mean())
    assert table.outputs[0].std == pytest.approx(trained.std())
    assert sorted(table.rows.roles.tolist()).count("test") == 4


def test_ordered_support_sets_are_prefixes_and_every_later_row_may_be_asked(tmp_path):
    data = columns()
    shuffle = np.random.default_rng(1).permutation(len(data["y"]))
    data = {name: [values[i] for i in shuffle] for name, values in data.items()}
    table = Table(config(written(tmp_path, data), order="size"), seed=0)
    batch = table.batch(50, generator())
    assert set(batch.support.counts().tolist()) == {2, 3}
    for task in range(50):
        shown = batch.support.x[task][batch.support.mask[task]]
        asked = batch.query.x[task][batch.query.mask[task]]
        assert shown.max() < asked.min()
        assert len(shown) + len(asked) == 8


def test_without_an_order_support_sets_are_random_rows_and_none_is_asked_again(tmp_path):
    table = Table(config(written(tmp_path, columns())), seed=0)
    batch = table.batch(40, generator())
    firsts = set()
    for task in range(40):
        shown = batch.support.x[task][batch.support.mask[task]].flatten().tolist()
        asked = batch.query.x[task][batch.query.mask[task]].flatten().tolist()
        assert len(set(shown + asked)) == 8
        firsts.add(round(shown[0], 3))
    assert len(firsts) > 4


def test_queries_are_capped_in_training_and_complete_when_held_out(tmp_path):
    table = Table(config(written(tmp_path, columns(rows=30)), queries=5), seed=0)
    assert table.batch(10, generator()).query.counts().max() <= 6
    (held_out,) = table.held_out()
    assert (held_out.query.counts() + held_out.support.counts()).tolist() == [30.0] * 4


def test_dropping_leaves_out_other_rows_at_every_visit_and_none_when_held_out(tmp_path):
    table = Table(config(written(tmp_path, columns(rows=30)), order="size", drop=0.3), seed=0)
    batch = table.batch(200, generator())
    rows = batch.support.counts() + batch.query.counts()
    assert 19 < rows.mean() < 23
    assert len(set(rows.tolist())) > 5
    for task in range(20):
        shown = batch.support.x[task][batch.support.mask[task]]
        assert shown.max() < batch.query.x[task][batch.query.mask[task]].min()
    (held_out,) = table.held_out()
    assert (held_out.support.counts() + held_out.query.counts()).tolist() == [30.0] * 4


def test_categories_become_one_column_per_value(tmp_path):
    data = columns()
    table = Table(config(written(tmp_path, data), x=(("size", "log2"), ("kind", "none"))), seed=0)
    assert [column.name for column in table.inputs] == ["size", "kind=steel", "kind=wood"]
    assert table.rows.x[:, 1:].sum(1).tolist() == [1.0] * 96


def test_hidden_texts_are_zeros_in_all_rows_of_some_visits_and_none_when_held_out(tmp_path):
    data = columns()
    data["wet"] = [kind == "steel" for kind in data["kind"]]
    x = (("size", "log2"), ("kind", "none"), ("wet", "none"))
    table = Table(config(written(tmp_path, data), x=x, hide=0.4), seed=0)
    batch = table.batch(400, generator())
    rows = batch.all_examples()
    visible = torch.stack([rows.x[..., 1:3].sum(-1), rows.x[..., 3:].sum(-1)], -1)
    visits = visible.amax(1)
    assert torch.equal(visible[rows.mask], visits.unsqueeze(1).expand_as(visible)[rows.mask])
    assert set(visits.flatten().tolist()) == {0.0, 1.0}
    assert ((visits.mean(0) - 0.6).abs() < 0.1).all()
    assert 0.2 < (visits[:, 0] * visits[:, 1]).mean() < 0.5  # each on its own
    plain = Table(config(written(tmp_path, data), x=x), seed=0).batch(400, generator()).all_examples()
    assert torch.equal(rows.x[..., 0], plain.x[..., 0])
    for fixed in (*table.held_out(), *table.validation()):
        known = fixed.all_examples()
        assert (known.x[known.mask][:, 1:].sum(-1) == 2).all()


def test_nothing_can_be_hidden_where_there_are_no_texts(tmp_path):
    with pytest.raises(UnusableTable, match="no column of texts to hide"):
        Table(config(written(tmp_path, columns()), hide=0.4), seed=0)
    with pytest.raises(InvalidConfig, match="texts to hide must lie in"):
        config(tmp_path, hide=1.0)


def test_missing_values_and_small_tasks_are_left_out_and_counted(tmp_path):
    data = columns()
    data["y"][0] = None
    data["y"][1] = math.nan
    data["y"][2] = math.inf
    data["size"][9] = None
    for row in range(16, 22):
        data["y"][row] = None
    table = Table(config(written(tmp_path, data)), seed=0)
    assert table.notes == (
        "left out 1 of 96 rows with no value in 'size'",
        "left out 9 of 96 rows with no value in 'y'",
        "left out 1 of 12 tasks with fewer than 3 rows",
    )
    assert len(table.rows.counts) == 11


def test_without_a_split_column_tasks_are_split_by_the_seed(tmp_path):
    path = written(tmp_path, columns(tasks=20))
    roles = Table(config(path, split=None), seed=3).rows.roles
    assert sorted(set(roles.tolist())) == ["test", "train", "validation"]
    assert (roles == "test").sum() == 4
    assert roles.tolist() == Table(config(path, split=None), seed=3).rows.roles.tolist()
    assert roles.tolist() != Table(config(path, split=None), seed=4).rows.roles.tolist()


@pytest.mark.parametrize("split", [None, "part"])
def test_groups_are_never_split(tmp_path, split):
    data = columns(tasks=24)
    data["maker"] = np.repeat([f"m{i // 4}" for i in range(24)], 8).tolist()
    table = Table(config(written(tmp_path, data), split=split, group="maker"), seed=0)
    for first in range(0, 24, 4):
        assert len(set(table.rows.roles[first : first + 4].tolist())) == 1
    assert set(table.rows.roles.tolist()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": ("nothing",)}, "no column nothing; there are task"),
        ({"y": ("kind",), "target": "numbers"}, "'kind' holds string, not numbers"),
        ({"x": (("kind", "log"),)}, "log needs numbers"),
        ({"x": (("constant", "none"),)}, "'constant' is constant"),
        ({"x": (("signed", "log"),)}, "not positive"),
        ({"y": ("tiny",)}, "give it in another unit"),
        ({"y": ("huge",)}, "give it in another unit"),
        ({"y": ("date",)}, "lies around 1.7e\\+09 and varies by 60; .* subtract an offset"),
        ({"x": (("many", "none"),)}, "96 different values"),
        ({"shots": Shots(8, 9)}, "no task has enough rows"),
        ({"split": "kind"}, "several splits"),
        ({"split": "task"}, "may say train"),
        ({"split": "all"}, "keeps no task for validation or test"),
        ({"group": "kind"}, "several values of the group column"),
        ({"group": "all"}, "8 tasks of one group cannot be split"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, change, message):
    data = columns()
    data |= {
        "constant": [1.0] * 96,
        "signed": [-1.0, 1.0] * 48,
        "tiny": [-1e-19, 1e-19] * 48,
        "huge": [-1e26, 1e26] * 48,
        "date": [1.7e9 - 60, 1.7e9 + 60] * 48,
        "many": [f"v{i}" for i in range(96)],
        "all": ["train"] * 96,
    }
    with pytest.raises(UnusableData, match=message):
        Table(config(written(tmp_path, data), **change), seed=0)


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", "no"), ("a.csv", ""), ("a.xlsx", "x"), (None, "")]
)
def test_files_that_cannot_be_read_say_so(tmp_path, name, content):
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_text(content)
    with pytest.raises(UnusableTable, match=path.name):
        Table(config(str(path)), seed=0)
