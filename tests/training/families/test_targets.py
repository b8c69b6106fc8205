"""Targets of tables: their kinds from words and labels, their steps, and labels spread over cells."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store import Column
from training.config import TableConfig
from training.errors import UnusableTable
from training.families import Table
from training.families.resolved import resolved
from training.families.targets import dequantised, half_step, target_of, visible_step


def _table(tmp_path: Path, word: str, labels: np.ndarray, **options: object) -> Table:
    tasks = np.repeat(np.arange(20), 10)
    x = np.random.default_rng(0).normal(size=200)
    path = tmp_path / "rows.csv"
    lines = (f"{task},{a},{b:.17g}" for task, a, b in zip(tasks, x, labels, strict=True))
    path.write_text("\n".join(["t,x,y", *lines]) + "\n")
    config = TableConfig(str(path), task="t", x=(("x", "none"),), y=(f"y{word}",), **options)
    return Table(resolved(config), 0)


def _uniform(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(1).uniform(low, high, 200)


@pytest.mark.parametrize(
    ("word", "labels", "transform", "kind"),
    [
        ("", _uniform(-3, 3), "none", None),
        (":real", _uniform(-3, 3), "none", None),
        (":log", np.exp(_uniform(-3, 3)), "log", "positive"),
        (":logit", _uniform(0, 1), "logit", "bounded"),
        (":logit(-1,3)", _uniform(-1, 3), "logit", "bounded"),
        (":count", np.floor(_uniform(0, 30)), "log1p", "integer"),
        (":integer", np.floor(_uniform(-4, 30)), "none", "integer"),
    ],
)
def test_a_word_gives_scale_and_values(tmp_path, word, labels, transform, kind):
    table = _table(tmp_path, word, labels)
    (column,) = table.outputs
    assert (column.name, column.transform) == ("y", transform)
    assert (None if column.target is None else column.target.kind) == kind
    values = next(iter(table.validation())).support.y
    assert bool(values.isfinite().all())


@pytest.mark.parametrize(
    ("word", "wrong"), [(":log", 0.0), (":logit", 1.2), (":count", 2.5), (":count", -1.0), (":integer", 0.5)]
)
def test_a_label_outside_the_domain_is_refused_with_its_line(tmp_path, word, wrong):
    labels = np.full(200, 0.5 if word in (":log", ":logit") else 1.0)
    labels[::3] = 1.0
    labels[7] = wrong
    with pytest.raises(UnusableTable, match=f"'y' has {wrong:g} in line 9, and {word[1:]} takes"):
        _table(tmp_path, word, labels)


def test_a_column_whose_name_ends_like_a_kind_is_that_column(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("t,x,y:log\n" + "".join(f"{i // 5},{i},{i % 7 - 3}\n" for i in range(100)))
    config = resolved(TableConfig(str(path), task="t", x=(("x", "none"),), y=("y:log",)))
    assert (config.y, config.kinds) == (("y:log",), ("real",))


@pytest.mark.parametrize(
    ("labels", "step"),
    [
        (np.arange(30) % 7 / 2, 0.5),
        (np.arange(30) % 13 / 12, 1 / 12),
        (np.arange(30) % 11 * 3.0 + 6, 3.0),
        (np.array([3.0, 5.0, 9.0, 15.0]), 1.0),
        (np.random.default_rng(0).normal(size=50), None),
        (np.round(np.random.default_rng(0).normal(size=500), 4), None),
        (np.arange(5) + 1e12, None),
        (np.zeros(4), None),
    ],
)
def test_the_step_of_labels_is_seen_where_it_is_large(labels, step):
    found = visible_step(labels)
    assert found == (None if step is None else pytest.approx(step, rel=1e-8))


def test_plain_targets_that_fit_another_kind_are_hinted_at(tmp_path):
    counts = _table(tmp_path, "", np.floor(_uniform(0, 30)))
    assert counts.hints == ("'y' also fits integer and count: see --y y:auto",)
    assert _table(tmp_path, "", _uniform(-3, 3)).hints == ()
    assert _table(tmp_path, ":count", np.floor(_uniform(0, 30))).hints == ()


@pytest.mark.parametrize(("values", "told"), [(15, True), (16, False)])
def test_a_target_of_few_values_is_told_of_ordered_classes(tmp_path, values, told):
    found = _table(tmp_path, "", np.arange(200) % values - 3.0).hints
    sentence = f"'y' takes {values} different values: --target ordered answers with a probability of each"
    assert (sentence in found) is told


def test_a_given_resolution_is_half_the_step():
    assert target_of("real", _uniform(0, 1), 0.01)[1].step == 0.02
    assert target_of("logit", _uniform(0, 1), 0.01)[1].step == 0.02


@pytest.mark.parametrize("word", [":count", ":integer", ":logit", "", ":log"])
def test_spread_labels_stay_in_their_cells(tmp_path, word):
    labels = np.floor(_uniform(0, 11)) / (10 if word == ":logit" else 1) + (word == ":log")
    table = _table(tmp_path, word, labels)
    (column,) = table.outputs
    link = column.link
    y = torch.from_numpy(np.unique(labels)).repeat(500)
    uniform = torch.rand(len(y), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = dequantised(column, y, uniform)
    z = spread * column.std + column.mean
    values = link.to_values(z)
    assert bool(spread.isfinite().all())
    assert float((values - y).abs().max()) <= 0.5 * link.step + 1e-9
    if math.isfinite(link.high):
        assert bool(((values > link.low) & (values < link.high)).all())


def test_queries_of_training_are_spread_and_those_of_the_test_are_not(tmp_path):
    table = _table(tmp_path, ":integer", np.floor(_uniform(0, 11)))
    (column,) = table.outputs
    generator = torch.Generator().manual_seed(0)

    def offsets(batch: object, part: str) -> torch.Tensor:
        examples = getattr(batch, part)
        y = examples.y[examples.mask].double() * column.std + column.mean
        return (y - y.round()).abs()

    training, held_out = table.batch(10, generator), next(iter(table.held_out()))
    assert float(offsets(training, "support").max()) < 1e-5
    assert float(offsets(held_out, "query").max()) < 1e-5
    assert float(offsets(training, "query").mean()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("word", "slope"), [("integer", 1.0), ("count", 1 / 11)])
def test_half_a_step_is_that_of_the_flattest_label(word, slope):
    labels = np.arange(11.0)
    transform, target = target_of(word, labels, 0.0)
    column = Column.fitted("y", transform, labels, target)
    assert half_step(column, labels) == pytest.approx(0.5 * slope / column.std)
