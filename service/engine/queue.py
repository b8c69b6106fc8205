"""What waits for the device: bounded in work and in time, fair between models, taken in ragged batches.

Nothing is accepted that could not be started before its deadline, as far as can be told from how long
such work took lately. What expires, or whose caller leaves, is dropped before it starts.
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

MAX_WASTE = 0.3
"""Share of a batch's rows that may be padding."""
LOOKED_AT = 256
"""How many of a group are considered for a batch, the oldest first, at most; and half of them at most, so
that a task unlike the others does not wait for much more than what came before it."""
FEW = 64
"""So many are considered in any case."""
PATIENCE = 0.5
"""Share of its time after which a task goes into a batch before one that is new and e times less unlike."""
PRUDENCE = 0.35
"""Share of a deadline that the wait may be believed to take: the belief may be wrong, and answering takes
time, too."""


@dataclass(eq=False)
class QueuedJob:
    """Work that waits, and who waits for it."""

    job: Job
    since: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Answer]"
    started: bool = False

    def settle(self, outcome: Outcome) -> None:
        """Hand the outcome to the event loop, from any thread; a caller who left is not told."""
        with suppress(RuntimeError):  # the loop has been closed: nobody waits
            self.loop.call_soon_threadsafe(self._settle, outcome)

    def expire(self) -> None:
        """Tell the caller that it is too late, unless the work has been started. On the event loop."""
        if not self.started:
            self._settle(_too_late())

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
        served: the device's seconds it has had so far, on the scale of all lanes; the least served goes
            next.
        queued: work that waits, of each stratum.
        charged: of `served`, what the batch under way was believed to take.
    """

    waiting: deque[QueuedJob] = field(default_factory=deque)
    served: float = 0.0
    queued: Counter[Stratum] = field(default_factory=Counter)
    charged: float = 0.0

    def leave(self, some: Sequence[QueuedJob]) -> None:
        """Take these out of the line."""
        if some:
            gone = set(some)
            self.waiting = deque(each for each in self.waiting if each not in gone)
            self.queued -= work_by_stratum([each.job for each in some])


class Queue:
    """Between the event loop, which adds, and the engine's thread, which takes.

    Args:
        max_work: work (see `Job.cost`) that may wait; more is refused.
        max_batch_work: padded work of one batch, for each process; a larger task has one for itself.
        processes: that share a batch out.
    """

    def __init__(self, max_work: int, max_batch_work: int, processes: int = 1) -> None:
        self._max_work, self._max_batch_work, self._processes = max_work, max_batch_work, processes
        self._lanes: dict[str, _Lane] = {}
        self._reached = 0.0  # by the lane that was served last, when it was its turn
        self._cost_model = CostModel()
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._under_way: tuple[float, float] | None = None  # since when, and until when, as is believed

    @property
    def open(self) -> bool:
        """Whether work is accepted."""
        return self._closed is None

    @property
    def tasks(self) -> int:
        """How many wait."""
        return sum(len(lane.waiting) for lane in list(self._lanes.values()))

    @property
    def work(self) -> int:
        """How much work waits."""
        return sum(lane.queued.total() for lane in list(self._lanes.values()))

    @property
    def seconds(self) -> float:
        """How long the device needs for what waits, at its pace of late."""
        return sum(self._cost_model.seconds(model, lane.queued) for model, lane in list(self._lanes.items()))

    def seconds_before(self, model: str) -> float:
        """How long work of this model that came now would wait, at the pace of late and its fair share.

        Of what others have waiting no more is done before it than of its own; and they will bring more,
        as they did lately.
        """
        return self._held_up(model) + self._in_line(model)

    def _held_up(self, model: str) -> float:
        """By the batch under way, and by what other models have been kept waiting for this one's work.

        A batch that takes longer than was believed may well take twice as long as it has.
        """
        begun, done = self._under_way or (math.inf, -math.inf)
        now = time.monotonic()
        lanes = list(self._lanes.items())
        own = next((lane.served for name, lane in lanes if name == model), -math.inf)
        debt = sum(max(0.0, own - lane.served) for name, lane in lanes if name != model and lane.waiting)
        return max(done - now if now < done else now - begun, 0.0) + debt

    def _in_line(self, model: str) -> float:
        lanes = list(self._lanes.items())
        own = sum(self._cost_model.seconds(name, lane.queued) for name, lane in lanes if name == model)
        fair = 1 / (1 + sum(bool(lane.waiting) for name, lane in lanes if name != model))
        return max(min(self.seconds, own / fair), own / max(fair, self._cost_model.left_to(model)))

    def close(self, why: str) -> None:
        """Refuse new work from now on; what waits may still be taken."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()

    def check(self, model: str, within_s: float, cost: int = 1) -> None:
        """Whether work of this model that came now could be answered within this time, by and large.

        Raises:
            RequestError: 429 where it could not, or where there is no room for it.
        """
        queued, held_up = self.work, self._held_up(model)
        if queued:
            refused = queued + cost > self._max_work or held_up + self._in_line(model) > PRUDENCE * within_s
        else:  # what is too late anyway is told so
            refused = held_up > within_s > 0
        if refused:
            # Half of what waits: when all come back, there is to be work left to do.
            wait = max(1, math.ceil(held_up + self.seconds / 2))
            raise RequestError("queue-full", "too much work is waiting", retry_after_s=wait)

    def add(self, job: Job) -> QueuedJob:
        """Let it wait. To be called on the event loop that waits for the answer.

        Raises:
            RequestError: 429 where it could not be started in time, 503 while closed.
        """
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed is not None:
                raise RequestError("not-ready", self._closed, retry_after_s=1)
            model, now = job.model.sha256, time.monotonic()
            self.check(model, job.deadline - now, job.cost)
            lane = self._lanes.setdefault(model, _Lane())
            if not lane.waiting:  # who had nothing to do saves up no claim
                lane.served = max(lane.served, self._reached)
            waiting = QueuedJob(job, now, loop, loop.create_future())
            lane.waiting.append(waiting)
            lane.queued[job.stratum] += job.cost
            self._changed.notify()
            return waiting

    def next_batch(self) -> list[QueuedJob] | None:
        """The next work and what goes with it, once there is any; None when closed and all is taken.

        Of the model that has been served least, the oldest, and others of its group and about its shape.
        """
        with self._changed:
            while True:
                self._drop_what_nobody_waits_for()
                busy = [lane for lane in self._lanes.values() if lane.waiting]
                if busy:
                    break
                if self._closed is not None:
                    return None
                self._changed.wait()
            lane = min(busy, key=lambda lane: (lane.served, lane.waiting[0].since))
            batch = fitting(lane.waiting, self._max_batch_work, self._processes)
            for waiting in batch:
                waiting.started = True
            lane.leave(batch)
            jobs = [waiting.job for waiting in batch]
            seconds = self._cost_model.seconds(jobs[0].model.sha256, work_by_stratum(jobs), batches=1)
            begun = time.monotonic()
            self._under_way = begun, begun + seconds
            self._reached = lane.served
            lane.served += seconds
            lane.charged = seconds
            # A lane that is empty and behind would start from here again: it need not be remembered.
            self._lanes = {
                model: each
                for model, each in self._lanes.items()
                if each.waiting or each.served > self._reached
            }
            return batch

    def abandon(self, error: BaseException) -> None:
        """Nobody will be served any more: tell all who wait."""
        with self._changed:
            for lane in self._lanes.values():
                for waiting in lane.waiting:
                    waiting.settle(error)
            self._lanes.clear()

    def took(self, jobs: Sequence[Job], seconds: float) -> None:
        """Learn from a batch how long such work takes."""
        model = jobs[0].model.sha256
        with self._changed:
            self._cost_model.learn(model, seconds, work_by_stratum(jobs))
            self._under_way = None
            lane = self._lanes.get(model)
            if lane is not None:
                lane.served = max(self._reached, lane.served + seconds - lane.charged)
                lane.charged = 0.0

    def _drop_what_nobody_waits_for(self) -> None:
        now = time.monotonic()
        for lane in self._lanes.values():
            unwanted = [each for each in lane.waiting if each.future.done() or each.job.deadline <= now]
            for waiting in unwanted:
                waiting.settle(_too_late())
            lane.leave(unwanted)


