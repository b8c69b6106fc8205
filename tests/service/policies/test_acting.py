"""Policies over HTTP: the closed loop equals the one in process, and a task's answer is its own."""

import numpy as np
import pytest
import torch

from bmaml.episodes import Episodes
from tests.service.policies.world import STEPS, episodes_of, kept, over_http

TOLERANCE = 2e-5
"""Of answers in single precision: a round's gradient is a sum of a few hundred terms."""
QUERY = {"x": [[0.1, 0.0], [-0.4, 0.3]]}
EMPTY = {"episodes": []}


def asked(client, **body):
    reply = client.post("/adapt-predict", json={"model": "walker", "query": QUERY, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def tensors_of(episodes, particles):
    """A round of posted episodes as the method takes it, laid out episode by episode."""
    most = 1 + max(sum(other["particle"] == p for other in episodes) for p in range(particles))
    shape = (1, particles, most, STEPS)
    seen, acted = torch.zeros(*shape, 2), torch.zeros(*shape, 2)
    paid, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    counts = [0] * particles
    for each in episodes:
        particle, length = each["particle"], len(each["rewards"])
        where = 0, particle, counts[particle], slice(length)
        counts[particle] += 1
        seen[where] = torch.tensor(each["observations"], dtype=torch.float32)
        acted[where] = torch.tensor(each["actions"], dtype=torch.float32)
        paid[where] = torch.tensor(each["rewards"], dtype=torch.float32)
        mask[where] = True
    return Episodes(seen, acted, paid, mask)


def in_process(model, posterior):
    """Actions of the model itself."""

    def act(places, particle, seed):
        x = torch.tensor(places, dtype=torch.float32).unsqueeze(0)
        belief = model.learner.predict(posterior, x).double()
        return model.learner.act(posterior, belief, particle, torch.Generator().manual_seed(seed)).values[0]

    return act


@pytest.fixture
def rounds(client):
    """Two rounds that the service acted itself; particle 3 acts one episode of the second, and 2 none."""
    first = episodes_of(over_http(client), 0, range(4))
    posterior = kept(client, first)["posterior"]["id"]
    act = over_http(client, posterior=posterior)
    return first, [*episodes_of(act, 1, (0, 1)), *episodes_of(act, 1, (3,), each=1)]


@pytest.fixture(autouse=True)
def single_precision():
    """The service's precision, which the loop in process must share."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def test_the_closed_loop_over_http_equals_the_one_in_process(client, model, rounds):
    posterior = model.learner.prior(model.learned)
    for number, posted in enumerate(rounds):
        own = episodes_of(in_process(model, posterior), number, sorted({each["particle"] for each in posted}))
        for each in posted:
            same = next(
                other
                for other in own
                if other["particle"] == each["particle"] and len(other["rewards"]) == len(each["rewards"])
            )
            np.testing.assert_allclose(each["actions"], same["actions"], atol=TOLERANCE)
        with torch.no_grad():
            posterior = model.learner.adapt_rounds(model.learned, posterior, [tensors_of(posted, 4)])
    answer = asked(client, support={"episodes": [*rounds[0], *rounds[1]]}, particles=True)
    belief = model.learner.predict(posterior, torch.tensor([QUERY["x"]])).double()
    np.testing.assert_allclose(
        answer["prediction"]["particles"]["mean"], belief.means[0].tolist(), atol=TOLERANCE
    )
    np.testing.assert_allclose(answer["prediction"]["mean"], belief.mean()[0].tolist(), atol=TOLERANCE)
    diagnostics = answer["diagnostics"]
    np.testing.assert_allclose(diagnostics["returns"], posterior.returns[0].tolist(), atol=TOLERANCE)
    np.testing.assert_allclose(
        diagnostics["weights"], posterior.log_weights[0].exp().tolist(), atol=TOLERANCE
    )
    assert (diagnostics["rounds"], diagnostics["episodes"]) == (2, [4, 4, 2, 3])
    assert diagnostics["next_particle"] == int(posterior.next_particle()[0])
    assert answer["prediction"]["particle"] == int(np.argmax(diagnostics["returns"]))


def test_rounds_one_by_one_equal_all_at_once_and_have_the_same_id(client, rounds):
    first = kept(client, rounds[0])["posterior"]["id"]
    step = asked(client, posterior=first, support={"episodes": rounds[1]}, particles=True)
    assert client.delete(f"/posteriors/{step['posterior']['id']}").status_code == 204
    whole = asked(client, support={"episodes": [*rounds[0], *rounds[1]]}, particles=True, keep={"ttl_s": 60})
    assert (whole["posterior"]["cache"], step["posterior"]["cache"]) == ("miss", "miss")
    assert step["posterior"]["id"] == whole["posterior"]["id"]
    assert step["posterior"]["rows"] == sum(len(each["rewards"]) for each in [*rounds[0], *rounds[1]])
    for part in ("mean", "std", "action"):
        np.testing.assert_allclose(step["prediction"][part], whole["prediction"][part], atol=TOLERANCE)
    np.testing.assert_allclose(
        step["prediction"]["particles"]["mean"], whole["prediction"]["particles"]["mean"], atol=TOLERANCE
    )
    again = asked(client, posterior=step["posterior"]["id"], particles=True)
    assert again["posterior"]["cache"] == "hit"
    assert again["prediction"] == whole["prediction"]


def test_a_particle_with_one_episode_stays_put_and_the_others_move(client, rounds):
    first = asked(client, support={"episodes": rounds[0]}, particles=True)["prediction"]["particles"]
    second = asked(client, support={"episodes": [*rounds[0], *rounds[1]]}, particles=True)
    moved = np.abs(np.subtract(second["prediction"]["particles"]["mean"], first["mean"])).max((1, 2))
    assert (moved[2:] == 0).all()
    assert (moved[:2] > 1e-4).all()


def test_empty_support_is_the_meta_learned_start_and_says_so(client, model):
    answer = asked(client, support=EMPTY, particles=True)
    prior = model.learner.prior(model.learned)
    belief = model.learner.predict(prior, torch.tensor([QUERY["x"]]))
    np.testing.assert_allclose(answer["prediction"]["particles"]["mean"], belief.means[0].tolist(), atol=1e-6)
    assert "meta-learned start" in answer["diagnostics"]["warnings"][0]
    assert (answer["diagnostics"]["rounds"], answer["diagnostics"]["returns"]) == (0, [0, 0, 0, 0])
    assert answer["diagnostics"]["weights"] == [0.25] * 4
    assert answer["posterior"] is None


def test_the_ways_to_choose_a_particle(client, rounds):
    support = {"episodes": rounds[0]}
    best = asked(client, support=support)
    assert best["prediction"]["particle"] == int(np.argmax(best["diagnostics"]["returns"]))
    named = asked(client, support=support, act={"particle": 2, "seed": 5}, particles=True)["prediction"]
    assert named["particle"] == 2
    following = asked(client, support=support, act={"how": "next"})
    assert following["prediction"]["particle"] == following["diagnostics"]["next_particle"]
    mean = asked(client, support=support, act={"how": "mean"})["prediction"]
    assert mean["particle"] is None
    own = asked(client, support=support, particles=True)["prediction"]["particles"]
    np.testing.assert_allclose(mean["action"], np.mean(own["mean"], 0), atol=1e-6)
    drawn = {
        asked(client, support=support, act={"how": "thompson", "seed": seed})["prediction"]["particle"]
        for seed in range(30)
    }
    assert len(drawn) > 1


def test_the_seed_alone_decides_the_draw_and_commands_are_clipped(client):
    one, same, other = (
        asked(client, support=EMPTY, act={"particle": 1, "seed": seed})["prediction"] for seed in (4, 4, 5)
    )
    assert one == same
    assert one["action"] != other["action"]
    assert np.abs(one["action"]).max() > 1 or np.abs(other["action"]).max() > 1
    for each in (one, other):
        np.testing.assert_array_equal(each["command"], np.clip(each["action"], -1, 1))


def test_batched_equals_alone(client, model, rounds):
    from service.compute.batch import answer_batch

    decoder = client_decoder(client, model)
    bodies = [
        EMPTY,
        {"episodes": rounds[0]},
        {"episodes": [*rounds[0], *rounds[1]]},
        {"episodes": rounds[0][:3]},
    ]
    jobs = [
        decoder({"model": "walker", "support": body, "query": QUERY, "particles": True}) for body in bodies
    ]
    for together, job in zip(answer_batch(jobs * 2)[: len(jobs)], jobs, strict=True):
        (alone,) = answer_batch([job])
        np.testing.assert_allclose(
            together.result.particles.mean, alone.result.particles.mean, atol=TOLERANCE
        )
        np.testing.assert_allclose(together.policy.returns, alone.policy.returns, atol=TOLERANCE)


def client_decoder(client, model):
    """A function from bodies to jobs."""
    import time

    from service.codec.decode import Decoder
    from service.engine.posterior_cache import PosteriorCache
    from service.ops.metrics import Metrics
    from service.schemas.requests import AdaptPredictRequest
    from service.settings import Settings

    decoder = Decoder(Settings(), PosteriorCache(1 << 20, b"secret", Metrics()))
    return lambda body: decoder.prediction_job(
        AdaptPredictRequest.model_validate(body), model, "", time.monotonic()
    )


def test_uncertainty_ranks_observations_by_the_disagreement_of_particles(client, rounds):
    pool = [[0.1, 0.0], [1.5, -1.0], [-0.4, 0.3]]
    body = {"model": "walker", "support": {"episodes": rounds[0]}, "pool": {"x": pool}, "batch": {"size": 2}}
    reply = client.post("/uncertainty", json=body).json()
    asked_pool = asked(client, support={"episodes": rounds[0]}, query={"x": pool})
    epistemic = np.sum(asked_pool["prediction"]["variance"]["epistemic"], -1)
    np.testing.assert_allclose(reply["scores"], epistemic, rtol=1e-5)
    assert reply["selected"][0]["index"] == int(np.argmax(epistemic))
    assert reply["acquisition"] == "epistemic_variance"
    assert reply["diagnostics"]["rounds"] == 1


def test_models_and_cards_name_the_policy(client):
    listed = {each["name"]: each for each in client.get("/models").json()["models"]}
    assert (listed["walker"]["kind"], listed["walker"]["inputs"]) == ("policy", ["x", "y"])
    card = client.get("/models/walker/versions/1").json()
    assert (card["kind"], card["particles"], card["learner"]) == ("policy", 4, "bmaml")
    assert [each["name"] for each in card["outputs"]] == ["dx", "dy"]
    limits = client.get("/limits").json()
    assert limits["episode_steps"] == 400
    assert "epistemic_variance" in limits["acquisitions"]["policy"]


def test_a_job_that_goes_on_from_a_posterior_reaches_a_worker_whole(client, model, rounds):
    from dataclasses import replace

    from service.compute.batch import answer_batch
    from service.engine.ipc import ModelTable

    decoder = client_decoder(client, model)
    first, whole = (
        decoder({"model": "walker", "support": {"episodes": episodes}, "query": QUERY, "particles": True})
        for episodes in (rounds[0], [*rounds[0], *rounds[1]])
    )
    (before,) = answer_batch([first.with_key("a", None)])
    job = replace(whole, start=before.kept.posterior, start_rows=len(first.support_x))
    table = ModelTable()
    table.register(model)
    sent = table.loads(table.dumps(job))
    (alone,), (there,) = answer_batch([job]), answer_batch([sent])
    np.testing.assert_array_equal(there.result.particles.mean, alone.result.particles.mean)
    assert there.policy.rounds == 2
