"""Two replicas behind HAProxy: a task stays with one of them, and its end loses no answer."""

import signal

import httpx
import numpy as np

from benchmarks.checks.replicas import ASKS, CALLERS, MORE, QUERY, TASKS, answered, lost, tasks
from bmaml_client import Client


class Forgetful(httpx.HTTPTransport):
    """A transport that leaves the session out, as a client that knows nothing of it."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        del request.headers["x-session-id"]
        return super().handle_request(request)


def kept_in(replica) -> int:
    """Posteriors that a replica holds."""
    text = httpx.get(f"{replica.url}/metrics", timeout=60).text
    (line,) = [each for each in text.splitlines() if each.startswith("bmaml_posterior_count ")]
    return int(float(line.split()[1]))


def test_every_ask_by_id_finds_its_posterior_on_one_of_two_replicas(balanced):
    with Client(balanced.url) as client:
        kept = [client.keep("tiny", *each) for each in tasks(TASKS, 0)]
        assert answered(client, "tiny", [each.id for each in kept]) == TASKS * ASKS
    held = [kept_in(each) for each in balanced.replicas]
    assert sum(held) == TASKS
    assert min(held) > 0


def test_without_sessions_asks_miss_and_handles_send_their_rows_again(balanced):
    with Client(balanced.url, transport=Forgetful()) as client:
        kept = [client.keep("tiny", *each) for each in tasks(TASKS, 1)]
        hits = answered(client, "tiny", [each.id for each in kept])
        print(f"{hits} of {TASKS * ASKS} asks by id are answered without sessions")
        assert hits < TASKS * ASKS
        for each, (x, y) in zip(kept, tasks(TASKS, 1), strict=True):
            answer = client.adapt_predict("tiny", query=QUERY, posterior=each)
            assert answer.posterior.id == each.id  # the replicas agree, by their secret
            np.testing.assert_allclose(answer.mean, client.adapt_predict("tiny", x, y, QUERY).mean, rtol=1e-4)


def test_the_end_of_a_replica_under_load_loses_no_answer(balanced):
    """The last test of the file: one replica is left. A caller's retries are its normal behaviour."""
    ends = []
    answers, failures = lost(
        balanced.url, "tiny", lambda: ends.append(balanced.replicas[0].end(signal.SIGTERM))
    )
    assert failures == []
    assert answers >= 2 * MORE * CALLERS
    assert ends == [0]
    assert len(balanced.replicas[0].accepted()) > 0
