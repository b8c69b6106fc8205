"""One training of a method on a problem, and its scores."""

import math
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.baselines import (
    Forecaster,
    Schedule,
    exponential,
    gp_with_learned_kernel,
    last_value,
    neural_process,
    task_by_task,
)
from benchmarks.accuracy.gradient_boosting import gradient_boosting
from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.problems import Problem, learning_curves, sine_curves
from benchmarks.accuracy.scoring import learner_forecaster, score, validation_crps
from benchmarks.gp_per_task import gp_per_task
from bmaml.learners import Learner, learner_from, settings_of
from training.calibrate import calibrated
from training.config import Optimisation, Shots, SinusoidConfig, TrainingConfig
from training.loop import TrainingDiverged, train

INNER_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidates of the search."""
TUNING_STEPS = 1500
"""Meta-steps of a training in the search, at most."""
EVALUATIONS = 8
"""How often a training is evaluated on the validation tasks."""
KERNEL_TASKS = 100
"""Training tasks that a GP's kernel is fitted to, at most."""
BOOSTING_TASKS = 6000
"""Training tasks of gradient boosting."""
MIN_STEPS = 20
"""Meta-steps of any training, at least."""


@dataclass(frozen=True)
class TrainingRun:
    """One training of a method, scored at every number of shots.

    Attributes:
        tasks: training tasks of the sine family; None for unlimited.
        data: the learning curves; None for sine curves.
        step_size: the inner rate; None for the learner's own.
        tuning: part of the search; only the validation CRPS is computed.
        share: part of the meta-steps that are taken.
        held_out: scored tasks; None for all.
    """

    method: Method
    seed: int
    tasks: int | None = None
    data: str | None = None
    step_size: float | None = None
    tuning: bool = False
    share: float = 1.0
    held_out: int | None = None

    @property
    def problem_name(self) -> str:
        """The name of its table."""
        return "curves" if self.data else f"sine, {self.tasks or 'unlimited'} tasks"

    def problem(self) -> Problem:
        """The problem, built anew: it holds tensors, and a run is hashed and sent to processes."""
        if self.data:
            return learning_curves(Path(self.data), self.seed, self.held_out)
        ranged = self.method.variable_shots
        shots, queries = (Shots(4, 16), 4) if ranged else (Shots(10, 10), 10)
        if ranged and self.tasks is None:
            queries = 10
        return sine_curves(self.tasks, shots, queries, self.seed, self.held_out or 500)

    @property
    def meta_steps(self) -> int:
        """Meta-steps on this problem."""
        steps = self.method.steps[1 if self.data else 0]
        return max(MIN_STEPS, int(self.share * min(steps, TUNING_STEPS if self.tuning else steps)))


def result(run: TrainingRun) -> dict[str, Any]:
    """Train on one thread, then score on the held-out tasks.

    Returns:
        For a tuning run `crps`, infinite if training diverged. For any other `variants` (the result of
        `score` by name), `seconds` and `step_size`; `crps` alone if training diverged.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    problem = run.problem()
    forecasters: dict[str, Forecaster] = {}
    if run.method.learner is None:
        forecasters[run.method.name] = _baseline(run, problem)
    else:
        learner = _learner(run)
        try:
            learned = _trained(run, learner, problem)
        except TrainingDiverged:
            return {"crps": math.inf}
        if run.tuning:
            return {"crps": validation_crps(learner_forecaster(learner, learned), problem)}
        forecasters[run.method.name] = learner_forecaster(
            learner, calibrated(learner, learned, problem.family)
        )
        if run.method.fit_weights:
            weighted = learner_from(learner.name, {**settings_of(learner), "evidence_weights": True})
            learned = calibrated(weighted, {**learned, "log_temperature": torch.zeros(())}, problem.family)
            name = f"{run.method.name}, evidence weights fitted afterwards"
            forecasters[name] = learner_forecaster(weighted, learned)
    seconds = time.perf_counter() - started
    return {
        "variants": {name: score(problem, forecast) for name, forecast in forecasters.items()},
        "seconds": seconds,
        "step_size": run.step_size,
    }


def _learner(run: TrainingRun) -> Learner[Any]:
    method = run.method
    network = {"inputs": 1, "outputs": 1, **method.network}
    settings: dict[str, Any] = {"network": network, **method.settings}
    if run.data:
        settings |= method.on_curves
    if run.step_size is not None:
        settings["step_size"] = run.step_size
    assert method.learner is not None
    return learner_from(method.learner, settings)


def _trained(run: TrainingRun, learner: Learner[Any], problem: Problem) -> dict[str, Tensor]:
    """The learned tensors at the best validation NLL of all evaluations; nothing is published."""
    steps = run.meta_steps
    plan = Optimisation(
        meta_steps=steps,
        meta_batch=run.method.meta_batch,
        learning_rate=(run.data and run.method.rate_on_curves) or run.method.learning_rate,
        final_rate=0.02,
        decay="cosine",
        evaluate_every=max(1, steps // EVALUATIONS) if run.share == 1 else steps,
        patience=3,
    )
    config = TrainingConfig("benchmark", SinusoidConfig(), learner.name, {}, plan, run.seed)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        return train(config, problem.family, learner, Path(folder)).learned


def _baseline(run: TrainingRun, problem: Problem) -> Forecaster:
    floor = problem.smallest_std / problem.output.std
    kernel_tasks = KERNEL_TASKS if run.tasks is None else min(KERNEL_TASKS, run.tasks)
    schedule = Schedule(run.meta_steps)
    makers: dict[str, Callable[[], Forecaster]] = {
        "neural process (CNP)": lambda: neural_process(
            problem.family.batch, lambda: next(iter(problem.family.validation())), schedule, run.seed
        ),
        "GP, kernel learned on the training tasks": lambda: task_by_task(
            gp_with_learned_kernel(problem.training_tasks(kernel_tasks, run.seed)), floor
        ),
        "gradient boosting for just this question": lambda: gradient_boosting(
            problem.training_tasks(BOOSTING_TASKS, run.seed), problem.validation_tasks(), run.seed
        ),
        "GP per task": lambda: task_by_task(gp_per_task, floor),
        "last value": lambda: task_by_task(last_value, floor),
        "fitted exponential": lambda: task_by_task(exponential, floor),
    }
    return makers[run.method.name]()
