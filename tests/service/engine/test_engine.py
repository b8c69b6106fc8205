"""Engine, queue and cache together: bounded in work, mindful of deadlines, drained at the end."""

import asyncio
import functools
import gc
import itertools
import threading
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import service.compute.batch as batch_module
import service.engine.engine as engine_module
from bmaml.learners import Diverged
from service.compute.batch import compute
from service.compute.cuda_graphs import GraphCache
from service.compute.device import DeviceFailed, device_for
from service.engine.engine import Engine
from service.engine.posterior_cache import PosteriorCache
from service.engine.queue import MAX_PADDING_SHARE, Queue
from service.errors import RequestError
from service.job import Job, PostedSupport, PredictionSpec, row_counts
from service.ops.metrics import Metrics
from tests.published import publish


@pytest.fixture
def model(tmp_path):
    return publish(tmp_path)


def job(model, rows=3, deadline=float("inf")):
    def zeros(count):
        return np.zeros((count, 1), np.float32)

    return Job(model, zeros(2), zeros(2), zeros(rows), 0, 0, PredictionSpec((0.05, 0.95)), deadline)


def engine_of(max_queue_work=10**9, max_batch_work=10**9):
    metrics = Metrics()
    return Engine(Queue(max_queue_work, max_batch_work), PosteriorCache(10**9, b"secret", metrics), metrics)


class BlockedDevice:
    """Holds every batch back until it is opened, and records the batches."""

    def __init__(self, monkeypatch):
        self.reached, self.open = threading.Event(), threading.Event()
        self.batches = []
        whole = batch_module.answer_batch

        def blocked(jobs):
            self.reached.set()
            self.open.wait()
            self.batches.append(jobs)
            return whole(jobs)

        monkeypatch.setattr(batch_module, "answer_batch", blocked)


@pytest.fixture
def gate(monkeypatch):
    return BlockedDevice(monkeypatch)


