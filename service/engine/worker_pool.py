"""The processes that compute, each on a core of its own: a batch is shared out among them.

One engine hands out the work and takes the answers, so that what it promises (fairness, single flight, a
task that fails alone) does not depend on how many there are.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from bmaml.learners import Diverged
from service.compute.device import DeviceFailed
from service.engine.worker import Worker
from service.job import Answer, Job

LEAST = 4
"""Tasks of a share, at least: a process takes about as long for one as for two."""
MUCH = 1 << 15
"""Or work of a share, in particles × rows × (steps + 1): what takes far longer than to hand it out."""
HALVINGS = 8
"""Of how long the longest share might be, to find out how short it can be: to a part in 256."""
STOP_S = 5.0
"""How long the processes may take to end once nothing is asked of them any more."""


class WorkerPool:
    """Workers that answer as one would.

    Args:
        workers: one at least.
        much: work that is worth a share of its own.
    """

    def __init__(self, workers: Sequence[Worker], much: int = MUCH) -> None:
        self.workers, self._much = tuple(workers), much

    @classmethod
    def of(cls, count: int, method: str = "fork", much: int = MUCH) -> Self:
        """So many workers, started as `Worker` says.

        Raises:
            OSError: the system has no room for so many; those that were started have ended again.
        """
        workers: list[Worker] = []
        try:
            for _ in range(count):
                workers.append(Worker(method, workers))
        except BaseException:
            cls(workers).stop(at_once=True)
            raise
        return cls(workers, much)

    def __len__(self) -> int:
        """How many they are."""
        return len(self.workers)

    @property
    def failed(self) -> bool:
        """Whether one has ended without being told to."""
        return any(worker.failed for worker in self.workers)

    def answer(self, jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
        """As `compute`, on so many threads altogether.

        Raises:
            DeviceFailed: a process has ended.
            Exception: whatever was raised in one.
        """
        shares = shared_out(jobs, len(self.workers), self._much)
        each = [[jobs[place] for place in share] for share in shares]
        answers: dict[int, Answer | Diverged] = {}
        for share, some in zip(shares, self._together(each, max(1, threads // len(shares))), strict=True):
            answers |= zip(share, some, strict=True)
        return [answers[place] for place in range(len(jobs))]

    def answer_each(self, jobs: Sequence[Job], threads: int) -> None:
        """Let every worker answer all of it, as when a model is warmed up.

        Raises:
            As `answer`.
        """
        self._together([jobs] * len(self.workers), max(1, threads // len(self.workers)))

    def check(self) -> None:
        """Let every process compute something.

        Raises:
            DeviceFailed: one does not, or computes nonsense.
        """
        for worker in self.workers:
            worker.check()

    def stop(self, at_once: bool = False) -> None:
        """End the processes, once they have answered, or at once."""
        until = time.monotonic() + (0.0 if at_once else STOP_S)
        for worker in self.workers:
            worker.dismiss(until)
        for worker in self.workers:
            worker.end(until)

    def _together(self, shares: Sequence[Sequence[Job]], threads: int) -> list[list[Answer | Diverged]]:
        """The answers to each share, of a worker each. What was begun is finished, whatever fails."""
        answers: list[list[Answer | Diverged]] = []
        errors: list[BaseException] = []
        begun: list[tuple[Worker, Sequence[Job]]] = []
        for worker, share in zip(self.workers, shares, strict=False):
            with _noting(errors):
                worker.begin(share, threads)
                begun.append((worker, share))
        for worker, share in begun:
            with _noting(errors):
                answers.append(worker.finish(share))
        if errors:
            raise next((error for error in errors if isinstance(error, DeviceFailed)), errors[0])
        return answers


def shared_out(jobs: Sequence[Job], most: int, much: int = MUCH) -> list[list[int]]:
    """Places of works that go to one process each, so that the longest share is short.

    Tasks of like size stay together, and what counts is their work with the padding that they need.

    Args:
        most: shares.
        much: work that is worth a share of its own, where there are few tasks.
    """
    order = sorted(range(len(jobs)), key=lambda place: (sum(jobs[place].shape), jobs[place].shape))
    total = sum(job.cost for job in jobs)
    count = max(1, min(most, len(jobs), max(len(jobs) // LEAST, total // much)))
    if count == len(jobs):
        return [[place] for place in order]
    shares, low, high = [order], 0.0, float(_padded(jobs[place].shape for place in order))
    for _ in range(HALVINGS if count > 1 else 0):
        middle = (low + high) / 2
        found = _filled(jobs, order, middle)
        if len(found) <= count:
            shares, high = found, middle
        else:
            low = middle
    return shares


def _filled(jobs: Sequence[Job], order: Sequence[int], most: float) -> list[list[int]]:
    """In order, each share as long as it holds no more rows than that, or one task."""
    shares: list[list[int]] = []
    support = query = 0
    for place in order:
        own_support, own_query = jobs[place].shape
        support, query = max(support, own_support), max(query, own_query)
        if shares and (len(shares[-1]) + 1) * (support + query) <= most:
            shares[-1].append(place)
        else:
            shares.append([place])
            support, query = own_support, own_query
    return shares


def _padded(shapes: Iterable[tuple[int, int]]) -> int:
    """Rows of tasks side by side."""
    every = list(shapes)
    return len(every) * (max(support for support, _ in every) + max(query for _, query in every))


@contextmanager
def _noting(errors: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        errors.append(error)
