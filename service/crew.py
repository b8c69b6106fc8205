"""The processes that compute, each on a core of its own: a batch is shared out among them.

One engine hands out the work and takes the answers, so that what it promises (fairness, single flight, a
task that fails alone) does not depend on how many there are.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from bmaml.learners import Diverged
from service.device import DeviceFailed
from service.work import Answer, Work
from service.worker import Worker

LEAST = 4
"""Tasks of a share, at least: a process takes about as long for one as for two."""
MUCH = 1 << 15
"""Or work of a share, in particles × rows × (steps + 1): what takes far longer than to hand it out."""
STOP_S = 5.0
"""How long the processes may take to end once nothing is asked of them any more."""


class Crew:
    """Workers that answer as one would.

    Args:
        workers: one at least.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = tuple(workers)

    @classmethod
    def of(cls, count: int, method: str = "fork") -> Self:
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
        return cls(workers)

    def __len__(self) -> int:
        """How many they are."""
        return len(self.workers)

    @property
    def failed(self) -> bool:
        """Whether one has ended without being told to."""
        return any(worker.failed for worker in self.workers)

    def answer(self, works: Sequence[Work], threads: int) -> list[Answer | Diverged]:
        """As `compute`, on so many threads altogether.

        Raises:
            DeviceFailed: a process has ended.
            Exception: whatever was raised in one.
        """
        shares = shared_out(works, len(self.workers))
        each = [[works[place] for place in share] for share in shares]
        answers: dict[int, Answer | Diverged] = {}
        for share, some in zip(shares, self._together(each, max(1, threads // len(shares))), strict=True):
            answers |= zip(share, some, strict=True)
        return [answers[place] for place in range(len(works))]

    def answer_each(self, works: Sequence[Work], threads: int) -> None:
        """Let every worker answer all of it, as when a model is warmed up.

        Raises:
            As `answer`.
        """
        self._together([works] * len(self.workers), max(1, threads // len(self.workers)))

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

    def _together(self, shares: Sequence[Sequence[Work]], threads: int) -> list[list[Answer | Diverged]]:
        """The answers to each share, of a worker each. What was begun is finished, whatever fails."""
        answers: list[list[Answer | Diverged]] = []
        errors: list[BaseException] = []
        begun: list[tuple[Worker, Sequence[Work]]] = []
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


def shared_out(works: Sequence[Work], most: int) -> list[list[int]]:
    """Places of works that go to one process each, about as much work to each.

    Like sizes stay together: together they need little padding.
    """
    total, before = sum(work.cost for work in works), 0
    count = max(1, min(most, len(works), max(len(works) // LEAST, total // MUCH)))
    shares: list[list[int]] = [[] for _ in range(count)]
    for place in sorted(range(len(works)), key=lambda place: works[place].shape):
        cost = works[place].cost
        shares[int(count * (before + cost / 2) / total)].append(place)
        before += cost
    return [share for share in shares if share]


@contextmanager
def _noting(errors: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        errors.append(error)
