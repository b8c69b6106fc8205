"""The one owner of the device: a bounded queue, ragged batches, deadlines, one thread.

Whatever waits when the device is free goes next: of the model that has been served least, the oldest
work and others of its group and about its shape, up to a budget of padded work. Nobody waits for
company. What has been adapted to before is not adapted to again, and of several that come together with
the same rows one is (single flight).
"""

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from service.fusion import answer_together
from service.metrics import Metrics
from service.posteriors import Posteriors
from service.problems import RequestError
from service.work import Answer, Work

log = logging.getLogger("service.engine")

Outcome = Answer | BaseException

MAX_WASTE = 0.3
"""Share of a batch's rows that may be padding."""
LOOKED_AT = 256
"""How many of a group are considered for a batch, the oldest first."""
PARALLEL_WORK = 1_000_000
"""Work of a batch, in particles × rows × (steps + 1), from which several threads pay."""


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


@dataclass
class _Lane:
    """The work that waits for one model.

    Attributes:
        served: work done for it so far, on the scale of all lanes; the least served goes next.
    """

    waiting: deque[_Waiting] = field(default_factory=deque)
    served: float = 0.0

    def leave(self, some: Sequence[_Waiting]) -> None:
        """Take these out of the line."""
        if some:
            gone = set(map(id, some))
            self.waiting = deque(each for each in self.waiting if id(each) not in gone)


