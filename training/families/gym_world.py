"""Any environment of Gymnasium with continuous actions, one object for each episode, stepped one by one.

Tasks differ by numbers that are varied, or else by the seed of the environment's own random reset. It needs
`.[gym]`.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmaml.errors import BmamlError
from model_store.columns import Column
from training.config import InvalidConfig
from training.families.worlds import Step

LARGEST_SEED = 2**24
"""Whole numbers below it are exact as float32."""


@dataclass(frozen=True)
class Varied:
    """A number that tasks differ by.

    Attributes:
        keyword: whether it is given to `gymnasium.make`; else an attribute is set before each reset.
    """

    name: str
    low: float
    high: float
    keyword: bool

    def __str__(self) -> str:
        how = "a keyword of gymnasium.make" if self.keyword else "an attribute of the environment"
        return f"`{self.name}` is varied from {self.low:g} to {self.high:g} as {how}"


class BrokenEpisode(BmamlError):
    """An environment that gave a number that is not finite."""


class GymWorld:
    """Tasks of one environment; a state is its flat observation.

    The environments of the latest reset are those that `step` moves, in the order of that reset. An episode
    that has ended rests where it is.

    Raises:
        InvalidConfig: an id, spaces or varied names that no policy can be trained on.
    """

    sparse = False

    def __init__(self, name: str, vary: Sequence[str] = (), horizon: int | None = None) -> None:
        self.id = name
        self._gymnasium = _gymnasium(name)
        self._spec = self._found()
        steps = horizon or self._spec.max_episode_steps
        if not steps:
            raise InvalidConfig(f"{name} states no length of an episode: give --horizon")
        self.horizon = int(steps)
        ranges = [_range(text) for text in vary]
        names = [each for each, _, _ in ranges]
        if len(set(names)) < len(names):
            raise InvalidConfig(f"--vary takes each name once; found {', '.join(names)}")
        keywords = self._keywords()
        self.varied = tuple(Varied(each, low, high, keyword=each in keywords) for each, low, high in ranges)
        self._idle: list[Any] = []
        self._acting: list[Any] = []
        first = self._made([each.low for each in self.varied])
        self._shape, self._bounds = self._actions_of(first), (first.action_space.low, first.action_space.high)
        self._seen = self._observation_of(first)
        self._check_ends(first)
        self._last, self._ended = np.zeros((0, 0)), np.zeros(0, dtype=bool)
        self.actions = tuple(
            Column(name=each, lower=float(low), upper=float(high))
            for each, low, high in zip(
                _names("action", self._shape), self._bounds[0].flat, self._bounds[1].flat, strict=True
            )
        )
        space = first.observation_space
        self.observations = tuple(
            Column(name=each, lower=float(low), upper=float(high))
            for each, low, high in zip(
                _names("observation", self._seen),
                np.nan_to_num(space.low, neginf=-1, nan=-1).flat,
                np.nan_to_num(space.high, posinf=1, nan=1).flat,
                strict=True,
            )
        )
        self._release(first)

    @property
    def told(self) -> str:
        """What tasks differ by, in one sentence."""
        if not self.varied:
            return "Tasks differ by the seed of the environment's own reset."
        return "In tasks, " + ", and ".join(map(str, self.varied)) + "."

    def tasks(self, count: int, generator: torch.Generator) -> Tensor:
        """Values of what is varied, uniform in their ranges, `[task, name]`; or seeds, `[task, 1]`."""
        if not self.varied:
            return torch.randint(LARGEST_SEED, (count, 1), generator=generator).float()
        low, high = (torch.tensor([getattr(each, end) for each in self.varied]) for end in ("low", "high"))
        return low + (high - low) * torch.rand(count, len(self.varied), generator=generator)

    def reset(self, shape: Sequence[int], generator: torch.Generator, tasks: Tensor | None = None) -> Tensor:
        """Environments at their start, one for each episode of a task `[*shape, parameter]`."""
        assert tasks is not None
        rows = tasks.expand(*shape, -1).flatten(0, -2).double().tolist()
        seeds = torch.randint(LARGEST_SEED, (len(rows),), generator=generator).tolist()
        for environment in self._acting:
            self._release(environment)
        self._acting = [self._made(row if self.varied else []) for row in rows]
        chosen = seeds if self.varied else [int(row[0]) for row in rows]
        first = [
            self._flat(environment.reset(seed=seed)[0])
            for environment, seed in zip(self._acting, chosen, strict=True)
        ]
        self._last, self._ended = np.stack(first), np.zeros(len(first), dtype=bool)
        return torch.from_numpy(self._last.copy()).view(*shape, -1)

    def observe(self, states: Tensor) -> Tensor:
        """The observation itself."""
        return states

    def step(self, states: Tensor, actions: Tensor, tasks: Tensor) -> Step:
        """One step of every environment of the latest reset, under clipped actions."""
        shape = states.shape[:-1]
        chosen = actions.reshape(-1, len(self.actions)).double().cpu().numpy()
        if len(chosen) != len(self._acting):
            raise ValueError(f"{len(self._acting)} episodes were reset, and {len(chosen)} are to be stepped")
        rewards = np.zeros(len(chosen))
        for place in np.flatnonzero(~self._ended):
            environment = self._acting[place]
            command = chosen[place].reshape(self._shape).clip(*self._bounds)
            seen, reward, terminated, truncated, _ = environment.step(
                command.astype(environment.action_space.dtype)
            )
            self._last[place], rewards[place] = self._flat(seen), float(reward)
            self._ended[place] = terminated or truncated
        if not np.isfinite(rewards).all():
            raise BrokenEpisode(f"{self.id} gave a reward that is not finite")
        after, paid, ended = (torch.from_numpy(each.copy()) for each in (self._last, rewards, self._ended))
        self._rewards = paid.to(states).view(shape)
        return Step(after.to(states).view(*shape, -1), self._rewards, ended.to(states.device).view(shape))

    def shaped(self, states: Tensor, tasks: Tensor) -> Tensor:
        """The rewards of the latest step: an environment knows no denser ones."""
        return self._rewards

    def _found(self) -> Any:
        try:
            return self._gymnasium.spec(self.id)
        except (self._gymnasium.error.Error, ImportError) as error:
            raise InvalidConfig(f"Gymnasium has no environment {self.id!r}: {_line(error)}") from None

    def _keywords(self) -> set[str]:
        entry = self._spec.entry_point
        try:
            maker = (
                self._gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
            )
            named = inspect.signature(maker).parameters.values()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise InvalidConfig(f"{self.id} cannot be loaded: {_line(error)}") from None
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {each.name for each in named if each.kind in kinds}

    def _made(self, values: Sequence[float]) -> Any:
        """An environment with the values of what is varied."""
        pairs = list(zip(self.varied, values, strict=True))
        keywords = {each.name: value for each, value in pairs if each.keyword}
        if self._idle:
            environment = self._idle.pop()
        else:
            try:
                environment = self._gymnasium.make(
                    self._spec, max_episode_steps=-1, disable_env_checker=True, **keywords
                )
            except Exception as error:  # whatever the environment's own code raises
                given = ", ".join(f"{key}={value:g}" for key, value in keywords.items())
                raise InvalidConfig(
                    f"{self.id} cannot be made{' with ' if given else ''}{given}: {_line(error)}"
                ) from None
        for each, value in pairs:
            if not each.keyword:
                self._set(environment.unwrapped, each.name, value)
        return environment

    def _set(self, environment: Any, name: str, value: float) -> None:
        present = getattr(environment, name, None)
        if isinstance(present, bool) or not isinstance(present, int | float | np.number):
            what = "is no number" if hasattr(environment, name) else "is neither a keyword nor an attribute"
            raise InvalidConfig(f"--vary takes numbers of {self.id}, and {name!r} {what}")
        try:
            setattr(environment, name, value)
        except AttributeError:
            raise InvalidConfig(f"--vary sets attributes, and {name!r} of {self.id} is read only") from None

    def _release(self, environment: Any) -> None:
        """Keep an environment for the next reset, unless it was made for its task."""
        if any(each.keyword for each in self.varied):
            environment.close()
        else:
            self._idle.append(environment)

    def _actions_of(self, environment: Any) -> tuple[int, ...]:
        space = environment.action_space
        if not isinstance(space, self._gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise InvalidConfig(f"policies act by real numbers, a Box; {self.id} takes actions of {space}")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise InvalidConfig(f"actions are clipped to finite bounds; {self.id} has {space}: wrap it")
        return tuple(space.shape)

    def _observation_of(self, environment: Any) -> tuple[int, ...]:
        space = environment.observation_space
        if not isinstance(space, self._gymnasium.spaces.Box):
            raise InvalidConfig(f"policies observe numbers, a Box; {self.id} has {space}: wrap it")
        return tuple(space.shape)

    def _check_ends(self, first: Any) -> None:
        """Both ends of what is varied make one kind of environment, and a reset leaves them set."""
        last = self._made([each.high for each in self.varied])
        if self._actions_of(last) != self._shape or self._observation_of(last) != self._seen:
            raise InvalidConfig(f"what is varied changes the shapes of {self.id}, which must stay")
        bounds = (last.action_space.low, last.action_space.high)
        if not all(np.array_equal(*pair) for pair in zip(bounds, self._bounds, strict=True)):
            raise InvalidConfig(f"what is varied changes the action bounds of {self.id}, which must stay")
        last.reset(seed=0)
        for each in self.varied:
            if not each.keyword and getattr(last.unwrapped, each.name) != each.high:
                raise InvalidConfig(
                    f"{each.name!r} of {self.id} is set anew by its reset: it cannot be varied"
                )
        self._release(last)

    def _flat(self, seen: Any) -> Any:
        flat = np.asarray(seen, dtype=np.float64).reshape(-1)
        if not np.isfinite(flat).all():
            raise BrokenEpisode(f"{self.id} gave an observation that is not finite")
        return flat


def _range(text: str) -> tuple[str, float, float]:
    name, equals, bounds = text.partition("=")
    low, colon, high = bounds.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = (1.0, 0.0)
    if not (name and equals and colon and np.isfinite(ends).all() and ends[0] < ends[1]):
        raise InvalidConfig(f"--vary takes NAME=LOW:HIGH with LOW below HIGH; found {text!r}")
    return name, *ends


def _names(word: str, shape: tuple[int, ...]) -> list[str]:
    return [f"{word} {place}" for place in range(int(np.prod(shape)))]


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _gymnasium(name: str) -> Any:
    """Gymnasium, which is an extra.

    Raises:
        InvalidConfig: it is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise InvalidConfig(
            f"gym:{name} needs the extra gym: pip install '.[gym]' ({_line(error)})"
        ) from None
    return gymnasium
