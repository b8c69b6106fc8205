"""The jobs that the selection benchmark times are ones that the service computes."""

import pytest

from benchmarks.speed.selection import BATCH, DEFAULT, cases, job
from model_store import SHIPPED, Store
from service.compute.batch import answer_batch
from service.job import Answer, Selection


@pytest.mark.parametrize("case", [case for case in cases() if case[-1] == 300 and case[-2] == 5], ids=str)
def test_a_case_selects_its_rows(case):
    name, acquisition, strategy, shown, _ = case
    (found,) = answer_batch([job(Store(SHIPPED).load(name), acquisition, strategy, shown, pool=30)])
    assert isinstance(found, Answer)
    assert isinstance(found.result, Selection)
    assert len(set(found.result.indices)) == BATCH


def test_the_default_needs_no_target():
    (found,) = answer_batch(
        [job(Store(SHIPPED).load("sinusoid"), DEFAULT, "top_k", 2, pool=30, size=1, targets=0)]
    )
    assert isinstance(found, Answer)
    assert isinstance(found.result, Selection)
    assert (len(found.result.indices), found.result.targets) == (1, 30)
