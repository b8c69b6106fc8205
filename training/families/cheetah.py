"""The half-cheetah of the paper: run in a direction, or at a velocity, that each task has for itself.

The robot is that of Gymnasium's `HalfCheetah-v5`. MuJoCo steps all episodes of a meta-batch in one call,
which takes a fraction of the time of an environment for each. It needs `.[gym]`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bmaml.errors import BmamlError
from model_store.columns import Column
from training.families.worlds import Step

FRAME_SKIP = 5
"""Steps of the simulator in one step of the world."""
CONTROL_COST = 0.05
"""Weight of the squared action in the reward, as in Finn et al. 2017."""
RESET_NOISE = 0.1
"""Scale of the noise of first states: uniform for positions, normal for velocities."""
LARGEST_VELOCITY = 2.0
JOINTS = ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot")
PLACES = ("height", "pitch", *JOINTS)
Goal = Literal["direction", "velocity"]


class NoSimulator(BmamlError):
    """The packages of the extra `gym` are not installed."""


class HalfCheetah:
    """A planar robot with six motors.

    A state is (time, positions, velocities) as MuJoCo orders them, and the observation all but time and the
    place along the track. The reward is the velocity in the task's direction, or minus the distance of the
    velocity from the task's, minus 0.05 times the squared action.
    """

    sparse = False
    actions = tuple(Column(name=f"torque of {joint}", lower=-1.0, upper=1.0) for joint in JOINTS)
    observations = (
        *(Column(name=place, lower=-3.0, upper=3.0) for place in PLACES),
        Column(name="velocity", lower=-10.0, upper=10.0),
        *(Column(name=f"velocity of {place}", lower=-20.0, upper=20.0) for place in PLACES),
    )

    def __init__(self, goal: Goal, horizon: int = 200) -> None:
        self.goal, self.horizon = goal, horizon
        self._mujoco = _simulator()

    def tasks(self, count: int, generator: torch.Generator) -> Tensor:
        """Directions ±1, or velocities in [0, 2], `[task, 1]`."""
        drawn = torch.rand(count, 1, generator=generator)
        return (drawn < 0.5) * 2.0 - 1 if self.goal == "direction" else LARGEST_VELOCITY * drawn

    def reset(self, shape: Sequence[int], generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """The robot at rest, with a little noise."""
        places, model = len(PLACES) + 1, self._model
        noise = RESET_NOISE * (2 * torch.rand(*shape, places, generator=generator) - 1)
        kicks = RESET_NOISE * torch.randn(*shape, places, generator=generator)
        first = torch.from_numpy(np.asarray(model.qpos0)).float()
        return torch.cat([torch.zeros(*shape, 1), first + noise, kicks], -1)

    def observe(self, states: Tensor) -> Tensor:
        """Positions without that along the track, and velocities."""
        return states[..., 2:]

    def step(self, states: Tensor, actions: Tensor, tasks: Tensor) -> Step:
        """Five steps of the simulator under one clipped action."""
        torques = actions.clamp(-1, 1)
        shape = states.shape[:-1]
        control = torques.reshape(-1, 1, torques.shape[-1]).double().cpu().numpy().repeat(FRAME_SKIP, 1)
        before = np.ascontiguousarray(states.reshape(-1, states.shape[-1]).double().cpu().numpy())
        after, _ = self._mujoco.rollout.rollout(
            self._model, self._data, initial_state=before, control=np.ascontiguousarray(control)
        )
        moved = torch.from_numpy(after[:, -1].copy()).to(states).view(*shape, -1)
        elapsed = FRAME_SKIP * float(self._model.opt.timestep)
        velocity = (moved[..., 1] - states[..., 1]) / elapsed
        cost = CONTROL_COST * torques.square().sum(-1)
        rewards = self._gain(velocity, tasks[..., 0]) - cost
        return Step(moved, rewards, torch.zeros_like(rewards, dtype=torch.bool))

    def shaped(self, states: Tensor, tasks: Tensor) -> Tensor:
        """The reward of the present velocity, without the cost of the action."""
        return self._gain(states[..., len(PLACES) + 2], tasks[..., 0])

    def _gain(self, velocity: Tensor, task: Tensor) -> Tensor:
        return velocity * task if self.goal == "direction" else -(velocity - task).abs()

    @cached_property
    def _model(self) -> Any:
        import gymnasium

        folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        return self._mujoco.MjModel.from_xml_path(str(folder / "half_cheetah.xml"))

    @cached_property
    def _data(self) -> Any:
        return self._mujoco.MjData(self._model)


def _simulator() -> Any:
    """MuJoCo, which takes a second to load and is an extra.

    Raises:
        NoSimulator: it is not installed, or Gymnasium is not.
    """
    try:
        import gymnasium  # noqa: F401
        import mujoco
        import mujoco.rollout
    except ImportError as error:
        raise NoSimulator(f"this world needs the extra gym: pip install '.[gym]' ({error})") from None
    return mujoco