class Engine:
    """Adapts and predicts in its own thread.

    Args:
        max_queue_work: work (see `Work.cost`) that may wait; more is refused.
        max_batch_work: padded work of one fused batch; a single larger task goes alone.
        posteriors: where posteriors are kept, and looked for before adapting.
        threads: of tensor work, at most.
    """

    def __init__(
        self,
        max_queue_work: int,
        max_batch_work: int,
        posteriors: Posteriors,
        metrics: Metrics,
        threads: int = 1,
    ) -> None:
        self._max_queue_work, self._max_batch_work = max_queue_work, max_batch_work
        self._posteriors, self._metrics, self._threads = posteriors, metrics, threads
        self._lanes: dict[str, _Lane] = {}
        self._reached = 0.0  # by the lane that was served last, when it was its turn
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
            if self._queued_work and self._queued_work + work.cost > self._max_queue_work:
                wait = max(1, round(self._queued_work / self._work_per_second))
                raise RequestError("queue-full", 429, "too much work is waiting", retry_after_s=wait)
            lane = self._lanes.setdefault(work.model.sha256, _Lane())
            if not lane.waiting:  # who had nothing to do saves up no claim
                lane.served = max(lane.served, self._reached)
            lane.waiting.append(waiting)
            self._queued_work += work.cost
            self._changed.notify()
        return await waiting.future

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not batch:
                continue
            started = time.monotonic()
            works = [waiting.work for waiting in batch]
            outcomes: Sequence[Outcome]
            try:
                outcomes = self._outcomes(works)
            except Exception as error:  # nobody may be left waiting
                log.exception("a batch of %d failed", len(works))
                outcomes = [error] * len(works)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Answer):
                    outcome = replace(outcome, queue_s=started - waiting.since)
                waiting.settle(outcome)
            elapsed = max(time.monotonic() - started, 1e-6)
            self._work_per_second += 0.1 * (
                sum(work.cost for work in works) / elapsed - self._work_per_second
            )
            self._account(batch, outcomes, started, elapsed)

    def _next_batch(self) -> list[_Waiting] | None:
        """The next work and what goes with it; None when all is done and stop was asked."""
        with self._changed:
            while not self._queued_work and not self._stopping:
                self._changed.wait()
            if not self._queued_work:
                return None
            self._drop_what_nobody_waits_for()
            busy = [lane for lane in self._lanes.values() if lane.waiting]
            if not busy:
                return []
            lane = min(busy, key=lambda lane: (lane.served, lane.waiting[0].since))
            batch = fitting(lane.waiting, self._max_batch_work)
            lane.leave(batch)
            cost = sum(waiting.work.cost for waiting in batch)
            self._reached = lane.served
            lane.served += cost
            # A lane that is empty and behind would start from here again: it need not be remembered.
            self._lanes = {
                model: each
                for model, each in self._lanes.items()
                if each.waiting or each.served > self._reached
            }
            self._queued_work -= cost
            self._metrics.queue_tasks.set(sum(len(each.waiting) for each in busy))
            self._metrics.queue_work.set(self._queued_work)
            return batch

    def _drop_what_nobody_waits_for(self) -> None:
        now = time.monotonic()
        for lane in self._lanes.values():
            unwanted = [each for each in lane.waiting if each.work.deadline < now or each.future.cancelled()]
            for waiting in unwanted:
                if not waiting.future.cancelled():
                    late = "the deadline passed while the request waited"
                    waiting.settle(RequestError("expired", 504, late))
                self._queued_work -= waiting.work.cost
            lane.leave(unwanted)

    def _outcomes(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """One outcome per work; what is known, or becomes so in this batch, is not adapted to again."""
        first = {work.key: place for place, work in reversed(list(enumerate(works))) if work.key is not None}
        outcomes: list[Outcome | None] = [None] * len(works)
        now: list[int] = []
        for place, work in enumerate(works):
            if (
                work.key is None
                or work.known is not None
                or (first[work.key] == place and self._posteriors.get(work.key) is None)
            ):
                now.append(place)
        for places in ([p for p in now if works[p].known is None], [p for p in now if works[p].known]):
            answers = self._answers([works[place] for place in places])
            for place, outcome in zip(places, answers, strict=True):
                outcomes[place] = outcome
                self._keep(works[place], outcome)
        later = [place for place in range(len(works)) if outcomes[place] is None]
        if later:
            recalled = [
                self._recalled(works[place], outcomes[first[str(works[place].key)]]) for place in later
            ]
            for place, outcome in zip(later, self._outcomes(recalled), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _keep(self, work: Work, outcome: Outcome) -> None:
        if work.key is None or not isinstance(outcome, Answer) or outcome.kept is None:
            return
        self._metrics.posteriors.labels("miss" if work.known is None else "hit").inc()
        if work.known is None:
            self._posteriors.put(work.key, work, outcome.kept, work.ttl_s)
        else:
            self._posteriors.prolong(work.key, work.ttl_s)

    def _recalled(self, work: Work, leader: Outcome | None) -> Work:
        """The same work with its posterior; without a key where there is none to be had."""
        if isinstance(leader, Answer) and leader.kept is not None:
            return replace(work, known=leader.kept)
        entry = None if work.key is None else self._posteriors.get(work.key)
        return replace(work, key=None) if entry is None else replace(work, known=entry.kept)

    def _answers(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """One outcome per work. When a batch fails as a whole, each is tried alone."""
        if not works:
            return []
        try:
            torch.set_num_threads(self._threads_for(works))
            return answer_together(works)
        except Exception as error:
            if len(works) > 1:
                log.warning("a batch of %d failed (%s); trying one by one", len(works), type(error).__name__)
                return [self._answers([work])[0] for work in works]
            if isinstance(error, Diverged | BmamlError):
                return [error]
            log.exception("a task failed")
            return [error]

    def _threads_for(self, works: Sequence[Work]) -> int:
        """All for pictures and for much work; below that, waking the others takes longer than the work."""
        heavy = works[0].model.embedding is not None or sum(work.cost for work in works) > PARALLEL_WORK
        return self._threads if heavy else 1

    def _account(
        self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome], started: float, elapsed: float
    ) -> None:
        metrics, works = self._metrics, [waiting.work for waiting in batch]
        metrics.batch_seconds.observe(elapsed)
        metrics.batch_tasks.observe(len(works))
        real, padded = rows_of(works)
        metrics.rows.labels("real").inc(real)
        metrics.rows.labels("padding").inc(padded - real)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            metrics.queue_seconds.observe(started - waiting.since)
            if isinstance(outcome, BaseException):
                reason = "diverged" if isinstance(outcome, Diverged) else "error"
                metrics.failed.labels(reason).inc()


def fitting(waiting: Sequence[_Waiting], most_work: int) -> list[_Waiting]:
    """The first that waits, and of its group those most like it in shape, while little is padding.

    Together their padded work stays within `most_work`; a single larger task goes alone.
    """
    first = waiting[0]
    rows = 1 + sum(first.work.shape)

    def unlike(each: _Waiting) -> float:
        own = 1 + sum(each.work.shape)
        return own / rows if own > rows else rows / own

    company = itertools.islice(
        (each for each in waiting if each.work.group == first.work.group), 1, LOOKED_AT
    )
    alike = sorted(company, key=unlike)  # stable: the oldest first among equals
    batch, (support, query), real = [first], first.work.shape, sum(first.work.shape)
    for each in alike:
        own_support, own_query = each.work.shape
        longest = max(support, own_support), max(query, own_query)
        padded = (len(batch) + 1) * sum(longest)
        total = real + own_support + own_query
        if padded * first.work.per_row > most_work:
            break
        if padded - total > MAX_WASTE * padded:
            continue
        batch.append(each)
        (support, query), real = longest, total
    return batch


def rows_of(works: Sequence[Work]) -> tuple[int, int]:
    """Real rows of a batch, and rows with padding."""
    support, query = (max(sizes) for sizes in zip(*(work.shape for work in works), strict=True))
    return sum(sum(work.shape) for work in works), len(works) * (support + query)


def device_for(choice: str) -> torch.device:
    """The device of a setting: `auto` takes the GPU where there is one.

    Raises:
        DeviceFailed: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise DeviceFailed("BMAML_DEVICE is cuda and no GPU is visible; use auto or cpu")
    return torch.device("cuda" if choice != "cpu" and available else "cpu")