@pytest.fixture
def even(monkeypatch):
    """Every batch takes a millisecond, by the engine's clock."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 0.001 * next(ticks))
    monkeypatch.setattr(engine_module, "time", clock)


def run(engine, scenario):
    engine.start()
    try:
        return asyncio.run(scenario())
    finally:
        engine.stop(30)


async def ask_in_turn(engine, order, model, name):
    """Note the name when its answer comes."""
    await engine.submit(job(model))
    order.append(name)


async def reached(gate):
    while not gate.reached.is_set():
        await asyncio.sleep(0)


def test_a_posterior_that_went_while_its_rows_were_sent_again_is_kept_again(model):
    engine = engine_of()
    posted = PostedSupport(np.zeros((2, 1)), (0.0, 0.0))
    fresh = replace(job(model), key="k", ttl_s=100.0, posted=posted)

    async def scenario():
        kept = (await engine.submit(fresh)).kept
        for ttl_s, there in ((100.0, True), (0.0, False)):  # a prediction asks for no time of its own
            engine._posteriors.drop_model(model.sha256)
            await engine.submit(replace(fresh, kept=kept, ttl_s=ttl_s))
            assert (engine._posteriors.get("k") is not None) == there

    run(engine, scenario)


def test_what_waits_together_is_answered_together(model, gate):
    engine = engine_of()

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        others = [asyncio.create_task(engine.submit(job(model, rows))) for rows in (2, 3, 4)]
        await asyncio.sleep(0)
        gate.open.set()
        return [await task for task in (first, *others)]

    answers = run(engine, scenario)
    assert [answer.batched_tasks for answer in answers] == [1, 3, 3, 3]
    assert [answer.result.mean.shape for answer in answers] == [(3,), (2,), (3,), (4,)]


def test_a_batch_keeps_to_its_budget_of_padded_work(model, gate):
    engine = engine_of(max_batch_work=2 * 4 * 5)  # two tasks × four particles × five rows

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        others = [asyncio.create_task(engine.submit(job(model))) for _ in range(3)]
        await asyncio.sleep(0)
        gate.open.set()
        return [(await task).batched_tasks for task in (first, *others)]

    assert run(engine, scenario) == [1, 2, 2, 1]


def test_little_of_a_batch_is_padding(model, gate):
    engine = engine_of()
    sizes = [1, 1, 2, 30, 3, 28, 200, 2, 180, 29]

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        others = [asyncio.create_task(engine.submit(job(model, rows))) for rows in sizes]
        await asyncio.sleep(0)
        gate.open.set()
        return [len((await task).result.mean) for task in (first, *others)]

    assert run(engine, scenario) == [3, *sizes]
    batches = [[len(each.query_x) for each in jobs] for jobs in gate.batches]
    assert sorted(map(sorted, batches), key=sum) == [[3], [1, 1, 2, 2, 3], [28, 29, 30], [180, 200]]
    for batch in batches:
        real, padded = row_counts([job(model, rows) for rows in batch])
        assert padded - real <= MAX_PADDING_SHARE * padded


def test_a_model_with_little_to_do_does_not_wait_behind_another_s_flood(tmp_path, model, gate, even):
    engine, quiet = engine_of(max_batch_work=1), publish(tmp_path, "quiet", seed=5)
    order = []
    asked = functools.partial(ask_in_turn, engine, order)

    async def scenario():
        first = asyncio.create_task(asked(model, "flood"))
        await reached(gate)
        tasks = [asyncio.create_task(asked(model, "flood")) for _ in range(6)]
        tasks += [asyncio.create_task(asked(quiet, "quiet")) for _ in range(2)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *tasks)

    run(engine, scenario)
    assert order[:5].count("quiet") == 2


def test_idle_time_earns_no_claim_on_the_device(tmp_path, model, gate, even):
    engine, quiet = engine_of(max_batch_work=1), publish(tmp_path, "quiet", seed=5)
    order = []
    asked = functools.partial(ask_in_turn, engine, order)

    async def scenario():
        gate.open.set()
        for _ in range(20):  # one at a time: between two of them nothing waits
            await asked(model, "busy")
        gate.open.clear()
        gate.reached.clear()
        first = asyncio.create_task(asked(model, "busy"))
        await reached(gate)
        tasks = [asyncio.create_task(asked(quiet, "quiet")) for _ in range(8)]
        tasks += [asyncio.create_task(asked(model, "busy")) for _ in range(4)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *tasks)

    run(engine, scenario)
    assert order[21:29].count("busy") >= 3


def test_a_lane_pays_for_what_its_work_took_not_for_what_it_was_believed_to_take(tmp_path, model):
    queue, other = Queue(10**9, 1), publish(tmp_path, "other", seed=5)

    async def scenario():
        for each in (model, other):
            queue.add(job(each))
        for _ in range(2):
            (taken,) = queue.next_batch()
            queue.record_batch([taken.job], 0.002)
        queue.add(job(model, 10_000))  # believed to take seconds
        (large,) = queue.next_batch()
        queue.record_batch([large.job], 0.02)
        for each in [model] * 3 + [other] * 30:
            queue.add(job(each))
        order = []
        while queue.tasks:
            (taken,) = queue.next_batch()
            order.append(taken.job.model.manifest.name)
            queue.record_batch([taken.job], 0.002)
        return order

    assert "tiny" in asyncio.run(scenario())[:15]


def test_the_same_rows_at_the_same_time_are_adapted_to_once(model, gate):
    engine = engine_of()

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        same = [
            asyncio.create_task(engine.submit(replace(job(model), key="k", ttl_s=60.0))) for _ in range(10)
        ]
        await asyncio.sleep(0)
        gate.open.set()
        return [await task for task in (first, *same)]

    alone, *answers = run(engine, scenario)
    assert sum(each.kept is None for jobs in gate.batches for each in jobs) == 2
    assert [answer.cached for answer in answers] == [False] + [True] * 9
    for answer in answers:
        np.testing.assert_allclose(answer.result.mean, alone.result.mean, rtol=1e-5)
        assert answer.support_nll == pytest.approx(alone.support_nll, rel=1e-5)


def test_a_fault_outside_any_task_leaves_nobody_waiting(model, monkeypatch):
    engine = engine_of()

    def broken(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr(PosteriorCache, "put", broken)

    async def scenario():
        with pytest.raises(RuntimeError, match="no room"):
            await engine.submit(replace(job(model), key="k"))
        return await engine.submit(job(model))

    assert run(engine, scenario).batched_tasks == 1


def test_a_full_queue_refuses_with_a_time_to_come_back(model, gate):
    engine = engine_of(max_queue_work=job(model).cost)

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        second = asyncio.create_task(engine.submit(job(model)))
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await engine.submit(job(model))
        gate.open.set()
        await asyncio.gather(first, second)
        return refused.value

    problem = run(engine, scenario)
    assert problem.status == 429
    assert problem.retry_after_s >= 1


def test_work_that_expired_in_the_queue_is_dropped_unstarted(model, gate):
    engine = engine_of()

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        late = asyncio.create_task(engine.submit(job(model, deadline=time.monotonic() - 1)))
        await asyncio.sleep(0)
        gate.open.set()
        await first
        with pytest.raises(RequestError) as expired:
            await late
        return expired.value.status

    assert run(engine, scenario) == 504


@pytest.mark.parametrize("how", ["diverged", "expired"])
def test_a_request_that_failed_is_forgotten_with_its_reply(model, gate, how):
    """Without the garbage collector, which would come for it late: large bodies would pile up."""
    engine = engine_of()

    async def scenario():
        gate.open.set() if how == "diverged" else None
        asked = job(model, deadline=time.monotonic() + (0.3 if how == "expired" else 60))
        if how == "diverged":
            asked.support_y[:] = 3e38
        else:
            first = asyncio.create_task(engine.submit(job(model)))
            await reached(gate)
        with pytest.raises(Diverged if how == "diverged" else RequestError):
            await engine.submit(asked)
        gate.open.set()
        if how == "expired":
            await first
        while engine.queue.tasks:
            await asyncio.sleep(0)
        return weakref.ref(asked)

    gc.disable()
    try:
        left = run(engine, scenario)
        gate.batches.clear()
        assert left() is None
    finally:
        gc.enable()


def test_work_of_a_caller_who_left_is_dropped(model, gate):
    engine = engine_of()

    async def scenario():
        first = asyncio.create_task(engine.submit(job(model)))
        await reached(gate)
        gone = asyncio.create_task(engine.submit(job(model)))
        kept = asyncio.create_task(engine.submit(job(model)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await first
        return (await kept).batched_tasks

    assert run(engine, scenario) == 1


def test_stopping_answers_what_was_accepted_and_refuses_the_rest(model, gate):
    engine = engine_of()

    async def scenario():
        accepted = [asyncio.create_task(engine.submit(job(model))) for _ in range(3)]
        await reached(gate)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop, 30))
        while engine.alive:
            await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await engine.submit(job(model))
        gate.open.set()
        await asyncio.gather(*accepted)
        await stopping
        return refused.value.status

    assert run(engine, scenario) == 503


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_the_cpu():
    with pytest.raises(DeviceFailed, match="BMAML_DEVICE"):
        device_for("cuda")
    assert device_for("auto").type == "cpu"


def test_what_is_recorded_is_let_go_where_there_is_no_room(model, monkeypatch):
    graphs, answered, whole = GraphCache(), [], batch_module.answer_batch

    def answer_batch(jobs, graphs):
        answered.append(len(jobs))
        if len(jobs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(jobs)

    dropped = []
    monkeypatch.setattr(graphs, "clear", lambda: dropped.append(answered[-1]))
    monkeypatch.setattr(batch_module, "answer_batch", answer_batch)
    metrics = Metrics()
    queue, posteriors = Queue(10**9, 10**9), PosteriorCache(10**9, b"secret", metrics)
    engine = Engine(queue, posteriors, metrics, compute=functools.partial(compute, graphs=graphs))

    async def scenario():
        both = [asyncio.create_task(engine.submit(job(model))) for _ in range(2)]
        await asyncio.sleep(0)
        engine.start()  # both wait
        return await asyncio.gather(*both)

    try:
        assert len(asyncio.run(scenario())) == 2
    finally:
        engine.stop(30)
    assert dropped == [2]
    assert answered == [2, 1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("learner", ["collapsed", "bmaml"])
def test_the_gpu_answers_what_the_cpu_answers(tmp_path, learner):
    settings = {"step_size": 1e-3} if learner == "bmaml" else {}
    model = publish(tmp_path, learner=learner, **settings)
    (there,) = batch_module.answer_batch([job(model.to("cuda"))])
    (here,) = batch_module.answer_batch([job(model)])
    assert there.result.mean == pytest.approx(here.result.mean, rel=1e-4)
    assert there.result.quantiles.values == pytest.approx(here.result.quantiles.values, rel=1e-4)
