"""Data that grow: samples above a bound, nothing else below it, and searches that compute once."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from bmaml.learners.collapsed import Collapsed
from bmaml.learners.pooled import Pooled
from bmaml.learners.surprise import Surprise
from bmaml.networks import MLP
from training.__main__ import main
from training.calibrate import Looks
from training.config import Shots, SinusoidConfig, TableConfig
from training.families import Sinusoid, Table
from training.loop import validation_nlls


@pytest.fixture
def path(tmp_path):
    generator = np.random.default_rng(0)
    slopes = generator.normal(size=60)
    x = generator.normal(size=(60, 8))
    y = slopes[:, None] * x + 0.1 * generator.normal(size=x.shape)
    columns = {"task": np.repeat(np.arange(60), 8), "x": x.ravel(), "y": y.ravel()}
    columns["site"] = columns["task"] % 12
    parquet.write_table(pa.table(columns), tmp_path / "lines.parquet")
    return tmp_path / "lines.parquet"


def table(path, **options):
    config = TableConfig(str(path), (("x", "none"),), ("y",), task="task", shots=Shots(2, 4), **options)
    return Table(config, seed=0)


def bounds(monkeypatch, validation, test):
    monkeypatch.setattr("training.families.samples.MAX_VALIDATION_TASKS", validation)
    monkeypatch.setattr("training.families.samples.MAX_TEST_TASKS", test)


def trained(path, folder, capsys):
    command = f"table {path} --task task --x x --y y --shots 2:4 --name lines --meta-steps 3"
    command += (
        f" --no-surprise --no-pooled --particles 3 --hidden 6 --runs {folder}/runs --store {folder}/models"
    )
    assert main(command.split()) == 0
    version = folder / "models" / "lines" / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    return (version / "MODEL_CARD.md").read_text(), manifest, capsys.readouterr()


def test_a_table_below_the_bound_is_as_it_would_be_without_one(path, tmp_path, monkeypatch, capsys):
    (card, manifest, _) = trained(path, tmp_path / "bounded", capsys)
    bounds(monkeypatch, 10**9, 10**9)
    (free_card, free_manifest, _) = trained(path, tmp_path / "free", capsys)
    assert card == free_card
    for each in (manifest, free_manifest):
        each.pop("created", None)
    assert manifest == free_manifest
    assert "at random" not in card


def test_a_table_above_the_bound_says_what_its_figures_rest_on(path, tmp_path, monkeypatch, capsys):
    bounds(monkeypatch, 4, 7)
    card, _, printed = trained(path, tmp_path, capsys)
    told = "rest on 4 of 6 validation tasks and published figures rest on 7 of 12 test tasks, drawn at random"
    assert told in card
    assert told in printed.err
    assert "## Measured on 7 held-out tasks" in card
    assert "thresholds are counted on 4 validation tasks" in card
    assert "| figure | value | standard error |" in card


def test_samples_of_a_table_are_the_same_every_time_and_of_its_role(path, monkeypatch):
    whole = table(path, group="site")
    bounds(monkeypatch, 4, 7)
    first, again = table(path, group="site"), table(path, group="site")
    roles = whole.rows.roles[first.held_out_tasks()]
    assert set(roles) == {"test"}
    assert len(roles) == 7
    assert np.array_equal(first.held_out_tasks(), again.held_out_tasks())
    assert first.validation_tasks == 4 == len(first.validation_groups)
    for one, other in zip(first.validation(), again.validation(), strict=True):
        assert torch.equal(one.query.y, other.query.y)
    assert first.training_tasks == whole.training_tasks


@pytest.mark.parametrize("surprise", [True, False])
def test_looks_are_the_predictions_that_are_made_anew(surprise, monkeypatch):
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 30)
    family = Sinusoid(SinusoidConfig(Shots(0, 6), 5), seed=0)
    learner = Collapsed(
        MLP(1, (8, 8), 1, "sine"),
        particles=3,
        scales=(0.5, 2.0),
        varying_noise=True,
        prior_widening=True,
        correlated=(0, 6),
        surprise=Surprise() if surprise else None,
        pooled=Pooled(),
    )
    learned = learner.initialise(torch.Generator().manual_seed(0))
    looks = Looks(learner, learned, family)
    moved = {
        name: learned[name] + shift
        for name, shift in zip(learner.calibrated, (0.3, -0.4, 0.2, 0.5), strict=True)
    }
    moved["log_shares"] = torch.linspace(0, 1, len(learned["log_shares"])).log_softmax(0)
    if surprise:
        moved["log_softened"] = torch.tensor(-4.0)
    for trial in (learned, *({**learned, name: value} for name, value in moved.items()), learned | moved):
        expected = validation_nlls(learner, trial, family).double()
        torch.testing.assert_close(looks.nlls(trial), expected, rtol=1e-5, atol=1e-6)
    again = dataclasses.replace(learner, steps=1)
    torch.testing.assert_close(
        Looks(again, learned, family).nlls(learned | moved),
        validation_nlls(again, learned | moved, family).double(),
    )
