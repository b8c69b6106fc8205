"""What a process keeps of the memory that it has freed."""

import subprocess
import sys

import pytest

from service.memory import SLACK_BYTES, Slack, resident_bytes
from service.worker import Worker

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process holds")
MIB = 1 << 20
FREED = """
import os
import torch
from service.memory import give_back, keep_freed_memory, resident_bytes
keep_freed_memory()
several = [torch.ones(1 << 20) for _ in range(200)]
last = torch.ones(1 << 10)  # above them in the heap
del several
kept = resident_bytes(os.getpid())
give_back()
print(kept - resident_bytes(os.getpid()))
"""


@LINUX
def test_freed_memory_is_kept_until_it_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", FREED], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 700 * MIB


@LINUX
def test_a_worker_gives_back_and_answers_on():
    worker = Worker("spawn")
    try:
        worker.give_back()
        assert resident_bytes(worker.pid) > MIB
        worker.check()
    finally:
        worker.stop()


def test_slack_is_bounded_by_what_was_held_last(monkeypatch):
    held, given = [100 * MIB], []
    monkeypatch.setattr("service.memory.resident_bytes", lambda pid: held[0])

    def give_back():
        given.append(held[0])
        held[0] = min(held[0], 150 * MIB)

    slack = Slack(1, give_back)
    slack.drop()
    held[0] = 100 * MIB + SLACK_BYTES
    slack.bound()
    assert given == [100 * MIB]  # as much as it may keep
    held[0] += 1
    slack.bound()
    assert len(given) == 2
    held[0] = 150 * MIB + SLACK_BYTES  # what could not be given back is no slack
    slack.bound()
    assert len(given) == 2


def test_nobody_knows_what_a_process_holds_that_is_not_there():
    assert resident_bytes(0) == 0
