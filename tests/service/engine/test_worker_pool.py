"""Several processes share a batch out: whoever answers, the answer is the same, and nothing is mixed up."""

import asyncio
import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import service.engine.worker_pool
from bmaml.learners import Diverged
from service.__main__ import main
from service.compute.batch import compute
from service.compute.device import DeviceFailed
from service.engine.queue import Queue
from service.engine.worker import Worker
from service.engine.worker_pool import (
    BISECTION_STEPS,
    MIN_TASKS_PER_SHARE,
    MIN_WORK_PER_SHARE,
    WorkerPool,
    split_into_shares,
)
from service.job import PostedSupport, work_per_row
from service.ops.cpus import usable_cores
from service.settings import Settings
from tests.faults.conftest import BODY, gone, serving
from tests.published import publish
from tests.service.engine.test_worker import job, said

SIZES = st.tuples(st.integers(0, 30), st.integers(1, 30))


@pytest.fixture(scope="module")
def worker_pool():
    worker_pool = WorkerPool.start(3, "forkserver")
    yield worker_pool
    worker_pool.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("pool"), learner="collapsed", particles=4)


@pytest.fixture(scope="module")
def jobs(model):
    """Of all sizes, in no order."""
    rng = np.random.default_rng(0)
    return [job(model, int(rng.integers(9)), int(rng.integers(1, 9)), seed) for seed in range(13)]


def padded(jobs):
    """Work of tasks that are padded to one shape."""
    support, query = map(max, zip(*(each.shape for each in jobs), strict=True))
    return len(jobs) * (support + query) * jobs[0].work_per_row


def best(jobs, order, count):
    """How short the longest of so many shares can be, each of neighbours in this order, by trying all."""
    if count == 1:
        return padded([jobs[place] for place in order])
    cuts = range(1, len(order))
    return min(
        max(
            padded([jobs[place] for place in order[a:b]]) for a, b in itertools.pairwise((0, *at, len(order)))
        )
        for some in range(count)
        for at in itertools.combinations(cuts, some)
    )


@given(st.lists(SIZES, min_size=1, max_size=60), st.integers(1, 9))
def test_every_task_goes_to_one_process_beside_others_of_like_size(model, sizes, most):
    jobs = [job(model, *size) for size in sizes]
    shares = split_into_shares(jobs, most)
    order = list(itertools.chain(*shares))
    assert sorted(order) == list(range(len(jobs)))
    assert all(shares)
    assert len(shares) <= min(most, len(jobs))
    rows = [sum(jobs[place].shape) for place in order]
    assert rows == sorted(rows)


@given(st.lists(SIZES, min_size=1, max_size=9), st.integers(1, 4))
def test_the_longest_share_is_as_short_as_it_can_be_with_its_padding(model, sizes, most):
    jobs = [job(model, *size) for size in sizes]
    shares = split_into_shares(jobs, most, min_share_work=1)  # any task is worth a share
    longest = max(padded([jobs[place] for place in share]) for share in shares)
    order, count = list(itertools.chain(*shares)), min(most, len(jobs))
    assert longest <= best(jobs, order, count) + padded(jobs) / 2**BISECTION_STEPS


def test_the_answers_are_those_of_each_share_alone_in_the_order_of_the_tasks(worker_pool, jobs):
    shares = split_into_shares(jobs, 3)
    assert len(shares) == 3
    answers = worker_pool.answer(jobs, 1)
    for share in shares:
        alone = compute([jobs[place] for place in share], 1)
        assert [said(answers[place]) for place in share] == [said(answer) for answer in alone]


def test_few_tasks_stay_together(worker_pool, jobs):
    few = jobs[: 2 * MIN_TASKS_PER_SHARE - 1]
    assert [answer.batched_tasks for answer in worker_pool.answer(few, 1)] == [len(few)] * len(few)


