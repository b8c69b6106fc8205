"""What a process keeps of the memory that it has freed."""

import subprocess
import sys

import pytest
import torch

from service.engine.worker import Worker
from service.engine.worker_pool import WorkerPool
from service.ops.memory import EVERY_S, SLACK_BYTES, FreedMemory, resident_bytes
from service.runtime import Runtime
from service.settings import Settings
from tests.published import publish

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process holds")
MIB = 1 << 20
FREED = """
import os
import torch
from service.ops.memory import give_back, keep_freed_memory, resident_bytes
keep_freed_memory()
several = [torch.ones(1 << 20) for _ in range(200)]
last = torch.ones(1 << 10)  # above them in the heap
del several
kept = resident_bytes(os.getpid())
assert give_back()
print(kept - resident_bytes(os.getpid()))
"""


@LINUX
def test_freed_memory_is_kept_until_it_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", FREED], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 700 * MIB


def a_heap_with_holes():
    """In another process: freed memory that stays with it."""
    several = [torch.ones(1 << 13) for _ in range(4000)]  # too small to be mapped one by one
    a_heap_with_holes.last = torch.ones(1 << 10)
    del several


@LINUX
def test_a_worker_gives_back_and_answers_on():
    worker = Worker("spawn")
    try:
        worker.check()
        worker._asked(a_heap_with_holes)
        before = resident_bytes(worker.pid)
        assert worker.give_back()
        assert before - resident_bytes(worker.pid) > 100 * MIB
        with worker._speaking:  # a batch is under way
            assert not worker.give_back()
        worker.check()
    finally:
        WorkerPool([worker]).stop()


class Process:
    """Of which `held` bytes are resident, `used` of them in use."""

    def __init__(self, monkeypatch):
        self.held = self.used = 100 * MIB
        self.able, self.asked = True, 0
        monkeypatch.setattr("service.ops.memory.resident_bytes", lambda pid: self.held)

    def give_back(self):
        self.asked += 1
        if self.able:
            self.held = self.used
        return self.able


def test_so_much_is_kept_and_more_for_a_minute_at_most(monkeypatch):
    process = Process(monkeypatch)
    slack = FreedMemory(1, process.give_back)
    slack.look(0.0, changed=True)
    process.held += SLACK_BYTES
    slack.look(10 * EVERY_S, changed=False)
    assert process.asked == 1
    process.held += 1
    slack.look(EVERY_S - 1, changed=False)
    assert process.asked == 1
    slack.look(EVERY_S, changed=False)
    assert (process.asked, process.held) == (2, process.used)


def test_what_is_freed_later_is_returned_too(monkeypatch):
    process = Process(monkeypatch)
    slack = FreedMemory(1, process.give_back)
    slack.look(0.0, changed=True)
    process.held = process.used = 900 * MIB  # posteriors, say
    slack.look(EVERY_S, changed=False)
    assert process.held == 900 * MIB
    process.used = 100 * MIB  # which have expired
    slack.look(2 * EVERY_S, changed=False)
    assert process.held == 100 * MIB


def test_who_has_no_moment_is_asked_again(monkeypatch):
    process = Process(monkeypatch)
    slack = FreedMemory(1, process.give_back)
    process.held, process.able = 200 * MIB, False
    slack.look(0.0, changed=True)
    assert (process.asked, process.held) == (1, 200 * MIB)
    process.able = True
    slack.look(1.0, changed=False)
    assert (process.asked, process.held) == (2, 100 * MIB)
    slack.look(2.0, changed=False)
    assert process.asked == 2


def test_every_process_of_the_service_is_looked_after(tmp_path, monkeypatch):
    publish(tmp_path, "tiny")
    looks = []
    worker = Worker("spawn")
    try:
        runtime = Runtime(Settings(store=tmp_path, device="cpu", reload_s=1e-3), WorkerPool([worker]))
        for slack in runtime.housekeeping.freed_memory:
            monkeypatch.setattr(
                slack, "look", lambda now, changed, pid=slack._pid: looks.append((pid, changed))
            )
        runtime.start()
        while len(looks) < 4:
            pass
        runtime.stop()
    finally:
        WorkerPool([worker]).stop()
    pids = {pid for pid, _ in looks}
    assert len(pids) == 2
    assert worker.pid in pids
    assert [changed for _, changed in looks[:4]] == [True, True, False, False]


def test_nobody_knows_what_a_process_holds_that_is_not_there():
    assert resident_bytes(0) == 0
