"""bmaml-train table with classes: trained, published with a card, evaluated."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from model_store import Store
from training.__main__ import main
from training.recipes import LEARNERS_FOR


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(0)
    tasks, rows = 30, 12
    x = draw.standard_normal(tasks * rows)
    shift = np.repeat(draw.standard_normal(tasks), rows)
    level = np.digitize(x + shift, [-0.7, 0.7])
    path = tmp_path / "t.parquet"
    columns = {
        "task": np.repeat([f"t{i}" for i in range(tasks)], rows).tolist(),
        "x": x.tolist(),
        "grade": [("low", "mid", "high")[each] for each in level],
        "passed": (level > 0).tolist(),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    return str(path)


def options(tmp_path, *more):
    return [
        *("--name", "n", "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")),
        *("--meta-steps", "12", "--evaluate-every", "6", "--meta-batch", "4", *more),
    ]


@pytest.mark.parametrize("learner", LEARNERS_FOR["classes"])
def test_every_learner_of_fixed_classes_trains_and_publishes(table, tmp_path, learner, capsys):
    asked = ["table", table, "--task", "task", "--x", "x", "--y", "passed"]
    assert main([*asked, *options(tmp_path, "--learner", learner, "--note", "It is small.")]) == 0
    assert "classes of 'passed' and their training rows: False" in capsys.readouterr().err
    store = Store(tmp_path / "store")
    manifest = store.load("n").manifest
    assert (manifest.kind, manifest.classes, manifest.labels) == ("classification", 2, (False, True))
    assert manifest.target is not None
    assert (manifest.target.name, manifest.target.ordered) == ("passed", False)
    assert manifest.training["family"]["shots"] == {"lowest": 0, "highest": 10}
    for shots in (0, 1, 3, 8):
        for figure in ("nll", "frequencies_nll", "accuracy", "ece"):
            assert np.isfinite(manifest.metrics[f"{figure}_{shots}rows"])
    card = store.card("n")
    assert "x → passed, one of 2 classes" in card
    assert "Classes and their shares of the training rows: False" in card
    assert card.rstrip().endswith("with a warning. It is small.")
    assert main(["evaluate", "n", table, "--store", str(tmp_path / "store")]) == 0
    assert f"{manifest.metrics['nll_3rows']: .5g}" in capsys.readouterr().out
    assert main(["plot", "n", table, "--store", str(tmp_path / "store")]) == 1


@pytest.mark.parametrize("target", ["classes", "ordered"])
def test_a_run_of_fixed_classes_starts_from_all_that_a_version_learned(table, tmp_path, target):
    asked = ["table", table, "--task", "task", "--x", "x", "--y", "grade", "--target", target]
    asked += ["--levels", "low", "mid", "high"] if target == "ordered" else []
    assert main([*asked, *options(tmp_path)]) == 0
    more = ["--name", "more", "--start-from", "n", "--meta-steps", "1", "--learning-rate", "1e-9"]
    assert main([*asked, *options(tmp_path, *more)]) == 0
    base, further = (Store(tmp_path / "store").load(name).learned for name in ("n", "more"))
    for name in ("fixed_effects",) if target == "classes" else ("first_threshold", "log_gaps"):
        torch.testing.assert_close(further[name], base[name], atol=1e-6, rtol=0)


def test_ordered_classes_are_scored_by_rank(table, tmp_path):
    asked = ["table", table, "--task", "task", "--x", "x", "--y", "grade", "--target", "ordered"]
    assert main([*asked, "--levels", "low", "mid", "high", *options(tmp_path)]) == 0
    manifest = Store(tmp_path / "store").load("n").manifest
    assert manifest.target is not None
    assert manifest.target.ordered
    assert manifest.labels == ("low", "mid", "high")
    assert 0 < manifest.metrics["rps_0rows"] < 2


@pytest.mark.parametrize("learner", LEARNERS_FOR["new classes"])
def test_every_learner_of_new_classes_trains_and_publishes(tmp_path, learner, capsys):
    draw = np.random.default_rng(0)
    names = [f"c{i}" for i in range(25) for _ in range(6)]
    vectors = np.repeat(draw.standard_normal((25, 4)), 6, 0) + 0.3 * draw.standard_normal((150, 4))
    path = tmp_path / "v.parquet"
    pyarrow.parquet.write_table(pa.table({"kind": names, "v": vectors.tolist()}), path)
    asked = ["table", str(path), "--x", "v", "--y", "kind", "--new-classes", "--dimensions", "3"]
    assert main([*asked, *options(tmp_path, "--classes", "5", "--learner", learner)]) == 0
    assert "18 classes with 108 rows for training" in capsys.readouterr().err
    store = Store(tmp_path / "store")
    manifest = store.load("n").manifest
    assert (manifest.kind, manifest.labels) == ("classification", None)
    assert manifest.classes == (100 if learner == "conjugate" else 5)
    assert [column.name for column in manifest.inputs] == ["v[0]", "v[1]", "v[2]", "v[3]"]
    assert set(manifest.metrics) >= {"accuracy_5way_1shot", "nll_5way_5shot"}
    assert "v[3] → any classes, up to" in store.card("n")
    assert main(["evaluate", "n", str(path), "--store", str(tmp_path / "store")]) == 0
    accuracy = f"{manifest.metrics['accuracy_5way_1shot']: .5g}"
    assert accuracy in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--y", "passed", "--learner", "conjugate"], "conjugate is no learner for classes of fixed meaning"),
        (["--y", "passed", "--learner", "collapsed"], "these are laplace, bfa, bmaml, emaml, maml"),
        (["--y", "passed", "--resolution", "0.1"], "--resolution is of numbers"),
    ],
)
def test_what_does_not_fit_classes_is_refused(table, tmp_path, given, message, capsys):
    assert main(["table", table, "--task", "task", "--x", "x", *given, *options(tmp_path)]) == 1
    assert message in capsys.readouterr().err
