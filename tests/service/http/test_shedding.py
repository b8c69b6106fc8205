"""Overload: requests are refused for what they waited unread, cheaply, and no request waits unseen."""

import asyncio
import functools
import json
import re
import socket
import struct
import threading
import time
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from service.app import create_app
from service.engine.queue import MAX_WAIT_SHARE, Queue
from service.errors import RequestError
from service.http import shedding
from service.http.protocol import protocol
from service.http.reply_transport import ReplyTransport
from service.http.server import uvicorn_config
from service.http.shedding import CROWD, FIRST_REQUEST_S, RECENT_S, Admission, Backlog
from service.settings import Settings
from tests.service.conftest import serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}
BLOCKED_S = 0.5
"""How long the event loop of a served test is kept from reading."""
ROUNDS = 5
"""Rounds of asyncio's event loop from a waiting connection to its protocol."""
needs_arrival_times = pytest.mark.skipif(
    not hasattr(socket, "TCP_INFO"), reason="this system does not tell when bytes arrived"
)


def request(path="/adapt-predict", extra=b"", **changed):
    content = json.dumps(BODY | changed).encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % path.encode()
    return head + extra + b"Content-Length: %d\r\n\r\n" % len(content) + content


class Socket:
    """A connection whose newest bytes have waited for so long."""

    def __init__(self, waited_s):
        self.waited_s = waited_s

    def getsockopt(self, *_):
        return struct.pack("=52xI", round(1000 * self.waited_s))

    def getsockname(self):
        return "127.0.0.1", 8000

    getpeername = getsockname


class Transport(asyncio.Transport):
    """A transport that records what is written."""

    def __init__(self, waited_s=0.0, unsent=0):
        super().__init__({"socket": Socket(waited_s)})
        self.written, self.closed, self.unsent = [], False, unsent

    def write(self, data):
        self.written.append(data)

    def get_write_buffer_size(self):
        return self.unsent

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def pause_reading(self):
        pass

    resume_reading = pause_reading


class Line:
    """A protocol on a recorded transport, in a crowd, in front of an application that notes its requests."""

    def __init__(self, waited_s=1.0, crowd=CROWD, draining=False, unsent=0, **settings):
        self.seen = []

        async def app(scope, receive, send):
            self.seen.append((scope["path"], (await receive())["body"], scope["state"]["arrived"]))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        runtime = create_app(Settings(device="cpu", **settings)).state.runtime
        runtime.draining = draining
        self.metrics, state = runtime.metrics, ServerState()
        state.tasks = set(range(crowd))
        config = uvicorn.Config(app, http=protocol(runtime), ws="none", access_log=False, log_config=None)
        config.load()
        self.transport = Transport(waited_s, unsent)
        self.protocol = config.http_protocol_class(config, state, {}, asyncio.get_running_loop())
        self.protocol.connection_made(self.transport)

    async def send(self, *parts):
        """What the connection has been sent after these parts."""
        for part in parts:
            self.protocol.data_received(part)
        while self.protocol.cycle is not None and not self.protocol.cycle.response_complete:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return b"".join(self.transport.written)


def on_loop(test):
    """The test as a function that runs it on an event loop."""

    @functools.wraps(test)
    def run(**arguments):
        asyncio.run(test(**arguments))

    return run


@on_loop
async def test_what_waited_too_long_in_a_crowd_is_refused_unparsed_and_keeps_its_connection():
    line = Line(waited_s=1.0)
    sent = await line.send(request(deadline_ms=2000, extra=b"X-Request-ID: mine\r\n"))
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 1\r\n" in head + b"\r\n"
    assert b"\r\nx-request-id: mine\r\n" in head + b"\r\n"
    assert b"connection: close" not in head
    problem = json.loads(body)
    assert problem["type"] == "urn:bmaml:problem:queue-full"
    assert problem["detail"] == "too many requests are waiting"
    assert (line.seen, line.transport.closed) == ([], False)
    assert line.protocol.timeout_keep_alive_task is not None
    refused = line.metrics.requests.labels("/adapt-predict", "429")._value.get()
    assert (refused, line.metrics.problems.labels("queue-full")._value.get()) == (1, 1)
    assert b'bmaml_request_seconds_sum{route="/adapt-predict"} 1.0' in line.metrics.text()
    await line.send(request(deadline_ms=60_000))
    assert len(line.seen) == 1


@on_loop
async def test_a_fault_of_ours_before_the_application_is_no_bad_request(monkeypatch, caplog):
    line = Line(waited_s=1.0)

    def fault(*_args, **_named):
        raise KeyError("ours")

    monkeypatch.setattr(type(line.protocol.admission), "check", fault)
    sent = await line.send(request(deadline_ms=2000))
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert b"ours" not in sent
    (told,) = [each for each in caplog.records if each.name == "service.errors"]
    assert told.exc_info[0] is KeyError


