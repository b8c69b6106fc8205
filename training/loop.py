"""The outer loop: Adam on the meta-objective, resumable, stopped early by the validation tasks.

The tasks of step t are drawn from a generator seeded by (seed, t) alone, so a run that was
interrupted and resumed takes exactly the steps of one that was not.
"""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from bmaml.errors import BmamlError
from bmaml.learners import Learner
from bmaml.task import TaskBatch
from training.config import Optimisation, TrainingConfig
from training.families import Family

CHECKPOINT_SECONDS = 30.0
CHECKPOINT = "checkpoint.pt"


class Interrupted(BmamlError):
    """The run was asked to stop, and can be resumed."""


class CannotResume(BmamlError):
    """A checkpoint that does not belong to this run."""


class TrainingDiverged(BmamlError):
    """The meta-objective left the finite numbers."""


@dataclass
class State:
    """Where a run stands; what a checkpoint holds."""

    learned: dict[str, Tensor]
    optimiser: torch.optim.Adam
    step: int = 0
    best: dict[str, Tensor] | None = None
    best_nll: float = math.inf
    looks_since_best: int = 0


def train(
    config: TrainingConfig,
    family: Family,
    learner: Learner[Any],
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """The learned tensors of a whole run, on the CPU.

    Args:
        folder: for the checkpoint and the TensorBoard log.
        resume: go on from the checkpoint in `folder`.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
        CannotResume: there is no checkpoint, or it is another run's.
        TrainingDiverged: the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _start(learner, config, device)
    if resume:
        _read_checkpoint(state, config, folder)
    plan = config.optimisation
    saved = time.monotonic()
    with _stop_requested() as stop, SummaryWriter(str(folder / "tensorboard"), purge_step=state.step) as log:
        progress = tqdm(
            total=plan.meta_steps, initial=state.step, desc=config.name, unit="step", disable=None
        )
        with progress:
            while state.step < plan.meta_steps:
                loss = meta_step(state, learner, _draw(config, family, state.step, device), plan)
                state.step += 1
                progress.update()
                if state.step % plan.evaluate_every == 0 or state.step == plan.meta_steps:
                    if not math.isfinite(value := float(loss)):
                        raise TrainingDiverged(f"the loss at step {state.step} is {value}")
                    nll = validation_nll(learner, state.learned, family, device)
                    _look(state, nll, plan)
                    log.add_scalar("loss/meta", value, state.step)
                    log.add_scalar("nll/validation", nll, state.step)
                    log.add_scalar("rate", learning_rate(plan, state.step), state.step)
                    progress.set_postfix(loss=f"{value:.3g}", nll=f"{nll:.3g}")
                    if progress.disable:
                        print(f"step {state.step}  loss {value:.4g}  validation nll {nll:.4g}", flush=True)
                    if plan.patience and state.looks_since_best >= plan.patience:
                        break
                if stop.is_set or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    _write_checkpoint(state, config, folder)
                    saved = time.monotonic()
                if stop.is_set:
                    raise Interrupted(f"stopped at step {state.step}; go on with --resume")
    chosen = state.best if plan.patience and state.best is not None else state.learned
    return {name: tensor.detach().cpu() for name, tensor in chosen.items()}


def meta_step(state: State, learner: Learner[Any], batch: TaskBatch, plan: Optimisation) -> Tensor:
    """One update of the meta-parameters; returns the loss before it, detached."""
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(plan, state.step)
    state.optimiser.zero_grad()
    loss = learner.loss(state.learned, batch)
    loss.backward()
    if plan.clip is not None:
        torch.nn.utils.clip_grad_norm_(state.learned.values(), plan.clip)
    state.optimiser.step()
    return loss.detach()


def learning_rate(plan: Optimisation, step: int) -> float:
    """Adam's rate at a step: a linear warm-up, then a decay to `final_rate` of the start."""
    done = step / plan.meta_steps
    if plan.decay == "cosine":
        left = plan.final_rate + (1 - plan.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        left = plan.final_rate**done
    return plan.learning_rate * left * min(1.0, (step + 1) / (plan.warmup + 1))


def validation_nll(
    learner: Learner[Any], learned: dict[str, Tensor], family: Family, device: str = "cpu"
) -> float:
    """Mean NLL of the mixture on the validation tasks, per value, in standardised units."""
    totals: list[Tensor] = []
    with torch.no_grad():
        for batch in family.validation():
            batch = _moved(batch, device)
            belief = learner.predict(learner.adapt(learned, batch.support), batch.query.x)
            mask = batch.query.mask.unsqueeze(-1)
            values = torch.where(mask, belief.log_density(batch.query.y), 0).sum((1, 2))
            totals.append(-values / (mask.sum((1, 2)) * batch.query.y.shape[-1]))
    return float(torch.cat(totals).mean())


def _start(learner: Learner[Any], config: TrainingConfig, device: str) -> State:
    generator = torch.Generator().manual_seed(config.seed)
    learned = {
        name: tensor.to(device).requires_grad_() for name, tensor in learner.initialise(generator).items()
    }
    return State(learned, torch.optim.Adam(learned.values(), lr=config.optimisation.learning_rate))


def _draw(config: TrainingConfig, family: Family, step: int, device: str) -> TaskBatch:
    seed = int(np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(seed)
    return _moved(family.batch(config.optimisation.meta_batch, generator), device)


def _moved(batch: TaskBatch, device: str) -> TaskBatch:
    target = torch.device(device)
    return TaskBatch(batch.support.to(target), batch.query.to(target))


def _look(state: State, nll: float, plan: Optimisation) -> None:
    if nll < state.best_nll:
        state.best_nll, state.looks_since_best = nll, 0
        state.best = {name: tensor.detach().clone() for name, tensor in state.learned.items()}
    else:
        state.looks_since_best += 1


def _write_checkpoint(state: State, config: TrainingConfig, folder: Path) -> None:
    """Whole or not at all: written aside, flushed, renamed."""
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
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / CHECKPOINT)


def _read_checkpoint(state: State, config: TrainingConfig, folder: Path) -> None:
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


@dataclass
class _Stop:
    is_set: bool = False


@contextmanager
def _stop_requested() -> Iterator[_Stop]:
    """Turns SIGINT and SIGTERM into a flag for as long as the loop runs."""
    stop = _Stop()

    def request(number: int, frame: FrameType | None) -> None:
        stop.is_set = True

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