def test_few_large_tasks_go_to_a_process_each(model):
    rows = MIN_WORK_PER_SHARE // work_per_row(model, model.learner.steps) + 1
    assert split_into_shares([job(model, 0, rows, seed) for seed in range(3)], 8) == [[0], [1], [2]]
    assert split_into_shares([job(model, 0, 2 * rows)], 8) == [[0]]
    sizes = [10, *[100 * rows] * 7]  # a small one beside them leaves none of the processes idle
    assert len(split_into_shares([job(model, 5, size) for size in sizes], 8)) == 8
    assert len(split_into_shares([job(model, 0, 9), job(model, 0, 9)], 8, min_share_work=30)) == 2


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_a_batch_holds_as_much_for_each_process_or_a_larger_task(model, processes):
    async def batch_of(tasks, rows, most):
        queue = Queue(1 << 40, most, processes)
        for seed in range(tasks):
            queue.add(job(model, 0, rows, seed))
        return [waiting.job for waiting in queue.next_batch()]

    rows = MIN_WORK_PER_SHARE // work_per_row(model, model.learner.steps) + 1
    jobs = asyncio.run(batch_of(40, rows, 4 * job(model, 0, rows).cost))
    assert len(jobs) == 4 * processes
    assert max(map(len, split_into_shares(jobs, processes))) == 4
    jobs = asyncio.run(batch_of(40, 8 * rows, 4 * job(model, 0, rows).cost))
    assert len(jobs) == processes
    assert [len(share) for share in split_into_shares(jobs, processes)] == [1] * processes


def test_a_posterior_from_one_process_is_known_to_the_others(worker_pool, model):
    fresh = [
        job(model, seed=seed, key=str(seed), posted=PostedSupport(np.zeros((6, 1)), (1.0,) * 6))
        for seed in range(12)
    ]
    first = worker_pool.answer(fresh, 1)
    known = [replace(each, kept=answer.kept) for each, answer in zip(fresh, first, strict=True)]
    again = worker_pool.answer(known[::-1], 1)[::-1]  # each process has others than before
    for before, after in zip(first, again, strict=True):
        assert after.cached
        assert after.kept is before.kept
        np.testing.assert_allclose(after.result.mean, before.result.mean, rtol=1e-5)


def test_one_task_that_diverges_fails_alone(worker_pool, jobs):
    poisoned = jobs[5]
    bad = replace(poisoned, support_y=np.full_like(jobs[5].support_y, 3e38))
    assert len(bad.support_y)
    answers = worker_pool.answer([*jobs[:5], bad, *jobs[6:]], 1)
    assert [isinstance(answer, Diverged) for answer in answers] == [place == 5 for place in range(13)]


def test_an_error_in_one_process_leaves_nothing_behind_in_the_others(worker_pool, jobs, model):
    wrong = replace(job(model, 4, 4), support_x=np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="must match exactly"):
        worker_pool.answer([*jobs, wrong], 1)
    expected = [said(answer) for answer in worker_pool.answer(jobs, 1)]
    with pytest.raises(ValueError, match="must match exactly"):
        worker_pool.answer([wrong, *jobs], 1)
    assert [said(answer) for answer in worker_pool.answer(jobs, 1)] == expected
    worker_pool.check()


def test_what_warms_a_model_up_reaches_every_process(worker_pool, tmp_path):
    model = publish(tmp_path)
    worker_pool.warm_up([job(model)], 1)
    assert all(worker._models.number(model) is not None for worker in worker_pool.workers)


def test_what_native_functions_answer_is_computed_where_the_engine_is(worker_pool, tmp_path, monkeypatch):
    model = publish(tmp_path)
    native = SimpleNamespace(serves=lambda jobs: jobs[0].model is model)
    monkeypatch.setattr(service.engine.worker_pool, "native_path", native)
    worker_pool.warm_up([job(model)], 1)
    (answer,) = worker_pool.answer([job(model)], 1)
    assert said(answer) == said(compute([job(model)], 1)[0])
    assert all(worker._models.number(model) is None for worker in worker_pool.workers)


def test_when_one_process_is_gone_the_pool_has_failed(jobs):
    worker_pool = WorkerPool.start(2, "forkserver")
    try:
        worker_pool.check()
        assert not worker_pool.failed
        os.kill(worker_pool.workers[1].pid, signal.SIGKILL)
        with pytest.raises(DeviceFailed, match="has ended"):
            worker_pool.answer(jobs, 1)
        worker_pool.workers[1]._process.join()
        assert worker_pool.failed
        worker_pool.workers[0].check()  # what it had begun has been taken
    finally:
        worker_pool.stop()


