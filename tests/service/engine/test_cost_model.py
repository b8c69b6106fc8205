"""What work is believed to take: learned for what differs, from batches that mix it."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

import service.engine.cost_model
import service.engine.queue
from service.engine.cost_model import (
    DECAY_PER_BATCH,
    DEFAULT_OVERHEAD_S,
    DEFAULT_PACE,
    MAX_TRACKED,
    CostModel,
)
from service.engine.queue import AGE_SCALE, Queue, QueuedJob, select_batch
from service.errors import RequestError
from service.job import Job, SelectionSpec

FEW, MANY, SEEN = ("", False, 1), ("", False, 5), ("", True, 5)


def test_what_has_not_been_seen_takes_as_long_as_the_models_other_work_and_else_a_guess():
    paces = CostModel()
    guess = 10 * DEFAULT_PACE + 2 * DEFAULT_OVERHEAD_S
    assert paces.seconds("a", {FEW: 10}, batches=2) == pytest.approx(guess)
    paces.learn("a", 3.0, {FEW: 2, MANY: 4})
    assert paces.seconds("a", {SEEN: 7}) == pytest.approx(3.5)
    assert paces.seconds("b", {SEEN: 7}) == pytest.approx(7 * DEFAULT_PACE)


@pytest.mark.parametrize("beside_s", [0.0, 0.002, 0.01])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_from_batches_of_changing_make_up_each_has_its_own_pace(seed, beside_s):
    rng, paces, truth = np.random.default_rng(seed), CostModel(), {FEW: 8e-6, MANY: 1e-6, SEEN: 3e-6}

    def taken(batch):
        return beside_s + sum(some * truth[stratum] for stratum, some in batch.items())

    for _ in range(1000):
        batch = {stratum: int(rng.integers(1, 10_000)) for stratum in truth if rng.random() < 0.7}
        if batch:
            paces.learn("a", taken(batch), batch)
    for batch in [{stratum: 5000} for stratum in truth] + [dict.fromkeys(truth, 2000)]:
        assert paces.seconds("a", batch, batches=1) == pytest.approx(taken(batch), rel=0.05)


def test_what_is_never_alone_is_not_believed_to_take_ever_less():
    """A batch of its own costs what it costs; that is no reason to believe that its company costs nothing."""
    paces = CostModel()
    for _ in range(300):
        for _ in range(3):
            paces.learn("a", 0.003 + 1000e-6, {MANY: 1000})
        for _ in range(2):
            paces.learn("a", 0.003 + 21_000e-6, {MANY: 11_000, FEW: 10_000})
    assert paces.seconds("a", {FEW: 10_000}, batches=0) == pytest.approx(0.01, rel=0.2)


def test_whatever_batches_say_beliefs_are_finite_and_no_stratum_costs_next_to_nothing():
    paces = CostModel()
    paces.learn("a", 1.0, {FEW: 1000, MANY: 1000})
    for _ in range(20_000):
        paces.learn("a", 5.0, {MANY: 1000})
        paces.learn("a", 1.0, {FEW: 1000, MANY: 1000})
    few, many = (paces.seconds("a", {stratum: 1000}, batches=0) for stratum in (FEW, MANY))
    assert 0.05 * many < few < many < 10


def test_choices_are_believed_by_what_they_are_and_how_many_rows_they_choose():
    """A thousand rows take a thousand times as long as one from the same pool with the same acquisition."""

    def stratum(acquisition="entropy", strategy="top_k", size=1, shown=5):
        ask = SelectionSpec(acquisition, strategy, size, 9, np.zeros(9), np.zeros(9, bool), None, joint=False)
        rows = np.zeros((shown, 1), np.float32)
        return Job(None, rows, rows, rows, 0, 0, ask, 1.0).stratum

    others = [{"acquisition": "epig"}, {"strategy": "k_centre"}, {"size": 1000}, {"shown": 1}]
    assert len({stratum(), *(stratum(**other) for other in others)}) == 5
    assert stratum(size=600) == stratum(size=1000)


def test_the_strata_of_a_model_are_bounded():
    paces = CostModel()
    for size in range(3 * MAX_TRACKED):
        paces.learn("a", 1.0, {("", False, size): 1})
    assert len(paces._models["a"][0].strata) == MAX_TRACKED


def test_the_past_counts_less_with_every_batch():
    paces = CostModel()
    for seconds in (1.0, 3.0):
        paces.learn("a", seconds, {FEW: 1000})
    assert paces.seconds("a", {FEW: 1000}) == pytest.approx((DECAY_PER_BATCH + 3) / (DECAY_PER_BATCH + 1))


def test_a_clock_that_does_not_move_during_a_batch_is_not_believed():
    paces = CostModel()
    for _ in range(3):
        paces.learn("a", 0.0, {FEW: 1})
    assert paces.seconds("a", {FEW: 1}) > 0


def taken(tasks, most_work):
    """Which of these go together; each is a number of rows, how long it has waited, and how long it may."""
    loop = asyncio.new_event_loop()
    now = time.monotonic()
    waiting = [
        QueuedJob(
            SimpleNamespace(shape=(0, rows), group=(), work_per_row=1, deadline=now + left),
            now - waited,
            loop,
            loop.create_future(),
        )
        for rows, waited, left in tasks
    ]
    loop.close()
    return [waiting.index(each) for each in select_batch(waiting, most_work)]


def test_an_urgent_task_unlike_the_others_does_not_keep_them_apart():
    assert taken([(200, 1.0, 9.0)] * 40, 1800) == list(range(9))
    assert len(taken([(200, 1.0, 9.0)] * 20 + [(1800, 0.9, 0.1)] + [(200, 1.0, 9.0)] * 20, 1800)) == 9


def test_who_has_waited_long_goes_before_who_is_more_alike():
    """The tasks are 10, 14 and 10 rows long, and there is room for two of them."""

    def first_two(waited_s):
        return taken([(10, waited_s, 100.0), (14, waited_s, 100.0), (10, 0.0, 100.0)], 28)

    boundary = AGE_SCALE * np.sqrt(np.log(15 / 11))
    long_ago = 100 * boundary / (1 - boundary)  # of a life of 100 s more
    assert first_two(0.9 * long_ago) == [0, 2]
    assert first_two(1.1 * long_ago) == [0, 1]


@pytest.fixture
def clock(monkeypatch):
    """The queue's."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    for module in (service.engine.queue, service.engine.cost_model):
        monkeypatch.setattr(module, "time", clock)
    return clock


