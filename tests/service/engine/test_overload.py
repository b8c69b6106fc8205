"""Twice as much as the device can do, by a clock of the test's own: who is let in is answered in time."""

import asyncio
import types
from dataclasses import dataclass

import numpy as np
import pytest

import service.engine.cost_model
import service.engine.queue
from service.engine.queue import MAX_PADDING_SHARE, Queue
from service.errors import RequestError
from service.job import row_counts

SECONDS, DEADLINE_S, BATCH_WORK = 20.0, 1.0, 1 << 17
FEW = 4
"""Support rows from which on tasks take as long as others."""


@dataclass(frozen=True)
class Named:
    """What the queue asks of a model."""

    sha256: str
    seconds_per_work: float


@dataclass(eq=False)
class Ragged:
    """What the queue asks of a job: a few support rows, up to two hundred query rows."""

    model: Named
    shape: tuple[int, int]
    decoded_at: float
    deadline: float
    work_per_row = 30

    @property
    def group(self):
        return self.model.sha256

    @property
    def cost(self):
        return self.work_per_row * sum(self.shape)

    @property
    def stratum(self):
        return "", False, self.shape[0].bit_length()


class Device:
    """Serves a queue in simulated time: a few milliseconds a batch, and its padded rows, unsteadily.

    Args:
        uneven: how many times as long as that of others the work of tasks with one to three support rows
            takes.
    """

    def __init__(self, seed, unsteady, uneven, monkeypatch):
        self.rng, self.unsteady, self.uneven = np.random.default_rng(seed), unsteady, uneven
        self.now = 0.0
        self.models = [Named("slow", 2.5e-7), Named("fast", 1e-7)]
        self.queue = Queue(10**9, BATCH_WORK)
        self.waits, self.refused, self.real, self.padded = [], [], 0, 0
        for module in (service.engine.queue, service.engine.cost_model):
            monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: self.now))

    def ask(self, when, within_s=DEADLINE_S):
        model = self.models[self.rng.integers(2)]
        shape = int(self.rng.integers(1, 21)), int(self.rng.integers(1, 201))
        self.now, ends = when, self.now
        try:
            self.queue.add(Ragged(model, shape, when, when + within_s))
        except RequestError as error:
            self.refused.append((error.status, error.retry_after_s))
        self.now = max(when, ends)

    def serve(self, arrivals):
        """One batch, and those who come while it is under way; `arrivals` is a list whose last is next."""
        jobs = [each.job for each in self.queue.next_batch()]
        real, padded = row_counts(jobs)
        self.real, self.padded = self.real + real, self.padded + padded
        slower = sum(self.uneven if each.shape[0] < FEW else 1.0 for each in jobs) / len(jobs)
        seconds = 0.003 + padded * jobs[0].work_per_row * jobs[0].model.seconds_per_work * slower
        seconds *= np.exp(self.unsteady * self.rng.normal())
        ends = self.now + seconds
        while arrivals and arrivals[-1] <= ends:
            self.ask(arrivals.pop())
        self.now = ends
        self.queue.record_batch(jobs, seconds)
        self.waits += [ends - each.decoded_at for each in jobs]

    def capacity(self):
        """Tasks a second with sixty-four that always wait, for as long as it takes."""
        for _ in range(64):
            self.ask(self.now, np.inf)
        while self.now < SECONDS / 4:
            before = self.queue.tasks
            self.serve([])
            for _ in range(before - self.queue.tasks):
                self.ask(self.now, np.inf)
        return len(self.waits) / self.now


@pytest.mark.parametrize(("unsteady", "uneven"), [(0.0, 1.0), (0.3, 1.0), (0.3, 8.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_at_twice_the_capacity_nobody_who_was_let_in_is_late(seed, unsteady, uneven, monkeypatch):
    async def scenario():
        device = Device(seed, unsteady, uneven, monkeypatch)
        capacity = device.capacity()
        while device.queue.tasks:
            device.serve([])
        device.waits, began = [], device.now
        gaps = device.rng.exponential(1 / (2 * capacity), int(2 * capacity * SECONDS))
        arrivals = list(began + np.cumsum(gaps)[::-1])
        offered = len(arrivals)
        while arrivals or device.queue.tasks:
            if not device.queue.tasks:
                device.ask(arrivals.pop())
            device.serve(arrivals)
        return device, offered, capacity, device.now - began

    device, offered, capacity, elapsed = asyncio.run(scenario())
    waits = np.array(device.waits)
    expired = offered - len(device.refused) - len(waits)
    late = expired + np.count_nonzero(waits > DEADLINE_S)
    assert len(device.refused) > 0.1 * offered
    assert set(device.refused) == {(429, 1)}
    assert late == 0
    assert np.count_nonzero(waits <= DEADLINE_S) / elapsed >= 0.9 * capacity
    assert device.padded - device.real <= MAX_PADDING_SHARE * device.padded
