"""The service's OpenAPI: FastAPI's, with request bodies, keys and links, which it cannot derive."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.http.problems import Problem
from service.schemas.requests import REQUESTS

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
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=[]
    )
    modes = [(model, "validation") for model in (*REQUESTS.values(), Problem)]
    _, found = models_json_schema(modes, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    if root_path := app.state.runtime.settings.root_path:
        schema["servers"] = [{"url": root_path}]
    components = schema["components"]
    components["schemas"] |= found["$defs"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            if "401" in responses:  # {}: no key, where the service has none
                operation["security"] = [{"key": []}, {}]
            if method == "post" and path in REQUESTS:
                responses["200"]["links"] = POSTERIOR_LINKS
                binary = {"schema": {"type": "string", "format": "binary"}}
                responses["200"]["content"]["application/vnd.safetensors"] = binary
    app.openapi_schema = schema
    return schema
