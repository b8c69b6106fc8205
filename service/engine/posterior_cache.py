"""Kept posteriors: adapted once, asked often. Bounded in bytes and time, and shared by nobody.

An id is a keyed hash of what was adapted to (model, settings, rows, caller), so the same rows give the
same id, and a second keyed hash that tells an id we have issued from one that was made up: what was
issued to this caller and is gone is 410, everything else is 404. Replicas with the same secret issue the
same ids.
"""

import hashlib
import hmac
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from service.errors import RequestError
from service.job import Job, KeptPosterior
from service.ops.metrics import Metrics

PREFIX = "post_"
DIGEST, SIGNATURE = 20, 8
"""Bytes of the two hashes."""
FIXED_BYTES = 10 << 10
"""Of the objects around a posterior's numbers: what the process grows by for each, less them."""


@dataclass(frozen=True)
class Entry:
    """A posterior under its id.

    Attributes:
        work: what was adapted to.
        size: bytes of tensors and rows.
        until: on the cache's clock.
        expires_at: the same on the wall.
    """

    id: str
    job: Job
    kept: KeptPosterior
    size: int
    until: float
    expires_at: datetime

    @property
    def rows(self) -> int:
        """How many labelled rows it has seen."""
        return len(self.job.support_x)


class PosteriorCache:
    """The cache, for the event loop and the engine's thread alike: least recently used goes first."""

    def __init__(
        self, max_bytes: int, secret: bytes, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes, self._metrics, self._clock = max_bytes, metrics, clock
        self._secret = hashlib.blake2b(secret).digest()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def id_of(self, job: Job, caller: str) -> str:
        """The id under which this work's posterior is kept for this caller."""
        posted = job.posted
        told = (
            job.model.sha256,
            job.steps,
            job.seed,
            posted.x.shape,
            str(posted.x.dtype),
            posted.labels,
            caller,
        )
        digest = hashlib.blake2b(repr(told).encode(), key=self._secret, digest_size=DIGEST)
        digest.update(posted.x.tobytes())
        return PREFIX + digest.hexdigest() + self._signature(digest.hexdigest(), caller)

    def get(self, name: str) -> Entry | None:
        """A kept posterior, now the most recently used."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            if entry.until <= self._clock():
                self._expire(name)
                return None
            self._entries.move_to_end(name)
            return entry

    def find(self, name: str, caller: str) -> Entry:
        """A posterior that the caller names.

        Raises:
            RequestError: 410 for one that was issued to this caller and is gone, 404 for any other.
        """
        self._checked(name, caller)
        entry = self.get(name)
        if entry is None:
            self._metrics.posteriors.labels("gone").inc()
            raise RequestError(
                "posterior-gone",
                "no longer kept; the same rows will have the same id",
            )
        return entry

    def too_large(self, job: Job, kept: KeptPosterior | None) -> bool:
        """Whether it does not fit even alone."""
        return kept is not None and _size(job, kept) > self._max_bytes

    def put(self, name: str, job: Job, kept: KeptPosterior, ttl_s: float) -> None:
        """Keep a posterior; what is larger than the cache is not kept."""
        size = _size(job, kept)
        entry = Entry(name, _remembered(job), kept, size, *self._ending(ttl_s))
        with self._lock:
            self._remove(name)
            self._entries[name] = entry
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))
                self._metrics.posteriors.labels("evicted").inc()
            self._tell()

    def prolong(self, name: str, ttl_s: float) -> None:
        """Keep it at least this much longer."""
        until, expires_at = self._ending(ttl_s)
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.until < until:
                self._entries[name] = replace(entry, until=until, expires_at=expires_at)

    def drop(self, name: str, caller: str) -> None:
        """Forget it; forgetting twice is no failure.

        Raises:
            RequestError: 404 for what was not issued to this caller.
        """
        self._checked(name, caller)
        with self._lock:
            self._remove(name)
            self._tell()

    def drop_model(self, sha256: str) -> None:
        """Forget all posteriors of a version that is no longer served."""
        with self._lock:
            for name in [name for name, each in self._entries.items() if each.job.model.sha256 == sha256]:
                self._remove(name)
            self._tell()

    def models(self) -> set[str]:
        """The digests of the models whose posteriors are kept."""
        with self._lock:
            return {entry.job.model.sha256 for entry in self._entries.values()}

    def sweep(self) -> None:
        """Forget what has expired and nobody asks for."""
        with self._lock:
            now = self._clock()
            for name in [name for name, entry in self._entries.items() if entry.until <= now]:
                self._expire(name)

    def _checked(self, name: str, caller: str) -> None:
        digest, signature = name[len(PREFIX) : -2 * SIGNATURE], name[-2 * SIGNATURE :]
        own = self._signature(digest, caller)
        if not name.startswith(PREFIX) or not hmac.compare_digest(own.encode(), signature.encode()):
            raise RequestError("unknown-posterior", "no posterior of that id")

    def _signature(self, digest: str, caller: str) -> str:
        told = f"{digest} {caller}".encode()
        return hashlib.blake2b(told, key=self._secret, digest_size=SIGNATURE).hexdigest()

    def _ending(self, ttl_s: float) -> tuple[float, datetime]:
        return self._clock() + ttl_s, datetime.now(UTC) + timedelta(seconds=ttl_s)

    def _expire(self, name: str) -> None:
        self._remove(name)
        self._metrics.posteriors.labels("expired").inc()
        self._tell()

    def _remove(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        self._bytes -= 0 if entry is None else entry.size

    def _tell(self) -> None:
        self._metrics.posterior_bytes.set(self._bytes)
        self._metrics.posterior_count.set(len(self._entries))


def _remembered(job: Job) -> Job:
    """What was adapted to, without what was asked of it."""
    nothing = np.empty((0, job.query_x.shape[1]), job.query_x.dtype)
    return replace(job, query_x=nothing, spec=None, known=None, warnings=())


def _size(job: Job, kept: KeptPosterior) -> int:
    """Bytes of what is kept, less the tensors that belong to the model."""
    models = {tensor.data_ptr() for tensor in job.model.learned.values()}
    tensors = [*kept.posterior.tensors().values(), *([] if kept.labelled is None else [kept.labelled])]
    own = sum(tensor.nbytes for tensor in tensors if tensor.data_ptr() not in models)
    labels = sum(map(sys.getsizeof, job.posted.labels))
    rows = {id(each): each.nbytes for each in (job.posted.x, job.support_x, job.support_y)}
    return FIXED_BYTES + own + labels + sum(rows.values())
