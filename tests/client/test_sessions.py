"""Sessions: one for each task, the same for all that follows, and none where any replica may answer."""

import asyncio
import pickle

import httpx
import numpy as np
import pytest

from bmaml_client import AsyncClient, Client, Episode, Refused
from bmaml_client.in_process import URL, InProcess
from bmaml_client.sessions import Sessions, session_of

X, Y = np.array([[-2.0], [0.5], [3.0]]), [8.0, 11.5, 9.0]
QUERY = [[0.0], [1.0]]


class Watched(httpx.BaseTransport):
    """A transport that notes path and session of each request."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def handle_request(self, request):
        self.seen.append((request.method, request.url.path, request.headers.get("x-session-id")))
        return self.inner.handle_request(request)

    @property
    def sessions(self):
        return [session for _, _, session in self.seen]


@pytest.fixture(scope="module")
def service(small_store):
    running = InProcess(small_store)
    yield running
    running.stop()


@pytest.fixture
def watched(service):
    transport = Watched(service)
    with Client(URL, transport=transport) as client:
        yield client, transport


def test_every_request_about_a_task_carries_the_session_of_its_first_rows(watched):
    client, transport = watched
    kept = client.keep("tiny", X[:1], Y[:1])
    client.adapt_predict("tiny", query=QUERY, posterior=kept)
    more = client.adapt_predict("tiny", X[1:], Y[1:], QUERY, posterior=kept).posterior
    client.uncertainty("tiny", pool=QUERY, posterior=more)
    client.posterior(more)
    client.forget(more)
    assert set(transport.sessions) == {kept.session}
    assert len(transport.seen) == 6


def test_an_id_alone_has_the_session_in_which_it_was_kept(watched):
    client, transport = watched
    kept = client.keep("tiny", X, Y)
    client.adapt_predict("tiny", query=QUERY, posterior=kept.id)
    client.posterior(kept.id)
    client.forget(kept.id)
    assert set(transport.sessions) == {kept.session}


def test_a_handle_takes_its_session_to_another_client(watched, service):
    kept = pickle.loads(pickle.dumps(watched[0].keep("tiny", X, Y)))
    other = Watched(service)
    with Client(URL, transport=other) as client:
        client.adapt_predict("tiny", query=QUERY, posterior=kept)
        client.adapt_predict("tiny", query=QUERY, posterior=kept.id)
    assert other.sessions == [kept.session, kept.session]


def test_rows_sent_again_go_to_the_session_that_lost_them(watched):
    client, transport = watched
    kept = client.keep("tiny", X, Y)
    client.forget(kept)
    answer = client.adapt_predict("tiny", query=QUERY, posterior=kept)
    assert answer.posterior.cache == "miss"
    assert set(transport.sessions) == {kept.session}


def test_without_rows_any_replica_may_answer_unless_it_keeps(watched):
    client, transport = watched
    client.adapt_predict("tiny", [], [], QUERY)
    client.models()
    assert transport.sessions == [None, None]
    kept = client.adapt_predict("tiny", [], [], QUERY, keep_s=30).posterior
    client.adapt_predict("tiny", query=QUERY, posterior=kept)
    assert transport.sessions[2:] == [kept.session] * 2
    assert kept.session is not None


def test_the_same_task_has_the_same_session_in_every_process_and_no_other_task_has_it():
    # A value of its own, not of the code: clients of different versions must agree.
    support = {"x": np.array([[0.5]]), "y": np.array([1.0])}
    assert session_of("tiny", support) == "6d546fb88bcc3c2483dccda86b919131"
    others = [
        ("wide", support),
        ("tiny", {**support, "y": np.array([2.0])}),
        ("tiny", {**support, "x": np.array([[0.5, 0.5]])}),
        ("tiny", {**support, "y": ["1.0"]}),
        ("tiny", {**support, "y": [True]}),
    ]
    assert len({session_of(*each) for each in [("tiny", support), *others]}) == 6


def test_the_asynchronous_client_sends_it_too():
    seen = []

    def refuse(request):
        seen.append(request.headers["x-session-id"])
        return httpx.Response(404)

    async def ask():
        async with AsyncClient(URL, transport=httpx.MockTransport(refuse)) as client:
            with pytest.raises(Refused):
                await client.adapt_predict("tiny", X, Y, QUERY)

    asyncio.run(ask())
    assert seen == [session_of("tiny", {"x": X, "y": np.array(Y)})]


def test_sessions_are_remembered_up_to_a_bound():
    sessions = Sessions(size=2)
    for name in ("a", "b"):
        sessions.remember(name, f"session-{name}")
    assert sessions.of("a") == "session-a"
    sessions.remember("c", "session-c")
    sessions.remember("d", None)
    assert [sessions.of(name) for name in "abcd"] == ["session-a", None, "session-c", None]


def test_episodes_begin_a_session_as_rows_do():
    one = Episode(0, 0, [[0.1]], [[0.2]], [1.0])
    two = Episode(0, 1, [[0.1]], [[0.2]], [1.0])
    seen = []

    def refuse(request):
        seen.append(request.headers.get("x-session-id"))
        return httpx.Response(404)

    with Client(URL, transport=httpx.MockTransport(refuse)) as client:
        for ask in (
            lambda: client.adapt_policy("walker", [one]),
            lambda: client.adapt_policy("walker", [one]),
            lambda: client.adapt_policy("walker", [one, two]),
            lambda: client.act("walker", [[0.1]]),
        ):
            with pytest.raises(Refused):
                ask()
    assert seen[0] == seen[1] != seen[2]
    assert seen[3] is None