def named(name, clock, cost=1000, within_s=1.0):
    """Work of a model."""
    return SimpleNamespace(
        model=SimpleNamespace(sha256=name),
        cost=cost,
        stratum=FEW,
        group=name,
        shape=(0, cost),
        work_per_row=1,
        deadline=clock.now + within_s,
    )


def test_what_the_batch_under_way_leaves_no_time_for_is_refused_though_nothing_waits(clock):
    async def scenario():
        queue = Queue(10**9, 10**9)
        queue.add(named("a", clock))
        (first,) = queue.next_batch()
        queue.record_batch([first.job], 5.0)
        queue.add(named("a", clock))
        queue.next_batch()
        with pytest.raises(RequestError) as early:
            queue.add(named("a", clock, within_s=4.0))
        queue.add(named("a", clock, within_s=6.0))
        clock.now = 9.0  # it should have been done long ago, and may take as long again
        with pytest.raises(RequestError) as late:
            queue.add(named("b", clock, within_s=8.0))
        return early.value, late.value

    early, late = asyncio.run(scenario())
    assert (early.status, early.retry_after_s, late.status) == (429, 5, 429)


def test_who_has_had_much_of_the_device_is_told_that_others_go_first(clock):
    async def scenario():
        queue = Queue(10**9, 10**9)
        for name in "ab":
            queue.add(named(name, clock))
            queue.record_batch([queue.next_batch()[0].job], 0.01)
        queue.add(named("b", clock, within_s=100.0))
        queue.add(named("a", clock))
        taken = queue.next_batch()
        queue.record_batch([each.job for each in taken], 3.0)
        name = taken[0].job.model.sha256
        with pytest.raises(RequestError) as refused:
            queue.add(named(name, clock))
        queue.add(named(name, clock, within_s=10.0))
        return refused.value

    refused = asyncio.run(scenario())
    assert (refused.status, refused.retry_after_s) == (429, 4)  # 3 s, and a little that waits
