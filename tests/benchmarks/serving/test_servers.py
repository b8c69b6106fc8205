"""The servers that the service is compared with answer the benchmark's requests."""

import json

import pytest
import torch

import service.engine.worker_pool
from benchmarks.serving import peers
from benchmarks.serving.load_generator import closed_loop, open_loop
from benchmarks.serving.reference_models import answer, shipped_models, standardised_rows
from benchmarks.serving.servers import replayed
from benchmarks.serving.throughput import row, serving
from benchmarks.serving.workload import bodies, mixed_requests, requests
from bmaml.learners import Diverged


def test_the_echo_answers_closed_and_open_loops():
    with serving("echo") as server:
        closed = closed_loop(server.port, requests("sinusoid", 10), clients=3, seconds=0.2)
        opened = open_loop(server.port, mixed_requests(10, ragged=True, deadline_ms=1000), 100, seconds=0.2)
    for result in (closed, opened):
        assert set(result.statuses) == {200}
        assert 0 < result.median <= result.quantile(0.99)
    assert row("echo", 3, closed).startswith(f"| echo | 3 | {closed.rate:.0f} | ")


class _Model:
    def __init__(self, sha256):
        self.sha256 = sha256


class _Job:
    def __init__(self, sha256, shape):
        self.model, self.shape = _Model(sha256), shape


def test_replay_computes_a_model_and_shape_once_and_stands_in_for_what_the_engine_calls():
    computed = []

    def compute(jobs, threads):
        computed.extend(jobs)
        return [Diverged(f"answer {len(computed)}")]

    replay = replayed(compute)
    small, large, other = _Job("a", (5, 10)), _Job("a", (10, 50)), _Job("b", (5, 10))
    answers = replay([small, large, small, other], 1) + replay([_Job("b", (5, 10))], 1)
    assert [str(answer) for answer in answers] == [f"answer {n}" for n in (1, 2, 1, 3, 3)]
    assert computed == [small, large, other]
    assert callable(service.engine.worker_pool.compute)


@pytest.mark.parametrize("kind", ["gp", "transformer"])
def test_peers_answer_what_the_service_is_asked(kind):
    model = shipped_models()["learning-curves"]
    rows = standardised_rows(model, json.loads(bodies("learning-curves", 1)[0]))
    belief = {"gp": lambda: peers.gp_belief, "transformer": peers.in_context}[kind]()
    with torch.no_grad():
        answered = answer(model, belief(model, *rows))
    assert set(answered) == {"mean", "std", "lower", "upper"}
    low, high = model.manifest.outputs[0].target.low, model.manifest.outputs[0].target.high
    for mean, lower, upper in zip(answered["mean"], answered["lower"], answered["upper"], strict=True):
        assert low <= lower <= upper <= high
        assert low <= mean <= high
    assert len(answered["mean"]) == len(rows[2])


@pytest.mark.parametrize("model", ["sinusoid", "learning-curves"])
def test_bodies_are_the_same_at_every_call_and_a_deadline_changes_nothing_else(model):
    plain, limited = (bodies(model, 3, ragged=True, deadline_ms=wait) for wait in (None, 50))
    assert plain == bodies(model, 3, ragged=True)
    for one, other in zip(plain, limited, strict=True):
        assert {**json.loads(one), "deadline_ms": 50} == json.loads(other)
