"""The loop that the service is measured against does the same work."""

import httpx
import numpy as np
import pytest
import torch

from benchmarks.serving import particle_loop
from benchmarks.serving.reference_models import answer, application, shipped_models, standardised_rows
from bmaml.task import Examples


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["sinusoid", "learning-curves"])
@pytest.mark.parametrize("rows", [1, 5, 20])
async def test_the_loop_that_the_service_is_measured_against_gives_its_answers(name, rows):
    model, rng = shipped_models()[name], np.random.default_rng(rows)
    low, high = model.manifest.inputs[0].lower, model.manifest.inputs[0].upper
    x, query = rng.uniform(low, high, (rows, 1)), rng.uniform(low, high, (7, 1))
    y = model.labels(torch.from_numpy(rng.standard_normal((rows, 1))))[:, 0]
    body = {"model": name, "support": {"x": x.tolist(), "y": y.tolist()}, "query": {"x": query.tolist()}}
    transport = httpx.ASGITransport(application(particle_loop.belief))
    async with httpx.AsyncClient(transport=transport, base_url="http://loop") as client:
        response = await client.post("/adapt-predict", json=body)
    support_x, support_y, query_x = standardised_rows(model, body)
    with torch.no_grad():
        support = Examples.full(support_x[None], support_y[None])
        posterior = model.learner.adapt(model.learned, support)
        expected = answer(model, model.predict(posterior, query_x[None], support))
    assert response.json() == {key: pytest.approx(value, rel=1e-4) for key, value in expected.items()}
