"""The answer does not depend on the company: any mix, cached or fresh, is answered as if alone."""

import asyncio
import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmaml.learners import Diverged
from bmaml.learners.surprise import Surprise
from service.compute import batch, regression
from service.compute.batch import answer_batch
from service.engine.engine import Engine
from service.engine.posterior_cache import PosteriorCache
from service.engine.queue import Queue
from service.job import Job, PostedSupport, PredictionSpec, SelectionSpec
from service.ops.metrics import Metrics
from service.schemas.predictions import ClassPrediction, ScoredClassPrediction, ScoredPrediction
from tests.class_tables import publish_class_table
from tests.published import KINDS, SIZE, X, Y, Z, publish

LEVELS = (0.3, 0.05, 0.95)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("company")
    return [
        publish(root, "sharp", scales=(0.5, 1.0, 2.0), particles=6),
        publish(root, "noisy", varying_noise=True, correlated=(0, 20), seed=3),
        publish(root, "bare", learner="bmaml", step_size=1e-3),
        publish(root, "wide", inputs=(X, SIZE), outputs=(Y, Z), steps=1, step_size=1e-3),
        publish(root, "surprised", surprise=Surprise(), particles=5, seed=4),
        publish(root, "kinds", inputs=(X, SIZE), outputs=tuple(KINDS.values()), seed=5),
        publish_class_table(root, "grades", learner="bmaml"),
    ]


@st.composite
def plans(draw):
    """Plans of a job: its model, row counts, question, key, whether its labels overflow, and its seed."""
    return (
        draw(st.integers(0, 6)),
        draw(st.integers(0, 30)),
        draw(st.integers(1, 30)),
        draw(st.sampled_from(["predict", "score", "choose", "adapt"])),
        draw(st.sampled_from([None, "a", "b"])),
        draw(st.integers(0, 2)) == 0 and draw(st.booleans()),
        draw(st.integers(0, 3)),
    )


def job_of(models, plan):
    which, shown, rows, asked, key, poisoned, seed = plan
    model, rng = models[which], np.random.default_rng(seed)
    labels = model.manifest.labels
    inputs, outputs = len(model.manifest.inputs), len(model.manifest.outputs)
    x = rng.normal(size=(shown, inputs)).astype(np.float32)
    y = rng.normal(size=(shown, outputs)).astype(np.float32)
    if labels is not None:
        y = np.eye(len(labels), dtype=np.float32)[rng.integers(len(labels), size=shown)]
    elif poisoned and shown:
        y[0] = 3e38  # finite, but not what comes of it
    query = rng.normal(size=(rows, inputs)).astype(np.float32)
    uniform, none = (np.arange(rows) + 0.5) / rows, np.zeros(rows, bool)
    ask = {
        "predict": PredictionSpec(LEVELS, particles=True),
        "score": PredictionSpec(LEVELS),
        "choose": SelectionSpec(
            "bald" if labels else "epistemic_variance", "top_k", 3, rows, uniform, none, None, False
        ),
        "adapt": None,
    }[asked]
    query = query[:0] if ask is None else query
    posted = PostedSupport(x, tuple(y[:, 0].tolist()))
    whole = Job(
        model, x, y, query, model.learner.steps, 0, ask, float("inf"), classes=labels or (), posted=posted
    )
    if asked == "score" and labels is not None:
        whole = replace(whole, query_y=rng.integers(len(labels), size=rows))
    elif asked == "score":
        whole = replace(whole, query_y=rng.normal(size=(rows, outputs)))
    named = None if key is None else f"{key} {which} {shown} {seed} {poisoned}"
    return replace(whole, key=named, ttl_s=60.0)


def numbers(answer):
    result = answer.result
    if result is None:
        return []
    if hasattr(result, "scores"):
        return [result.scores, result.uncertainty.epistemic]
    if isinstance(result, ClassPrediction):
        scored = [result.log_density] if isinstance(result, ScoredClassPrediction) else []
        return [result.probabilities, result.entropy.mutual_information, result.margin, *scored]
    variance = result.variance
    ends = [result.interval.lower, result.interval.upper]
    log_density = [result.log_density] if isinstance(result, ScoredPrediction) else []
    return [result.mean, variance.aleatoric, variance.epistemic, result.quantiles.values, *ends, *log_density]


