"""Replicas behind a balancer: asks by id find their posterior, and the end of a replica loses no answer.

    python -m benchmarks.checks.replicas [--url http://127.0.0.1:8000] [--model sinusoid]
        [--stop "docker compose --profile replicas stop replica-1"]

Keeps a posterior for each of twenty tasks, and asks for each three times by its id alone. The command of
`--stop` ends a replica, under eight callers who ask before it, meanwhile and after it with the client's usual
retries. The exit status is 1 if an ask missed or an answer was lost.
"""

import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from benchmarks import command_line
from bmaml_client import Client, PosteriorGone

TASKS, ASKS, CALLERS = 20, 3, 8
MORE = 4
"""Answers of every caller before a replica ends, and after."""
PAUSE_S = 0.01
QUERY = [[0.0], [1.0]]

Rows = tuple[np.ndarray, np.ndarray]


def tasks(number: int, seed: int) -> list[Rows]:
    """Support sets of three rows, with one input."""
    draws = np.random.default_rng(seed)
    return [(draws.uniform(-3, 3, (3, 1)), draws.normal(10, 2, 3)) for _ in range(number)]


def answered(client: Client, model: str, ids: Sequence[str]) -> int:
    """Asks of each posterior by its id, `ASKS` times, that found it kept."""
    hits = 0
    for _ in range(ASKS):
        for each in ids:
            try:
                answer = client.adapt_predict(model, query=QUERY, posterior=each)
            except PosteriorGone:
                continue
            hits += answer.posterior is not None and answer.posterior.cache == "hit"
    return hits


class Asking(threading.Thread):
    """A caller with a task of its own, that asks until told to stop.

    Attributes:
        answers: how many came.
        failures: asks that failed in spite of the client's retries.
    """

    def __init__(self, url: str, model: str, rows: Rows, stop: threading.Event) -> None:
        super().__init__()
        self.answers = 0
        self.failures: list[Exception] = []
        self._url, self._model, self._rows, self._stop_asking = url, model, rows, stop

    def run(self) -> None:
        """Ask by the handle of a posterior, and with rows, in turn."""
        with Client(self._url) as client:
            kept = client.keep(self._model, *self._rows)
            while not self._stop_asking.is_set():
                try:
                    client.adapt_predict(self._model, query=QUERY, posterior=kept)
                    client.adapt_predict(self._model, *self._rows, QUERY)
                    self.answers += 2
                except Exception as error:
                    self.failures.append(error)


class Load:
    """Callers that ask at the same time."""

    def __init__(self, url: str, model: str) -> None:
        self._stop = threading.Event()
        self.callers = [Asking(url, model, each, self._stop) for each in tasks(CALLERS, 2)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask from here to the end of the block."""
        for each in self.callers:
            each.start()
        try:
            yield
        finally:
            self._stop.set()
            for each in self.callers:
                each.join()

    def wait(self) -> None:
        """Until every caller has `MORE` further answers, or has ended."""
        goals = [each.answers + MORE for each in self.callers]
        while any(
            each.is_alive() and each.answers < goal for each, goal in zip(self.callers, goals, strict=True)
        ):
            self.callers[0].join(PAUSE_S)

    @property
    def answers(self) -> int:
        """Answers of all callers."""
        return sum(each.answers for each in self.callers)

    @property
    def failures(self) -> list[Exception]:
        """Failures of all callers."""
        return [failure for each in self.callers for failure in each.failures]


def lost(url: str, model: str, end_a_replica: Callable[[], None]) -> tuple[int, list[Exception]]:
    """Answers and failures of callers under whom a replica ends."""
    load = Load(url, model)
    with load.running():
        load.wait()
        end_a_replica()
        load.wait()
    return load.answers, load.failures


def main() -> None:
    """Ask, and print what was answered."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--url", default="http://127.0.0.1:8000", help="of the balancer")
    arguments.add_argument("--model", default="sinusoid", help="of one input")
    arguments.add_argument("--stop", help="command that ends a replica")
    options = arguments.parse_args()
    with Client(options.url) as client:
        kept = [client.keep(options.model, *each) for each in tasks(TASKS, 0)]
        found = answered(client, options.model, [each.id for each in kept])
    print(f"{found} of {TASKS * ASKS} asks by id found their posterior")
    failures: list[Exception] = []
    if options.stop:
        command = shlex.split(options.stop)
        answers, failures = lost(options.url, options.model, lambda: _run(command))
        print(f"{answers} answers while a replica ended, {len(failures)} lost")
    for each in failures:
        print(f"lost: {each}")
    raise SystemExit(found < TASKS * ASKS or bool(failures))


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
