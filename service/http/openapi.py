"""The published description of the interface: FastAPI's, with what it cannot see."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.http.problems import Problem
from service.schemas.requests import REQUESTS

ID = {"id": "$response.body#/posterior/id"}
LINKS = {
    "LookAtPosterior": {"operationId": "posterior", "parameters": ID},
    "ForgetPosterior": {"operationId": "forget_posterior", "parameters": ID},
}
"""What can be done with the id in an answer."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI of the app, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=[]
    )
    modes = [(model, "validation") for model in (*REQUESTS.values(), Problem)]
    _, found = models_json_schema(modes, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    components = schema["components"]
    components["schemas"] |= found["$defs"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            if "401" in responses:  # a key, or nothing where the service asks for none
                operation["security"] = [{"key": []}, {}]
            if method == "post" and path in REQUESTS:
                responses["200"]["links"] = LINKS
                binary = {"schema": {"type": "string", "format": "binary"}}
                responses["200"]["content"]["application/vnd.safetensors"] = binary
    app.openapi_schema = schema
    return schema
