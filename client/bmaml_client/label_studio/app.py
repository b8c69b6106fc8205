"""create_app: Label Studio's protocol for machine learning backends, on one screen."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from bmaml_client import AsyncClient, ClientError, Retries, __version__
from bmaml_client.label_studio.annotations import Annotations
from bmaml_client.label_studio.backend import Backend
from bmaml_client.label_studio.images import Unreadable
from bmaml_client.label_studio.labelling import NotSupported
from bmaml_client.label_studio.protocol import Event, PredictBody, SetupBody, TrainBody, key_of
from bmaml_client.label_studio.settings import Settings
from bmaml_client.label_studio.studio import Studio, StudioError

NAME = "bmaml-service"
RETRIES = Retries(total_s=10)
"""Label Studio waits no longer than seconds."""


def create_app(settings: Settings, studio_transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """The backend, cold. `studio_transport` leads to Label Studio in tests."""

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

    def admitted(given: Annotated[HTTPBasicCredentials | None, Depends(basic)]) -> None:
        password = settings.password.get_secret_value()
        if not settings.user and not password:
            return
        said = ("", "") if given is None else (given.username, given.password)
        right = [
            secrets.compare_digest(one.encode(), other.encode())
            for one, other in zip(said, (settings.user, password), strict=True)
        ]
        if not all(right):
            raise HTTPException(401, "user and password are wanted", {"WWW-Authenticate": "Basic"})

    app = FastAPI(
        title="A machine learning backend for Label Studio",
        version=__version__,
        lifespan=lifespan,
        dependencies=[Depends(admitted)],
    )

    @app.get("/")
    @app.get("/health")
    async def health(request: Request) -> Response:
        """Whether our service would answer."""
        if not await request.app.state.client.ready():
            return JSONResponse({"status": "DOWN", "detail": f"{settings.service} is not ready"}, 503)
        return JSONResponse({"status": "UP", "model_class": NAME})

    @app.post("/setup")
    async def setup(body: SetupBody, request: Request) -> dict[str, str]:
        """Whether the project can be answered, and what its predictions are named now."""
        backend: Backend = request.app.state.backend
        return {"model_version": await backend.version(key_of(body.project), body.config)}

    @app.post("/predict")
    async def predict(body: PredictBody, request: Request) -> dict[str, Any]:
        """A prediction for every task."""
        backend: Backend = request.app.state.backend
        results, name = await backend.predict(key_of(body.project), body.label_config, body.tasks)
        return {"results": results, "model_version": name}

    @app.post("/webhook")
    async def webhook(event: Event, request: Request) -> Response:
        """An event of Label Studio."""
        backend: Backend = request.app.state.backend
        if await backend.learn(event):
            return JSONResponse({"status": "ok"}, 201)
        return JSONResponse({"status": "Unknown event"})

    @app.post("/train", status_code=201)
    async def train(body: TrainBody, request: Request) -> dict[str, Any]:
        """All annotations of a project."""
        backend: Backend = request.app.state.backend
        await backend.learn_all(key_of(body.project), body.label_config, body.annotations)
        return {}

    @app.get("/metrics")
    async def metrics() -> dict[str, Any]:
        """Nothing: our service has its own."""
        return {}

    @app.exception_handler(NotSupported)
    async def unfit(request: Request, error: NotSupported) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    async def elsewhere(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 502)

    for each in (ClientError, StudioError, Unreadable):
        app.add_exception_handler(each, elsewhere)
    return app
