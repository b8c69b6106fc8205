"""What the serving benchmark holds the service against, each on a port of its own.

    python -m benchmarks.serving.servers echo|hollow|loop|litserve PORT

*echo* is the ceiling of the stack: the same framework, middleware, validated body and encoder, and no
tensor in between. *hollow* is the service, but whoever computes says again what it said to the first
task of the same shape: what is left is HTTP, queue and hand-over. *loop* is a straightforward FastAPI
handler that goes through tasks and particles one by one in eager PyTorch. *litserve* is the same model
behind LitServe (`litserve_server.py`).
"""

import os
import sys
from collections.abc import Sequence

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response

import service.__main__
import service.engine.worker
from benchmarks.serving import particle_loop
from bmaml.learners import Diverged
from service.codec import bodies
from service.compute.batch import compute
from service.http.middleware import RequestContext
from service.job import Answer, Job
from service.runtime import Runtime
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings


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


def hollow(port: int) -> int:
    """The service on this port, which computes hardly anything."""
    said: dict[tuple[str, tuple[int, int]], Answer | Diverged] = {}

    def repeated(jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
        for job in jobs:
            if (job.model.sha256, job.shape) not in said:
                (said[job.model.sha256, job.shape],) = compute([job], threads)
        return [said[job.model.sha256, job.shape] for job in jobs]

    service.engine.worker.compute = repeated  # type: ignore[assignment]
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
        from benchmarks.serving import litserve_server  # optional: only this peer needs litserve

        litserve_server.serve(port)
        return
    app = {"echo": echo, "loop": particle_loop.app}[kind]()
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_config=None)


if __name__ == "__main__":
    main()
