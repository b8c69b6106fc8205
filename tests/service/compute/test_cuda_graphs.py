"""Recorded computations: what is done depends on shapes alone, and what is recorded is what is served.

Without a GPU a recording is a list of operations, noted while one input was computed and done again to
others. On a device without numbers every operation that would look at one, or copy one there, is found.
"""

import copy
import gc
import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bmaml.learners import Diverged
from bmaml.learners.surprise import Surprise
from service.compute import cuda_graphs, graphed_regression
from service.compute.batch import answer_batch
from service.compute.cuda_graphs import GraphCache
from service.compute.device import DeviceFailed
from service.job import Job, PredictionSpec, work_per_row
from service.registry import warm_up
from tests import published
from tests.published import SIZE, X, Y, Z, conformal, publish
from tests.service.test_company import job_of, models, plans, same

__all__ = ["models"]  # the fixture

KINDS = {
    "collapsed": {"scales": (0.5, 1.0, 2.0), "varying_noise": True, "correlated": (0, 20)},
    "surprised": {"learner": "collapsed", "scales": (0.5, 1.0), "surprise": Surprise()},
    "moving": {"learner": "collapsed", "steps": 1, "step_size": 1e-3},
    "bmaml": {"steps": 2, "step_size": 1e-3},
    "bfa": {"steps": 2, "step_size": 1e-3, "learn_step_size": "parameter", "evidence_weights": True},
    "emaml": {"steps": 1, "step_size": 1e-3},
    "maml": {"steps": 2, "step_size": 1e-3, "particles": 1},
    "two": {"learner": "collapsed", "inputs": (X, SIZE), "outputs": (Y, Z)},
    "targets": {"learner": "collapsed", "outputs": tuple(published.KINDS.values())},
}


class Noting(TorchDispatchMode):
    """Notes every operation that is done, those of a backward pass among them.

    Attributes:
        done: each operation, its arguments and its results; all live on, as a tensor is known by its `id`.
    """

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(operation.tags):
            raise RuntimeError(f"{operation} looks at a number: it cannot be recorded")
        result = operation(*args, **(kwargs or {}))
        self.done.append((operation, args, kwargs or {}, result))
        return result


class Noted:
    """The operations that a function did to the first input."""

    def __init__(self, function, arrays):
        self.inputs = [torch.from_numpy(array) for array in arrays]
        function(*self.inputs)  # what is made at the first use is made now, as before a GPU's recording
        with Noting() as noting:
            self.results = function(*self.inputs)
        self.done = noting.done

    def launch(self, arrays):
        known = {id(ours): torch.from_numpy(array) for ours, array in zip(self.inputs, arrays, strict=True)}

        def now(each):
            return known.get(id(each), each)

        for operation, args, kwargs, result in self.done:
            again = operation(*tree_map(now, args), **tree_map(now, kwargs))
            known |= {
                id(ours): each for ours, each in zip(tree_leaves(result), tree_leaves(again), strict=True)
            }
        return Results([now(each).double().numpy() for each in self.results])


class Results(list):
    def wait(self):
        return list(self)


def noting(seen=1, record=Noted, device_type="cpu", **bounds):
    """Graphs, with what they have told so far."""
    events = Counter()
    graphs = GraphCache(
        record, device_type, min_uses=seen, on_event=lambda event: events.update([event]), **bounds
    )
    return graphs, events


def kind(root, name):
    return publish(root, name, **{"learner": name, **KINDS[name]})


def job(model, shown=6, rows=9, seed=0, interval=0.9, size=1.0):
    rng = np.random.default_rng(seed)

    def drawn(count, columns):
        return size * rng.normal(size=(count, len(columns))).astype(np.float32)

    inputs, outputs = model.manifest.inputs, model.manifest.outputs
    x, y, query = drawn(shown, inputs), drawn(shown, outputs), drawn(rows, inputs)
    return Job(model, x, y, query, model.learner.steps, 0, PredictionSpec((), interval), float("inf"))


