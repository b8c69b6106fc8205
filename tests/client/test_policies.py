"""Policies through the client: typed actions, adapted round by round, and sent again where dropped."""

import numpy as np
import pytest

from bmaml_client import Action, Client, Episode, InvalidInput, InvalidRequest, UnknownPosterior
from service.settings import Settings
from tests.published import publish_policy
from tests.service.conftest import serve
from tests.service.policies.world import episodes_of

OBSERVATIONS = np.array([[0.1, 0.0], [-0.4, 0.3]])


@pytest.fixture(scope="module")
def walking(tmp_path_factory):
    root = tmp_path_factory.mktemp("walking")
    publish_policy(root)
    for served in serve(Settings(store=root, device="cpu")):
        with Client(served.url) as client:
            yield client


def acting(client, posterior=None):
    def act(places, particle, seed):
        return client.act("walker", places, particle=particle, seed=seed, posterior=posterior).action

    return act


def acted(client, number, posterior=None):
    return [Episode(**each) for each in episodes_of(acting(client, posterior), number, range(4))]


def test_an_action_is_typed_and_its_command_is_clipped(walking):
    answer = walking.act("walker", OBSERVATIONS, particle=2, seed=3, particles=True)
    assert isinstance(answer, Action)
    assert (answer.particle, answer.action.shape, answer.mean.shape) == (2, (2, 2), (2, 2))
    np.testing.assert_array_equal(answer.command, np.clip(answer.action, -1, 1))
    assert answer.particles.mean.shape == (4, 2, 2)
    assert (answer.state.rounds, answer.state.returns.tolist()) == (0, [0.0] * 4)
    assert walking.act("walker", OBSERVATIONS, how="mean").particle is None


def test_rounds_one_by_one_equal_all_at_once(walking):
    first = acted(walking, 0)
    after_one = walking.adapt_policy("walker", first)
    second = acted(walking, 1, after_one)
    after_two = walking.adapt_policy("walker", second, posterior=after_one)
    assert (after_one.state.rounds, after_two.state.rounds) == (1, 2)
    assert after_two.rows == sum(len(each.rewards) for each in (*first, *second))
    assert walking.adapt_policy("walker", [*first, *second]).id == after_two.id
    assert (
        after_two.state.returns.argmax() == walking.act("walker", OBSERVATIONS, posterior=after_two).particle
    )


def test_a_policy_that_the_service_dropped_is_adapted_again(walking):
    first = acted(walking, 0)
    kept = walking.adapt_policy("walker", first)
    before = walking.act("walker", OBSERVATIONS, posterior=kept, seed=8)
    walking.forget(kept)
    again = walking.act("walker", OBSERVATIONS, posterior=kept, seed=8)
    np.testing.assert_array_equal(again.action, before.action)
    second = acted(walking, 1, kept)
    walking.forget(kept)
    assert walking.adapt_policy("walker", second, posterior=kept).state.rounds == 2


def test_a_bare_id_cannot_be_sent_again(walking):
    with pytest.raises(UnknownPosterior):
        walking.act("walker", OBSERVATIONS, posterior="post_0")


def test_wrong_episodes_are_errors_of_the_caller(walking):
    with pytest.raises(InvalidInput, match="cannot be read as numbers"):
        walking.adapt_policy("walker", [Episode(0, 0, [["a", "b"]], [[0.0, 0.0]], [0.0])])
    with pytest.raises(InvalidRequest, match="round 0 is missing"):
        walking.adapt_policy("walker", [Episode(1, 0, [[0.0, 0.0]], [[0.0, 0.0]], [0.0])])


def test_weights_act_without_a_request(walking):
    kept = walking.adapt_policy("walker", acted(walking, 0))
    weights = walking.policy_weights(kept)
    said = walking.act("walker", OBSERVATIONS, posterior=kept, particles=True)
    np.testing.assert_allclose(weights.means(OBSERVATIONS), said.particles.mean, atol=2e-6)
    assert (weights.best, weights.card.id, weights.rounds) == (said.particle, kept.id, 1)
    np.testing.assert_allclose(weights.weights, said.state.weights, rtol=1e-6)
    random = np.random.default_rng(0)
    action, command = weights.act(np.repeat(OBSERVATIONS[:1], 20_000, 0), random, particle=2)
    mean, std = said.particles.mean[2, 0], said.particles.std[2, 0]
    np.testing.assert_allclose(action.mean(0), mean, atol=5 * std.max() / 20_000**0.5)
    np.testing.assert_allclose(action.std(0), std, rtol=0.03)
    np.testing.assert_array_equal(command, np.clip(action, -1, 1))
    with pytest.raises(InvalidInput, match="rows of 2 numbers"):
        weights.means([[0.1, 0.2, 0.3]])
    with pytest.raises(UnknownPosterior):
        walking.policy_weights("post_0")
