"""Retries: for what may pass, with waits that are drawn and bounded; nobody sleeps here."""

import asyncio
import json
from datetime import UTC, datetime

import httpx
import pytest

from bmaml_client import (
    AsyncClient,
    BadReply,
    Client,
    DeadlinePassed,
    Diverged,
    NotReady,
    PosteriorGone,
    Retries,
    ServiceFailed,
    TimedOut,
    TooBusy,
    Unauthorised,
    Unreachable,
)
from bmaml_client.retries import parse_retry_after

URL = "http://somewhere"


def problem(status, slug, **headers):
    body = {
        "type": f"urn:bmaml:problem:{slug}",
        "title": "",
        "status": status,
        "detail": slug,
        "request_id": "r",
    }
    return httpx.Response(
        status,
        content=json.dumps(body),
        headers={"content-type": "application/problem+json", **headers},
    )


GOOD = httpx.Response(200, json={"models": [], "refused": []})


class Script:
    """A transport that plays replies in order, and a clock that only waiting moves."""

    def __init__(self, *replies):
        self.replies, self.seen, self.waits = list(replies), [], []

    def __call__(self, request):
        self.seen.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    def client(self, **settings):
        return Client(
            URL,
            transport=httpx.MockTransport(self),
            sleep=self.waits.append,
            clock=lambda: sum(self.waits),
            **{"draw": lambda: 0.5, **settings},
        )


@pytest.mark.parametrize(
    "passing",
    [
        problem(503, "not-ready"),
        problem(429, "queue-full"),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
    ],
)
def test_what_may_pass_is_tried_again_with_doubling_waits(passing):
    script = Script(passing, passing, passing, GOOD)
    assert script.client(retries=Retries(base_s=0.2, cap_s=0.5)).models().models == ()
    assert script.waits == pytest.approx([0.1, 0.2, 0.25])


def test_retry_after_is_waited_for_and_jitter_comes_on_top():
    script = Script(problem(429, "queue-full", **{"retry-after": "7"}), GOOD)
    script.client(retries=Retries(base_s=0.2)).models()
    assert script.waits == pytest.approx([7.1])


def test_jitter_is_full():
    for draw in (0.0, 0.999):
        script = Script(problem(503, "not-ready"), GOOD)
        script.client(retries=Retries(base_s=1.0), draw=lambda draw=draw: draw).models()
        assert script.waits == pytest.approx([draw])


def test_retries_are_bounded_in_count():
    script = Script(*[problem(503, "not-ready")] * 3)
    with pytest.raises(NotReady):
        script.client(retries=2).models()
    assert len(script.seen) == 3


def test_a_wait_that_would_end_too_late_is_not_begun():
    script = Script(problem(429, "too-many-requests", **{"retry-after": "40"}), *[problem(429, "x")] * 3)
    with pytest.raises(TooBusy) as caught:
        script.client(retries=Retries(total_s=30)).models()
    assert script.waits == []
    assert caught.value.retry_after_s == 40


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(504, "expired"), DeadlinePassed),
        (problem(500, "internal"), ServiceFailed),
        (problem(401, "unauthorised"), Unauthorised),
        (problem(403, "forbidden"), Unauthorised),
        (problem(410, "posterior-gone"), PosteriorGone),
        (problem(422, "diverged"), Diverged),
        (httpx.ReadTimeout("slow"), TimedOut),
        (httpx.Response(502, text="<html>"), ServiceFailed),
        (httpx.Response(200, text="<html>", headers={"content-type": "text/html"}), BadReply),
        (httpx.Response(200, json={"models": 3, "refused": []}), BadReply),
        (httpx.Response(200, json={}), BadReply),
        (httpx.Response(307, headers={"location": "/"}), BadReply),
        (httpx.DecodingError("no gzip"), BadReply),
        (httpx.Response(200, content=b"[" * 10**5, headers={"content-type": "application/json"}), BadReply),
    ],
)
def test_what_will_not_pass_is_asked_once(reply, error):
    script = Script(reply)
    with pytest.raises(error):
        script.client().models()
    assert len(script.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200),
        *(httpx.Response(200, json=each) for each in (None, [], 3, {}, {"model": {"name": "m"}})),
        httpx.Response(200, json={"model": {"name": "m", "version": 1}, "posterior": {}, "diagnostics": {}}),
    ],
)
def test_a_reply_of_another_form_is_an_error_of_the_client(reply):
    for ask in (
        lambda client: client.adapt_predict("m", [[1.0]], [1.0], [[2.0]]),
        lambda client: client.uncertainty("m", [[1.0]], [1.0], [[2.0]]),
        lambda client: client.keep("m", [[1.0]], [1.0]),
        lambda client: client.act("m", [[1.0]]),
    ):
        with pytest.raises(BadReply):
            ask(Script(reply).client())


def test_the_last_failure_is_the_one_that_is_raised():
    script = Script(problem(503, "not-ready"), httpx.ConnectError("refused"))
    with pytest.raises(Unreachable, match="somewhere"):
        script.client(retries=1).models()


def test_every_attempt_carries_the_key_and_the_callers_id():
    script = Script(problem(503, "not-ready"), GOOD)
    client = script.client(key="secret-key")
    client.models(request_id="mine")
    assert [each.headers["authorization"] for each in script.seen] == ["Bearer secret-key"] * 2
    assert [each.headers["x-request-id"] for each in script.seen] == ["mine"] * 2
    assert "secret" not in repr(client) + repr(vars(client.requester))


def test_a_service_may_lie_below_a_path():
    script = Script(GOOD)
    with Client("http://somewhere/models/", transport=httpx.MockTransport(script)) as client:
        client.models()
    assert str(script.seen[0].url) == "http://somewhere/models/models"


def test_the_asynchronous_client_waits_the_same():
    script = Script(problem(503, "not-ready", **{"retry-after": "1"}), httpx.ConnectError("no"), GOOD)

    async def sleep(seconds):
        script.waits.append(seconds)

    async def ask():
        transport = httpx.MockTransport(script)
        settings = {"transport": transport, "sleep": sleep, "draw": lambda: 0.5}
        async with AsyncClient(URL, retries=Retries(base_s=0.2), **settings) as client:
            return await client.models()

    assert asyncio.run(ask()).models == ()
    assert script.waits == pytest.approx([1.1, 0.2])


def test_retry_after_is_a_number_or_a_date():
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert parse_retry_after("12") == 12
    assert parse_retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30
    assert parse_retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert parse_retry_after("soon") is None
    assert parse_retry_after("Wed, 21 Oct 99999999999 07:28:00 GMT") is None
    assert parse_retry_after(None) is None
