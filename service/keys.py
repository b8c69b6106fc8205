"""Bearer keys, of which the service holds hashes, the rate limit of each caller, and `bmaml-key`."""

import argparse
import hashlib
import hmac
import logging
import math
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bmaml.errors import BmamlError
from service.errors import RequestError

log = logging.getLogger("service.keys")

OWNER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""The name of a key's owner."""
KEY_DIGEST = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 in hexadecimal."""
KEY_BYTES = 32
"""Bytes of a new key: too many to guess, so a fast hash protects it (a password would need a slow one)."""


class BadKeys(BmamlError):
    """The keys of the settings cannot be read."""


@dataclass(frozen=True)
class Keys:
    """The SHA-256 of every key, with its owner's name; an owner may have several keys.

    Attributes:
        owners: pairs of name and digest, one for each key; without any, everybody may ask.
    """

    owners: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def parsed(cls, text: str) -> "Keys":
        """Parse `NAME:SHA256` entries, separated by white space or commas; `#` begins a comment.

        Raises:
            BadKeys: an entry of another form; the message gives its position, not its content.
        """
        lines = (line.partition("#")[0] for line in text.splitlines())
        entries = [entry for line in lines for entry in re.split(r"[\s,]+", line) if entry]
        owners = []
        for position, entry in enumerate(entries, 1):
            name, _, digest = entry.partition(":")
            if not OWNER_NAME.fullmatch(name) or not KEY_DIGEST.fullmatch(digest):
                raise BadKeys(f"key {position} is not NAME:SHA256; `bmaml-key NAME` makes one")
            owners.append((name, bytes.fromhex(digest)))
        return cls(tuple(owners))

    def caller(self, authorization: str) -> str:
        """The name of the owner of the key in this Authorization header; empty where there are no keys.

        Every key is compared, in constant time, so that the duration reveals nothing about any of them.

        Raises:
            RequestError: 401 without a bearer key of this service.
        """
        if not self.owners:
            return ""
        scheme, _, key = authorization.partition(" ")
        digest, found = hashlib.sha256(key.strip().encode()).digest(), None
        for name, known in self.owners:
            if hmac.compare_digest(digest, known):
                found = name
        if found is None or scheme.lower() != "bearer":
            headers = {"WWW-Authenticate": "Bearer"}
            raise RequestError("unauthorized", "send Authorization: Bearer and a key", headers=headers)
        return found


def read_keys(listed: str, file: Path | None) -> Keys:
    """The keys of `BMAML_KEYS` (`listed`) and `BMAML_KEYS_FILE`.

    Raises:
        BadKeys: an entry of another form than `NAME:SHA256`, or a file that cannot be read or holds no key.
    """
    keys = Keys.parsed(listed)
    if file is None:
        return keys
    try:
        more = Keys.parsed(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeys(f"{file} cannot be read: {type(error).__name__}") from error
    if not more.owners:
        raise BadKeys(f"{file} holds no key: take it out of the settings to let everybody ask")
    return Keys(keys.owners + more.owners)


class KeyRing:
    """The keys of the settings, which are read anew while the service runs.

    Raises:
        BadKeys: as `read_keys`.
    """

    def __init__(self, listed: str, file: Path | None) -> None:
        self._listed, self._file = listed, file
        self._keys = read_keys(listed, file)
        self._fault: str | None = None  # of the last reading

    @property
    def configured(self) -> bool:
        """Whether the settings name any keys; a file without a key is refused, so this never changes."""
        return bool(self._keys.owners)

    def caller(self, authorization: str) -> str:
        """As `Keys.caller`, with the keys last read."""
        return self._keys.caller(authorization)

    def refresh(self) -> None:
        """Read the keys anew; where they cannot be read, keep the present ones."""
        try:
            keys = read_keys(self._listed, self._file)
        except BadKeys as error:
            if str(error) != self._fault:  # once, and not every round
                log.error("the keys stay as they were: %s", error)
            self._fault = str(error)
            return
        self._fault = None
        if keys != self._keys:
            self._keys = keys
            log.info("%d keys", len(keys.owners))


@dataclass
class RateLimit:
    """A token bucket for each caller: a request takes a token, and time puts tokens back.

    Attributes:
        per_s: tokens put back each second; 0: no limit.
        burst: tokens of a full bucket.
    """

    per_s: float
    burst: int
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, caller: str) -> None:
        """Take a token for one request of this caller.

        Raises:
            RequestError: 429 where the bucket is empty.
        """
        if not self.per_s:
            return
        now = self.clock()
        tokens, filled_at = self._buckets.get(caller, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - filled_at) * self.per_s)
        if tokens < 1:
            wait_s = max(1, math.ceil((1 - tokens) / self.per_s))
            raise RequestError("rate-limited", "this key asks too often", retry_after_s=wait_s)
        self._buckets[caller] = tokens - 1, now


def main(arguments: Sequence[str] | None = None) -> int:
    """`bmaml-key NAME`: make a key; the caller gets the key, the service its hash."""
    parser = argparse.ArgumentParser(prog="bmaml-key", description=main.__doc__)
    parser.add_argument("name", help="of the caller; letters, digits, dots, dashes")
    name = parser.parse_args(arguments).name
    if not OWNER_NAME.fullmatch(name):
        parser.error("a name is 1 to 64 letters, digits, dots, dashes or underscores")
    key = secrets.token_urlsafe(KEY_BYTES)
    print(f"for the caller:          {key}", file=sys.stderr)
    print("for BMAML_KEYS or a line of BMAML_KEYS_FILE:", file=sys.stderr)
    print(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
