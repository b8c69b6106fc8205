"""Two replicas behind HAProxy: a task stays with one of them, and its end loses no answer."""

import signal
import threading
from collections.abc import Callable

import httpx
import numpy as np

from bmaml_client import Client, PosteriorGone
from tests.service.conftest import PAUSE_S

TASKS, ASKS = 20, 3
QUERY = [[0.0], [1.0]]


class Forgetful(httpx.HTTPTransport):
    """A transport that leaves the session out, as a client that knows nothing of it."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        del request.headers["x-session-id"]
        return super().handle_request(request)


def tasks(number, seed):
    draws = np.random.default_rng(seed)
    return [(draws.uniform(-3, 3, (3, 1)), draws.normal(10, 2, 3)) for _ in range(number)]


def kept_in(replica) -> int:
    """Posteriors that a replica holds."""
    text = httpx.get(f"{replica.url}/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("bmaml_posterior_count ")]
    return int(float(line.split()[1]))


def answered(client, posteriors) -> int:
    """Asks of each posterior that found it kept."""
    hits = 0
    for _ in range(ASKS):
        for each in posteriors:
            try:
                answer = client.adapt_predict("tiny", query=QUERY, posterior=each)
                hits += answer.posterior.cache == "hit"
            except PosteriorGone:
                pass
    return hits


def test_every_ask_by_id_finds_its_posterior_on_one_of_two_replicas(balanced):
    with Client(balanced.url) as client:
        kept = [client.keep("tiny", *each) for each in tasks(TASKS, 0)]
        assert answered(client, [each.id for each in kept]) == TASKS * ASKS
    held = [kept_in(each) for each in balanced.replicas]
    assert sum(held) == TASKS
    assert min(held) > 0


def test_without_sessions_asks_miss_and_handles_send_their_rows_again(balanced):
    with Client(balanced.url, transport=Forgetful()) as client:
        kept = [client.keep("tiny", *each) for each in tasks(TASKS, 1)]
        hits = answered(client, [each.id for each in kept])
        print(f"{hits} of {TASKS * ASKS} asks by id are answered without sessions")
        assert hits < TASKS * ASKS
        for each, (x, y) in zip(kept, tasks(TASKS, 1), strict=True):
            answer = client.adapt_predict("tiny", query=QUERY, posterior=each)
            assert answer.posterior.id == each.id  # the replicas agree, by their secret
            np.testing.assert_allclose(answer.mean, client.adapt_predict("tiny", x, y, QUERY).mean, rtol=1e-4)


class Asking(threading.Thread):
    """A caller with a task of its own, that asks until told to stop."""

    def __init__(self, url: str, x, y, going: Callable[[], bool]) -> None:
        super().__init__()
        self.url, self.x, self.y, self.going = url, x, y, going
        self.answers = 0
        self.failures: list[Exception] = []

    def run(self) -> None:
        with Client(self.url) as client:
            kept = client.keep("tiny", self.x, self.y)
            while self.going():
                try:
                    client.adapt_predict("tiny", query=QUERY, posterior=kept)
                    client.adapt_predict("tiny", self.x, self.y, QUERY)
                    self.answers += 2
                except Exception as error:
                    self.failures.append(error)


def test_the_end_of_a_replica_under_load_loses_no_answer(balanced):
    """The last test of the file: one replica is left. A caller's retries are its normal behaviour."""
    stop = threading.Event()
    callers = [Asking(balanced.url, *each, lambda: not stop.is_set()) for each in tasks(8, 2)]
    for each in callers:
        each.start()

    def all_answered(more: int) -> None:
        wanted = [each.answers + more for each in callers]
        while any(
            each.is_alive() and each.answers < goal for each, goal in zip(callers, wanted, strict=True)
        ):
            callers[0].join(PAUSE_S)

    try:
        all_answered(4)
        assert balanced.replicas[0].end(signal.SIGTERM) == 0
        all_answered(4)
    finally:
        stop.set()
        for each in callers:
            each.join()
    assert [each.failures for each in callers] == [[]] * len(callers)
    assert len(balanced.replicas[0].accepted()) > 0
