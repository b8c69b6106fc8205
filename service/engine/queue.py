"""The queue of jobs: bounded in work and in time, fair between models, emptied in batches of like shapes.

A job is admitted if it can probably start before its deadline, judged by the pace of recent batches. A job
whose deadline passes, or whose caller leaves, is dropped before it starts.
"""

import asyncio
import itertools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from service.engine.cost_model import CostModel
from service.errors import RequestError
from service.job import Answer, Job, Stratum

Outcome = Answer | BaseException
"""The result of a job: an answer, or the error that it failed with."""

MAX_PADDING_SHARE = 0.3
"""Share of a batch's rows that may be padding."""
MAX_CANDIDATES = 256
"""Jobs of a group that are considered for a batch, the oldest first.

At most half of a longer queue is considered, so that few newer jobs overtake a job of unusual size.
"""
MIN_CANDIDATES = 64
"""Jobs of a group that are considered however few wait."""
AGE_SCALE = 0.5
"""Share of its time limit after which a job ranks before a new one of e times less distance in size."""
MAX_WAIT_SHARE = 0.35
"""Share of a job's time limit that its expected wait may take.

The rest is for errors of the estimate and for answering.
"""


@dataclass(eq=False)
class QueuedJob:
    """A job in the queue, and the future on which its caller waits.

    Attributes:
        queued_at: seconds on the monotonic clock.
        loop: the caller's event loop.
        started: whether the job has been taken into a batch.
    """

    job: Job
    queued_at: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Answer]"
    started: bool = False

    def expire(self) -> None:
        """Give the caller a 504, unless the job has started. To be called on the event loop."""
        if not self.started:
            self.settle_here(_expired())

    def settle_here(self, outcome: Outcome) -> None:
        """Give the caller the outcome, on the event loop; nothing happens if the caller has left."""
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