def test_those_that_do_not_end_are_ended_together(monkeypatch):
    monkeypatch.setattr(service.engine.worker_pool, "STOP_TIMEOUT_S", 0.01)
    worker_pool = WorkerPool.start(3, "forkserver")
    worker_pool.check()
    for worker in worker_pool.workers:
        os.kill(worker.pid, signal.SIGSTOP)
    worker_pool.stop()
    assert not any(worker._process.is_alive() for worker in worker_pool.workers)


def test_when_one_cannot_be_started_those_before_it_end(monkeypatch):
    started = []

    def start(method, others):
        if len(others) == 2:
            raise OSError(24, "Too many open files")
        started.append(Worker(method, others))
        return started[-1]

    monkeypatch.setattr(service.engine.worker_pool, "Worker", start)
    with pytest.raises(OSError, match="Too many"):
        WorkerPool.start(8, "forkserver")
    assert len(started) == 2
    assert not any(worker._process.is_alive() for worker in started)


def test_a_service_without_room_for_its_processes_says_so_and_ends(monkeypatch, capsys):
    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(service.engine.worker_pool, "Worker", fail)
    monkeypatch.setenv("BMAML_DEVICE", "cpu")
    monkeypatch.setenv("BMAML_WORKERS", "2")
    assert main([]) == 1
    assert "cannot start the worker processes" in capsys.readouterr().err


@pytest.mark.parametrize("computing", [{"engine": "thread"}, {"device": "cuda"}])
def test_processes_are_not_asked_for_where_a_thread_computes(computing):
    with pytest.raises(ValidationError, match="a thread computes"):
        Settings(workers=2, **computing)


def test_every_process_answers_behind_http_and_ends_with_the_service(tmp_path):
    publish(tmp_path, "tiny")
    with serving(tmp_path, workers=3, device="cpu") as service:
        workers = service.children
        assert len(workers) == 3
        before = [seconds(service.url, number) for number in range(3)]
        with httpx.Client(base_url=service.url, timeout=60) as client, ThreadPoolExecutor(24) as callers:
            expected = client.post("/adapt-predict", json=BODY).json()["prediction"]["mean"]
            while any(seconds(service.url, number) <= before[number] for number in range(3)):
                replies = list(
                    callers.map(lambda _: client.post("/adapt-predict", json=BODY).json(), range(96))
                )
                for reply in replies:
                    np.testing.assert_allclose(reply["prediction"]["mean"], expected, rtol=1e-4)
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        for pid in workers:
            while not gone(pid):
                pass


def seconds(url, number):
    """Of the CPU that a process has had."""
    name = f'bmaml_worker_process_cpu_seconds_total{{worker="{number}"}} '
    text = httpx.get(f"{url}/metrics", timeout=60).text
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


UNBOUNDED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "membership", "most"),
    [
        ({}, "", UNBOUNDED),
        ({"cpu.max": "100000 100000"}, "0::/", 1),
        ({"cpu.max": "100000 100000"}, "\n\u2028:\x0c\n0::/caf\udce9", 1),  # whatever it says
        ({"cpu.max": "50000 100000"}, "0::/", 1),  # half of one is one
        ({"cpu.max": "max 100000"}, "0::/", UNBOUNDED),
        ({"cpu.max": "100000 0"}, "0::/", UNBOUNDED),
        ({"system.slice/cpu.max": "100000 100000"}, "0::/system.slice/service", 1),  # its parent's bound
        ({"elsewhere/cpu.max": "100000 100000"}, "0::/system.slice/service", UNBOUNDED),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpuset:/\n1:cpu:/", 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", UNBOUNDED),
        (
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "100000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            "2:cpu,cpuacct:/a",
            1,
        ),
    ],
)
def test_a_container_has_as_many_cores_as_it_has_time_for(tmp_path, files, membership, most):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "self").write_bytes(os.fsencode(membership + "\n" if membership else ""))
    assert usable_cores(tmp_path, tmp_path / "self") == most


def test_of_a_container_s_cores_only_whole_ones_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for quota, most in (("400000", 4), ("250000", 2), ("max", 64)):
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
        assert usable_cores(tmp_path, tmp_path / "none") == most
