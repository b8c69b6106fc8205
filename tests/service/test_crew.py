"""Several processes share a batch out: whoever answers, the answer is the same, and nothing is mixed up."""

import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmaml.learners import Diverged
from service.cores import cores
from service.crew import LEAST, Crew, shared_out
from service.device import DeviceFailed
from service.engine import compute
from service.work import Sent
from tests.faults.conftest import BODY, serving
from tests.published import publish
from tests.service.test_worker import said, work

SIZES = st.tuples(st.integers(0, 30), st.integers(1, 30))


@pytest.fixture(scope="module")
def crew():
    crew = Crew.of(3, "spawn")  # pytest has threads, and a fork only one of them
    yield crew
    crew.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("crew"), learner="collapsed", particles=4)


@pytest.fixture(scope="module")
def works(model):
    """Of all sizes, in no order."""
    rng = np.random.default_rng(0)
    return [work(model, int(rng.integers(9)), int(rng.integers(1, 9)), seed) for seed in range(13)]


@given(st.lists(SIZES, min_size=1, max_size=60), st.integers(1, 9))
def test_every_task_goes_to_one_process_and_each_has_about_as_much_to_do(model, sizes, most):
    works = [work(model, *size) for size in sizes]
    shares = shared_out(works, most)
    assert sorted(itertools.chain(*shares)) == list(range(len(works)))
    assert all(shares)
    assert len(shares) <= max(1, min(most, len(works) // LEAST))
    costs, largest = [work.cost for work in works], max(work.cost for work in works)
    fair = sum(costs) / max(1, min(most, len(works) // LEAST))
    assert max(sum(costs[place] for place in share) for share in shares) <= fair + largest


@given(st.lists(SIZES, min_size=1, max_size=60), st.integers(1, 9))
def test_a_share_holds_tasks_of_like_size(model, sizes, most):
    works = [work(model, *size) for size in sizes]
    shapes = [[works[place].shape for place in share] for share in shared_out(works, most)]
    for before, after in itertools.pairwise(shapes):
        assert max(before) <= min(after)


def test_the_answers_are_those_of_each_share_alone_in_the_order_of_the_tasks(crew, works):
    shares = shared_out(works, 3)
    assert len(shares) == 3
    answers = crew.answer(works, 1)
    for share in shares:
        alone = compute([works[place] for place in share], 1)
        assert [said(answers[place]) for place in share] == [said(answer) for answer in alone]


def test_few_tasks_stay_together(crew, works):
    few = works[: 2 * LEAST - 1]
    assert [answer.batched_tasks for answer in crew.answer(few, 1)] == [len(few)] * len(few)


def test_a_posterior_from_one_process_is_known_to_the_others(crew, model):
    fresh = [
        work(model, seed=seed, key=str(seed), sent=Sent(np.zeros((6, 1)), (1.0,) * 6)) for seed in range(12)
    ]
    first = crew.answer(fresh, 1)
    known = [replace(each, known=answer.kept) for each, answer in zip(fresh, first, strict=True)]
    again = crew.answer(known[::-1], 1)[::-1]  # each process has others than before
    for before, after in zip(first, again, strict=True):
        assert after.cached
        assert after.kept is before.kept
        np.testing.assert_allclose(after.result.moments.mean, before.result.moments.mean, rtol=1e-5)


def test_one_task_that_diverges_fails_alone(crew, works):
    poisoned = works[5]
    bad = replace(poisoned, support_y=np.full_like(works[5].support_y, 3e38))
    assert len(bad.support_y)
    answers = crew.answer([*works[:5], bad, *works[6:]], 1)
    assert [isinstance(answer, Diverged) for answer in answers] == [place == 5 for place in range(13)]


def test_an_error_in_one_process_leaves_nothing_behind_in_the_others(crew, works, model):
    wrong = replace(work(model, 4, 4), support_x=np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="must match exactly"):
        crew.answer([*works, wrong], 1)
    expected = [said(answer) for answer in crew.answer(works, 1)]
    with pytest.raises(ValueError, match="must match exactly"):
        crew.answer([wrong, *works], 1)
    assert [said(answer) for answer in crew.answer(works, 1)] == expected
    crew.check()


def test_what_warms_a_model_up_reaches_every_process(crew, tmp_path):
    model = publish(tmp_path)
    crew.answer_each([work(model)], 1)
    assert all(worker._models.number(model) is not None for worker in crew.workers)


def test_when_one_process_is_gone_the_crew_has_failed(works):
    crew = Crew.of(2, "spawn")
    try:
        crew.check()
        assert not crew.failed
        os.kill(crew.workers[1].pid, signal.SIGKILL)
        with pytest.raises(DeviceFailed, match="has ended"):
            crew.answer(works, 1)
        crew.workers[1]._process.join()
        assert crew.failed
        crew.workers[0].check()  # what it had begun has been taken
    finally:
        crew.stop()


def test_every_process_answers_behind_http_and_ends_with_the_service(tmp_path):
    publish(tmp_path, "tiny")
    with serving(tmp_path, workers=3, device="cpu") as service:
        workers = service.children
        assert len(workers) == 3
        before = [seconds(service.url, number) for number in range(3)]
        with httpx.Client(base_url=service.url) as client, ThreadPoolExecutor(24) as callers:
            expected = client.post("/adapt-predict", json=BODY).json()["prediction"]["mean"]
            while any(seconds(service.url, number) <= before[number] for number in range(3)):
                replies = list(
                    callers.map(lambda _: client.post("/adapt-predict", json=BODY).json(), range(96))
                )
                for reply in replies:
                    np.testing.assert_allclose(reply["prediction"]["mean"], expected, rtol=1e-4)
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        for pid in workers:
            while alive(pid):
                pass


def seconds(url, number):
    """Of the CPU that a process has had."""
    name = f'bmaml_worker_process_cpu_seconds_total{{worker="{number}"}} '
    (line,) = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


def alive(pid):
    """Whether there is such a process, that is not merely waiting to be noted as gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_a_container_has_as_many_cores_as_it_has_time_for(tmp_path, quota, most):
    path = tmp_path / "cpu.max"
    path.write_text(quota + "\n")
    assert cores(path) == (most or len(os.sched_getaffinity(0)))


def test_without_containers_all_cores_count_that_it_may_run_on(tmp_path):
    assert cores(tmp_path / "none") == len(os.sched_getaffinity(0))
