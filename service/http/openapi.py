"""The service's OpenAPI: FastAPI's, with request bodies, keys and links, which it cannot derive."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from service.http import health
from service.http.paths import STABLE_PREFIX
from service.http.problems import Problem
from service.http.routes import router
from service.schemas.requests import REQUESTS

LICENSE = {"name": "MIT", "identifier": "MIT"}
TAGS = {
    "predict": "Adaptation of a model to a few labelled rows, and answers about other rows.",
    "posteriors": "Kept posteriors, which answer again without their rows.",
    "models": "The models that are served, their cards, and the bounds of the service.",
    "health": "Probes and metrics of the process; they ask for no key.",
}
"""The groups of operations, with their descriptions."""
POSTERIOR_ID = {"id": "$response.body#/posterior/id"}
"""The parameter of a link that takes the posterior's id from a reply."""
POSTERIOR_LINKS = {
    "LookAtPosterior": {"operationId": "posterior", "parameters": POSTERIOR_ID},
    "ForgetPosterior": {"operationId": "forget_posterior", "parameters": POSTERIOR_ID},
}
"""OpenAPI's links from a reply to the routes that take its posterior's id."""


def openapi_schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI schema of the application; made at the first call."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        license_info=LICENSE,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        servers=[{"url": app.state.runtime.settings.root_path or "/"}],
    )
    described = [
        route
        for route in (*router.routes, *health.router.routes)
        if isinstance(route, APIRoute) and route.path in schema["paths"]
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):  # a path's text is never malformed
                del responses["422"]
            # {}: no key, where the service has none
            operation["security"] = [{"key": []}, {}] if "401" in responses else []
            if method == "post" and path in REQUESTS:
                responses["200"]["links"] = POSTERIOR_LINKS
                binary = {"schema": {"type": "string", "format": "binary"}}
                responses["200"]["content"]["application/vnd.safetensors"] = binary
    stable = {route.path for route in described if route in router.routes}
    schema["paths"] = {
        f"{STABLE_PREFIX}{path}" if path in stable else path: methods
        for path, methods in schema["paths"].items()
    }
    schema["components"]["schemas"] = _objects(described)
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    app.openapi_schema = schema
    return schema


def _objects(routes: Iterable[APIRoute]) -> dict[str, Any]:
    """The schemas of all bodies, as pydantic has them: FastAPI drops every null of their examples."""
    replies = {route.response_model for route in routes if route.response_model is not None}
    requests: list[Any] = [*REQUESTS.values(), Problem]
    bodies: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        *((each, "validation", TypeAdapter(each)) for each in requests),
        *((each, "serialization", TypeAdapter(each)) for each in replies),
    ]
    _, found = TypeAdapter.json_schemas(bodies, ref_template="#/components/schemas/{model}")
    return {name: _with_overlaps(each) for name, each in sorted(found["$defs"].items())}


def _with_overlaps(node: Any) -> Any:
    """The schema with `anyOf` for `oneOf`: an empty list is one of numbers, of rows and of names at once."""
    if isinstance(node, dict):
        return {"anyOf" if key == "oneOf" else key: _with_overlaps(each) for key, each in node.items()}
    return [_with_overlaps(each) for each in node] if isinstance(node, list) else node