@pytest.mark.parametrize("name", KINDS)
def test_what_was_recorded_of_some_rows_answers_others(tmp_path, name):
    model, (graphs, events) = kind(tmp_path, name), noting()
    some = [job(model, shown, rows, seed) for seed, (shown, rows) in enumerate([(9, 9), (1, 16), (0, 3)])]
    # Other numbers, other lengths, far outside the training range; the same when they are padded.
    others = [
        job(model, 7, 13, 7),
        job(model, 16, 1, 8, 0.8),
        job(model, 0, 2, 9, 0.1),
        job(model, 7, 16, 10, size=30.0),
    ]
    answer_batch([*some, some[0]], graphs)
    found = answer_batch(others, graphs)
    assert events == {"recorded": 1, "launched": 2}
    for one, alone in zip(found, others, strict=True):
        same(one, answer_batch([alone])[0])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(mix=st.lists(plans(), min_size=1, max_size=8), first=plans())
def test_a_mix_that_is_recorded_where_it_can_be_is_answered_as_if_nothing_were(models, mix, first):
    """Kept ones, choices and poisoned ones go the usual way, beside those that are launched."""
    which, (graphs, _) = first[0], noting()
    jobs = [job_of(models, (which, *plan[1:])) for plan in [first, *mix]]
    jobs = [
        replace(each, spec=replace(each.spec, particles=False))
        if place % 2 and isinstance(each.spec, PredictionSpec)
        else each
        for place, each in enumerate(jobs)
    ]
    for each, alone in zip(answer_batch(jobs, graphs), jobs, strict=True):
        same(each, answer_batch([alone])[0])


def test_conformal_intervals_are_answered_by_recordings_too(tmp_path):
    model, (graphs, events) = publish(tmp_path, conformal=conformal()), noting()
    spec = PredictionSpec((0.2,), 0.9, interval_method="conformal")
    jobs = [replace(job(model, seed=seed), spec=each) for seed, each in enumerate([spec, PredictionSpec()])]
    for found, alone in zip(answer_batch(jobs, graphs), jobs, strict=True):
        same(found, answer_batch([alone])[0])
    assert events["launched"] == 1


def test_a_diverged_task_fails_alone_among_launched_ones(tmp_path):
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting()
    poisoned = job(model, seed=1)
    poisoned.support_y[0] = 3e38
    fine, bad, also_fine = answer_batch([job(model), poisoned, job(model, seed=2)], graphs)
    assert isinstance(bad, Diverged)
    assert events["launched"] == 1
    for found, seed in ((fine, 0), (also_fine, 2)):
        same(found, answer_batch([job(model, seed=seed)])[0])


def test_quantiles_that_are_not_found_in_time_are_found_the_usual_way(tmp_path, monkeypatch):
    monkeypatch.setattr(graphed_regression, "QUANTILE_ROUNDS", 0)
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting()
    (found,) = answer_batch([job(model)], graphs)
    assert events["launched"] == 1
    same(found, answer_batch([job(model)])[0])


def test_a_large_batch_is_launched_in_parts(tmp_path, monkeypatch):
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting()
    cells = model.learner.hypotheses * (16 + 16) * 2
    monkeypatch.setattr(graphed_regression, "MAX_PART_CELLS", 3 * cells)  # so two tasks at a time
    jobs = [job(model, shown=9, seed=seed) for seed in range(5)]
    found = answer_batch(jobs, graphs)
    assert events == {"recorded": 2, "launched": 3}  # two, two and one
    for one, alone in zip(found, jobs, strict=True):
        same(one, answer_batch([alone])[0])
    huge = job(model, rows=300)
    assert answer_batch([huge], graphs)[0].batched_tasks == 1
    assert events["launched"] == 3


def test_targets_are_scored_the_usual_way(tmp_path):
    """There hypotheses of no weight are left out of the density, as everywhere; a recording keeps them."""
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting()
    scored = replace(job(model), query_y=np.linspace(-50, 50, 9)[:, None])
    for _ in range(2):
        plain, found = answer_batch([job(model, seed=1), scored], graphs)
    assert events == {"recorded": 1, "launched": 2}
    same(plain, answer_batch([job(model, seed=1)])[0])
    same(found, answer_batch([scored])[0])


def test_what_comes_once_is_not_recorded(tmp_path):
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting(seen=3)
    for _ in range(4):
        answer_batch([job(model)], graphs)
        answer_batch([replace(job(model), spec=PredictionSpec((0.5,), particles=True))], graphs)
    assert events == {"recorded": 1, "launched": 2}


