"""Freed memory goes back to the system."""

import sys

import pytest
import torch

from service.engine.worker import Worker
from service.engine.worker_pool import WorkerPool
from service.ops.memory import MAX_SLACK_BYTES, TRIM_INTERVAL_S, HeapTrimmer, resident_bytes
from service.runtime import Runtime
from service.settings import Settings
from tests.published import publish

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process holds")
MIB = 1 << 20


def a_heap_with_holes():
    """In another process: freed memory that stays with it."""
    several = [torch.ones(1 << 13) for _ in range(4000)]  # too small to be mapped one by one
    a_heap_with_holes.last = torch.ones(1 << 10)
    del several


@LINUX
def test_a_worker_gives_back_and_answers_on():
    worker = Worker("forkserver")
    try:
        worker.check()
        worker._call(a_heap_with_holes)
        before = resident_bytes(worker.pid)
        assert worker.trim_heap()
        assert before - resident_bytes(worker.pid) > 100 * MIB
        with worker._lock:  # a batch is under way
            assert not worker.trim_heap()
        worker.check()
    finally:
        WorkerPool([worker]).stop()


class Process:
    """Of which `held` bytes are resident, `used` of them in use."""

    def __init__(self, monkeypatch):
        self.held = self.used = 100 * MIB
        self.able, self.asked = True, 0
        monkeypatch.setattr("service.ops.memory.resident_bytes", lambda pid: self.held)

    def trim_heap(self):
        self.asked += 1
        if self.able:
            self.held = self.used
        return self.able


def test_so_much_is_kept_and_more_for_a_minute_at_most(monkeypatch):
    process = Process(monkeypatch)
    trimmer = HeapTrimmer(1, process.trim_heap)
    trimmer.trim_if_due(0.0, changed=True)
    process.held += MAX_SLACK_BYTES
    trimmer.trim_if_due(10 * TRIM_INTERVAL_S, changed=False)
    assert process.asked == 1
    process.held += 1
    trimmer.trim_if_due(TRIM_INTERVAL_S - 1, changed=False)
    assert process.asked == 1
    trimmer.trim_if_due(TRIM_INTERVAL_S, changed=False)
    assert (process.asked, process.held) == (2, process.used)


def test_what_is_freed_later_is_returned_too(monkeypatch):
    process = Process(monkeypatch)
    trimmer = HeapTrimmer(1, process.trim_heap)
    trimmer.trim_if_due(0.0, changed=True)
    process.held = process.used = 900 * MIB  # posteriors, say
    trimmer.trim_if_due(TRIM_INTERVAL_S, changed=False)
    assert process.held == 900 * MIB
    process.used = 100 * MIB  # which have expired
    trimmer.trim_if_due(2 * TRIM_INTERVAL_S, changed=False)
    assert process.held == 100 * MIB


def test_who_has_no_moment_is_asked_again(monkeypatch):
    process = Process(monkeypatch)
    trimmer = HeapTrimmer(1, process.trim_heap)
    process.held, process.able = 200 * MIB, False
    trimmer.trim_if_due(0.0, changed=True)
    assert (process.asked, process.held) == (1, 200 * MIB)
    process.able = True
    trimmer.trim_if_due(1.0, changed=False)
    assert (process.asked, process.held) == (2, 100 * MIB)
    trimmer.trim_if_due(2.0, changed=False)
    assert process.asked == 2


def test_every_process_of_the_service_is_looked_after(tmp_path, monkeypatch):
    publish(tmp_path, "tiny")
    trims = []
    worker = Worker("forkserver")
    try:
        runtime = Runtime(Settings(store=tmp_path, device="cpu", reload_s=1e-3), WorkerPool([worker]))
        for trimmer in runtime.housekeeping.heap_trimmers:
            monkeypatch.setattr(
                trimmer, "trim_if_due", lambda now, changed, pid=trimmer._pid: trims.append((pid, changed))
            )
        runtime.start()
        while len(trims) < 4:
            pass
        runtime.stop()
    finally:
        WorkerPool([worker]).stop()
    pids = {pid for pid, _ in trims}
    assert len(pids) == 2
    assert worker.pid in pids
    assert [changed for _, changed in trims[:4]] == [True, True, False, False]


def test_nobody_knows_what_a_process_holds_that_is_not_there():
    assert resident_bytes(0) == 0
