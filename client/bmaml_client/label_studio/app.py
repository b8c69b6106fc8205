"""The app: Label Studio's protocol for machine learning backends."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.types import ASGIApp, Receive, Scope, Send

from bmaml_client import AsyncClient, ClientError, Retries, __version__
from bmaml_client.label_studio.annotations import Annotations
from bmaml_client.label_studio.backend import Backend, LeftOut
from bmaml_client.label_studio.labelling import NotSupported, UnreadableTask
from bmaml_client.label_studio.protocol import Event, PredictBody, SetupBody, TrainBody, project_key
from bmaml_client.label_studio.settings import Settings
from bmaml_client.label_studio.studio import Studio, StudioError

NAME = "bmaml-service"
RETRIES = Retries(total_s=10)
"""Bounded by Label Studio, which waits for seconds only."""


@dataclass
class RootPath:
    """Routes paths with and without the prefix under which a proxy publishes the backend."""

    app: ASGIApp
    root_path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope = {**scope, "root_path": self.root_path}
        await self.app(scope, receive, send)


def create_app(settings: Settings, studio_transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """The backend's app, which connects when it starts. `studio_transport` is for tests."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        key = None if settings.key is None else settings.key.get_secret_value()
        studio = Studio(settings.url, settings.token.get_secret_value(), studio_transport)
        annotations = Annotations(settings.database)
        async with AsyncClient(settings.service, key, retries=RETRIES) as client:
            app.state.client = client
            app.state.backend = Backend(settings.model, client, studio, annotations, settings.batch)
            yield
        await studio.close()
        annotations.close()

    basic = HTTPBasic(auto_error=False)

    def check_password(given: Annotated[HTTPBasicCredentials | None, Depends(basic)]) -> None:
        password = settings.password.get_secret_value()
        if not settings.user and not password:
            return
        pair = ("", "") if given is None else (given.username, given.password)
        equal = [
            secrets.compare_digest(one.encode(), other.encode())
            for one, other in zip(pair, (settings.user, password), strict=True)
        ]
        if not all(equal):
            raise HTTPException(401, "user and password are required", {"WWW-Authenticate": "Basic"})

    app = FastAPI(
        title="A machine learning backend for Label Studio",
        version=__version__,
        lifespan=lifespan,
        dependencies=[Depends(check_password)],
    )

    app.add_middleware(RootPath, root_path=settings.root_path)

    @app.get("/")
    @app.get("/health")
    async def health(request: Request) -> Response:
        """Report whether the service is ready."""
        if not await request.app.state.client.ready():
            return JSONResponse({"status": "DOWN", "detail": f"{settings.service} is not ready"}, 503)
        return JSONResponse({"status": "UP", "model_class": NAME})

    @app.post("/setup")
    async def setup(body: SetupBody, request: Request) -> dict[str, str]:
        """Check the project's configuration and name its current predictions."""
        backend: Backend = request.app.state.backend
        return {"model_version": await backend.prediction_name(project_key(body.project), body.config)}

    @app.post("/predict")
    async def predict(body: PredictBody, request: Request) -> dict[str, Any]:
        """Predict every task."""
        backend: Backend = request.app.state.backend
        results, name = await backend.predict(project_key(body.project), body.label_config, body.tasks)
        return {"results": results, "model_version": name}

    @app.post("/webhook")
    async def webhook(event: Event, request: Request) -> Response:
        """Take an event of Label Studio."""
        backend: Backend = request.app.state.backend
        left_out = await backend.learn(event)
        if left_out is None:
            return JSONResponse({"status": "Unknown event"})
        return JSONResponse({"status": "ok", **_named(left_out)}, 201)

    @app.post("/train", status_code=201)
    async def train(body: TrainBody, request: Request) -> dict[str, Any]:
        """Replace a project's annotations."""
        backend: Backend = request.app.state.backend
        return _named(await backend.learn_all(project_key(body.project), body.label_config, body.annotations))

    @app.get("/metrics")
    async def metrics() -> dict[str, Any]:
        """Return no metrics: the service has its own."""
        return {}

    @app.exception_handler(NotSupported)
    async def bad_request(request: Request, error: NotSupported) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    async def bad_gateway(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 502)

    for each in (ClientError, StudioError, UnreadableTask):
        app.add_exception_handler(each, bad_gateway)
    return app


def _named(left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """The field of a reply that names the tasks left out of a training; empty without any."""
    return {"left_out": [asdict(each) for each in left_out]} if left_out else {}
