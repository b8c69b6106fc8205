"""Addresses of stores: what tells `s3://bucket/models` from a folder."""

import re
from pathlib import Path

from bmaml.errors import BmamlError

ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+]*):/")
"""The beginning of an address; `Path` leaves one of its two slashes."""


class BadAddress(BmamlError):
    """An address that no installed file system can read, or one in place of a folder."""


def is_address(location: str | Path) -> bool:
    """Whether a location is an address, and no folder."""
    return ADDRESS.match(str(location)) is not None
