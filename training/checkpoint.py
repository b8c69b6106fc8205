"""Where a run stands, on disk: whole or not at all, and one run to a folder."""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bmaml.errors import BmamlError
from training.config import TrainingConfig

CHECKPOINT = "checkpoint.pt"


class CannotResume(BmamlError):
    """A checkpoint that does not belong to this run."""


class Occupied(BmamlError):
    """Another run is at work in the folder."""


@dataclass
class State:
    """Where a run stands; what a checkpoint holds."""

    learned: dict[str, Tensor]
    optimiser: torch.optim.Adam
    device: torch.device
    step: int = 0
    best: dict[str, Tensor] | None = None
    best_nll: float = math.inf
    looks_since_best: int = 0
    history: list[tuple[int, float, float]] = field(default_factory=list)


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep every other run out of the folder, for as long as this process is in here.

    Raises:
        Occupied: another run has done so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(f"another run is at work in {folder}: give one of them another name") from None
        yield


def write_checkpoint(state: State, config: TrainingConfig, folder: Path) -> None:
    """Whole or not at all: written aside, flushed, renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{CHECKPOINT}.new"
    with draft.open("wb") as file:
        torch.save(
            {
                "config": json.dumps(config.as_data(), sort_keys=True),
                "learned": {name: tensor.detach() for name, tensor in state.learned.items()},
                "optimiser": state.optimiser.state_dict(),
                "step": state.step,
                "best": state.best,
                "best_nll": state.best_nll,
                "looks_since_best": state.looks_since_best,
                "history": state.history,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / CHECKPOINT)


def read_checkpoint(state: State, config: TrainingConfig, folder: Path) -> None:
    """Go on from where the run in this folder stood.

    Raises:
        CannotResume: there is none, or it is another run's.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise CannotResume(f"there is no checkpoint at {path}; start without --resume")
    held = torch.load(path, weights_only=True)
    if held["config"] != json.dumps(config.as_data(), sort_keys=True):
        raise CannotResume(f"{path} belongs to a run with other settings; repeat those, or start anew")
    for name, tensor in held["learned"].items():
        state.learned[name].data.copy_(tensor)
    state.optimiser.load_state_dict(held["optimiser"])
    state.step, state.best = held["step"], held["best"]
    state.best_nll, state.looks_since_best = held["best_nll"], held["looks_since_best"]
    state.history = held["history"]
