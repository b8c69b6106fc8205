"""The pool of worker processes, each on a core of its own, among which a batch is divided.

One engine sends the batches and receives the answers. Its promises (fairness, single flight, a task that
fails alone) therefore do not depend on the number of workers. Native functions hold no lock and have threads
of their own: what they answer is computed where the engine is.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from bmaml.learners import Diverged
from service.compute import native_path
from service.compute.batch import compute
from service.compute.device import DeviceFailed
from service.engine.worker import Worker
from service.job import Answer, Job, row_counts

MIN_TASKS_PER_SHARE = 4
"""Least number of tasks in a share: a process takes about as long for one task as for two."""
MIN_WORK_PER_SHARE = 1 << 15
"""Least work of a share with fewer than `MIN_TASKS_PER_SHARE` tasks, in particles × rows × (steps + 1)."""
BISECTION_STEPS = 8
"""Bisection steps of the search for the smallest possible length of the longest share: to a part in 256."""
STOP_TIMEOUT_S = 5.0
"""Seconds that the processes may take to end."""


class WorkerPool:
    """Worker processes that together answer a batch as one would.

    Args:
        workers: at least one.
        min_share_work: work that is worth a share of its own.
    """

    def __init__(self, workers: Sequence[Worker], min_share_work: int = MIN_WORK_PER_SHARE) -> None:
        self.workers, self._min_share_work = tuple(workers), min_share_work

    @classmethod
    def start(cls, count: int, method: str = "fork", min_share_work: int = MIN_WORK_PER_SHARE) -> Self:
        """Start `count` workers (see `Worker`).

        Raises:
            OSError: the system has no room for so many; the started ones have been ended again.
        """
        workers: list[Worker] = []
        try:
            for _ in range(count):
                workers.append(Worker(method, workers))
        except BaseException:
            cls(workers).stop(at_once=True)
            raise
        return cls(workers, min_share_work)

    def __len__(self) -> int:
        """Number of workers."""
        return len(self.workers)

    @property
    def failed(self) -> bool:
        """Whether a process has ended unasked."""
        return any(worker.failed for worker in self.workers)

    def answer(self, jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
        """Compute the batch here, where native functions answer it, else divided among the workers.

        Args:
            threads: for native functions, or for all workers together; each has at least one.

        Raises:
            DeviceFailed: a process has ended.
            Exception: any error of the computation.
        """
        if native_path.serves(jobs):
            return compute(jobs, threads)
        shares = split_into_shares(jobs, len(self.workers), self._min_share_work)
        job_shares = [[jobs[position] for position in share] for share in shares]
        results = self._answer_shares(job_shares, max(1, threads // len(shares)))
        answers: dict[int, Answer | Diverged] = {}
        for share, share_answers in zip(shares, results, strict=True):
            answers |= zip(share, share_answers, strict=True)
        return [answers[position] for position in range(len(jobs))]

    def warm_up(self, jobs: Sequence[Job], threads: int) -> None:
        """Compute the whole batch wherever one like it will be computed: here, or in every worker.

        Raises:
            As `answer`.
        """
        if native_path.serves(jobs):
            compute(jobs, threads)
            return
        self._answer_shares([jobs] * len(self.workers), max(1, threads // len(self.workers)))

    def check(self) -> None:
        """Check that every process computes.

        Raises:
            DeviceFailed: one does not, or its result is wrong.
        """
        for worker in self.workers:
            worker.check()

    def stop(self, at_once: bool = False) -> None:
        """End the processes.

        Args:
            at_once: kill them without waiting for their answers.
        """
        deadline = time.monotonic() + (0.0 if at_once else STOP_TIMEOUT_S)
        for worker in self.workers:
            worker.close(deadline)
        for worker in self.workers:
            worker.join(deadline)

    def _answer_shares(self, shares: Sequence[Sequence[Job]], threads: int) -> list[list[Answer | Diverged]]:
        """The answers to each share, from one worker each.

        After a failure the other workers are still waited for: each has to be free for the next batch.
        """
        answers: list[list[Answer | Diverged]] = []
        errors: list[BaseException] = []
        begun: list[tuple[Worker, Sequence[Job]]] = []
        for worker, share in zip(self.workers, shares, strict=False):
            with _collecting(errors):
                worker.begin(share, threads)
                begun.append((worker, share))
        for worker, share in begun:
            with _collecting(errors):
                answers.append(worker.finish(share))
        if errors:
            raise next((error for error in errors if isinstance(error, DeviceFailed)), errors[0])
        return answers


def split_into_shares(
    jobs: Sequence[Job], max_shares: int, min_share_work: int = MIN_WORK_PER_SHARE
) -> list[list[int]]:
    """Divide a batch into shares of like-sized tasks, so that the longest share is short.

    A share's length is its rows with padding.

    Args:
        max_shares: number of processes.
        min_share_work: work that is worth a share of its own, where there are few tasks.

    Returns:
        For each share the positions of its jobs.
    """
    order = sorted(range(len(jobs)), key=lambda position: (sum(jobs[position].shape), jobs[position].shape))
    total_work = sum(job.cost for job in jobs)
    worthwhile = max(len(jobs) // MIN_TASKS_PER_SHARE, total_work // min_share_work)
    count = max(1, min(max_shares, len(jobs), worthwhile))
    if count == len(jobs):
        return [[position] for position in order]
    shares, low, high = [order], 0.0, float(row_counts(jobs)[1])
    for _ in range(BISECTION_STEPS if count > 1 else 0):
        middle = (low + high) / 2
        candidate = _fill_shares(jobs, order, middle)
        if len(candidate) <= count:
            shares, high = candidate, middle
        else:
            low = middle
    return shares


def _fill_shares(jobs: Sequence[Job], order: Sequence[int], max_rows: float) -> list[list[int]]:
    """Fill shares in this order, each with at most `max_rows` padded rows, or with a single task."""
    shares: list[list[int]] = []
    support = query = 0
    for position in order:
        own_support, own_query = jobs[position].shape
        support, query = max(support, own_support), max(query, own_query)
        if shares and (len(shares[-1]) + 1) * (support + query) <= max_rows:
            shares[-1].append(position)
        else:
            shares.append([position])
            support, query = own_support, own_query
    return shares


@contextmanager
def _collecting(errors: list[BaseException]) -> Iterator[None]:
    """Appends an error of its block to the list instead of raising it."""
    try:
        yield
    except BaseException as error:
        errors.append(error)