def test_so_many_recordings_are_kept_and_none_of_a_model_that_is_gone(tmp_path):
    graphs, events = noting(max_recordings=2)
    first, second = kind(tmp_path, "collapsed"), kind(tmp_path, "bfa")
    for rows in (16, 64, 256):
        answer_batch([job(first, rows=rows)], graphs)
    assert events == {"recorded": 3, "launched": 3, "dropped": 1}
    answer_batch([job(first, rows=16)], graphs)  # the least recently used was let go
    assert events == {"recorded": 4, "launched": 4, "dropped": 2}
    del first
    gc.collect()
    answer_batch([job(second)], graphs)
    assert events == {"recorded": 5, "launched": 5, "dropped": 4}


def test_recordings_are_let_go_together_and_made_again(tmp_path):
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting()
    answer_batch([job(model)], graphs)
    graphs.clear()
    answer_batch([job(model)], graphs)
    assert events == {"recorded": 2, "launched": 2, "dropped": 1}


class Wrong(Noted):
    """Says something else."""

    def launch(self, arrays):
        return Results(1.001 * each for each in super().launch(arrays))


class Stale(Noted):
    """Does not look at what it is given."""

    def __init__(self, function, arrays):
        super().__init__(function, arrays)
        self.arrays = arrays

    def launch(self, arrays):
        return super().launch(self.arrays)


def failing(error):
    def record(function, arrays):
        raise error

    return record


@pytest.mark.parametrize(
    "record",
    [
        Wrong,
        Stale,
        failing(RuntimeError("not permitted when stream is capturing")),
        failing(TypeError("graph")),
    ],
)
def test_what_cannot_be_recorded_or_says_something_else_is_computed_as_it_is(tmp_path, record):
    model, (graphs, events) = kind(tmp_path, "collapsed"), noting(record=record)
    for rows in (9, 9, 60):
        (found,) = answer_batch([job(model, rows=rows)], graphs)
        same(found, answer_batch([job(model, rows=rows)])[0])
    assert events == {"failed": 1}  # and is not tried again, on no other shape either
    other = kind(tmp_path, "two")
    answer_batch([job(other)], graphs)
    assert events == {"failed": 2}


def test_a_recording_that_fails_when_it_is_launched_is_not_launched_again(tmp_path):
    class Tired(Noted):
        launches = 0

        def launch(self, arrays):
            self.launches += 1
            if self.launches > 2:
                raise RuntimeError("launch failure")
            return super().launch(arrays)

    model, (graphs, events) = kind(tmp_path, "collapsed"), noting(record=Tired)
    for _ in range(3):
        (found,) = answer_batch([job(model)], graphs)
        same(found, answer_batch([job(model)])[0])
    assert events == {"recorded": 1, "launched": 1, "failed": 1}


def test_where_there_is_no_memory_to_record_it_is_tried_again_later(tmp_path):
    room = [False]

    def record(function, arrays):
        if not room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Noted(function, arrays)

    model, (graphs, events) = kind(tmp_path, "collapsed"), noting(record=record, seen=2)
    for room[0] in (False, False, True, True, True):
        (found,) = answer_batch([job(model)], graphs)
        same(found, answer_batch([job(model)])[0])
    assert events == {"failed": 1, "recorded": 1, "launched": 2}


def test_a_device_that_does_not_answer_any_more_is_no_reason_to_compute_as_usual(tmp_path, monkeypatch):
    def check(device):
        raise DeviceFailed("gone")

    monkeypatch.setattr(cuda_graphs, "check", check)
    model, (graphs, _) = kind(tmp_path, "collapsed"), noting(record=failing(RuntimeError("illegal access")))
    with pytest.raises(DeviceFailed):
        answer_batch([job(model)], graphs)


