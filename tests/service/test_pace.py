"""What work is believed to take: learned for what differs, from batches that mix it."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from service.pace import MEMORY, UNKNOWN_PACE, Paces
from service.queue import PATIENCE, Waiting, fitting

FEW, MANY, SEEN = ("", False, 1), ("", False, 5), ("", True, 5)


def test_what_has_not_been_seen_takes_as_long_as_the_models_other_work_and_else_a_guess():
    paces = Paces()
    assert paces.seconds("a", {FEW: 10}) == pytest.approx(10 * UNKNOWN_PACE)
    paces.learn("a", 3.0, {FEW: 2, MANY: 4})
    assert paces.seconds("a", {SEEN: 7}) == pytest.approx(3.5)
    assert paces.seconds("b", {SEEN: 7}) == pytest.approx(7 * UNKNOWN_PACE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_from_batches_of_changing_make_up_each_has_its_own_pace(seed):
    rng, paces, truth = np.random.default_rng(seed), Paces(), {FEW: 8e-6, MANY: 1e-6, SEEN: 3e-6}
    for _ in range(400):
        batch = {stratum: int(rng.integers(1, 1000)) for stratum in truth if rng.random() < 0.7}
        if batch:
            paces.learn("a", sum(some * truth[stratum] for stratum, some in batch.items()), batch)
    for stratum, pace in truth.items():
        assert paces.seconds("a", {stratum: 1000}) == pytest.approx(1000 * pace, rel=0.05)
    whole = dict.fromkeys(truth, 500)
    assert paces.seconds("a", whole) == pytest.approx(sum(500 * pace for pace in truth.values()), rel=0.02)


def test_the_past_counts_less_with_every_batch():
    paces = Paces()
    paces.learn("a", 1.0, {FEW: 1})
    paces.learn("a", 3.0, {FEW: 1})
    assert paces.seconds("a", {FEW: 1}) == pytest.approx((MEMORY + 3) / (MEMORY + 1))


def test_a_clock_that_does_not_move_during_a_batch_is_not_believed():
    paces = Paces()
    for _ in range(3):
        paces.learn("a", 0.0, {FEW: 1})
    assert paces.seconds("a", {FEW: 1}) > 0


def test_who_has_waited_long_goes_before_who_is_more_alike():
    """The tasks are 10, 14 and 10 rows long, and there is room for two of them."""

    def first_two(waited_s):
        loop = asyncio.new_event_loop()
        now = loop.time()
        waiting = [
            Waiting(
                SimpleNamespace(shape=(0, rows), group=(), per_row=1, deadline=now + 100.0),
                now - since,
                loop,
                loop.create_future(),
            )
            for rows, since in ((10, waited_s), (14, waited_s), (10, 0.0))
        ]
        loop.close()
        return [waiting.index(each) for each in fitting(waiting, 28)]

    boundary = PATIENCE * np.sqrt(np.log(15 / 11))
    long_ago = 100 * boundary / (1 - boundary)  # of a life of 100 s more
    assert first_two(0.9 * long_ago) == [0, 2]
    assert first_two(1.1 * long_ago) == [0, 1]
