"""Servers under the same load in turns: slices that alternate, so that a drift of the machine meets all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.processes import cpu_seconds
from benchmarks.serving.load_generator import LoadResult, closed_loop
from benchmarks.serving.workload import requests

SLICES = 4
"""Parts that a load is measured in, alternating between the servers."""


@dataclass(frozen=True)
class Server:
    """Where a server listens, and its process."""

    port: int
    pid: int


@dataclass(frozen=True)
class Load:
    """One closed loop: `clients` that ask `model`."""

    model: str
    clients: int


@dataclass
class Measurement:
    """One load of one server: all its slices, and processor seconds of the server."""

    result: LoadResult = field(default_factory=LoadResult)
    cpu_s: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """Processor milliseconds per good answer."""
        return 1000 * self.cpu_s / len(self.result.latencies)

    def add(self, server: Server, load: Load, seconds: float, messages: Sequence[bytes]) -> None:
        """Measure one slice more, after a warm-up of a fifth of its time."""
        closed_loop(server.port, messages, load.clients, seconds / 5)
        used = cpu_seconds(server.pid)
        self.result += closed_loop(server.port, messages, load.clients, seconds)
        self.cpu_s += cpu_seconds(server.pid) - used


def in_turns(
    servers: Mapping[str, Server], load: Load, seconds: float, messages: Sequence[bytes] | None = None
) -> dict[str, Measurement]:
    """The measurement of each server, by its name.

    Args:
        seconds: of all slices of one server together.
        messages: requests of the load; by default those of `workload`.
    """
    messages = messages or requests(load.model)
    measured = {name: Measurement() for name in servers}
    for number in range(SLICES):
        for name in list(servers)[:: -1 if number % 2 else 1]:
            measured[name].add(servers[name], load, seconds / SLICES, messages)
    return measured
