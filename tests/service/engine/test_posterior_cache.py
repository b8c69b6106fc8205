"""Kept posteriors: the same answer for less work, bounded in bytes and time, and nobody else's."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from service.compute.adaptation import Adaptation, padded_examples
from service.compute.batch import answer_batch
from service.engine.posterior_cache import PosteriorCache
from service.errors import RequestError
from service.job import Job, KeptPosterior, PostedSupport, PredictionSpec, SelectionSpec
from service.ops.metrics import Metrics
from service.schemas.responses import PosteriorCard, PosteriorResponse
from tests.published import publish
from tests.service.engine.test_worker import job as task

ROWS = {"x": [[-2.0], [0.5], [3.0]], "y": [8.0, 11.5, 9.0]}
QUERY = {"x": [[0.0], [1.0], [9.0]]}


def ask(client, path="/adapt-predict", status=200, **body):
    reply = client.post(path, json={"model": "tiny", **body})
    assert reply.status_code == status, reply.text
    return reply.json()


@pytest.mark.parametrize("model", ["tiny", "bare", "wide"])
def test_a_kept_posterior_answers_as_its_rows_would(client, model):
    wide = model == "wide"
    support = {"x": [[x, 100.0] for (x,) in ROWS["x"]], "y": [[y, -1.0] for y in ROWS["y"]]} if wide else ROWS
    query = {"x": [[x, 50.0] for (x,) in QUERY["x"]]} if wide else QUERY
    fresh = ask(client, model=model, support=support, query=query, particles=True)
    assert fresh["posterior"] is None
    kept = ask(client, "/posteriors", model=model, support=support)
    TypeAdapter(PosteriorResponse).validate_python(kept)
    again = ask(client, model=model, posterior=kept["posterior"]["id"], query=query, particles=True)
    assert (kept["posterior"]["cache"], again["posterior"]["cache"]) == ("miss", "hit")
    assert again["posterior"]["rows"] == 3
    for name in ("mean", "std"):
        np.testing.assert_allclose(again["prediction"][name], fresh["prediction"][name], rtol=1e-4)
        found = again["prediction"]["particles"][name]
        np.testing.assert_allclose(found, fresh["prediction"]["particles"][name], rtol=1e-4)
    for each in ("steps", "warnings"):
        assert again["diagnostics"][each] == fresh["diagnostics"][each]
    nll = fresh["diagnostics"]["support_nll"]
    assert again["diagnostics"]["support_nll"] == pytest.approx(nll, rel=1e-4)


def test_the_same_rows_have_the_same_id_and_other_settings_another(client):
    one = ask(client, support=ROWS, query=QUERY, keep={"ttl_s": 60})["posterior"]
    two = ask(client, "/posteriors", support=ROWS)["posterior"]
    assert one["id"] == two["id"]
    assert two["cache"] == "hit"
    assert two["expires_at"] > one["expires_at"]
    assert ask(client, "/posteriors", support=ROWS, version=1)["posterior"]["id"] != one["id"]
    assert ask(client, "/posteriors", support=ROWS, adapt={"steps": 1})["posterior"]["id"] != one["id"]


def test_rows_added_to_a_posterior_are_as_if_sent_together(client):
    first = {"x": ROWS["x"][:2], "y": ROWS["y"][:2]}
    more = {"x": ROWS["x"][2:], "y": ROWS["y"][2:]}
    before = ask(client, "/posteriors", support=first)["posterior"]["id"]
    together = ask(client, support=ROWS, query=QUERY)
    added = ask(client, posterior=before, support=more, query=QUERY)
    np.testing.assert_allclose(added["prediction"]["mean"], together["prediction"]["mean"], rtol=1e-5)
    assert added["posterior"]["rows"] == 3
    assert added["posterior"]["id"] == ask(client, "/posteriors", support=ROWS)["posterior"]["id"]


def test_support_rows_outside_the_range_count_beside_a_kept_posterior_too(client):
    support = {"x": [[40.0], [41.0], [44.0]], "y": ROWS["y"]}  # trained on -5 to 5
    query = {"x": [[0.0], [20.0], [42.0], [45.5], [90.0]]}
    fresh = ask(client, support=support, query=query)
    kept = ask(client, "/posteriors", support=support)["posterior"]["id"]
    again = ask(client, posterior=kept, query=query)
    assert again["diagnostics"]["warnings"] == fresh["diagnostics"]["warnings"]
    for name in ("mean", "std"):
        np.testing.assert_allclose(again["prediction"][name], fresh["prediction"][name], rtol=1e-4)
    scores = [
        ask(client, "/uncertainty", pool=query, **rows)["scores"]
        for rows in ({"posterior": kept}, {"support": support})
    ]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_the_pool_is_scored_by_a_kept_posterior_as_by_its_rows(client):
    kept = ask(client, "/posteriors", support=ROWS)["posterior"]["id"]
    asked = {"pool": QUERY, "target": {"x": [[0.2]]}, "acquisition": "expected_improvement"}
    fresh = ask(client, "/uncertainty", support=ROWS, **asked)
    again = ask(client, "/uncertainty", posterior=kept, **asked)
    np.testing.assert_allclose(again["scores"], fresh["scores"], rtol=1e-4)
    assert again["posterior"]["id"] == kept


def test_a_posterior_can_be_looked_at_and_forgotten(client):
    kept = ask(client, "/posteriors", support={"x": [[1.25]], "y": [9.0]})["posterior"]
    card = client.get(f"/posteriors/{kept['id']}").json()
    TypeAdapter(PosteriorCard).validate_python(card)
    assert (card["rows"], card["model"]["name"], card["classes"]) == (1, "tiny", None)
    assert card["bytes"] > 0
    assert client.delete(f"/posteriors/{kept['id']}").status_code == 204
    assert client.delete(f"/posteriors/{kept['id']}").status_code == 204
    assert client.get(f"/posteriors/{kept['id']}").status_code == 410
    gone = ask(client, posterior=kept["id"], query=QUERY, status=410)
    assert gone["type"] == "urn:bmaml:problem:posterior-gone"


@pytest.mark.parametrize("id", ["post_1", "", "post_" + "0" * 56, "x" * 200])
def test_an_id_that_was_never_issued_is_a_404(client, id):
    problem = ask(client, posterior=id, query=QUERY, status=404)
    assert problem["type"] == "urn:bmaml:problem:unknown-posterior"


def test_a_posterior_of_another_model_or_of_other_settings_is_a_409(client):
    kept = ask(client, "/posteriors", support=ROWS)["posterior"]["id"]
    assert ask(client, model="bare", posterior=kept, query=QUERY, status=409)["status"] == 409
    assert ask(client, posterior=kept, query=QUERY, adapt={"steps": 3}, status=409)["status"] == 409


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def kept_work(tmp_path):
    model = publish(tmp_path)
    x, y = np.ones((2, 1), np.float32), np.ones((2, 1), np.float32)
    job = Job(model, x, y, x[:0], 0, 0, None, float("inf"), posted=PostedSupport(x.astype(float), (1.0, 1.0)))
    adaptation = Adaptation.of([job], model, padded_examples([job], model.device)[0])
    return job, KeptPosterior(adaptation.posterior, None, 1.0)


def test_what_is_used_stays_and_the_rest_goes_by_bytes_and_time(kept_work):
    job, kept = kept_work
    clock, metrics = Clock(), Metrics()
    probe = PosteriorCache(10**9, b"s", metrics, clock)
    probe.put("probe", job, kept, 1.0)
    size = probe.get("probe").size
    cache = PosteriorCache(3 * size, b"s", metrics, clock)
    for name in "abc":
        cache.put(name, job, kept, 10.0)
    assert cache.get("a") is not None
    cache.put("d", job, kept, 100.0)
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    cache.extend("a", 50.0)
    clock.now = 20.0
    assert [name for name in "acd" if cache.get(name)] == ["a", "d"]
    assert cache.extend("d", 1.0)
    assert not cache.extend("c", 1.0)


def test_one_that_is_larger_than_the_cache_displaces_no_other(kept_work):
    job, kept = kept_work
    wide = replace(job, posted=PostedSupport(np.ones((500, 1)), (1.0,) * 500))
    sizes = PosteriorCache(10**9, b"s", Metrics())
    for name, each in (("small", job), ("wide", wide)):
        sizes.put(name, each, kept, 10.0)
    small, large = (sizes.get(name).size for name in ("small", "wide"))
    assert small < large
    metrics = Metrics()
    cache = PosteriorCache(large - 1, b"s", metrics)
    cache.put("small", job, kept, 10.0)
    cache.put("wide", wide, kept, 10.0)
    assert cache.get("wide") is None
    assert cache.get("small") is not None
    assert metrics.posteriors.labels("evicted")._value.get() == 1


def test_an_id_belongs_to_its_caller_and_replicas_with_one_secret_agree(kept_work):
    job, kept = kept_work
    one, replica, stranger = (PosteriorCache(10**9, secret, Metrics()) for secret in (b"s", b"s", b"t"))
    mine, yours = one.id_of(job, "me"), one.id_of(job, "you")
    assert mine != yours
    assert mine == replica.id_of(job, "me") != stranger.id_of(job, "me")
    one.put(mine, job, kept, 10.0)
    assert one.find(mine, "me").rows == 2
    for cache, caller, status in ((one, "you", 404), (replica, "me", 410), (stranger, "me", 404)):
        with pytest.raises(RequestError) as refused:
            cache.find(mine, caller)
        assert refused.value.status == status
    with pytest.raises(RequestError):
        one.drop(mine, "you")
    moved = replace(job, posted=replace(job.posted, x=job.posted.x + 1e-12))
    assert one.id_of(moved, "me") != mine


def test_what_was_asked_is_not_kept_with_what_was_adapted_to(served):
    client, posteriors = served.client, served.app.state.runtime.posteriors
    support = {"x": [[0.25], [0.75]], "y": [8.0, 9.0]}
    body = {"model": "tiny", "support": support, "query": {"x": [[0.0]] * 200}, "keep": {"ttl_s": 60.0}}
    scored = body | {"query": body["query"] | {"y": [8.5] * 200}, "log_density": True}
    name = client.post("/adapt-predict", json=scored).json()["posterior"]["id"]
    entry = posteriors.get(name)
    assert len(entry.job.query_x) == 0
    assert entry.job.query_x.base is None
    assert entry.job.query_y is None
    assert entry.job.spec is None
    assert entry.size > entry.job.posted.x.nbytes
    again = client.post("/adapt-predict", json=body | {"support": None, "posterior": name})
    assert again.json()["posterior"]["cache"] == "hit"


@pytest.mark.parametrize("learner", ["collapsed", "bmaml", "maml"])
@pytest.mark.parametrize("joint", [False, True])
def test_many_that_ask_one_posterior_at_once_are_answered_together_as_each_alone(tmp_path, learner, joint):
    model = publish(tmp_path, learner=learner, particles=1 if learner == "maml" else 4)
    (kept,) = answer_batch([task(model, key="k")])
    keys, none = (np.arange(7) + 0.5) / 7, np.zeros(7, bool)
    choice = SelectionSpec("epistemic_variance", "max_determinant", 3, 7, keys, none, None, True)
    ask = choice if joint else PredictionSpec((0.05, 0.95))
    jobs = [task(model, seed=seed, spec=ask, key="k", kept=kept.kept) for seed in range(3)]
    together = answer_batch(jobs)
    assert [answer.batched_tasks for answer in together] == [3, 3, 3]
    for answer, job in zip(together, jobs, strict=True):
        (alone,) = answer_batch([job])
        if joint:
            assert answer.result.indices == alone.result.indices
            np.testing.assert_allclose(answer.result.gains, alone.result.gains, rtol=1e-4)
        else:
            found, expected = answer.result, alone.result
            np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-12)
            for name in ("aleatoric", "epistemic"):
                own, other = (getattr(each.variance, name) for each in (found, expected))
                np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-12)
            np.testing.assert_allclose(found.quantiles.values, expected.quantiles.values, rtol=1e-4)


@pytest.mark.parametrize("kept", [False, True])
def test_support_rows_outside_the_range_serve_their_own_task_alone(tmp_path, kept):
    model = publish(tmp_path)
    jobs = [task(model, seed=seed, key="k") for seed in range(3)]
    jobs[1] = replace(jobs[1], support_x=jobs[1].support_x + 40, query_x=jobs[1].query_x + 40)
    jobs[2] = replace(jobs[2], query_x=jobs[2].query_x + 40)
    if kept:
        jobs = [replace(each, kept=answer_batch([each])[0].kept) for each in jobs]
    for answer, job in zip(answer_batch(jobs), jobs, strict=True):
        (alone,) = answer_batch([job])
        np.testing.assert_allclose(answer.result.mean, alone.result.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(answer.result.std, alone.result.std, rtol=1e-4)


def test_how_many_picks_can_tell_something_does_not_depend_on_a_stranger_s_rows(tmp_path):
    model = publish(tmp_path, learner="bmaml", particles=4)
    keys, none = (np.arange(7) + 0.5) / 7, np.zeros(7, bool)
    ask = SelectionSpec("epistemic_variance", "max_determinant", 3, 7, keys, none, None, True)
    own, other = task(model, seed=1, spec=ask), task(model, seed=2, spec=ask)
    far = replace(other, query_x=other.query_x + 30)  # where the answer returns to the prior
    (alone,), (together, _) = answer_batch([own]), answer_batch([own, far])
    assert alone.result.ceiling == together.result.ceiling == 3
    assert alone.result.indices == together.result.indices
