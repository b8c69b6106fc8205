"""Tasks of new classes whose rows are vectors of a table."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from training.config import Shots, TableConfig
from training.errors import UnusableTable
from training.families import Vectors

CLASSES, ROWS, DIMENSIONS = 20, 6, 3


@pytest.fixture
def data():
    draw = np.random.default_rng(0)
    rows = CLASSES * ROWS
    names = np.repeat([f"c{i:02}" for i in range(CLASSES)], ROWS)
    return {
        "label": names[draw.permutation(rows)].tolist(),
        "v": draw.standard_normal((rows, DIMENSIONS)).tolist(),
        "age": draw.uniform(1, 9, rows).tolist(),
    }


def vectors(tmp_path, data, kind="list", **changes):
    path = tmp_path / "t.parquet"
    columns = dict(data)
    if "v" in data:
        size = DIMENSIONS if kind == "fixed" else -1
        columns["v"] = pa.array(data["v"], pa.list_(pa.float64(), size))
    pyarrow.parquet.write_table(pa.table(columns), path)
    settings = {"x": (("v", "none"), ("age", "log")), "y": ("label",), "new_classes": True, **changes}
    return Vectors(TableConfig(str(path), **settings), seed=0)


@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_a_list_column_is_a_column_of_each_dimension(tmp_path, data, kind):
    found = vectors(tmp_path, data, kind)
    assert [column.name for column in found.inputs] == ["v[0]", "v[1]", "v[2]", "age"]
    assert [column.transform for column in found.inputs] == ["none"] * 3 + ["log"]
    x, _ = found.of_role("train")
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.var(0, correction=0), torch.ones(4))
    apart = {f"v{i}": np.array(data["v"])[:, i].tolist() for i in range(3)}
    path = tmp_path / "apart.parquet"
    pyarrow.parquet.write_table(pa.table({"label": data["label"], "age": data["age"], **apart}), path)
    names = (("v0", "none"), ("v1", "none"), ("v2", "none"), ("age", "log"))
    alike = Vectors(TableConfig(str(path), names, ("label",), new_classes=True), seed=0)
    assert torch.equal(alike.of_role("train")[0], x)


def test_classes_are_split_and_no_row_belongs_to_two_roles(tmp_path, data):
    found = vectors(tmp_path, data)
    sizes = {role: len(found.of_role(role)[1]) for role in ("train", "validation", "test")}
    assert sizes == {"train": 14, "validation": 2, "test": 4}
    assert sum(len(found.of_role(role)[0]) for role in sizes) == CLASSES * ROWS
    assert found.size.ways == 14
    assert found.config.ways == 14


def test_a_task_shows_and_asks_different_rows_of_the_same_classes(tmp_path, data):
    found = vectors(tmp_path, data, ways=5, shots=Shots(2, 2))
    batch = found.batch(3, torch.Generator().manual_seed(0))
    assert batch.support.x.shape == (3, 10, 4)
    assert batch.query.y.sum(1).tolist() == [[4.0] * 5] * 3  # every row beside the shots
    rows = torch.cat([batch.support.x, batch.query.x], 1)
    assert all(len(torch.unique(each, dim=0)) == 30 for each in rows)


def test_a_split_column_names_the_role_of_a_class(tmp_path, data):
    roles = {f"c{i:02}": "train" if i < 12 else "valid" if i < 16 else "test" for i in range(CLASSES)}
    data["part"] = [roles[each] for each in data["label"]]
    found = vectors(tmp_path, data, split="part")
    assert (found.rows.roles == "test").sum() == 4
    data["part"][0] = "test" if data["part"][0] == "train" else "train"
    with pytest.raises(UnusableTable, match="several splits"):
        vectors(tmp_path, data, split="part")


def test_a_group_keeps_classes_together(tmp_path, data):
    data["family"] = [f"f{int(each[1:]) // 2}" for each in data["label"]]
    found = vectors(tmp_path, data, group="family")
    for first in range(0, CLASSES, 2):
        assert len(set(found.rows.roles[first : first + 2].tolist())) == 1


def test_missing_vectors_and_labels_are_counted(tmp_path, data):
    data["v"][0], data["label"][1] = None, None
    data["v"][2] = [1.0, float("nan"), 2.0]
    told = " ".join(vectors(tmp_path, data).notes)
    assert "left out 2 of 120 rows with no value in 'v'" in told
    assert "left out 1 of 120 rows with no value in 'label'" in told


def test_vectors_that_cannot_be_used_say_why(tmp_path, data):
    with pytest.raises(UnusableTable, match="holds lists, which are standardised; log"):
        vectors(tmp_path, data, x=(("v", "log"),))
    with pytest.raises(UnusableTable, match="14 training classes have 4 rows; tasks have 40"):
        vectors(tmp_path, data, ways=40)
    few = {**data, "label": [f"c{int(each[1:]) % 4}" for each in data["label"]]}
    with pytest.raises(UnusableTable, match="1 classes are left for"):
        vectors(tmp_path, few)
    data["v"][3] = [1.0]
    with pytest.raises(UnusableTable, match=r"of several lengths \(1, 3\).*leave it out"):
        vectors(tmp_path, data)
