"""The one owner of the device: a bounded queue, ragged batches, deadlines, one thread.

Whatever waits when the device is free goes next: the oldest work and all others of its group,
up to a budget of padded work. Nobody waits for company.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from service.fusion import answer_together
from service.problems import RequestError
from service.work import Answer, Work

log = logging.getLogger("service.engine")

Outcome = Answer | BaseException


class DeviceFailed(BmamlError):
    """The device did not answer."""


@dataclass(frozen=True)
class _Waiting:
    work: Work
    since: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Answer]"

    def settle(self, outcome: Outcome) -> None:
        """Hand the outcome to the event loop; a caller who left is not told."""
        self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Outcome) -> None:
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Engine:
    """Adapts and predicts in its own thread.

    Args:
        max_queue_work: work (see `Work.cost`) that may wait; more is refused.
        max_batch_work: padded work of one fused batch; a single larger task goes alone.
    """

    def __init__(self, max_queue_work: int, max_batch_work: int) -> None:
        self._max_queue_work, self._max_batch_work = max_queue_work, max_batch_work
        self._queue: deque[_Waiting] = deque()
        self._queued_work = 0
        self._work_per_second = 1e6
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to take work off the queue."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish what was accepted, then end the thread; new work is refused from now on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes work."""
        return self._thread.is_alive() and not self._stopping

    async def submit(self, work: Work) -> Answer:
        """The answer to `work`, once the device has got to it.

        Raises:
            RequestError: 429 when the queue is full, 503 while stopping, 504 when the deadline
                passed before the work was started.
            Diverged: adaptation left the finite numbers.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(work, time.monotonic(), loop, loop.create_future())
        with self._changed:
            if self._stopping:
                raise RequestError("stopping", 503, "the service is shutting down", retry_after_s=1)
            if self._queue and self._queued_work + work.cost > self._max_queue_work:
                wait = max(1, round(self._queued_work / self._work_per_second))
                raise RequestError("queue-full", 429, "too much work is waiting", retry_after_s=wait)
            self._queue.append(waiting)
            self._queued_work += work.cost
            self._changed.notify()
        return await waiting.future

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not batch:
                continue
            started = time.monotonic()
            outcomes = self._answers([waiting.work for waiting in batch])
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Answer):
                    outcome = replace(outcome, queue_s=started - waiting.since)
                waiting.settle(outcome)
            elapsed = max(time.monotonic() - started, 1e-6)
            rate = sum(waiting.work.cost for waiting in batch) / elapsed
            self._work_per_second += 0.1 * (rate - self._work_per_second)

    def _next_batch(self) -> list[_Waiting] | None:
        """The oldest work and its group, as much as fits; None when all is done and stop was asked."""
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait()
            if not self._queue:
                return None
            self._drop_what_nobody_waits_for()
            if not self._queue:
                return []
            batch = self._fitting(self._queue[0].work.group)
            taken = {id(waiting) for waiting in batch}
            self._queue = deque(waiting for waiting in self._queue if id(waiting) not in taken)
            self._queued_work -= sum(waiting.work.cost for waiting in batch)
            return batch

    def _drop_what_nobody_waits_for(self) -> None:
        now, kept = time.monotonic(), deque[_Waiting]()
        for waiting in self._queue:
            if waiting.work.deadline < now:
                waiting.settle(RequestError("expired", 504, "the deadline passed while the request waited"))
            elif not waiting.future.cancelled():
                kept.append(waiting)
        self._queue = kept
        self._queued_work = sum(waiting.work.cost for waiting in kept)

    def _fitting(self, group: tuple[str, int, int, int, bool]) -> list[_Waiting]:
        batch: list[_Waiting] = []
        support = query = 0
        for waiting in self._queue:
            work = waiting.work
            if work.group != group:
                continue
            support, query = max(support, len(work.support_x)), max(query, len(work.query_x))
            per_row = work.model.work_per_row(work.steps)
            if batch and (len(batch) + 1) * (support + query) * per_row > self._max_batch_work:
                break
            batch.append(waiting)
        return batch

    def _answers(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """One outcome per work. When a batch fails as a whole, each is tried alone."""
        try:
            return answer_together(works)
        except Exception as error:
            if len(works) > 1:
                log.warning("a batch of %d failed (%s); trying one by one", len(works), type(error).__name__)
                return [self._answers([work])[0] for work in works]
            if isinstance(error, Diverged | BmamlError):
                return [error]
            log.exception("a task failed")
            return [error]


def device_for(choice: str) -> torch.device:
    """The device of a setting: `auto` takes the GPU where there is one.

    Raises:
        DeviceFailed: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise DeviceFailed("BMAML_DEVICE is cuda and no GPU is visible; use auto or cpu")
    return torch.device("cuda" if choice != "cpu" and available else "cpu")
