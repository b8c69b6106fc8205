"""Sessions: all requests about one task carry the same `X-Session-ID`.

A kept posterior lies in one replica of the service. A load balancer that chooses the replica by this header
sends each request to the replica that has the task's posterior.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from bmaml_client.answers import Posterior
from bmaml_client.inputs import ImageFiles

HEADER = "x-session-id"
DIGEST_BYTES = 16
MAX_SESSIONS = 100_000
"""Posteriors whose session a client remembers by their ids; the least recently used are forgotten first."""


def session_of(model: str, support: Mapping[str, Any]) -> str:
    """The session of a task: a digest of the model's name and of the rows or episodes that begin the task."""
    digest = hashlib.blake2b(model.encode(), digest_size=DIGEST_BYTES)
    _add(digest, support)
    return digest.hexdigest()


class Sessions:
    """The sessions of posteriors, which several threads may use."""

    def __init__(self, size: int = MAX_SESSIONS) -> None:
        self._size = size
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, posterior: Posterior | str) -> str | None:
        """The session of a posterior, by its handle or id; None for an id that this client did not get."""
        if isinstance(posterior, Posterior) and posterior.session is not None:
            return posterior.session
        key = posterior.id if isinstance(posterior, Posterior) else posterior
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def remember(self, posterior_id: str, session: str | None) -> None:
        """Remember the session in which a posterior was kept."""
        if session is None:
            return
        with self._lock:
            self._known[posterior_id] = session
            self._known.move_to_end(posterior_id)
            if len(self._known) > self._size:
                self._known.popitem(last=False)


def _add(digest: hashlib.blake2b, node: Any) -> None:
    """Add a value to the digest, each part after its type and length."""
    if isinstance(node, Mapping):
        digest.update(f"{{{len(node)}".encode())
        for key in sorted(node):
            digest.update(f"{key}:".encode())
            _add(digest, node[key])
    elif isinstance(node, np.ndarray):
        digest.update(f"{node.dtype.str}{node.shape}".encode())
        digest.update(np.ascontiguousarray(node).tobytes())
    elif isinstance(node, ImageFiles):
        _add(digest, list(node.contents))
    elif isinstance(node, list | tuple):
        digest.update(f"[{len(node)}".encode())
        for each in node:
            _add(digest, each)
    elif isinstance(node, bytes):
        digest.update(f"b{len(node)}:".encode() + node)
    else:
        digest.update(f"{type(node).__name__}{node!r};".encode())
