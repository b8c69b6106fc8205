"""Checkpoints of a run: written atomically, in a folder that one run at a time may use."""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bmaml.errors import BmamlError
from training.config import TrainingConfig

CHECKPOINT = "checkpoint.pt"


class CannotResume(BmamlError):
    """A checkpoint that is absent or belongs to another run."""


class FolderInUse(BmamlError):
    """A folder that another run uses."""


@dataclass
class TrainingState:
    """The state of a run; a checkpoint holds all of it but the device.

    Attributes:
        learned: the meta-parameters by name.
        step: meta-steps taken.
        best, best_nll: the parameters with the lowest validation NLL, and that NLL.
        evaluations_since_best: evaluations of the validation tasks since then.
        history: step, meta-objective and validation NLL of every evaluation.
    """

    learned: dict[str, Tensor]
    optimiser: torch.optim.Adam
    device: torch.device
    step: int = 0
    best: dict[str, Tensor] | None = None
    best_nll: float = math.inf
    evaluations_since_best: int = 0
    history: list[tuple[int, float, float]] = field(default_factory=list)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the folder's lock, so that no other run uses it.

    Args:
        wait: until another run lets go.

    Raises:
        FolderInUse: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise FolderInUse(f"another run is at work in {folder}: give one of them another name") from None
        yield


def write_checkpoint(
    state: TrainingState, config: TrainingConfig, folder: Path, tasks: Sequence[float]
) -> None:
    """Write the state atomically: to a new file, flushed to the disk, then renamed.

    Args:
        tasks: the fingerprint of the run's tasks.
    """
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
                "evaluations_since_best": state.evaluations_since_best,
                "history": state.history,
                "tasks": list(tasks),
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / CHECKPOINT)


def read_checkpoint(
    state: TrainingState, config: TrainingConfig, folder: Path, tasks: Sequence[float]
) -> None:
    """Set the state to that of the checkpoint in the folder.

    Args:
        tasks: the fingerprint of the run's tasks.

    Raises:
        CannotResume: there is no checkpoint, or it belongs to a run with other settings or other data.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise CannotResume(f"there is no checkpoint at {path}; start without --resume")
    held = torch.load(path, map_location="cpu", weights_only=True)
    if held["config"] != json.dumps(config.as_data(), sort_keys=True):
        raise CannotResume(f"{path} belongs to a run with other settings; repeat those, or start anew")
    known = np.array(held["tasks"])
    if known.shape != np.shape(tasks) or not np.allclose(known, tasks, rtol=1e-5, atol=1e-7, equal_nan=True):
        raise CannotResume(f"{path} belongs to a run on other data; give it those, or start anew")
    for name, tensor in held["learned"].items():
        state.learned[name].data.copy_(tensor)
    state.optimiser.load_state_dict(held["optimiser"])
    state.step, state.best = held["step"], held["best"]
    state.best_nll, state.evaluations_since_best = held["best_nll"], held["evaluations_since_best"]
    state.history = held["history"]
