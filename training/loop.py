"""The outer loop: Adam on the meta-objective, resumable, stopped early by the validation tasks.

The tasks of step t come from a generator seeded by (seed, t) alone. An interrupted and resumed run therefore
takes exactly the steps of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from bmaml.blocks import blocks
from bmaml.embedding import Embedding
from bmaml.errors import BmamlError
from bmaml.learners import Learned, Learner, Policy
from bmaml.learners.interface import Belief
from bmaml.learners.laplace import Laplace
from bmaml.task import Examples, TaskBatch
from training.checkpoint import TrainingState, locked, read_checkpoint, write_checkpoint
from training.compiled import objective
from training.config import InvalidConfig, Optimisation, TrainingConfig
from training.families import BackboneImages, Family, FinetunedImages
from training.families.world_tasks import WorldBatch, WorldTasks
from training.fingerprint import fingerprint
from training.fitted_start import fitted_start
from training.muon import Muon
from training.processes import LostProcess, Processes
from training.stopping import stop_signals

CHECKPOINT_INTERVAL_S = 30.0
TASKS_PER_BLOCK = 20
"""Validation tasks evaluated at once: a bound on the memory of a belief."""
EARLY_LOOKS = (10, 25, 50, 100)
"""Steps of evaluations before the first regular one."""
EARLY_STOP = 5
"""Training stops where so many times the steps of the best look brought nothing better."""
SINGLE_PROCESS = Processes()
OnLook = Callable[[int, float, float], None]
"""Called with step, meta-objective and validation NLL."""


class Interrupted(BmamlError):
    """The run received SIGINT or SIGTERM and can be resumed."""


class TrainingDiverged(BmamlError):
    """The meta-objective is not finite."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        learned: the learned tensors, on the CPU.
        history: step, meta-objective and validation NLL of every evaluation.
        kept: the step whose parameters these are.
        ending: why the run stopped.
    """

    learned: dict[str, Tensor]
    history: list[tuple[int, float, float]]
    kept: int
    ending: str

    @property
    def nll(self) -> float:
        """The validation NLL of the parameters."""
        return next(nll for step, _, nll in reversed(self.history) if step == self.kept)


def train(
    config: TrainingConfig,
    family: Family | WorldTasks,
    learner: Learner[Any],
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    processes: Processes = SINGLE_PROCESS,
    compile_it: bool = False,
    start: Mapping[str, Tensor] | None = None,
    on_look: OnLook | None = None,
    stopped: Callable[[], bool] | None = None,
) -> TrainingResult:
    """A whole run; every process calls it alike.

    Args:
        folder: the folder of the checkpoint and the TensorBoard log, which all processes share.
        resume: go on from the checkpoint in `folder`.
        compile_it: compile the meta-objective first (see `training.compiled`).
        start: the first parameters; those that are absent are drawn at random.
        on_look: called by the leading process after each evaluation of the validation tasks.
        stopped: whether the run is to stop, asked after every step; None stops at SIGINT and SIGTERM.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
        InvalidConfig: parameters to start from have other shapes.
        CannotResume: the checkpoint is absent or belongs to another run.
        FolderInUse: another run uses `folder`.
        TrainingDiverged: the loss, or the validation NLL of what would be kept, is not finite.
        LostProcess: another process of the run ended; the leading one has written the checkpoint.
    """
    embedding: Embedding | None = config.trained_embedding
    if isinstance(family, FinetunedImages):
        embedding = family.opened.tail
    given = {name: tensor for name, tensor in (start or {}).items() if learner.trains(name)}
    if not (isinstance(family, WorldTasks) or resume or (given and isinstance(family, BackboneImages))):
        fitted = fitted_start(learner, family)
        given = fitted | given if isinstance(learner, Laplace) else given | fitted
    state = _initial_state(learner, embedding, config, device, given)
    tasks = cache(partial(fingerprint, family))
    if resume:
        read_checkpoint(state, config, folder, tasks())
    plan, goal = config.optimisation, _goal(family, learner, compile_it, device, embedding)
    saved = time.monotonic()
    lock = locked(folder) if processes.leads else nullcontext()
    signals = stop_signals() if stopped is None else nullcontext(stopped)
    with lock, signals as is_stopped, _ProgressLog(config, folder, state.step, processes.leads) as log:
        try:
            while state.step < plan.meta_steps:
                batch = _training_batch(config, family, state.step)
                loss, stopping = meta_step(state, goal.loss, batch, plan, processes, is_stopped())
                state.step += 1
                log.progress.update()
                if _is_look(plan, state.step):
                    if not math.isfinite(value := float(loss)):
                        raise TrainingDiverged(f"the loss at step {state.step} is {value}")
                    nll = math.inf
                    if processes.leads:
                        nll = goal.validation(state.learned)
                    nll = processes.broadcast(nll)
                    nll = nll if math.isfinite(nll) else math.inf  # worse than any other
                    _keep_best(state, nll)
                    state.history.append((state.step, value, nll))
                    log.evaluation(state.step, value, nll, learning_rate(plan, state.step))
                    if on_look is not None and processes.leads:
                        on_look(state.step, value, nll)
                    if _is_over(plan, state):
                        break
                due = stopping or time.monotonic() - saved > CHECKPOINT_INTERVAL_S
                if due and processes.leads:
                    write_checkpoint(state, config, folder, tasks())
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted(f"stopped at step {state.step}; go on with --resume")
        except LostProcess:
            if processes.leads:
                write_checkpoint(state, config, folder, tasks())
            raise
    chosen, kept = state.learned, state.step
    if plan.patience and state.best is not None:
        chosen, kept = state.best, min(state.history, key=lambda evaluation: evaluation[2])[0]
    ending = f"the run ended after all {plan.meta_steps} steps"
    if state.step < plan.meta_steps:
        ending = (
            f"the run stopped at step {state.step} of {plan.meta_steps}, since "
            f"{state.evaluations_since_best} evaluations had not improved the validation NLL"
        )
    learned = {name: tensor.detach().cpu() for name, tensor in chosen.items()}
    result = TrainingResult(learned, state.history, kept, ending)
    if not math.isfinite(result.nll):
        raise TrainingDiverged(
            f"the validation NLL at step {kept} is not finite, so there is nothing to publish: adaptation is "
            "unstable there; take a smaller --step-size or fewer --steps"
        )
    return result


def meta_step(
    state: TrainingState,
    loss_of: Callable[[Learned, Any], Tensor],
    batch: TaskBatch | WorldBatch,
    plan: Optimisation,
    processes: Processes = SINGLE_PROCESS,
    stop: bool = False,
) -> tuple[Tensor, bool]:
    """One update of the meta-parameters.

    Args:
        loss_of: the meta-objective.
        batch: the tasks of all processes.
        stop: whether this process has received a signal to stop.

    Returns:
        The loss before the update, detached, and whether any process has received a signal to stop.

    Raises:
        LostProcess: another process ended; nothing was updated.
    """
    rate = learning_rate(plan, state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
        if "matrix_lr" in group:
            group["matrix_lr"] = plan.matrix_rate * rate / plan.learning_rate
    state.optimiser.zero_grad()
    loss = loss_of(state.learned, processes.share(batch).to(state.device))
    loss.backward()
    loss = loss.detach()
    if processes.count > 1:
        stops = loss.new_tensor(float(stop))
        gradients = [value.grad for value in state.learned.values() if value.grad is not None]
        processes.average([*gradients, loss, stops])
        stop = bool(stops > 0)
    if plan.clip:
        torch.nn.utils.clip_grad_norm_(state.learned.values(), plan.clip)
    state.optimiser.step()
    return loss, stop


def learning_rate(plan: Optimisation, step: int) -> float:
    """Adam's rate at a step: a linear warm-up, then a decay to `final_rate` of the start."""
    done = step / plan.meta_steps
    if plan.decay == "cosine":
        left = plan.final_rate + (1 - plan.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        left = plan.final_rate**done
    return plan.learning_rate * left * min(1.0, (step + 1) / (plan.warmup + 1))


def validation_nll(
    learner: Learner[Any],
    learned: Mapping[str, Tensor],
    family: Family,
    device: str = "cpu",
    embedding: Embedding | None = None,
) -> float:
    """The mean NLL of the mixture on the validation tasks, in nats per value in standardised units."""
    return float(validation_nlls(learner, learned, family, device, embedding).mean())


def validation_nlls(
    learner: Learner[Any],
    learned: Mapping[str, Tensor],
    family: Family,
    device: str = "cpu",
    embedding: Embedding | None = None,
) -> Tensor:
    """The NLL of each validation task, `[task]`, in the order of `family.validation`."""
    totals: list[Tensor] = []
    with torch.no_grad():
        for whole in family.validation():
            for part in blocks(len(whole), TASKS_PER_BLOCK):
                batch = whole.tasks(part).to(torch.device(device))
                if embedding is not None:
                    batch = embedding.embedded(learned, batch, training=False)
                belief = learner.predict(learner.adapt(learned, batch.support), batch.query.x)
                totals.append(task_nlls(belief, batch.query))
    return torch.cat(totals)


def task_nlls(belief: Belief, query: Examples) -> Tensor:
    """The NLL of each task, a mean over its values, `[task]`."""
    logs, mask = belief.log_density(query.y), query.mask.unsqueeze(-1)
    return -torch.where(mask, logs, 0).sum((1, 2)) / mask.expand_as(logs).sum((1, 2))


def _initial_state(
    learner: Learner[Any],
    embedding: Embedding | None,
    config: TrainingConfig,
    device: str,
    start: Mapping[str, Tensor],
) -> TrainingState:
    generator = torch.Generator().manual_seed(config.seed)
    fresh = learner.initialise(generator)
    if embedding is not None:
        fresh |= embedding.initialise(generator)
    for name, tensor in start.items():
        if name not in fresh or fresh[name].shape != tensor.shape:
            raise InvalidConfig(f"{config.start_from} has other parameters than this run: {name}")
        fresh[name] = tensor.clone()
    learned = {name: tensor.to(device).requires_grad_(learner.trains(name)) for name, tensor in fresh.items()}
    plan, optimiser = config.optimisation, torch.optim.Adam(learned.values())
    if plan.optimiser == "muon":
        optimiser = Muon(learned, learner.network, plan.learning_rate, plan.matrix_rate)
    return TrainingState(learned, optimiser, torch.device(device))


@dataclass(frozen=True)
class _Goal:
    """The meta-objective of a batch, and the loss on the validation tasks."""

    loss: Callable[[Learned, Any], Tensor]
    validation: Callable[[Learned], float]


def _goal(
    family: Family | WorldTasks,
    learner: Learner[Any],
    compile_it: bool,
    device: str,
    embedding: Embedding | None,
) -> _Goal:
    if isinstance(family, WorldTasks):
        assert isinstance(learner, Policy)
        return _Goal(family.loss_of(learner), partial(family.validation_loss, learner))
    return _Goal(
        objective(learner, compile_it, device, embedding),
        lambda learned: validation_nll(learner, learned, family, device, embedding),
    )


def _training_batch(config: TrainingConfig, family: Family | WorldTasks, step: int) -> TaskBatch | WorldBatch:
    seed = int(np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0] >> 1)
    return family.batch(config.optimisation.meta_batch, torch.Generator().manual_seed(seed))