def settle(jobs: Sequence[QueuedJob], outcomes: Sequence[Outcome]) -> None:
    """Give callers their outcomes, from any thread; nothing happens for those who have left.

    An event loop is woken once for all its jobs.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[QueuedJob, Outcome]]] = {}
    for queued, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(queued.loop, []).append((queued, outcome))
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the event loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle_each, settled)


def _settle_each(settled: Sequence[tuple[QueuedJob, Outcome]]) -> None:
    for queued, outcome in settled:
        queued.settle_here(outcome)


@dataclass
class _Lane:
    """The queued jobs of one model: one flow of the fair queue.

    Attributes:
        waiting: jobs, the oldest first.
        served_s: virtual time of fair queueing, in device seconds charged to the model. The lane with the
            smallest is served next.
        queued_work: work of the waiting jobs, by stratum.
        charged_s: the part of `served_s` that is the estimate for the running batch.
    """

    waiting: deque[QueuedJob] = field(default_factory=deque)
    served_s: float = 0.0
    queued_work: Counter[Stratum] = field(default_factory=Counter)
    charged_s: float = 0.0

    def remove(self, jobs: Sequence[QueuedJob]) -> None:
        """Take these jobs out of the lane."""
        if jobs:
            removed = set(jobs)
            self.waiting = deque(each for each in self.waiting if each not in removed)
            self.queued_work -= work_by_stratum([each.job for each in jobs])


class Queue:
    """The queue between the event loop, which adds jobs, and the engine's thread, which takes batches.

    Models share the device's time by fair queueing: each has a lane of its own.

    Args:
        max_work: work (see `Job.cost`) that may wait; a job beyond it is refused.
        max_batch_work: padded work of one batch, for each process; a larger task has a batch for itself.
        processes: processes that share a batch.
    """

    def __init__(self, max_work: int, max_batch_work: int, processes: int = 1) -> None:
        self._max_work, self._max_batch_work, self._processes = max_work, max_batch_work, processes
        self._lanes: dict[str, _Lane] = {}
        self._virtual_time_s = 0.0  # `served_s` of the lane that was served last, when its turn came
        self._cost_model = CostModel()
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._running: tuple[float, float] | None = None  # start and expected end of the running batch

    @property
    def open(self) -> bool:
        """Whether jobs are accepted."""
        return self._closed is None

    @property
    def tasks(self) -> int:
        """Number of waiting jobs."""
        return sum(len(lane.waiting) for lane in list(self._lanes.values()))

    @property
    def work(self) -> int:
        """Work of all waiting jobs."""
        return sum(lane.queued_work.total() for lane in list(self._lanes.values()))

    @property
    def drain_s(self) -> float:
        """Expected device seconds for all waiting jobs."""
        lanes = list(self._lanes.items())
        return sum(self._cost_model.seconds(model, lane.queued_work) for model, lane in lanes)

    def _wait_for_turn_s(self, model: str) -> float:
        """Expected seconds until this model's lane is served: the running batch, then the owed lanes.

        A batch that runs longer than expected is believed to take twice as long as it has. Lanes that have
        been served less than this one are owed the difference.
        """
        started, expected_end = self._running or (math.inf, -math.inf)
        now = time.monotonic()
        lanes = list(self._lanes.items())
        own = next((lane.served_s for name, lane in lanes if name == model), -math.inf)
        owed = sum(max(0.0, own - lane.served_s) for name, lane in lanes if name != model and lane.waiting)
        return max(expected_end - now if now < expected_end else now - started, 0.0) + owed

    def _wait_in_lane_s(self, model: str) -> float:
        """Expected seconds for the model's own waiting jobs, while other models have their share.

        It is the longer of two estimates. The first counts the jobs that wait now, and gives other lanes
        no more than a fair share. The second expects other models to go on as they did recently.
        """
        lanes = list(self._lanes.items())
        own = sum(self._cost_model.seconds(name, lane.queued_work) for name, lane in lanes if name == model)
        fair_share = 1 / (1 + sum(bool(lane.waiting) for name, lane in lanes if name != model))
        return max(
            min(self.drain_s, own / fair_share), own / max(fair_share, self._cost_model.share_left_to(model))
        )

    def close(self, reason: str) -> None:
        """Refuse new jobs from now on; waiting jobs may still be taken."""
        with self._changed:
            self._closed = reason
            self._changed.notify_all()

    def check_admission(self, model: str, within_s: float, work: int = 1, waited_s: float = 0.0) -> None:
        """Check that a new job of this model would probably be answered within this time.

        Args:
            waited_s: seconds that its request has waited before, of a time limit of both together.

        Raises:
            RequestError: 429 where it would not, or where the queue has no room for its work.
        """
        queued_work, turn_s = self.work, self._wait_for_turn_s(model)
        if queued_work:
            wait_s = turn_s + self._wait_in_lane_s(model)
            late = waited_s + wait_s > MAX_WAIT_SHARE * (waited_s + within_s)
            refused = late or queued_work + work > self._max_work
        else:  # a deadline that has passed already is a 504
            refused = turn_s > within_s > 0
        if refused:
            # Half of the queue: should all refused callers return at once, the device still has work.
            retry_after_s = max(1, math.ceil(turn_s + self.drain_s / 2))
            raise RequestError("queue-full", "too much work is waiting", retry_after_s=retry_after_s)

    def add(self, job: Job, waited_s: float = 0.0) -> QueuedJob:
        """Append a job. To be called on the event loop that waits for the answer.

        Args:
            waited_s: seconds that its request has waited before.

        Raises:
            RequestError: 429 where it could not start in time, 503 while the queue is closed.
        """
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed is not None:
                raise RequestError("not-ready", self._closed, retry_after_s=1)
            model, now = job.model.sha256, time.monotonic()
            self.check_admission(model, job.deadline - now, job.cost, waited_s)
            lane = self._lanes.setdefault(model, _Lane())
            if not lane.waiting:  # an idle lane saves up no claim
                lane.served_s = max(lane.served_s, self._virtual_time_s)
            queued = QueuedJob(job, now, loop, loop.create_future())
            lane.waiting.append(queued)
            lane.queued_work[job.stratum] += job.cost
            self._changed.notify()
            return queued

    def next_batch(self) -> list[QueuedJob] | None:
        """The next batch: the oldest job of the least served model, and jobs of its group of like shape.

        Blocks until there is a job. None once the queue is closed and empty.
        """
        with self._changed:
            while True:
                self._drop_unwanted()
                busy = [lane for lane in self._lanes.values() if lane.waiting]
                if busy:
                    break
                if self._closed is not None:
                    return None
                self._changed.wait()
            lane = min(busy, key=lambda lane: (lane.served_s, lane.waiting[0].queued_at))
            batch = select_batch(lane.waiting, self._max_batch_work, self._processes)
            for queued in batch:
                queued.started = True
            lane.remove(batch)
            jobs = [queued.job for queued in batch]
            expected_s = self._cost_model.seconds(jobs[0].model.sha256, work_by_stratum(jobs), batches=1)
            started = time.monotonic()
            self._running = started, started + expected_s
            self._virtual_time_s = lane.served_s
            lane.served_s += expected_s
            lane.charged_s = expected_s
            # An empty lane that is behind the virtual time would start from there again.
            self._lanes = {
                model: each
                for model, each in self._lanes.items()
                if each.waiting or each.served_s > self._virtual_time_s
            }
            return batch

    def fail_all(self, error: BaseException) -> None:
        """Settle all waiting jobs with this error, and drop them."""
        with self._changed:
            for lane in self._lanes.values():
                settle(lane.waiting, [error] * len(lane.waiting))
            self._lanes.clear()

    def record_batch(self, jobs: Sequence[Job], seconds: float) -> None:
        """Learn the pace of a finished batch, and charge its time to its model."""
        model = jobs[0].model.sha256
        with self._changed:
            self._cost_model.learn(model, seconds, work_by_stratum(jobs))
            self._running = None
            lane = self._lanes.get(model)
            if lane is not None:
                lane.served_s = max(self._virtual_time_s, lane.served_s + seconds - lane.charged_s)
                lane.charged_s = 0.0

    def _drop_unwanted(self) -> None:
        """Drop jobs whose deadline has passed or whose caller has left."""
        now = time.monotonic()
        for lane in self._lanes.values():
            unwanted = [each for each in lane.waiting if each.future.done() or each.job.deadline <= now]
            settle(unwanted, [_expired() for _ in unwanted])
            lane.remove(unwanted)


def _expired() -> RequestError:
    return RequestError("expired", "the deadline passed while the request waited")


def select_batch(waiting: Sequence[QueuedJob], max_work: int, processes: int = 1) -> list[QueuedJob]:
    """The oldest job, and the jobs of its group closest to it in size, while little of the batch is padding.

    A job's age counts, too: the larger the share of its time limit that it has waited, the larger the
    difference in size that is overlooked (`AGE_SCALE`).

    Args:
        max_work: padded work of the batch for each process; a larger task has a process for itself.
    """
    first = waiting[0]
    rows, now = 1 + sum(first.job.shape), time.monotonic()

    def rank(each: QueuedJob) -> float:
        waited_share = (now - each.queued_at) / (each.job.deadline - each.queued_at)
        return abs(math.log((1 + sum(each.job.shape)) / rows)) - (waited_share / AGE_SCALE) ** 2

    count = min(max(MIN_CANDIDATES, len(waiting) // 2), MAX_CANDIDATES)
    candidates = itertools.islice((each for each in waiting if each.job.group == first.job.group), 1, count)
    batch, (support, query), real = [first], first.job.shape, sum(first.job.shape)
    for each in sorted(candidates, key=rank):  # stable: the oldest first among equals
        own_support, own_query = each.job.shape
        longest = max(support, own_support), max(query, own_query)
        padded = (len(batch) + 1) * sum(longest)
        total = real + own_support + own_query
        if padded - total > MAX_PADDING_SHARE * padded:
            continue
        if len(batch) >= processes and padded * first.job.work_per_row > max_work * processes:
            break
        batch.append(each)
        (support, query), real = longest, total
    return batch


def work_by_stratum(jobs: Sequence[Job]) -> Counter[Stratum]:
    """Work of the jobs, by stratum."""
    total: Counter[Stratum] = Counter()
    for job in jobs:
        total[job.stratum] += job.cost
    return total
