"""The half-cheetah: the simulator of Gymnasium, stepped for all episodes at once."""

import sys

import pytest
import torch

from tests.training.test_worlds import generator
from training.families.worlds import rollout, world_of


def test_without_the_extra_the_world_says_what_to_install(monkeypatch):
    from training.families.cheetah import NoSimulator

    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(NoSimulator, match=r"pip install '.\[gym\]'"):
        world_of("gym:HalfCheetahDir")


@pytest.fixture(params=["direction", "velocity"])
def world(request):
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    return world_of({"direction": "gym:HalfCheetahDir", "velocity": "gym:HalfCheetahVel"}[request.param])


def test_a_step_is_that_of_gymnasiums_environment(world):
    import gymnasium

    robot = gymnasium.make("HalfCheetah-v5").unwrapped
    robot.reset(seed=3)
    states = torch.tensor([[0.0, *robot.data.qpos, *robot.data.qvel]], dtype=torch.float64).repeat(2, 1)
    random = generator()
    tasks = world.tasks(2, random).double()
    for _ in range(5):
        actions = torch.randn(2, 6, generator=random, dtype=torch.float64)
        after = world.step(states, actions, tasks)
        seen, _, _, _, told = robot.step(actions[0].clamp(-1, 1).numpy())
        torch.testing.assert_close(
            world.observe(after.states)[0], torch.from_numpy(seen), atol=1e-6, rtol=1e-6
        )
        gain = told["x_velocity"] * tasks[0, 0]
        if world.goal == "velocity":
            gain = -abs(told["x_velocity"] - tasks[0, 0])
        cost = 0.05 * actions[0].clamp(-1, 1).square().sum()
        torch.testing.assert_close(after.rewards[0], gain - cost, atol=1e-6, rtol=1e-6)
        states = torch.stack([after.states[0], after.states[0]])
    assert not bool(after.ended.any())


def test_tasks_and_columns_fit_the_robot(world):
    from bmaml.learners import POLICIES
    from bmaml.networks import MLP

    world.horizon = 4
    tasks = world.tasks(200, generator())
    expected = {-1.0, 1.0} if world.goal == "direction" else set()
    assert set(tasks.flatten().tolist()) == expected or (tasks.min() >= 0 and tasks.max() <= 2)
    policy = POLICIES["bmaml"](MLP(len(world.observations), (4,), len(world.actions)), particles=2)
    start = policy.initialise(generator())["initial"].unsqueeze(0)
    episodes = rollout(world, policy, start, tasks[:3], 2, generator()).episodes
    assert episodes.observations.shape == (3, 2, 2, 4, 17)
    assert bool(episodes.rewards.isfinite().all())
    assert bool(
        (episodes.observations[:, :, 0] != episodes.observations[:, :, 1]).any()
    )  # noise at the start
