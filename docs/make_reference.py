"""Write docs/api-reference.md from the service's own OpenAPI.

    python docs/make_reference.py

`make docs` does it, and a test fails where the page is not what the service says of itself.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.app import create_app
from service.settings import Settings

PAGE = Path(__file__).with_name("api-reference.md")
HEAD = """# API reference

What `GET /openapi.json` of a running service says, as a page: every route, then every object. How the parts
play together is in [api.md](api.md), what failures mean in [errors.md](errors.md). The routes under `/v2` are
of the [Open Inference Protocol](open-inference.md) and have a page of their own.

<!-- written by docs/make_reference.py -->
"""
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
}


def page(schema: Mapping[str, Any]) -> str:
    """The whole page in Markdown."""
    return "\n".join([HEAD, *_routes(schema), *_objects(schema["components"]["schemas"])]) + "\n"


def _routes(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "## Routes\n"
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"### {method.upper()} {path}\n"
            yield f"{operation.get('description', operation['summary'])}\n"
            if operation["security"]:
                yield "Asks for a bearer key where the service has keys.\n"
            for each in operation.get("parameters", ()):
                yield f"* `{each['name']}` in the {each['in']}: {_type(each['schema'])}"
            if "parameters" in operation:
                yield ""
            if "requestBody" in operation:
                yield f"Body: {_content(operation['requestBody']['content'])}.\n"
                yield from _example(operation["requestBody"]["content"])
            good = {status: each for status, each in operation["responses"].items() if status < "400"}
            for status, reply in good.items():
                nothing = "nothing" if status == "204" else "text"
                yield f"Answers {status}: {_content(reply.get('content', {})) or nothing}.\n"
            if failures := ", ".join(_failures(operation["responses"])):
                yield f"Fails with {failures} and a [Problem](#problem), as [errors.md](errors.md) says.\n"


def _failures(responses: Mapping[str, Any]) -> list[str]:
    """The statuses of problems."""
    ref = "#/components/schemas/Problem"
    return sorted(status for status, reply in responses.items() if ref in json.dumps(reply))


def _objects(schemas: Mapping[str, Any]) -> Iterator[str]:
    yield "## Objects\n"
    for name, schema in sorted(schemas.items()):
        yield f"### {name}\n"
        if "description" in schema:
            yield f"{schema['description']}\n"
        if "properties" not in schema:
            yield f"{_type(schema)}\n"
            continue
        required = set(schema.get("required", ()))
        yield "| field | type | default | what |"
        yield "|---|---|---|---|"
        for field, inner in schema["properties"].items():
            default = f"`{json.dumps(inner['default'])}`" if "default" in inner else ""
            needed = "required" if field in required else default
            yield f"| `{field}` | {_cell(_type(inner))} | {needed} | {_cell(inner.get('description', ''))} |"
        yield ""
        if isinstance(schema.get("examples"), list) and schema["examples"]:
            yield from _fenced(schema["examples"][0])


def _content(content: Mapping[str, Any]) -> str:
    return " or ".join(f"`{kind}` {_type(each.get('schema', {}))}".strip() for kind, each in content.items())


def _example(content: Mapping[str, Any]) -> Iterator[str]:
    for each in content.values():
        if "example" in each:
            yield from _fenced(each["example"])


def _fenced(value: Any) -> Iterator[str]:
    yield "```json"
    yield _json(value)
    yield "```\n"


def _json(value: Any, indent: str = "") -> str:
    """JSON with what fits on one line on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent + flat) <= 100 or not isinstance(value, dict):
        return flat
    inner = ",\n".join(
        f"{indent}  {json.dumps(key)}: {_json(each, indent + '  ')}" for key, each in value.items()
    )
    return f"{{\n{inner}\n{indent}}}"


def _type(schema: Mapping[str, Any]) -> str:
    """What a value is, in words, with links to objects."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(_type(each) for each in choices)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind, bounds = schema.get("type", "any value"), _bounds(schema)
    if kind == "array":
        of = _type(schema["items"]) if schema.get("items") else "numbers, nested"
        return f"list of {of}{bounds}"
    if kind == "object":
        more = schema.get("additionalProperties")
        return f"object of {_type(more)}" if isinstance(more, dict) else "object"
    return {"binary": "bytes", "date-time": "time (ISO 8601)"}.get(schema.get("format", ""), kind) + bounds


def _bounds(schema: Mapping[str, Any]) -> str:
    said = [text.format(schema[key]) for key, text in BOUNDS.items() if key in schema]
    return f" ({', '.join(said)})" if said else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(create_app(Settings()).openapi()))


if __name__ == "__main__":
    main()
