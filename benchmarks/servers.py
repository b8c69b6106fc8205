"""What the serving benchmark holds the service against, each on a port of its own.

    python benchmarks/servers.py echo|hollow|loop|litserve PORT

*echo* is the ceiling of the stack: the same framework, middleware, validated body and encoder, and no
tensor in between. *hollow* is the service, but whoever computes says again what it said to the first
task of the same shape: what is left is HTTP, queue and hand-over. *loop* is a straightforward FastAPI
handler that goes through tasks and particles one by one in eager PyTorch. *litserve* is the same model
behind LitServe (`with_litserve.py`).
"""

import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from torch import Tensor

import service.__main__
import service.engine.worker
from bmaml.densities import weights_of
from bmaml.learners import Diverged
from bmaml.learners.collapsed import LEAST_NOISE, USUAL_ROWS, Collapsed
from bmaml.predictive import Predictive
from model_store import SHIPPED, Model, Store
from service.codec import bodies
from service.compute.batch import compute
from service.http.middleware import RequestContext
from service.job import Answer, Job
from service.runtime import Runtime
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings

LEVEL = 0.9


def models() -> dict[str, Model]:
    """The shipped regressions with exact last layers."""
    return {name: Store(SHIPPED).load(name) for name in ("sinusoid", "learning-curves")}


def said(model: Model, belief: Predictive) -> dict[str, Any]:
    """Mean, deviation and interval, in the caller's units."""
    belief = model.in_callers_units(belief)
    lower, upper = belief.interval(LEVEL)
    found = {"mean": belief.mean(), "std": belief.variance().sqrt(), "lower": lower, "upper": upper}
    return {name: each[0, :, 0].tolist() for name, each in found.items()}


def rows_of(model: Model, body: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Support x and y and query x, standardised."""
    x, y = np.array(body["support"]["x"], float), np.array(body["support"]["y"], float)[:, None]
    query = np.array(body["query"]["x"], float)
    return (
        torch.from_numpy(model.standardised_inputs(x)),
        torch.from_numpy(model.standardised_targets(y)),
        torch.from_numpy(model.standardised_inputs(query)),
    )


def echo() -> FastAPI:
    """The request's rows come back."""
    app = FastAPI()

    @app.post("/adapt-predict")
    async def answer(request: Request) -> Response:
        body = bodies.parsed(await request.body(), bodies.JSON, AdaptPredictRequest)
        assert isinstance(body.query.x, list)
        assert body.support is not None
        rows = np.array(body.query.x, np.float32)[:, 0]
        reply = {"model": body.model, "prediction": dict.fromkeys(("mean", "std", "lower", "upper"), rows)}
        return Response(bodies.encoded(reply, bodies.JSON), media_type=bodies.JSON)

    app.add_middleware(RequestContext, runtime=Runtime(Settings()))
    return app


def one_particle(model: Model, number: int, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, ...]:
    """Log evidence at every scale, and means and variances of the query rows, of one particle."""
    learner = model.learner
    assert isinstance(learner, Collapsed)
    theta = model.learned["initial"][number]
    precision = theta[-1].double().exp()

    def features(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, prior = learner.network.features_and_outputs(weights_of(theta)[None, None], rows[None])
        whole = torch.cat([hidden[0, 0], torch.ones(len(rows), 1)], -1).double()
        noise = torch.exp(-theta[-2].double()).expand(len(rows))
        if learner.varying_noise:
            noise = noise * torch.exp(whole @ model.learned["noise_slopes"][number].double())
        return whole / math.sqrt(whole.shape[-1]), prior[0, 0].double(), noise.clamp_min(LEAST_NOISE)

    phi, prior, noise = features(x)
    kernel = phi @ phi.T / precision + noise.diag()
    lower = torch.linalg.cholesky(kernel)
    solved = torch.cholesky_solve(y.double() - prior, lower)
    phi_query, prior_query, noise_query = features(query)
    cross = phi_query @ phi.T / precision
    mean = prior_query + cross @ solved
    before = phi_query.square().sum(-1, keepdim=True) / precision
    within = before - (cross * torch.cholesky_solve(cross.T, lower).T).sum(-1, keepdim=True)
    misfit, volume = ((y.double() - prior) * solved).sum(), 2 * lower.diagonal().log().sum()
    log_widening, unspoken = model.learned["log_widening"].double(), within / before
    log_prior_widening = model.learned.get("log_prior_widening", torch.zeros(())).double()
    noisier = torch.exp(2 * (1 - unspoken) * log_widening)
    wider = noisier * torch.exp(2 * unspoken * log_prior_widening)
    labels = model.manifest.outputs[0]
    noisiest = ((labels.upper - labels.lower) / labels.std) ** 2  # no label is noisier than labels differ
    evidences, variances = [], []
    for scale in learner.scales:
        size = len(x) * math.log(2 * math.pi * scale**2)
        evidences.append(-0.5 * (misfit / scale**2 + volume + size))
        noise = (noisier * scale**2 * noise_query.unsqueeze(-1)).clamp_max(noisiest)
        variances.append(wider * scale**2 * within.clamp_min(0) + noise)
    return torch.stack(evidences), mean.expand(len(variances), -1, -1), torch.stack(variances)


def exponent(model: Model, rows: int) -> Tensor:
    """What the evidence of so many rows is multiplied by."""
    temperature = model.learned["log_temperature"].double().exp()
    if model.learner.correlated is None:
        return temperature
    correlation, (fewest, most) = model.learned["correlation"].double(), model.learner.correlated
    rows = min(max(1, fewest, rows), most)
    return temperature * (1 + (USUAL_ROWS - 1) * correlation) / (1 + (rows - 1) * correlation)


def loop() -> FastAPI:
    """Particle by particle, task by task."""
    app, known = FastAPI(), models()

    @app.post("/adapt-predict")
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            model = known[body["model"]]
            rows = rows_of(model, body)
            parts = [one_particle(model, number, *rows) for number in range(model.learner.particles)]
            evidence, means, variances = (torch.cat(each) for each in zip(*parts, strict=True))
            weights = (exponent(model, len(rows[0])) * evidence).log_softmax(0)
            nothing = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
            return said(model, Predictive(means[None], variances[None], nothing, weights[None]))

    return app


def hollow(port: int) -> int:
    """The service on this port, which computes hardly anything."""
    said: dict[tuple[str, tuple[int, int]], Answer | Diverged] = {}

    def repeated(jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
        for job in jobs:
            if (job.model.sha256, job.shape) not in said:
                (said[job.model.sha256, job.shape],) = compute([job], threads)
        return [said[job.model.sha256, job.shape] for job in jobs]

    service.worker.compute = repeated  # type: ignore[assignment]
    os.environ |= {"BMAML_PORT": str(port), "BMAML_LOG_LEVEL": "warning"}
    os.environ |= {"BMAML_DEVICE": "cpu", "BMAML_ENGINE": "process"}
    return service.__main__.main([])


def main() -> None:
    """Serve until stopped."""
    kind, port = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    if kind == "hollow":
        sys.exit(hollow(port))
    if kind == "litserve":
        from with_litserve import serve

        serve(port)
        return
    app = {"echo": echo, "loop": loop}[kind]()
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_config=None)


if __name__ == "__main__":
    main()
