"""Decoded replies as the dataclasses that describe them."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import numpy as np

from bmaml_client.errors import BadReply

T = TypeVar("T")


def read(kind: type[T], said: Any, where: str = "") -> T:
    """`kind` as it was said; fields that this version does not know are passed over.

    Raises:
        BadReply: a field is missing, or is not what it should be.
    """
    value: T = _read(kind, said, where)
    return value


def _read(kind: Any, said: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if isinstance(said, kind):  # type: ignore[arg-type]
            return said
        if not isinstance(said, Mapping):
            raise BadReply(f"the reply's {where or 'body'} is not an object")
        hints = _hints(kind)  # type: ignore[arg-type]
        values = {}
        for each in dataclasses.fields(kind):
            path = f"{where}/{each.name}"
            if each.name not in said:
                if each.default is dataclasses.MISSING:
                    raise BadReply(f"the reply has no {path}: is the service of another version?")
                continue
            values[each.name] = _read(hints[each.name], said[each.name], path)
        return kind(**values)  # type: ignore[operator]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if said is None:
            return None
        (kind,) = (each for each in inner if each is not types.NoneType)
        return _read(kind, said, where)
    try:
        if origin is np.ndarray:
            return np.asarray(said, np.float32).astype(np.float64)
        if origin is tuple:
            return tuple(_read(inner[0], each, where) for each in said)
        if kind is datetime:
            return datetime.fromisoformat(said)
        if kind in (int, float, str):
            return kind(said)
    except (TypeError, ValueError):
        raise BadReply(f"the reply's {where} is not what it should be") from None
    return said


_hints = functools.cache(typing.get_type_hints)
