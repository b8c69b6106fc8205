"""The queue: bounded in work, mindful of deadlines, drained at the end."""

import asyncio
import threading
import time

import numpy as np
import pytest
import torch

import service.engine as engine_module
from service.engine import DeviceFailed, Engine, device_for
from service.problems import RequestError
from service.work import PredictAsk, Work
from tests.published import publish


@pytest.fixture
def model(tmp_path):
    return publish(tmp_path)


def work(model, rows=3, deadline=float("inf")):
    def zeros(count):
        return np.zeros((count, 1), np.float32)

    return Work(model, zeros(2), zeros(2), zeros(rows), 0, 0, PredictAsk((0.05, 0.95)), deadline)


class Gate:
    """Holds the device until it is opened."""

    def __init__(self, monkeypatch):
        self.reached, self.open = threading.Event(), threading.Event()
        whole = engine_module.answer_together

        def gated(works):
            self.reached.set()
            self.open.wait()
            return whole(works)

        monkeypatch.setattr(engine_module, "answer_together", gated)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def run(engine, scenario):
    engine.start()
    try:
        return asyncio.run(scenario())
    finally:
        engine.stop(30)


async def reached(gate):
    while not gate.reached.is_set():
        await asyncio.sleep(0)


def test_what_waits_together_is_answered_together(model, gate):
    engine = Engine(10**9, 10**9)

    async def scenario():
        first = asyncio.create_task(engine.submit(work(model)))
        await reached(gate)
        others = [asyncio.create_task(engine.submit(work(model, rows))) for rows in (1, 2, 5)]
        await asyncio.sleep(0)
        gate.open.set()
        return [await task for task in (first, *others)]

    answers = run(engine, scenario)
    assert [answer.batched_tasks for answer in answers] == [1, 3, 3, 3]
    assert [answer.result.moments.mean.shape for answer in answers] == [(3, 1), (1, 1), (2, 1), (5, 1)]


def test_a_batch_keeps_to_its_budget_of_padded_work(model, gate):
    engine = Engine(10**9, max_batch_work=2 * 4 * 5)  # two tasks × four particles × five rows

    async def scenario():
        first = asyncio.create_task(engine.submit(work(model)))
        await reached(gate)
        others = [asyncio.create_task(engine.submit(work(model))) for _ in range(3)]
        await asyncio.sleep(0)
        gate.open.set()
        return [(await task).batched_tasks for task in (first, *others)]

    assert run(engine, scenario) == [1, 2, 2, 1]


def test_a_full_queue_refuses_with_a_time_to_come_back(model, gate):
    engine = Engine(max_queue_work=work(model).cost, max_batch_work=10**9)

    async def scenario():
        first = asyncio.create_task(engine.submit(work(model)))
        await reached(gate)
        second = asyncio.create_task(engine.submit(work(model)))
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await engine.submit(work(model))
        gate.open.set()
        await asyncio.gather(first, second)
        return refused.value

    problem = run(engine, scenario)
    assert problem.status == 429
    assert problem.retry_after_s >= 1


def test_work_that_expired_in_the_queue_is_dropped_unstarted(model, gate):
    engine = Engine(10**9, 10**9)

    async def scenario():
        first = asyncio.create_task(engine.submit(work(model)))
        await reached(gate)
        late = asyncio.create_task(engine.submit(work(model, deadline=time.monotonic() - 1)))
        await asyncio.sleep(0)
        gate.open.set()
        await first
        with pytest.raises(RequestError) as expired:
            await late
        return expired.value.status

    assert run(engine, scenario) == 504


def test_work_of_a_caller_who_left_is_dropped(model, gate):
    engine = Engine(10**9, 10**9)

    async def scenario():
        first = asyncio.create_task(engine.submit(work(model)))
        await reached(gate)
        gone = asyncio.create_task(engine.submit(work(model)))
        kept = asyncio.create_task(engine.submit(work(model)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await first
        return (await kept).batched_tasks

    assert run(engine, scenario) == 1


def test_stopping_answers_what_was_accepted_and_refuses_the_rest(model, gate):
    engine = Engine(10**9, 10**9)

    async def scenario():
        accepted = [asyncio.create_task(engine.submit(work(model))) for _ in range(3)]
        await reached(gate)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop, 30))
        while engine.alive:
            await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await engine.submit(work(model))
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("learner", ["collapsed", "bmaml"])
def test_the_gpu_answers_what_the_cpu_answers(tmp_path, learner):
    settings = {"step_size": 1e-3} if learner == "bmaml" else {}
    model = publish(tmp_path, learner=learner, **settings)
    (there,) = engine_module.answer_together([work(model.to("cuda"))])
    (here,) = engine_module.answer_together([work(model)])
    assert there.result.moments.mean == pytest.approx(here.result.moments.mean, rel=1e-4)
    assert there.result.quantiles == pytest.approx(here.result.quantiles, rel=1e-4)
