"""The benchmark of episodes: both ways act as many as they may, and particles in turn find what one finds."""

import pytest
import torch

from benchmarks.accuracy.policy_episodes import fresh_returns, in_turn, side_by_side
from tests.published import publish_policy
from training.families.worlds import Ring

WORLD = Ring(horizon=5, goal_radius=0.9)
"""Some goals are found by chance, others not."""


@pytest.mark.parametrize("way", [side_by_side, in_turn])
@pytest.mark.parametrize("budget", [4, 12])
def test_a_budget_of_episodes_is_spent_and_not_more(tmp_path, way, budget):
    model = publish_policy(tmp_path)
    generator = torch.Generator().manual_seed(0)
    tasks = WORLD.tasks(9, generator)
    outcome = way(WORLD, model, model.learner, tasks, budget, generator)
    assert outcome.posterior.episodes.sum(-1).tolist() == [budget] * 9
    paid = (outcome.posterior.returns > 0).any(-1)
    assert bool((outcome.found | ~paid).all())
    returns = fresh_returns(WORLD, model.learner, outcome.posterior, tasks, generator)
    assert returns.shape == (9,)


def test_in_turn_every_particle_acts_before_one_acts_again_where_nothing_is_paid(tmp_path):
    model = publish_policy(tmp_path)
    generator = torch.Generator().manual_seed(0)
    world = Ring(horizon=3, goal_radius=0.1)  # too far to reach
    outcome = in_turn(world, model, model.learner, world.tasks(3, generator), 6, generator)
    assert not bool(outcome.found.any())
    assert outcome.posterior.episodes.tolist() == [[2, 2, 1, 1]] * 3