def _is_look(plan: Optimisation, step: int) -> bool:
    """Whether the validation tasks are evaluated after this step; small families overfit early."""
    return (
        step % plan.evaluate_every == 0
        or step == plan.meta_steps
        or bool(plan.patience and step in EARLY_LOOKS)
    )


def _is_over(plan: Optimisation, state: TrainingState) -> bool:
    """Whether training stops: for many looks, or most of the run, nothing was better."""
    if not plan.patience:
        return False
    best = min(state.history, key=lambda look: look[2])[0]
    overfit = state.step >= EARLY_STOP * max(best, EARLY_LOOKS[-1])
    return overfit or state.evaluations_since_best >= plan.patience


def _keep_best(state: TrainingState, nll: float) -> None:
    if nll < state.best_nll:
        state.best_nll, state.evaluations_since_best = nll, 0
        state.best = {name: tensor.detach().clone() for name, tensor in state.learned.items()}
    else:
        state.evaluations_since_best += 1


class _ProgressLog:
    """Progress in the terminal and figures in TensorBoard, by the leading process alone."""

    def __init__(self, config: TrainingConfig, folder: Path, step: int, leads: bool) -> None:
        steps = config.optimisation.meta_steps
        self.progress = tqdm(
            total=steps, initial=step, desc=config.name, unit="step", disable=None if leads else True
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step) if leads else None

    def evaluation(self, step: int, loss: float, nll: float, rate: float) -> None:
        """Write the figures of one evaluation of the validation tasks."""
        if self._board is None:
            return
        for name, value in (("loss/meta", loss), ("nll/validation", nll), ("rate", rate)):
            self._board.add_scalar(name, value, step)
        self.progress.set_postfix(loss=f"{loss:.3g}", nll=f"{nll:.3g}")
        if self.progress.disable:
            print(f"step {step}  loss {loss:.4g}  validation nll {nll:.4g}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()
        if self._board is not None:
            self._board.close()
