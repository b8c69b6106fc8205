"""Environments of Gymnasium as worlds: a point on a line that is pulled to a goal, varied by task."""

import sys

import numpy as np
import pytest
import torch

from model_store import Store
from tests.training.test_policy_command import arguments
from tests.training.test_worlds import generator
from training.__main__ import main
from training.config import InvalidConfig, WorldConfig
from training.families.world_tasks import WorldTasks
from training.families.worlds import world_of


def test_without_the_extra_the_world_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(InvalidConfig, match=r"gym:Pendulum-v1 needs .* pip install '.\[gym\]'"):
        world_of("gym:Pendulum-v1")


@pytest.mark.parametrize("world", ["ring", "gym:HalfCheetahDir"])
def test_other_worlds_have_tasks_and_lengths_of_their_own(world):
    with pytest.raises(InvalidConfig, match="environments gym:ID"):
        world_of(world, ["radius=1:2"])
    with pytest.raises(InvalidConfig, match="environments gym:ID"):
        world_of(world, horizon=3)


def test_an_episode_has_a_step():
    with pytest.raises(InvalidConfig, match="at least one step; found --horizon 0"):
        WorldConfig("gym:Line-v0", horizon=0)


@pytest.fixture
def line(monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")
    box = gymnasium.spaces.Box

    class Line(gymnasium.Env):
        """A point in [−3, 3], moved by the action times `pull`, and paid minus its distance from `goal`."""

        def __init__(self, goal=0.5, spaces=None, bound=0.5):
            self.goal, self.pull, self.mark = goal, 1.0, 0.0
            self.action_space = box(-bound, bound, (1, 1), np.float32)
            self.observation_space = box(-np.inf, np.inf, (1, 2), np.float64)
            for name, space in (spaces or {}).items():
                setattr(self, name, space)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place, self.mark = self.np_random.uniform(-0.1, 0.1), 0.0
            return self.seen(), {}

        def step(self, action):
            assert action.shape == (1, 1)
            assert abs(float(action[0, 0])) <= 0.5
            self.place += self.pull * float(action[0, 0])
            return self.seen(), -abs(self.place - self.goal), abs(self.place) > 1, False, {}

        def seen(self):
            return np.array([[self.place, self.pull]])

    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    spaces = gymnasium.spaces
    kinds = {
        "Line": {},
        "Discrete": {"action_space": spaces.Discrete(2)},
        "Unbounded": {"action_space": box(-np.inf, np.inf, (1,), np.float32)},
        "Named": {"observation_space": spaces.Dict({"x": spaces.Discrete(2)})},
    }
    for name, changed in kinds.items():
        gymnasium.register(f"{name}-v0", entry_point=Line, max_episode_steps=4, kwargs={"spaces": changed})
    gymnasium.register("Endless-v0", entry_point=Line)


def test_a_step_moves_each_environment_by_its_clipped_action(line):
    world = world_of("gym:Line-v0", ["goal=0.2:0.8", "pull=0.5:1"])
    assert world.horizon == 4
    assert [each.keyword for each in world.varied] == [True, False]
    assert "`goal` is varied from 0.2 to 0.8 as a keyword" in world.told
    assert "`pull` is varied from 0.5 to 1 as an attribute" in world.told
    tasks = torch.tensor([[0.25, 0.5], [0.75, 1.0]], dtype=torch.float64)[:, None].expand(2, 3, 2)
    states = world.reset((2, 3), generator(), tasks)
    assert states.shape == (2, 3, 2)
    assert len(states[..., 0].unique()) == 6  # every episode has a reset of its own
    torch.testing.assert_close(states[..., 1], tasks[..., 1])
    actions = torch.tensor([0.25, -9.0, 9.0], dtype=torch.float64).expand(2, 3)[..., None]
    after = world.step(states, actions, tasks)
    moved = states[..., 0] + tasks[..., 1] * actions[..., 0].clamp(-0.5, 0.5)
    torch.testing.assert_close(after.states[..., 0], moved)
    torch.testing.assert_close(after.rewards, -(moved - tasks[..., 0]).abs())
    torch.testing.assert_close(world.shaped(after.states, tasks), after.rewards)


def test_an_ended_episode_rests_without_pay(line):
    world, tasks = world_of("gym:Line-v0", ["pull=1:2"]), torch.tensor([[2.0], [1.0]])
    states = world.reset((2,), generator(), tasks)
    up = torch.full((2, 1), 0.5)
    once = world.step(states, up, tasks)
    while not bool(once.ended[0]):
        once = world.step(once.states, up, tasks)
    twice = world.step(once.states, up, tasks)
    assert bool(twice.ended[0])
    assert float(twice.rewards[0]) == 0
    torch.testing.assert_close(twice.states[0], once.states[0])
    assert float(twice.states[1, 0]) > float(once.states[1, 0])


def test_tasks_are_uniform_in_their_range_or_seeds_of_the_reset(line):
    varied = world_of("gym:Line-v0", ["pull=0.5:2"]).tasks(500, generator())
    assert 0.5 <= float(varied.min()) < 0.52
    assert 1.98 < float(varied.max()) <= 2
    world = world_of("gym:Line-v0")
    seeds = world.tasks(3, generator())
    starts = world.reset((3, 2), generator(), seeds[:, None])[..., 0]
    torch.testing.assert_close(starts[:, 0], starts[:, 1])
    assert len(starts.unique()) == 3
    assert "seed" in world.told


@pytest.mark.parametrize(
    ("name", "vary", "message"),
    [
        ("Nowhere-v0", [], "no environment 'Nowhere-v0'"),
        ("Discrete-v0", [], r"takes actions of Discrete\(2\)"),
        ("Unbounded-v0", [], "clipped to finite bounds"),
        ("Named-v0", [], "observe numbers, a Box; Named-v0 has Dict"),
        ("Endless-v0", [], "give --horizon"),
        ("Line-v0", ["mass=1:2"], "'mass' is neither a keyword nor an attribute"),
        ("Line-v0", ["seen=1:2"], "'seen' is no number"),
        ("Line-v0", ["mark=1:2"], "'mark' of Line-v0 is set anew by its reset"),
        ("Line-v0", ["bound=1:2"], "changes the action bounds"),
        ("Line-v0", ["spaces=1:2"], "cannot be made with spaces=1"),
        ("Line-v0", ["pull=1:2", "pull=2:3"], "each name once"),
        ("Line-v0", ["pull=2:1"], "NAME=LOW:HIGH with LOW below HIGH; found 'pull=2:1'"),
        ("Line-v0", ["pull"], "NAME=LOW:HIGH"),
        ("Line-v0", ["pull=1:nan"], "NAME=LOW:HIGH"),
    ],
)
def test_what_no_policy_can_be_trained_on_is_refused_in_a_sentence(line, name, vary, message):
    with pytest.raises(InvalidConfig, match=message):
        world_of(f"gym:{name}", vary)


def test_a_horizon_may_be_given_and_a_denser_reward_not(line):
    assert world_of("gym:Endless-v0", horizon=3).horizon == 3
    with pytest.raises(InvalidConfig, match="no denser reward"):
        WorldTasks(WorldConfig("gym:Line-v0", shaped=True), seed=0)


def test_columns_have_the_bounds_of_actions_and_the_ranges_of_episodes(line):
    tasks = WorldTasks(WorldConfig("gym:Line-v0", 2, vary=("pull=0.5:1",)), seed=0)
    assert [(each.lower, each.upper) for each in tasks.outputs] == [(-0.5, 0.5)]
    from bmaml.learners import POLICIES
    from bmaml.networks import MLP

    policy = POLICIES["bmaml"](MLP(2, (4,), 1), particles=2)
    place, pull = tasks.seen(policy, policy.initialise(generator()))
    assert -1.5 <= place.lower < -0.1
    assert 0.1 < place.upper <= 1.5
    assert 0.5 <= pull.lower < 0.55
    assert 0.95 < pull.upper <= 1


def test_a_policy_is_trained_published_scored_and_drawn(line, tmp_path, monkeypatch, capsys):
    for module in ("training.families.world_tasks", "training.policies"):
        monkeypatch.setattr(f"{module}.HELD_OUT_TASKS", 3)
    monkeypatch.setattr("training.families.world_tasks.VALIDATION_TASKS", 3)
    words = arguments(tmp_path, "gym:Line-v0", **{"meta-steps": 2})
    assert main([*words, "--vary", "goal=-1:1", "pull=0.5:1", "--horizon", "3"]) == 0
    assert "`goal` is varied from -1 to 1 as a keyword" in capsys.readouterr().err
    model = Store(tmp_path / "store").load("n")
    trained = model.manifest.training["family"]
    assert list(trained["vary"]) == ["goal=-1:1", "pull=0.5:1"]
    assert trained["horizon"] == 3
    assert (model.manifest.outputs[0].lower, model.manifest.outputs[0].upper) == (-0.5, 0.5)
    assert (
        "`pull` is varied from 0.5 to 1 as an attribute"
        in next((tmp_path / "store" / "n" / "1").glob("*.md")).read_text()
    )
    where = ["n", "gym:Line-v0", "--store", str(tmp_path / "store")]
    assert main(["evaluate", *where]) == 0
    told = capsys.readouterr().out
    assert f"{model.manifest.metrics['return_1']: .5g}" in told
    assert main(["plot", *where]) == 0
