"""The servers that the throughput benchmark compares with the service, each on a port of its own.

    python -m benchmarks.serving.servers echo|replay|loop|litserve|gp|transformer PORT

*echo* is the ceiling of the stack: the same framework, middleware, validated body and encoder, without a
tensor. *replay* is the service with free computation: its engine repeats the first answer for a shape, so
that HTTP, queue and engine remain. *loop* is a FastAPI handler that goes through particles one by one
(`particle_loop.py`). *litserve* serves the same models behind LitServe (`litserve_server.py`). *gp* and
*transformer* are FastAPI handlers around what a user might take in place of these models (`peers.py`).
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray

import service.__main__
from benchmarks.serving import particle_loop
from benchmarks.serving.reference_models import application
from bmaml.learners import Diverged
from service.codec import bodies
from service.compute.batch import compute
from service.http.middleware import RequestContext
from service.job import Answer, Job
from service.runtime import Runtime
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings

Compute = Callable[[Sequence[Job], int], list[Answer | Diverged]]


@dataclass(frozen=True)
class EchoReply:
    """The query's first column in place of every part of a prediction."""

    model: str | None
    prediction: dict[str, NDArray[np.float32]]


def echo() -> FastAPI:
    """An application that decodes and validates a request and encodes an `EchoReply`."""
    app = FastAPI()

    @app.post("/adapt-predict")
    async def answer(request: Request) -> Response:
        body = bodies.parsed(await request.body(), bodies.JSON, AdaptPredictRequest)
        assert isinstance(body.query.x, np.ndarray)
        rows = body.query.x[:, 0].astype(np.float32)
        reply = EchoReply(body.model, dict.fromkeys(("mean", "std", "lower", "upper"), rows))
        return Response(bodies.encoded(reply, bodies.JSON), media_type=bodies.JSON)

    app.add_middleware(RequestContext, runtime=Runtime(Settings()))
    return app


def replayed(compute: Compute) -> Compute:
    """A function of jobs that computes the first of each model and shape, and repeats that answer."""
    answers: dict[tuple[str, tuple[int, int]], Answer | Diverged] = {}

    def replay(jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
        for job in jobs:
            if (job.model.sha256, job.shape) not in answers:
                (answers[job.model.sha256, job.shape],) = compute([job], threads)
        return [answers[job.model.sha256, job.shape] for job in jobs]

    return replay


def serve_replay(port: int) -> int:
    """Run the service on this port with `replayed` computation; its exit status."""
    os.environ |= {"BMAML_PORT": str(port), "BMAML_LOG_LEVEL": "warning"}
    os.environ |= {"BMAML_DEVICE": "cpu", "BMAML_ENGINE": "process", "BMAML_NATIVE": "require"}
    with patch("service.engine.worker_pool.compute", replayed(compute)):
        return service.__main__.main([])


def application_of(kind: str) -> FastAPI:
    """The application of a server that uvicorn runs."""
    if kind == "echo":
        return echo()
    if kind == "loop":
        return application(particle_loop.belief)
    from benchmarks.serving import peers  # here, because no other server needs scikit-learn

    return application({"gp": lambda: peers.gp_belief, "transformer": peers.in_context}[kind]())


def main() -> None:
    """Serve until stopped."""
    kind, port = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    if kind == "replay":
        sys.exit(serve_replay(port))
    if kind == "litserve":
        from benchmarks.serving import litserve_server  # here, because no other server needs litserve

        litserve_server.serve(port)
        return
    uvicorn.run(application_of(kind), host="127.0.0.1", port=port, access_log=False, log_config=None)


if __name__ == "__main__":
    main()
