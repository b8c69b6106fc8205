"""The particles that the benchmark of growth repeats are the same mixture as before."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.speed.growth import requests, with_particles
from model_store import SHIPPED, Store
from service.compute.regression import predict_batch

AXES = ("tasks", "support rows", "query rows", "particles")


def sizes(jobs):
    first = jobs[0]
    found = len(jobs), len(first.support_x), len(first.query_x), first.model.learner.particles
    return dict(zip(AXES, found, strict=True))


@pytest.fixture(scope="module")
def model():
    return Store(SHIPPED).load("sinusoid", None)


def test_repeated_particles_answer_as_before(model):
    (job,) = requests(model, "query rows", 20)
    twice = dataclasses.replace(job, model=with_particles(model, 2 * model.learner.particles))
    with torch.inference_mode():
        (once,), (again,) = (predict_batch([each])[0] for each in (job, twice))
    np.testing.assert_allclose(again.result.mean, once.result.mean, atol=1e-4)
    np.testing.assert_allclose(again.effective_particles, 2 * once.effective_particles, rtol=1e-2)


@pytest.mark.parametrize("axis", AXES)
def test_one_size_grows_alone(model, axis):
    small, large = (sizes(requests(model, axis, size)) for size in (3, 50))
    assert {name for name in AXES if small[name] != large[name]} == {axis}
    assert (small[axis], large[axis]) == (3, 50)
