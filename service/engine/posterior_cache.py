"""The posterior cache: a task is adapted to once and asked often. Bounded in bytes and in time.

A posterior's id consists of two keyed hashes. The first is a digest of model, settings, rows and caller: the
same rows give the same id, and callers share none. The second signs it, which tells issued ids from made-up
ones. An id that was issued to this caller and is gone gives 410, any other unknown id 404. Replicas with the
same secret issue the same ids.
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

ID_PREFIX = "post_"
"""Beginning of every id."""
DIGEST_BYTES, SIGNATURE_BYTES = 20, 8
"""Bytes of the two hashes of an id; it has two hexadecimal digits for each."""
OVERHEAD_BYTES = 10 << 10
"""Bytes of the objects around a posterior's numbers, measured as the growth of the process."""


@dataclass(frozen=True)
class Entry:
    """A kept posterior and its id.

    Attributes:
        job: the job that was adapted to, without its query rows.
        size: bytes of tensors, rows and labels, and of the objects around them.
        deadline: expiry in seconds of the cache's clock.
        expires_at: the same as a date, in UTC.
    """

    id: str
    job: Job
    kept: KeptPosterior
    size: int
    deadline: float
    expires_at: datetime

    @property
    def rows(self) -> int:
        """Number of labelled rows."""
        return len(self.job.support_x)


