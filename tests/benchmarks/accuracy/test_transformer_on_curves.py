"""The comparison with the transformer: both are scored alike, and what is kept is used."""

import math

import numpy as np
import pytest
import torch

from benchmarks.accuracy.curve_shifts import curve_tasks
from benchmarks.accuracy.problems import validation_curves
from benchmarks.accuracy.transformer_on_curves import (
    ANCHORS,
    METRICS,
    answer_scores,
    clustered_error,
    curve_family,
    model_scores,
    peer,
    peer_scores,
)
from benchmarks.pages import blocks
from bmaml.task import Examples
from model_store import SHIPPED, Store
from tests.benchmarks.accuracy.curve_file import SIZES, write_curves
from tests.benchmarks.running import run


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    # Enough data sets that some are left for validation, and both halves have some.
    return write_curves(tmp_path_factory.mktemp("curves") / "curves.parquet", datasets=30)


def test_the_score_of_a_belief_is_that_of_the_served_answer(curves):
    model = Store(SHIPPED).load("learning-curves")
    tasks = curve_tasks(model, validation_curves(curves)[:3], 5)
    served = model_scores(model, tasks)
    for index, task in enumerate(tasks):
        support = Examples.full(
            torch.from_numpy(model.standardised_inputs(task.x))[None],
            torch.from_numpy(model.standardised_targets(task.y[:, None]))[None],
        )
        x = torch.from_numpy(model.standardised_inputs(task.query))[None]
        with torch.no_grad():
            belief = model.predict(model.learner.adapt(model.learned, support), x, support)
        found = answer_scores(model.in_callers_units(belief), torch.from_numpy(task.truth)[None, :, None])
        for metric in METRICS:
            # The service prunes negligible particles, and answers in single precision.
            assert float(found[metric].mean()) == pytest.approx(served[metric][index], abs=2e-3)


def test_a_kept_transformer_is_not_trained_again(curves, tmp_path):
    family = curve_family(curves)
    first = peer(family, 2, tmp_path)
    again = peer(family, 2, tmp_path)
    assert first.looks == again.looks
    tasks = curve_tasks(Store(SHIPPED).load("learning-curves"), validation_curves(curves)[:2], 3)
    assert peer_scores(first, tasks) == peer_scores(again, tasks)


def test_the_error_of_a_clustered_mean_is_that_of_the_means_of_equal_clusters():
    values = np.random.default_rng(0).standard_normal(12)
    means = values.reshape(4, 3).mean(1)
    expected = math.sqrt(np.square(means - means.mean()).sum() / 3 / 4)
    assert clustered_error(values, np.repeat(list("abcd"), 3).tolist()) == pytest.approx(expected)


def test_the_command_writes_the_tables(curves, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- measured: transformer: begin -->\n<!-- measured: transformer: end -->\n")
    done = run(
        "accuracy.transformer_on_curves",
        str(curves),
        "--steps",
        "2",
        "--deep-set",
        "2",
        "--kept",
        str(tmp_path),
        "--page",
        str(page),
    )
    assert done.returncode == 0, done.stderr
    (block,) = blocks(page.read_text())
    assert block.sealed
    scored = [anchors for anchors in ANCHORS if anchors < len(SIZES)]
    cost, looks = 1, 2
    for name in ("transformer", "deep set"):
        assert block.text.count(f"| {name}, 2 steps |") == 2 * len(scored) + cost + looks
    assert {each.name for each in tmp_path.glob("*.pt")} == {"transformer-2.pt", "deep-set-2.pt"}