def same(found, expected):
    if isinstance(expected, Diverged):
        assert isinstance(found, Diverged)
        return
    for one, other in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * (np.abs(other).max(initial=0) + 1e-9))
    assert found.effective_particles == pytest.approx(expected.effective_particles, rel=1e-4)
    assert (found.surprise is None) == (expected.surprise is None)
    if expected.surprise is not None:
        assert vars(found.surprise) == pytest.approx(vars(expected.surprise), rel=1e-3, abs=1e-6)
    assert (found.support_nll is None) == (expected.support_nll is None)
    if expected.support_nll is not None:
        assert found.support_nll == pytest.approx(expected.support_nll, rel=1e-3, abs=1e-3)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    mix=st.lists(plans(), min_size=1, max_size=12),
    budget=st.sampled_from([1, 500, 10**6]),
    part=st.sampled_from([1, 3000, batch.MAX_CPU_NUMBERS]),
)
def test_every_answer_of_a_mix_is_the_lonely_one(models, mix, budget, part):
    with mock.patch.object(batch, "MAX_CPU_NUMBERS", part):
        _all_as_if_alone(models, mix, budget)


def _all_as_if_alone(models, mix, budget):
    metrics = Metrics()
    engine = Engine(Queue(10**12, budget), PosteriorCache(10**8, b"s", metrics), metrics)
    jobs = [job_of(models, plan) for plan in mix]
    engine.start()

    async def all_of_them():
        return await asyncio.gather(*(engine.submit(job) for job in jobs), return_exceptions=True)

    try:
        found = asyncio.run(all_of_them())
        again = asyncio.run(all_of_them())  # what has a key is known by now
    finally:
        engine.stop(30)
    for job, first, second in zip(jobs, found, again, strict=True):
        (alone,) = answer_batch([replace(job, key=None)])
        same(first, alone)
        same(second, alone)
        if job.key is not None and not isinstance(second, Diverged):
            assert second.cached


class Counted:
    """A posterior of tasks with so many hypotheses."""

    def __init__(self, counts):
        self.log_weights = torch.full((len(counts), max(counts)), -torch.inf)
        for task, count in enumerate(counts):
            self.log_weights[task, :count] = 0.0


@settings(max_examples=200)
@given(st.lists(st.integers(1, 640), min_size=1, max_size=64), st.integers(1, 300))
def test_tasks_are_predicted_together_where_padding_costs_less_than_a_part(counts, rows):
    parts = list(regression._groups_of_like_size(Counted(counts), rows))
    assert sorted(task for part in parts for task in part) == list(range(len(counts)))
    sizes = [[counts[task] for task in part] for part in parts]
    for size in sizes:
        assert sum(max(size) - count for count in size) * rows <= regression.MAX_PADDING_CELLS
        assert len(size) == 1 or len(size) * max(size) * rows <= regression.MAX_CELLS
    for size, following in itertools.pairwise(sizes):  # nor could the next have come along
        more = [*size, min(following)]
        padding = sum(max(more) - count for count in more) * rows
        assert max(size) <= min(following)
        assert padding > regression.MAX_PADDING_CELLS or len(more) * max(more) * rows > regression.MAX_CELLS


def test_rows_that_are_shown_count_as_rows_that_are_predicted(models, monkeypatch):
    seen = []
    whole = regression._groups_of_like_size
    monkeypatch.setattr(
        regression,
        "_groups_of_like_size",
        lambda posterior, rows: seen.append(rows) or whole(posterior, rows),
    )
    job = job_of(models, (0, 30, 7, "predict", None, False, 1))
    answer_batch([job])
    (known,) = answer_batch([replace(job, key="a")])
    answer_batch([replace(job, kept=known.kept)])
    assert seen == [37, 37, 7]
