"""The routes under /v2: the Open Inference Protocol, for callers of KServe, Triton and MLServer."""

from typing import Any

from fastapi import APIRouter, Request, Response

from bmaml import __version__
from model_store import Manifest, Model
from service.codec.decode import Decoder
from service.codec.open_inference.decode import (
    BINARY,
    HEADER_LENGTH,
    JSON,
    Inference,
    check_rows_model,
    read_inference,
)
from service.codec.open_inference.encode import check_outputs, encoded_inference, model_metadata
from service.errors import RequestError
from service.http.exchange import Exchange, ready_runtime
from service.job import Job
from service.runtime import Runtime
from service.schemas.requests import AdaptPredictRequest

router = APIRouter(prefix="/v2", include_in_schema=False)
MAX_VERSION_DIGITS = 9
"""Digits of a version in a path."""


@router.get("")
async def server_metadata() -> dict[str, Any]:
    """The name, version and extensions of the server."""
    return {"name": "bmaml", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live(request: Request) -> dict[str, bool]:
    """The process runs and its engine has not failed."""
    runtime: Runtime = request.app.state.runtime
    runtime.check_alive()
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    """A model is loaded, warm, and the device answers."""
    runtime: Runtime = request.app.state.runtime
    runtime.check_ready()
    return {"ready": True}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """The tensors of a model."""
    manifest = await _manifest(request, name, version)
    return model_metadata(manifest, ready_runtime(request).catalogue.summary(name).versions)


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """The model can be asked."""
    manifest = await _manifest(request, name, version)
    return {"name": manifest.name, "ready": True}


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{version}/infer")
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Adapt the model to the support tensors, then predict the query rows."""
    number = _number(version)
    inference: Inference | None = None
    header_length = request.headers.get(HEADER_LENGTH)

    def parse(content: bytes, media_type: str) -> AdaptPredictRequest:
        nonlocal inference
        inference = read_inference(content, media_type, header_length, name, number)
        return inference.request

    def job(decoder: Decoder, body: AdaptPredictRequest, model: Model, caller: str, received: float) -> Job:
        assert inference is not None
        check_rows_model(model.manifest)
        check_outputs(inference, model)
        return decoder.prediction_job(body, model, caller, received)

    exchange = await Exchange.run(request, JSON, parse, job)
    assert inference is not None
    response = exchange.answered.prediction_response()
    content, json_length = encoded_inference(inference, response)
    if json_length is None:
        return exchange.sent(response, content, JSON)
    return exchange.sent(response, content, BINARY, {HEADER_LENGTH: str(json_length)})


def _number(version: str | None) -> int | None:
    """The version of a path.

    Raises:
        RequestError: 404 for what is no number.
    """
    if version is None:
        return None
    if not (version.isdecimal() and version.isascii() and len(version) <= MAX_VERSION_DIGITS):
        raise RequestError("unknown-model", "versions are whole numbers from 1")
    return int(version)


async def _manifest(request: Request, name: str, version: str | None) -> Manifest:
    """The manifest of a model of rows; a shelved version stays shelved.

    Raises:
        RequestError: 422 for a policy.
        UnknownModel: there is none of that name and version.
    """
    manifest = await ready_runtime(request).registry.manifest(name, _number(version))
    check_rows_model(manifest)
    return manifest