def test_nobody_waits_for_what_is_being_recorded(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def record(function, arrays):
        if len(arrays[0]) > 1:
            begun.set()
            assert go_on.wait(30)
        return Noted(function, arrays)

    model, (graphs, events) = kind(tmp_path, "collapsed"), noting(record=record)
    answer_batch([job(model)], graphs)
    slow = threading.Thread(target=answer_batch, args=([job(model), job(model)], graphs))
    slow.start()
    assert begun.wait(30)
    same(answer_batch([job(model)], graphs)[0], answer_batch([job(model)])[0])
    answer_batch([job(model)] * 4, graphs)  # a third shape is not recorded meanwhile
    assert events == {"recorded": 1, "launched": 2}
    go_on.set()
    slow.join()
    assert events == {"recorded": 2, "launched": 3}


@pytest.mark.parametrize(("shown", "padded"), [(0, 6), (6, 6), (7, 16), (16, 16), (17, 64), (64, 64)])
def test_padding_does_not_make_more_rows_than_features_of_fewer(tmp_path, shown, padded):
    """Of which there are six: exact layers have another form then."""
    model = kind(tmp_path, "collapsed")
    assert graphed_regression._padded_sizes([job(model, 0), job(model, shown, rows=20)]) == (padded, 64, 2)


def test_the_shapes_that_are_warmed_up_are_recorded_and_no_larger_than_the_queue_makes_them(tmp_path):
    model = kind(tmp_path, "collapsed")
    batches = list(warm_up._common_batches(job(model, rows=8), 8 * work_per_row(model, 0) * (6 + 64)))
    assert {(len(batch), len(batch[0].query_x)) for batch in batches} == {(1, 8), (8, 8), (1, 64), (8, 64)}


class Waits(TorchDispatchMode):
    """Finds what a recording must not do: look at a number, or copy from or to the host.

    Tensors on the device "meta" have no numbers: whoever looks at one is told so by torch. What is made of
    Python's numbers there is not seen as a copy by the dispatcher, but is one on a GPU; see `FromNumbers`.
    """

    def __init__(self):
        super().__init__()
        self.count, self.found = 0, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
        self.count += 1
        if {each.device.type for each in tensors} != {"meta"}:
            self.found.append(str(operation))
        return result


class FromNumbers(TorchFunctionMode):
    """Finds tensors that are made of Python's numbers."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        # as_tensor of a tensor makes nothing.
        if function in self.MAKERS and not isinstance(
            args[function is torch.Tensor.new_tensor], torch.Tensor
        ):
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", KINDS)
def test_on_another_device_nothing_recorded_waits_for_it(tmp_path, name):
    model = kind(tmp_path, name)
    prior = model.prior_posterior  # as long as the numbers say: made before anything is recorded
    there = copy.copy(model)
    tensors = {key: each.to("meta") for key, each in vars(prior).items() if isinstance(each, torch.Tensor)}
    vars(there)["prior_posterior"] = replace(prior, **tensors)
    object.__setattr__(there, "learned", {key: each.to("meta") for key, each in model.learned.items()})
    arrays = graphed_regression._padded_arrays([job(model), job(model, 3, 20)])
    tensors = [torch.from_numpy(each).to("meta") for each in arrays]
    run = partial(graphed_regression.adapt_and_predict, there, model.learner.steps)
    run(*tensors)  # what is made at the first use is made now
    with FromNumbers() as numbers, Waits() as waits:
        results = run(*tensors)
    assert waits.count > 100
    assert waits.found == numbers.found == []
    assert {each.device.type for each in results} == {"meta"}


@pytest.mark.parametrize("look", [lambda x: bool((x > 0).all()), torch.Tensor.nonzero, torch.Tensor.item])
def test_a_look_at_a_number_is_found(look):
    with pytest.raises(NotImplementedError if look is torch.Tensor.nonzero else RuntimeError):
        look(torch.ones(1, device="meta"))


def test_a_copy_from_the_host_is_found():
    there = torch.ones(3, device="meta")
    with Waits() as waits:
        there + torch.ones(3).to("meta")
    assert [name.split(".")[1] for name in waits.found] == ["ones", "_to_copy"]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor([1.0], device="meta"),
        lambda x: torch.as_tensor(1.0, device="meta"),
    ],
)
def test_a_tensor_of_python_s_numbers_is_found(make):
    there = torch.ones(3, device="meta")
    with FromNumbers() as numbers:
        torch.as_tensor(there)
        there + 1.0
        make(there)
    assert len(numbers.found) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", KINDS)
def test_the_gpu_is_launched_once_and_answers_what_the_cpu_answers(tmp_path, name):
    model = kind(tmp_path, name)
    there, (graphs, events) = model.to("cuda"), noting(record=None, device_type="cuda")
    for seeds in ((0, 1, 2), (3, 4, 5)):
        jobs = [job(model, seed=seed) for seed in seeds]
        found = answer_batch([replace(each, model=there) for each in jobs], graphs)
        for one, alone in zip(found, jobs, strict=True):
            same(one, answer_batch([alone])[0])
    assert events == {"recorded": 1, "launched": 2}