def _too_late() -> RequestError:
    return RequestError("expired", "the deadline passed while the request waited")


def fitting(waiting: Sequence[QueuedJob], most_work: int, processes: int = 1) -> list[QueuedJob]:
    """The first that waits, and of its group those most like it in shape, while little is padding.

    The longer one has waited, of the time that there is for it, the less its likeness counts. Together
    their padded work stays within `most_work` for each process; a larger task has a process for itself.
    """
    first = waiting[0]
    rows, now = 1 + sum(first.job.shape), time.monotonic()

    def rank(each: QueuedJob) -> float:
        waited = (now - each.since) / (each.job.deadline - each.since)
        return abs(math.log((1 + sum(each.job.shape)) / rows)) - (waited / PATIENCE) ** 2

    reach = min(max(FEW, len(waiting) // 2), LOOKED_AT)
    company = itertools.islice((each for each in waiting if each.job.group == first.job.group), 1, reach)
    alike = sorted(company, key=rank)  # stable: the oldest first among equals
    batch, (support, query), real = [first], first.job.shape, sum(first.job.shape)
    for each in alike:
        own_support, own_query = each.job.shape
        longest = max(support, own_support), max(query, own_query)
        padded = (len(batch) + 1) * sum(longest)
        total = real + own_support + own_query
        if padded - total > MAX_WASTE * padded:
            continue
        if len(batch) >= processes and padded * first.job.per_row > most_work * processes:
            break
        batch.append(each)
        (support, query), real = longest, total
    return batch


def work_by_stratum(jobs: Sequence[Job]) -> Counter[Stratum]:
    """How much there is of each stratum."""
    total: Counter[Stratum] = Counter()
    for job in jobs:
        total[job.stratum] += job.cost
    return total


def rows_of(jobs: Sequence[Job]) -> tuple[int, int]:
    """Real rows of a batch, and rows with padding."""
    support, query = (max(sizes) for sizes in zip(*(job.shape for job in jobs), strict=True))
    return sum(sum(job.shape) for job in jobs), len(jobs) * (support + query)
