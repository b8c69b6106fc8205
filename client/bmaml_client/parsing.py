"""Replies to dataclasses: the fields' annotations say how each value is read."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

import numpy as np

from bmaml_client.errors import BadReply

T = TypeVar("T")


def parse(kind: type[T], value: Any, path: str = "") -> T:
    """A dataclass `kind` from a decoded JSON object; unknown fields are ignored.

    Args:
        path: where the object lies in the reply, for messages.

    Raises:
        BadReply: a field is missing, or has another type.
    """
    parsed: T = _parse(kind, value, path)
    return parsed


def part(reply: Any, name: str) -> Any:
    """A field of a decoded reply.

    Raises:
        BadReply: the reply is no object, or has no such field.
    """
    if not isinstance(reply, Mapping):
        raise BadReply("the reply's body is not an object: is this the service's address?")
    if name not in reply:
        raise BadReply(f"the reply has no /{name}: is the service of another version?")
    return reply[name]


def _parse(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else _parse_object(kind, value, path)  # type: ignore[arg-type]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (kind,) = (each for each in inner if each is not types.NoneType)
        return _parse(kind, value, path)
    try:
        if origin is Annotated:  # an array, and the precision in which it is sent
            return np.asarray(value, inner[1])
        if origin is np.ndarray:
            return np.asarray(value, np.float32).astype(np.float64)
        if origin is tuple:
            return tuple(_parse(inner[0], each, path) for each in value)
        if kind is datetime:
            return datetime.fromisoformat(value)
        if kind in (int, float, str):
            return kind(value)
    except (TypeError, ValueError):
        raise BadReply(f"the reply's {path} has another type than expected") from None
    return value


def _parse_object(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise BadReply(f"the reply's {path or 'body'} is not an object")
    types_of_fields = _field_types(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            found[field.name] = _parse(types_of_fields[field.name], value[field.name], f"{path}/{field.name}")
        elif field.default is dataclasses.MISSING:
            raise BadReply(f"the reply has no {path}/{field.name}: is the service of another version?")
    return kind(**found)


_field_types = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))
