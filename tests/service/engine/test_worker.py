"""The process that computes: it answers what the engine's own thread would, and ends with its owner."""

import gc
import os
import pickle
import signal
import socket
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import service.engine.worker
import service.engine.worker_pool
from bmaml.learners import Diverged
from bmaml.learners.surprise import Surprise
from service.compute.batch import compute
from service.compute.device import DeviceFailed
from service.engine.ipc import ModelTable
from service.engine.worker import HEADER, Worker, _receive_message
from service.engine.worker_pool import WorkerPool
from service.job import BatchTimes, Job, PostedSupport, PredictionSpec, SelectionSpec
from tests.images import publish_classifier
from tests.published import publish

LEVELS = (0.3, 0.05, 0.95)
LEARNERS = ["collapsed", "surprised", "bmaml", "llama", "maml", "conjugate"]


@pytest.fixture(scope="module")
def worker():
    worker = Worker("forkserver")
    yield worker
    WorkerPool([worker]).stop()


@pytest.fixture(scope="module", params=LEARNERS)
def model(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("worker")
    if request.param == "conjugate":
        return publish_classifier(root, "classes")
    if request.param == "surprised":
        return publish(root, surprise=Surprise())
    return publish(root, learner=request.param, particles=1 if request.param == "maml" else 4)


def job(model, shown=6, rows=7, seed=1, **changes):
    """About numbers or, of a model of images, about two classes."""
    rng, image = np.random.default_rng(seed), model.manifest.image

    def drawn(count):
        return rng.random((count, 1 if image is None else image.inputs)).astype(np.float32)

    labels, classes = drawn(shown)[:, :1], ()
    if image is not None:
        labels, classes = np.eye(2, dtype=np.float32)[np.arange(shown) % 2], ("cat", "dog")
    ask = PredictionSpec(LEVELS if image is None else (), particles=True)
    whole = Job(model, drawn(shown), labels, drawn(rows), model.learner.steps, 3, ask, float("inf"))
    return replace(whole, classes=classes, **changes)


def choice(acquisition):
    """Three of seven rows."""
    uniform, none = (np.arange(7) + 0.5) / 7, np.zeros(7, bool)
    return SelectionSpec(acquisition, "top_k", 3, 7, uniform, none, None, False)


class Unsendable(Exception):
    """An error that holds what cannot be pickled."""

    def __init__(self, words):
        super().__init__(words)
        self.lock = threading.Lock()


def fail_unsendably():
    """To be asked of the process."""
    raise Unsendable("something odd")


def out_of_memory(*_):
    """In place of what allocates."""
    raise MemoryError


def answer(worker, jobs, threads):
    """What the process makes of the batch, once it has."""
    worker.begin(jobs, threads)
    return worker.finish(jobs)


def said(answer):
    """All of an answer but how long it took and what is kept."""
    return pickle.dumps(replace(answer, times=BatchTimes(), kept=None))


def test_the_process_answers_what_this_one_would_to_the_last_bit(worker, model):
    jobs = [job(model, seed=seed) for seed in range(3)]
    there, here = answer(worker, jobs, 1), compute(jobs, 1)
    assert [said(one) for one in there] == [said(other) for other in here]
    assert there[0].batched_tasks == 3


def test_images_are_embedded_there_in_the_precision_of_here(worker, tmp_path):
    exact = publish_classifier(tmp_path, "coarse")
    jobs = [job(exact.to("cpu", bfloat16=True))]
    there, here = answer(worker, jobs, 1), compute(jobs, 1)
    assert said(there[0]) == said(here[0])
    assert said(there[0]) != said(compute([job(exact)], 1)[0])


def test_targets_are_scored_there_as_here(worker, model):
    targets = np.linspace(-2, 2, 7)[:, None] if model.manifest.image is None else np.arange(7) % 2
    (there,), (here,) = (
        each([job(model, query_y=targets)], 1) for each in (partial(answer, worker), compute)
    )
    assert said(there) == said(here)
    assert len(there.result.log_density) == 7


def test_a_choice_of_rows_is_the_same_there(worker, model):
    ask = choice("entropy" if model.manifest.image is not None else "total_variance")
    (there,), (here,) = (each([job(model, spec=ask)], 1) for each in (partial(answer, worker), compute))
    assert said(there) == said(here)
    assert len(there.result.indices) == 3


def test_a_kept_posterior_comes_back_and_is_known_there_again(worker, model):
    fresh = job(model, key="k", posted=PostedSupport(np.zeros((6, 1)), (1.0,) * 6))
    (kept,) = answer(worker, [fresh], 1)
    (again,) = answer(worker, [replace(fresh, kept=kept.kept)], 1)
    (same,) = compute([replace(fresh, kept=compute([fresh], 1)[0].kept)], 1)
    assert again.cached
    assert said(again) == said(same)
    assert again.kept is kept.kept


@pytest.mark.parametrize("spec", [PredictionSpec(LEVELS), choice("total_variance")])
def test_support_rows_outside_the_range_count_there_beside_a_kept_posterior(worker, tmp_path, spec):
    model = publish(tmp_path)
    drawn = job(model, key="k", posted=PostedSupport(np.zeros((6, 1)), (1.0,) * 6), spec=spec)
    far = replace(drawn, support_x=drawn.support_x + 40, query_x=drawn.query_x + 40)
    known = replace(far, kept=compute([far], 1)[0].kept)
    (there,), (here,) = answer(worker, [known], 1), compute([known], 1)
    assert there.cached
    assert said(there) == said(here)
    (elsewhere,) = compute([replace(known, support_x=drawn.support_x)], 1)
    assert said(elsewhere) != said(here)


def test_of_rows_that_are_known_nothing_is_sent_that_a_prediction_does_not_look_at(tmp_path):
    models, model = ModelTable(), publish_classifier(tmp_path, "classes")
    models.register(model)
    (answer,) = compute([job(model, shown=500, key="k")], 1)
    known = job(model, shown=500, key="k", kept=answer.kept)
    little = len(models.dumps(job(model, shown=0)))
    kept = len(models.dumps(replace(answer.kept, support_features=None)))
    assert len(models.dumps(known)) < little + kept + 1000
    choosing = replace(known, spec=choice("entropy"))
    assert models.loads(models.dumps(choosing)).kept.support_features is not None


def test_what_is_the_model_s_own_is_shared_by_its_posteriors_and_not_copied(worker, tmp_path):
    model = publish(tmp_path)
    (found,) = answer(worker, [job(model, key="k")], 1)
    particles = found.kept.posterior.particles
    assert particles.data_ptr() == model.learned["initial"].data_ptr()


def test_what_does_not_change_the_answer_is_not_sent(tmp_path):
    models, model = ModelTable(), publish(tmp_path)
    models.register(model)
    plain = job(model)
    told = replace(
        plain, deadline=5.0, warnings=("far",) * 1000, posted=PostedSupport(np.zeros((10**5, 1)), ())
    )
    assert models.dumps(told) == models.dumps(plain)
    returned = models.loads(models.dumps(told))
    assert returned.model is model
    np.testing.assert_array_equal(returned.query_x, plain.query_x)


def test_a_task_that_diverges_and_an_error_come_back_as_what_they_are(worker, tmp_path, monkeypatch):
    model = publish(tmp_path)
    poisoned = job(model)
    poisoned.support_y[0] = 3e38
    fine, bad = answer(worker, [job(model), poisoned], 1)
    assert isinstance(bad, Diverged)
    assert said(fine) == said(compute([job(model), poisoned], 1)[0])
    wrong = replace(job(model), support_x=np.zeros((6, 4), np.float32))
    with pytest.raises(RuntimeError) as caught:
        answer(worker, [wrong], 1)
    assert "in answer_batch" in caught.value.__notes__[0]  # where it happened there
    worker.check()


def test_a_model_that_nobody_refers_to_is_forgotten_there_too(worker, tmp_path):
    models = [publish(tmp_path, f"m{number}", seed=number) for number in range(3)]
    for model in models:
        answer(worker, [job(model)], 1)
    kept, *gone = map(worker._models.number, models)
    del model, models[1:]
    gc.collect()
    (found,) = answer(worker, [job(models[0])], 1)
    assert worker._models.number(models[0]) == kept
    for number in gone:
        with pytest.raises(KeyError):
            worker._send_and_receive(ModelTable.remove, number)
    assert said(found) == said(compute([job(models[0])], 1)[0])


def test_an_error_that_cannot_be_sent_comes_in_words(worker):
    with pytest.raises(RuntimeError, match="Unsendable: something odd"):
        worker._call(fail_unsendably)
    worker.check()


def test_a_model_that_could_not_be_handed_over_is_handed_over_the_next_time(worker, tmp_path, monkeypatch):
    model = publish(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_send_and_receive", out_of_memory)
        with pytest.raises(MemoryError):
            answer(worker, [job(model)], 1)
    assert worker._models.number(model) is None
    (found,) = answer(worker, [job(model)], 1)
    assert said(found) == said(compute([job(model)], 1)[0])


def test_a_reply_that_was_not_taken_whole_is_not_mixed_up_with_the_next(monkeypatch):
    worker = Worker("forkserver")
    worker.check()
    with monkeypatch.context() as patch:
        patch.setattr(service.engine.worker, "_receive_message", out_of_memory)
        with pytest.raises(MemoryError):
            worker.check()
    with pytest.raises(DeviceFailed):
        worker.check()
    WorkerPool([worker]).stop()


def test_a_message_that_a_signal_interrupts_comes_whole():
    ours, theirs = socket.socketpair()
    message, me = os.urandom(3 << 20), threading.get_ident()

    def say():
        theirs.sendall(HEADER.pack(len(message)) + message[: 1 << 20])
        signal.pthread_kill(me, signal.SIGUSR1)  # whoever receives has had a part of it
        theirs.sendall(message[1 << 20 :])

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    saying = threading.Thread(target=say)
    saying.start()
    try:
        assert _receive_message(ours) == message
    finally:
        saying.join()
        signal.signal(signal.SIGUSR1, before)
        ours.close()
        theirs.close()


def test_half_a_message_is_none():
    ours, theirs = socket.socketpair()
    theirs.sendall(HEADER.pack(10) + b"half")
    theirs.close()
    with ours, pytest.raises(EOFError):
        _receive_message(ours)


def test_a_process_that_is_gone_has_failed_and_one_that_was_stopped_has_not(tmp_path):
    stopped, killed = Worker("forkserver"), Worker("forkserver")
    stopped.check()
    killed.check()
    WorkerPool([stopped]).stop()
    assert not stopped.failed
    with pytest.raises(DeviceFailed, match="has ended"):
        stopped.check()
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(DeviceFailed, match="has ended"):
        killed.check()
    killed._process.join()
    assert killed.failed
    WorkerPool([killed]).stop()


def test_signals_for_the_whole_group_do_not_end_it(worker):
    worker.check()  # it has begun, and takes no signals any more
    for each in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, each)
    worker.check()
    assert not worker.failed


def test_one_that_does_not_end_by_itself_is_ended(monkeypatch):
    monkeypatch.setattr(service.engine.worker_pool, "STOP_TIMEOUT_S", 0.01)
    busy = Worker("forkserver")
    busy.check()
    os.kill(busy.pid, signal.SIGSTOP)
    WorkerPool([busy]).stop()
    assert not busy._process.is_alive()