class PosteriorCache:
    """The cache, which several threads may use. The least recently used posterior is evicted first.

    Args:
        max_bytes: bound of the entries' sizes together.
        secret: key of the ids' hashes.
        clock: seconds on a clock that never goes back.
    """

    def __init__(
        self, max_bytes: int, secret: bytes, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes, self._metrics, self._clock = max_bytes, metrics, clock
        self._secret = hashlib.blake2b(secret).digest()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def id_of(self, job: Job, caller: str) -> str:
        """The id of this job's posterior for this caller."""
        posted = job.posted
        identity = (
            job.model.sha256,
            job.steps,
            job.seed,
            posted.x.shape,
            str(posted.x.dtype),
            posted.labels,
            caller,
        )
        digest = hashlib.blake2b(repr(identity).encode(), key=self._secret, digest_size=DIGEST_BYTES)
        digest.update(posted.x.tobytes())
        return ID_PREFIX + digest.hexdigest() + self._signature(digest.hexdigest(), caller)

    def get(self, posterior_id: str) -> Entry | None:
        """The entry of this id, now the most recently used; None where there is none."""
        with self._lock:
            entry = self._entries.get(posterior_id)
            if entry is None:
                return None
            if entry.deadline <= self._clock():
                self._expire(posterior_id)
                return None
            self._entries.move_to_end(posterior_id)
            return entry

    def find(self, posterior_id: str, caller: str) -> Entry:
        """The entry of an id that a request names.

        Raises:
            RequestError: 410 where the id was issued to this caller and is gone, 404 for any other.
        """
        self._check_issued(posterior_id, caller)
        entry = self.get(posterior_id)
        if entry is None:
            self._metrics.posteriors.labels("gone").inc()
            raise RequestError(
                "posterior-gone",
                "no longer kept; the same rows will have the same id",
            )
        return entry

    def too_large(self, job: Job, kept: KeptPosterior | None) -> bool:
        """Whether the posterior exceeds the cache's bound alone."""
        return kept is not None and _size(job, kept) > self._max_bytes

    def put(self, posterior_id: str, job: Job, kept: KeptPosterior, ttl_s: float) -> None:
        """Keep a posterior for `ttl_s` seconds; one that is larger than the cache is not kept."""
        size = _size(job, kept)
        if size > self._max_bytes:  # room for it would cost all others
            self._metrics.posteriors.labels("evicted").inc()
            return
        entry = Entry(posterior_id, _without_query(job), kept, size, *self._expiry(ttl_s))
        with self._lock:
            self._remove(posterior_id)
            self._entries[posterior_id] = entry
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))
                self._metrics.posteriors.labels("evicted").inc()
            self._update_gauges()

    def extend(self, posterior_id: str, ttl_s: float) -> bool:
        """Keep the posterior for at least `ttl_s` seconds from now; False where it is gone."""
        deadline, expires_at = self._expiry(ttl_s)
        with self._lock:
            entry = self._entries.get(posterior_id)
            if entry is not None and entry.deadline < deadline:
                self._entries[posterior_id] = replace(entry, deadline=deadline, expires_at=expires_at)
            return entry is not None

    def drop(self, posterior_id: str, caller: str) -> None:
        """Drop a posterior, or do nothing where it is gone already.

        Raises:
            RequestError: 404 where the id was not issued to this caller.
        """
        self._check_issued(posterior_id, caller)
        with self._lock:
            self._remove(posterior_id)
            self._update_gauges()

    def drop_model(self, sha256: str) -> None:
        """Drop all posteriors of the version with this digest."""
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.job.model.sha256 == sha256:
                    self._remove(entry.id)
            self._update_gauges()

    def models(self) -> set[str]:
        """Digests of the versions that have a kept posterior."""
        with self._lock:
            return {entry.job.model.sha256 for entry in self._entries.values()}

    def drop_expired(self) -> None:
        """Drop the posteriors that have expired."""
        with self._lock:
            now = self._clock()
            for entry in list(self._entries.values()):
                if entry.deadline <= now:
                    self._expire(entry.id)

    def _check_issued(self, posterior_id: str, caller: str) -> None:
        """Raise a 404 unless the id was issued to this caller."""
        digest = posterior_id[len(ID_PREFIX) : -2 * SIGNATURE_BYTES]
        signature = posterior_id[-2 * SIGNATURE_BYTES :]
        signed = hmac.compare_digest(self._signature(digest, caller).encode(), signature.encode())
        if not posterior_id.startswith(ID_PREFIX) or not signed:
            raise RequestError("unknown-posterior", "no posterior of that id")

    def _signature(self, digest: str, caller: str) -> str:
        signed = f"{digest} {caller}".encode()
        return hashlib.blake2b(signed, key=self._secret, digest_size=SIGNATURE_BYTES).hexdigest()

    def _expiry(self, ttl_s: float) -> tuple[float, datetime]:
        """The time in `ttl_s` seconds: on the cache's clock, and as a date."""
        return self._clock() + ttl_s, datetime.now(UTC) + timedelta(seconds=ttl_s)

    def _expire(self, posterior_id: str) -> None:
        """Drop a posterior whose time is over."""
        self._remove(posterior_id)
        self._metrics.posteriors.labels("expired").inc()
        self._update_gauges()

    def _remove(self, posterior_id: str) -> None:
        entry = self._entries.pop(posterior_id, None)
        self._bytes -= 0 if entry is None else entry.size

    def _update_gauges(self) -> None:
        self._metrics.posterior_bytes.set(self._bytes)
        self._metrics.posterior_count.set(len(self._entries))


def _without_query(job: Job) -> Job:
    """The job of adapting alone: no query rows, no question about them."""
    no_rows = np.empty((0, job.query_x.shape[1]), job.query_x.dtype)
    return replace(
        job, query_x=no_rows, query_y=None, spec=None, kept=None, warnings=(), start=None, start_rows=0
    )


def _size(job: Job, kept: KeptPosterior) -> int:
    """Bytes of an entry, without the tensors that belong to the model."""
    model_tensors = {tensor.data_ptr() for tensor in job.model.learned.values()}
    tensors = [*kept.posterior.tensors().values()]
    if kept.support_features is not None:
        tensors.append(kept.support_features)
    own = sum(tensor.nbytes for tensor in tensors if tensor.data_ptr() not in model_tensors)
    labels = sum(map(sys.getsizeof, job.posted.labels))
    rows = {id(each): each.nbytes for each in (job.posted.x, job.support_x, job.support_y)}
    return OVERHEAD_BYTES + own + labels + sum(rows.values())
