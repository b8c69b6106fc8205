"""A load generator for one server on the loopback interface: raw HTTP/1.1 over kept-alive connections.

In a closed loop a fixed number of clients send their next request when the last is answered. In an open loop
requests leave at the times of a Poisson process, whether or not earlier ones are answered; latency counts
from the time that a request was due, so that a slow server does not slow its own load (coordinated omission).
"""

import asyncio
import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np


@dataclass
class LoadResult:
    """The outcome of a load.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds, of the answers with status 200.
        statuses: counts; 0 for a lost connection, −429 for a 429 without a Retry-After.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def __iadd__(self, other: "LoadResult") -> Self:
        """Take in a load that followed this one."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.statuses += other.statuses
        return self

    @property
    def rate(self) -> float:
        """Answers with status 200, per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, level: float) -> float:
        """A quantile of the latencies, in milliseconds."""
        return 1000 * float(np.quantile(self.latencies, level)) if self.latencies else float("nan")

    @property
    def median(self) -> float:
        """The median latency, in milliseconds."""
        return 1000 * statistics.median(self.latencies) if self.latencies else float("nan")


def post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    """A POST request, head and body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One kept-alive connection; answers come in the order of the requests."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(0)

    @property
    def closed(self) -> bool:
        """Whether the server has closed it."""
        assert self.transport is not None
        return self.transport.is_closing()

    def send(self, request: bytes) -> "asyncio.Future[int]":
        """The status of the answer to come; 0 if the connection is lost before."""
        assert self.transport is not None
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            future.set_result(0)
            return future
        self._waiting.append(future)
        self.transport.write(request)
        return future

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n", 1)[0])
            if len(self._received) < end + 4 + length:
                return
            del self._received[: end + 4 + length]
            waiting = self._waiting.popleft()
            if not waiting.done():
                status = int(head[9:12])
                waiting.set_result(-status if status == 429 and b"\r\nretry-after:" not in head else status)


class _Connections:
    """The connections to a port, to be closed together."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._opened: list[_Connection] = []

    async def open(self, count: int) -> list[_Connection]:
        """Open `count` more."""
        loop = asyncio.get_running_loop()
        new = [(await loop.create_connection(_Connection, "127.0.0.1", self._port))[1] for _ in range(count)]
        self._opened += new
        return new

    def close(self) -> None:
        """Close all."""
        for each in self._opened:
            assert each.transport is not None
            each.transport.close()


def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> LoadResult:
    """A load of `clients`, each of which sends its next request when the last is answered."""

    async def run() -> LoadResult:
        result, connections = LoadResult(), _Connections(port)
        opened = await connections.open(clients)
        began = time.perf_counter()

        async def client(number: int, connection: _Connection) -> None:
            turn = number
            while time.perf_counter() - began < seconds:
                sent = time.perf_counter()
                status = await connection.send(requests[turn % len(requests)])
                result.statuses[status] += 1
                if status == 200:
                    result.latencies.append(time.perf_counter() - sent)
                elif status == 0:
                    return
                turn += clients

        await asyncio.gather(*(client(number, each) for number, each in enumerate(opened)))
        result.seconds = time.perf_counter() - began
        connections.close()
        return result

    return asyncio.run(run())


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> LoadResult:
    """A load of Poisson arrivals at `rate` per second; each takes a free connection, or opens one more."""

    async def run() -> LoadResult:
        result, connections = LoadResult(), _Connections(port)
        free = await connections.open(64)
        dues = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds)))
        tasks = []
        began = time.perf_counter()

        async def one(number: int, due: float) -> None:
            connection = None
            while free and (connection is None or connection.closed):
                connection = free.pop()
            if connection is None or connection.closed:  # the server ends what was idle for long
                (connection,) = await connections.open(1)
            status = await connection.send(requests[number % len(requests)])
            result.statuses[status] += 1
            if status == 200:
                result.latencies.append(time.perf_counter() - began - due)
            free.append(connection)

        for number, due in enumerate(dues):
            if (early := due - (time.perf_counter() - began)) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(one(number, due)))
        await asyncio.gather(*tasks)
        result.seconds = time.perf_counter() - began
        connections.close()
        return result

    return asyncio.run(run())