@on_loop
async def test_a_refusal_leaves_the_next_request_of_the_same_bytes_its_time():
    line = Line(waited_s=1.0)
    await line.send(request(deadline_ms=2000) + b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    assert line.protocol.timeout_keep_alive_task is None
    assert line.protocol._timer is not None
    await line.send(b"\r\n")
    assert [path for path, _, _ in line.seen] == ["/livez"]


@on_loop
async def test_of_pipelined_requests_one_is_refused_and_the_others_wait_their_turn():
    line = Line(waited_s=1.0)
    sent = await line.send(request(deadline_ms=2000) * 4)
    for _ in range(20):
        await asyncio.sleep(0)
    sent = b"".join(line.transport.written)
    assert (sent.count(b"HTTP/1.1 429 "), sent.count(b"HTTP/1.1 204 ")) == (1, 3)
    assert len(line.seen) == 3


@on_loop
async def test_a_held_request_whose_address_is_no_address_is_bad_http():
    line = Line(waited_s=1.0, max_header_bytes=100_000)
    sent = await line.send(request(f"/adapt-predict?{'a' * 66_000}", deadline_ms=2000)[:-10])
    assert sent.startswith(b"HTTP/1.1 400 ")


@on_loop
async def test_a_caller_who_closes_is_refused_and_closed():
    line = Line(waited_s=1.0)
    sent = await line.send(request(deadline_ms=2000, extra=b"Connection: close\r\n"))
    assert sent.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close" in sent
    assert line.transport.closed


@on_loop
async def test_an_inference_has_its_own_form_of_refusal_and_of_deadline():
    path = "/v2/models/tiny/infer"
    line = Line(waited_s=1.0)
    sent = await line.send(request(path, parameters={"timeout": 2_000_000}))
    assert sent.startswith(b"HTTP/1.1 429 ")
    assert list(json.loads(sent.partition(b"\r\n\r\n")[2])) == ["error"]
    await line.send(request(path, parameters={"timeout": 60_000_000}))
    assert [path for path, _, _ in line.seen] == [path]


PASSED = {
    "with time left": ({}, [request(deadline_ms=60_000)]),
    "by the default deadline": ({"deadline_ms": 60_000}, [request()]),
    "no crowd": ({"crowd": CROWD - 1}, [request(deadline_ms=2000)]),
    "read at once": ({"waited_s": 0.0}, [request(deadline_ms=100)]),
    "a body in parts": ({}, [request(deadline_ms=2000)[:-10], request(deadline_ms=2000)[-10:]]),
    "no body yet": ({}, [request(deadline_ms=2000).split(b"{")[0], b"{" + b" " * 200]),
    "compressed": ({}, [request(extra=b"Content-Encoding: gzip\r\n", deadline_ms=2000)]),
    "a deadline in the middle of a long body": (
        {"waited_s": 3.0},
        [request(support={"x": [[0.5]] * 3000}, deadline_ms=60_000, query={"x": [[0.5]] * 3000})],
    ),
    "no deadline, but perhaps": ({}, [request(deadline_ms=None)]),
    "while draining": ({"draining": True}, [request(deadline_ms=2000)]),
    "the last reply not taken": ({"unsent": 100}, [request(deadline_ms=2000)]),
    "from a page": ({}, [request(deadline_ms=2000, extra=b"Origin: http://x\r\n")]),
    "another path": ({}, [request("/models", deadline_ms=2000)]),
}


@pytest.mark.parametrize("name", PASSED)
@on_loop
async def test_all_else_reaches_the_application(name):
    made, parts = PASSED[name]
    line = Line(**({"waited_s": 1.0} | made))
    for part in parts:
        line.protocol.data_received(part)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(line.seen) == 1


@on_loop
async def test_a_body_that_was_held_is_whole_and_its_arrival_is_told():
    line = Line(waited_s=1.0)
    before = time.monotonic()
    await line.send(request(deadline_ms=60_000))
    ((_, body, arrived),) = line.seen
    assert json.loads(body) == BODY | {"deadline_ms": 60_000}
    assert before - 1.0 - 1e-3 <= arrived <= time.monotonic() - 1.0


@on_loop
async def test_requests_before_one_in_the_round_count_as_its_wait():
    loop, backlog = asyncio.get_running_loop(), Backlog()
    backlog.learn(1, FIRST_REQUEST_S)
    for _ in range(CROWD):
        backlog.add(loop)
    assert backlog.wait_s == pytest.approx(CROWD * FIRST_REQUEST_S)
    loop.call_soon(time.sleep, 0.01 * CROWD)  # in the round that begins with them
    while backlog.count:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert backlog.request_s > FIRST_REQUEST_S
    assert backlog.wait_s == 0


def test_what_a_stall_taught_fades(monkeypatch):
    now = 100.0
    monkeypatch.setattr(shedding, "time", SimpleNamespace(monotonic=lambda: now))
    backlog = Backlog()
    backlog.learn(CROWD, 6.0)
    learned = FIRST_REQUEST_S + 0.2 * (6.0 / CROWD - FIRST_REQUEST_S)
    assert backlog.request_s == pytest.approx(learned)
    now += RECENT_S
    assert backlog.request_s - FIRST_REQUEST_S == pytest.approx((learned - FIRST_REQUEST_S) / np.e)
    now += 20 * RECENT_S
    assert backlog.request_s == pytest.approx(FIRST_REQUEST_S)


def test_both_waits_together_may_take_a_share_of_the_deadline():
    admission = Admission(
        Queue(10**6, 10**6), create_app(Settings(device="cpu")).state.runtime.registry, 10_000
    )
    body = json.dumps(BODY).encode()
    admission.check(body, "/adapt-predict", MAX_WAIT_SHARE / 2 * 10 - 1e-6, crowded=True)
    with pytest.raises(RequestError, match="too many requests"):
        admission.check(body, "/adapt-predict", MAX_WAIT_SHARE / 2 * 10 + 1e-6, crowded=True)
    admission.check(body, "/adapt-predict", 9.0)


def test_a_few_rounds_of_the_event_loop_accept_every_waiting_connection():
    """uvloop accepts one a round, and callers waited for seconds to be let in."""
    app = create_app(Settings(device="cpu"))

    async def accepted():
        met, loop = [], asyncio.get_running_loop()
        server = await loop.create_server(lambda: Meeting(met), "127.0.0.1", 0, backlog=64)
        port = server.sockets[0].getsockname()[1]
        callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        count = len(met)
        for caller in callers:
            caller.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
        return count

    with asyncio.Runner(loop_factory=uvicorn_config(app, Settings()).get_loop_factory()) as runner:
        assert runner.run(accepted()) == 50


class Meeting(asyncio.Protocol):
    def __init__(self, met):
        self.met = met

    def connection_made(self, transport):
        self.met.append(transport)
        transport.abort()


@on_loop
async def test_a_reply_is_one_write_and_a_lone_head_goes_out_in_the_next_round():
    line = Line(waited_s=0.0)
    await line.send(request())
    assert len(line.transport.written) == 1
    transport = Transport()
    reply = ReplyTransport(transport, asyncio.get_running_loop())
    reply.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    reply.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert len(transport.written) == 1
    await asyncio.sleep(0)
    assert transport.written[1:] == [b"HTTP/1.1 200 OK\r\n\r\n"]
    reply.write(b"HTTP/1.1 200 OK\r\n\r\n")
    reply.close()
    assert transport.written[2:] == [b"HTTP/1.1 200 OK\r\n\r\n"]


def test_the_system_may_not_tell_arrivals():
    one, other = socket.socketpair()
    with closing(one), closing(other):
        assert shedding.unread_s(one) is None
    assert shedding.unread_s(None) is None


@needs_arrival_times
def test_the_deadline_and_the_times_of_an_answer_count_from_its_arrival(store):
    blocking, sent = threading.Event(), threading.Event()

    async def block(_):
        blocking.set()
        sent.wait(60)
        time.sleep(BLOCKED_S)
        return Response()

    for served in serve(Settings(store=store, device="cpu")):
        served.app.router.add_route("/block", block)
        for deadline_ms, status in ((60_000, 200), (100, 504)):
            blocking.clear()
            sent.clear()
            host, port = served.url.removeprefix("http://").split(":")
            with closing(socket.create_connection((host, int(port)))) as caller:
                caller.settimeout(60)
                ask = partial(httpx.get, f"{served.url}/block", timeout=60)
                asking = threading.Thread(target=ask)
                asking.start()
                blocking.wait()
                caller.sendall(request(deadline_ms=deadline_ms, extra=b"Connection: close\r\n"))
                sent.set()
                reply = b"".join(iter(lambda caller=caller: caller.recv(65536), b""))
                asking.join()
            assert reply.startswith(b"HTTP/1.1 %d " % status)
            times = dict(re.findall(rb"(\w+);dur=([0-9.]+)", reply))
            assert float(times[b"total"]) >= 1000 * BLOCKED_S / 2
            if status == 200:
                assert float(times[b"queue"]) >= 1000 * BLOCKED_S / 2
                assert float(times[b"decode"]) < float(times[b"queue"])
