"""Bytes that no client would send: each is answered or let go, and the next caller never notices."""

import contextlib
import gzip
import json
import socket
import threading

import pytest

import service.compute.batch as batch_module
from service.settings import Settings
from tests.service.conftest import serve

BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}
TEXT = json.dumps(BODY).encode()
HEAD = b"POST /adapt-predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MAX_CONNECTIONS = 30


def settings(store, **times):
    return Settings(
        store=store,
        device="cpu",
        max_body_bytes=100_000,
        max_header_bytes=8192,
        max_connections=MAX_CONNECTIONS,
        **times,
    )


@pytest.fixture(scope="module")
def served(store):
    """For all that is not about time."""
    yield from serve(settings(store, read_s=60))


@pytest.fixture(scope="module")
def hasty(store):
    """Waits a second for the rest of a request, or for the next one."""
    yield from serve(settings(store, read_s=1, keep_alive_s=1))


def sized(body, claimed=None, extra=b""):
    length = len(body) if claimed is None else claimed
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % length + body


def chunked(*chunks, end=b"0\r\n\r\n"):
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + end


class Connection:
    """A plain socket to the service."""

    def __init__(self, served):
        host, port = served.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        with contextlib.suppress(ConnectionError):  # it may have been let go before all of it was sent
            self.socket.sendall(data)

    def end(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def rest(self):
        """All that comes until the other side closes."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(65536):
                received += part
        return bytes(received)

    def reply(self):
        """One reply: its status and its body."""
        while b"\r\n\r\n" not in self.received:
            self._receive()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(self.received) < length:
            self._receive()
        body, self.received = self.received[:length], self.received[length:]
        return status_of(head), body

    def _receive(self):
        part = self.socket.recv(65536)
        if not part:
            raise EOFError("closed in the middle of a reply")
        self.received += part


def status_of(head):
    return int(head.split()[1]) if head else None


CASES = {
    "a body of 10^5 brackets": (sized(b"[" * 100_000), 400),
    "JSON 10^5 deep where a row belongs": (
        sized(b'{"model":"tiny","query":{"x":' + b"[" * 40_000 + b"]" * 40_000 + b"}}"),
        400,
    ),
    "bytes that are not UTF-8": (sized(b'{"model": "\xff\xfe\xc3"}'), 400),
    "a NUL byte": (sized(b'{"model": "\x00"}'), 400),
    "an empty body": (sized(b""), 400),
    "no body at all": (HEAD + b"\r\n", 400),
    "a body larger than the limit": (sized(b" " * 100_001), 413),
    "a length of a terabyte and a little body": (sized(TEXT, claimed=10**12), 413),
    "chunks beyond the limit": (chunked(*[b" " * 10_000] * 11), 413),
    "chunks without an end beyond the limit": (chunked(*[b" " * 10_000] * 11, end=b""), 413),
    "a gzip bomb": (sized(gzip.compress(b" " * 90_000_000), extra=b"Content-Encoding: gzip\r\n"), 413),
    "gzip that is none": (sized(TEXT, extra=b"Content-Encoding: gzip\r\n"), 400),
    "gzip cut short": (sized(gzip.compress(TEXT)[:-5], extra=b"Content-Encoding: gzip\r\n"), 400),
    "a chunk whose size is no number": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a chunk of a negative size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    "both a length and chunks": (
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
    "a length that is no number": (HEAD + b"Content-Length: five\r\n\r\n", 400),
    "a length beyond 64 bits": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "one huge header": (HEAD + b"X-Large: " + b"a" * 400_000 + b"\r\n\r\n", 431),
    "a thousand headers": (HEAD + b"X-Many: yes\r\n" * 1000 + b"\r\n", 431),
    "a huge path": (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n\r\n", 431),
    "no HTTP": (b"hello, is there anybody?\r\n\r\n", 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50, 400),
    "HTTP/2 without asking": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a header with a NUL": (b"GET /livez HTTP/1.1\r\nX-Odd: a\x00b\r\n\r\n", 400),
    "a header without a colon": (b"GET /livez HTTP/1.1\r\nodd\r\n\r\n", 400),
    "a path that is not ASCII": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a method that is none": (b"FETCH /livez HTTP/1.1\r\n\r\n", 400),
    "safetensors with a header of 2^63 bytes": (
        sized(b"\xff" * 8 + b"{}").replace(b"application/json", b"application/vnd.safetensors"),
        400,
    ),
    "safetensors that claim more than they hold": (
        sized(
            (64).to_bytes(8, "little")
            + b'{"query.x":{"dtype":"F32","shape":[99,1],"data_offsets":[0,396]}}'.ljust(64)
        ).replace(b"application/json", b"application/vnd.safetensors"),
        400,
    ),
    "an upgrade to a web socket": (
        b"GET /adapt-predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        405,
    ),
}
UNFINISHED = {
    "a head that stops in the middle": HEAD[:40],
    "a body that stops in the middle": sized(TEXT[:20], claimed=len(TEXT)),
    "chunks that stop in the middle": chunked(TEXT[:20], end=b""),
}


def jobs(served):
    with Connection(served) as connection:
        connection.send(sized(TEXT))
        status, body = connection.reply()
        assert status == 200
        assert json.loads(body)["prediction"]["mean"]


def answered_with_a_problem(served, data, expected):
    with Connection(served) as connection:
        connection.send(data)
        status, body = connection.reply()
    assert status == expected
    problem = json.loads(body)
    assert problem["status"] == expected
    assert problem["type"].startswith("urn:bmaml:problem:")
    jobs(served)


@pytest.mark.parametrize("case", CASES)
def test_it_is_answered_with_a_problem_and_the_next_caller_with_a_prediction(served, case):
    answered_with_a_problem(served, *CASES[case])


@pytest.mark.parametrize("case", UNFINISHED)
def test_what_does_not_go_on_is_answered_with_a_problem_as_well(hasty, case):
    answered_with_a_problem(hasty, UNFINISHED[case], 408)


@pytest.mark.parametrize(
    "data", [b"", HEAD[:40], HEAD, sized(TEXT[:20], claimed=len(TEXT)), chunked(TEXT, end=b"")]
)
def test_who_hangs_up_halfway_leaves_nothing_behind(served, data):
    for _ in range(5):
        with Connection(served) as connection:
            connection.send(data)
    with Connection(served) as connection:
        connection.send(data)
        connection.end()
        connection.rest()
    jobs(served)


def test_a_connection_on_which_nothing_is_asked_is_closed(hasty):
    with Connection(hasty) as connection:
        assert connection.rest() == b""


def test_a_head_that_drips_is_cut_off(hasty):
    with Connection(hasty) as connection:
        stop = threading.Event()

        def drip():
            while not stop.wait(0.02):
                connection.send(b"X-Drip: a\r\n")

        connection.send(HEAD)
        thread = threading.Thread(target=drip)
        thread.start()
        answer = connection.rest()
        stop.set()
        thread.join()
    assert status_of(answer) == 408
    jobs(hasty)


def test_a_refused_body_that_never_ends_is_cut_off(hasty):
    with Connection(hasty) as connection:
        connection.send(chunked(*[b" " * 10_000] * 11, end=b""))
        status, _ = connection.reply()
        connection.rest()  # until the server closes
    assert status == 413
    jobs(hasty)


def test_a_caller_who_does_not_take_the_reply_is_let_go(hasty):
    large = json.dumps(BODY | {"query": {"x": [[0.0]] * 200}, "quantiles": [0.5] * 100})
    open_before = set(hasty.server.server_state.connections)
    with Connection(hasty) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not (stuck := set(hasty.server.server_state.connections) - open_before):
            pass
        connection.send(sized(large.encode()))
        while stuck & hasty.server.server_state.connections:
            pass  # pytest's own timeout ends a wait in vain
    jobs(hasty)


def large_request(*headers):
    large = json.dumps(BODY | {"query": {"x": [[0.0]] * 200}, "quantiles": [0.5] * 100})
    return sized(large.encode(), extra=b"".join(headers))


@pytest.mark.parametrize(
    "sent",
    [[large_request(b"Connection: close\r\n")], [large_request(), b"G"]],
    ids=["as the last request", "with a byte of the next"],
)
def test_nor_does_one_who_does_not_take_it_hold_it_in_other_ways(hasty, sent):
    before = set(hasty.server.server_state.connections)
    with Connection(hasty) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not (stuck := set(hasty.server.server_state.connections) - before):
            pass
        for data in sent:
            connection.send(data)
        while stuck & hasty.server.server_state.connections:
            pass
    jobs(hasty)


def test_trailers_are_bounded_and_not_read(served):
    with Connection(served) as connection:
        connection.send(chunked(TEXT, end=b"0\r\nX-Request-ID: of-the-trailer\r\n\r\n"))
        status, _ = connection.reply()
        assert status == 200
    for trailer in (b"a:\r\n" * 25_000, b"a: " + b"x" * 100_000):
        with Connection(served) as connection:
            connection.send(chunked(b"{", end=b"0\r\n"))
            for start in range(0, len(trailer), 4096):
                connection.send(trailer[start : start + 4096])
            answers = connection.rest()
        assert status_of(answers) in (400, 431)
    jobs(served)


def test_empty_lines_between_requests_keep_no_connection(hasty):
    with Connection(hasty) as connection:
        connection.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.reply()[0] == 200
        connection.send(b"\r\n")
        assert connection.rest() == b""
    with Connection(hasty) as connection:
        connection.send(b"\r\n" + sized(TEXT))
        assert connection.reply()[0] == 200


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("body", [sized, lambda text, extra: chunked(text).replace(HEAD, HEAD + extra)])
def test_who_asks_for_another_protocol_is_answered_in_this_one(served, body, apart):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head, end, rest = body(TEXT, extra=upgrade).partition(b"\r\n\r\n")
    with Connection(served) as connection:
        if apart:
            connection.send(head + end)
            jobs(served)
            connection.send(rest)
        else:
            connection.send(head + end + rest)
        status, answer = connection.reply()
        assert status == 200
        assert json.loads(answer)["prediction"]["mean"]
        connection.send(sized(TEXT))
        assert connection.reply()[0] == 200


def test_no_answer_overtakes_another(hasty, monkeypatch):
    opened, whole = threading.Event(), batch_module.answer_batch

    def gated(jobs):
        opened.wait(30)
        return whole(jobs)

    monkeypatch.setattr(batch_module, "answer_batch", gated)
    with Connection(hasty) as garbled, Connection(hasty) as halved:
        garbled.send(sized(TEXT))
        halved.send(sized(TEXT))
        garbled.send(b"\x00nonsense\r\n\r\n")
        halved.send(HEAD[:30])
        with Connection(hasty) as connection:
            assert connection.rest() == b""  # longer than half a head may take
        opened.set()
        assert [garbled.reply()[0], garbled.reply()[0]] == [200, 400]
        assert [halved.reply()[0], halved.reply()[0]] == [200, 408]


def test_who_leaves_while_the_body_is_on_its_way_is_no_fault_of_ours(served):
    def counted(status):
        text = served.client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("bmaml_requests_total")]
        return sum(float(line.split()[-1]) for line in lines if f'status="{status}"' in line)

    before = counted(499)
    with Connection(served) as connection:
        connection.send(sized(TEXT[:20], claimed=len(TEXT)))
    while counted(499) == before:
        pass
    assert counted(500) == 0


def test_pipelined_requests_are_answered_in_order(served):
    with Connection(served) as connection:
        connection.send(sized(TEXT) + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + sized(b"{"))
        assert [connection.reply()[0] for _ in range(3)] == [200, 200, 400]


def test_more_connections_than_may_be_are_told_to_come_back(served):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Connection(served)) for _ in range(MAX_CONNECTIONS + 10)]
        assert {status_of(each.rest()) for each in held[MAX_CONNECTIONS:]} == {429}
        for each in held[: MAX_CONNECTIONS // 2]:  # others may be open still, of a client or a test before
            each.send(sized(TEXT))
            assert each.reply()[0] == 200
    jobs(served)


def test_memory_is_flat_over_all_of_it(served):
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    def all_of_them():
        for case, (data, expected) in CASES.items():
            with Connection(served) as connection:
                connection.send(data)
                assert connection.reply()[0] == expected, case

    all_of_them()
    before = resident()
    for _ in range(5):
        all_of_them()
    assert resident() - before < 8 << 20
