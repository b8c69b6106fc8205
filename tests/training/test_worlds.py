"""Worlds: rewards and ends as their definitions say, and rollouts that are on policy."""

import math
from dataclasses import replace

import pytest
import torch

from bmaml.learners import POLICIES
from bmaml.networks import MLP
from training.config import InvalidConfig, WorldConfig
from training.families.world_tasks import WorldBatch, WorldTasks
from training.families.worlds import WORLDS, Navigation, Ring, rollout, world_of


def policy_of(name="bmaml", **settings):
    learner = POLICIES[name](MLP(2, (8,), 2), **{"particles": 3, **settings})
    return learner, learner.initialise(torch.Generator().manual_seed(1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", WORLDS)
def test_goals_lie_where_the_world_says(name):
    goals = world_of(name).tasks(500, generator())
    if name == "navigation":
        assert bool((goals.abs() <= 0.5).all())
        assert float(goals.abs().max()) > 0.49
    else:
        torch.testing.assert_close(goals.norm(dim=-1), torch.ones(500))
        assert abs(float(goals.mean())) < 0.1


def test_navigation_pays_minus_the_distance_and_ends_at_the_goal():
    world, goal = Navigation(), torch.tensor([[0.2, 0.0]])
    one = world.step(world.reset((1,), generator()), torch.tensor([[7.0, 0.0]]), goal)
    torch.testing.assert_close(one.states, torch.tensor([[0.1, 0.0]]))
    torch.testing.assert_close(one.rewards, torch.tensor([-0.1]))
    assert not bool(one.ended)
    two = world.step(one.states, torch.tensor([[0.95, 0.05]]), goal)
    assert bool(two.ended)  # within 0.01 along both axes


def test_the_ring_pays_near_the_goal_alone():
    world, goal = Ring(), torch.tensor([[0.0, 1.0]])
    inside = world.step(torch.tensor([[0.0, 0.75]]), torch.tensor([[0.0, 1.0]]), goal)
    torch.testing.assert_close(inside.rewards, torch.tensor([0.85]))
    outside = world.step(torch.tensor([[0.0, 0.65]]), torch.tensor([[0.0, 1.0]]), goal)
    assert float(outside.rewards) == 0
    torch.testing.assert_close(world.shaped(outside.states, goal), torch.tensor([-0.25]))


def test_a_rollout_is_acted_by_its_particles():
    policy, learned = policy_of()
    tasks = Navigation().tasks(4, generator())
    starts = learned["initial"].expand(4, -1, -1) + torch.linspace(0, 0.3, 4).view(-1, 1, 1)
    for particles in (learned["initial"][None], starts):
        episodes = rollout(Navigation(), policy, particles, tasks, 2, generator()).episodes
        means = policy.means(policy.parts(particles)[0], episodes.observations)
        noise = episodes.actions - means  # σ is one at the start, and e^0.3 at most
        assert 0.9 < float(noise[episodes.mask].std()) < 1.3
        logs = policy.log_prob(particles, episodes)
        std = policy.parts(particles)[1].exp()[:, :, None, None]
        expected = -0.5 * (noise / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(logs, expected.sum(-1), atol=1e-4, rtol=1e-4)
        walked = episodes.observations[..., :-1, :] + 0.1 * episodes.actions[..., :-1, :].clamp(-1, 1)
        torch.testing.assert_close(walked, episodes.observations[..., 1:, :])


def test_steps_after_the_end_are_masked():
    policy, learned = policy_of(initial_std=0.02)
    particles = torch.zeros_like(learned["initial"])[None]
    particles[..., -2:] = math.log(0.02)
    goal = torch.zeros(1, 2)  # it stands on its goal
    rolled = rollout(Navigation(), policy, particles, goal, 3, generator())
    assert rolled.episodes.mask.sum(-1).unique().tolist() == [1]
    assert bool((rolled.episodes.rewards[~rolled.episodes.mask] == 0).all())


def test_tasks_dealt_to_processes_have_episodes_of_their_own():
    batch = WorldBatch(torch.arange(6.0).view(6, 1), 5)
    one, two = (batch.tasks(slice(rank, None, 2)) for rank in (0, 1))
    assert one.parameters[:, 0].tolist() == [0, 2, 4]
    assert two.parameters[:, 0].tolist() == [1, 3, 5]
    assert one.seed != two.seed


@pytest.mark.parametrize("objective", ["mean", "chaser", "mixture"])
def test_the_meta_objective_is_reproducible_and_has_a_gradient(objective):
    policy, learned = policy_of(objective=objective, steps=2)
    learned["initial"].requires_grad_()
    tasks = WorldTasks(WorldConfig("navigation", episodes=2), seed=0)
    loss_of, batch = tasks.loss_of(policy), tasks.batch(3, generator())
    one, two = (loss_of(learned, batch) for _ in range(2))
    assert torch.equal(one, two)
    (gradient,) = torch.autograd.grad(one, learned["initial"])
    assert bool((gradient.abs().sum(-1) > 0).all())


def test_shaped_rewards_judge_where_the_worlds_own_say_nothing():
    policy, learned = policy_of("emaml")
    learned["initial"].requires_grad_()
    found = {}
    for shaped in (False, True):
        tasks = WorldTasks(WorldConfig("ring", episodes=2, shaped=shaped), seed=0)
        tasks.world = replace(Ring(), goal_radius=0.0)  # no reward at all
        loss = tasks.loss_of(policy)(learned, tasks.batch(3, generator()))
        (found[shaped],) = torch.autograd.grad(loss, learned["initial"])
    assert bool((found[False] == 0).all())
    assert bool((found[True] != 0).any())


def test_an_unknown_world_and_single_episodes_are_refused():
    with pytest.raises(
        InvalidConfig, match="no world 'maze'; choose one of navigation, ring, gym:HalfCheetahDir"
    ):
        world_of("maze")
    with pytest.raises(InvalidConfig, match="at least two episodes"):
        WorldConfig("ring", episodes=1)
