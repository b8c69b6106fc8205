"""One training of a contender: what it is, and what comes of it."""

import dataclasses
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
    Method,
    Schedule,
    exponential,
    gp_per_task,
    gp_with_learned_kernel,
    last_value,
    neural_process,
    task_by_task,
)
from benchmarks.accuracy.gradient_boosting import gradient_boosting
from benchmarks.accuracy.methods import Contender
from benchmarks.accuracy.problems import Problem, learning_curves, sine
from benchmarks.accuracy.scoring import method_of, score, validation_crps
from bmaml.learners import Learner, learner_from
from training.calibrate import calibrated
from training.config import Optimisation, Shots, SinusoidConfig, TrainingConfig
from training.loop import TrainingDiverged, train

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TUNING_STEPS = 1500
LOOKS = 8
KERNEL_TASKS = 100
BOOSTED_TASKS = 6000


@dataclass(frozen=True)
class Entry:
    """One training of one contender, scored at every number of shots.

    Attributes:
        tasks: training tasks of the sine family; None for unlimited.
        data: the learning curves; None for sine curves.
        step_size: the inner rate; None for the learner's own.
        tuning: stop at the validation CRPS.
        share: of the meta-steps that are taken, for a quick look.
        held_out: scored tasks; None for all.
    """

    contender: Contender
    seed: int
    tasks: int | None = None
    data: str | None = None
    step_size: float | None = None
    tuning: bool = False
    share: float = 1.0
    held_out: int | None = None

    @property
    def problem_name(self) -> str:
        """Where its row belongs."""
        return "curves" if self.data else f"sine, {self.tasks or 'unlimited'} tasks"

    def problem(self) -> Problem:
        """Built anew, since it holds tensors."""
        if self.data:
            return learning_curves(Path(self.data), self.seed, self.held_out)
        ranged = self.contender.variable_shots
        shots, queries = (Shots(4, 16), 4) if ranged else (Shots(10, 10), 10)
        if ranged and self.tasks is None:
            queries = 10
        return sine(self.tasks, shots, queries, self.seed, self.held_out or 500)

    @property
    def meta_steps(self) -> int:
        """Of this problem."""
        steps = self.contender.steps[1 if self.data else 0]
        return max(20, int(self.share * min(steps, TUNING_STEPS if self.tuning else steps)))


def result(entry: Entry) -> dict[str, Any]:
    """Validation CRPS of a tuning entry; else scores by variant and shots, and milliseconds per task."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    problem = entry.problem()
    methods: dict[str, Method] = {}
    if entry.contender.learner is None:
        methods[entry.contender.name] = _baseline(entry, problem)
    else:
        learner = _learner(entry)
        try:
            learned = _trained(entry, learner, problem)
        except TrainingDiverged:
            return {"crps": math.inf}
        if entry.tuning:
            return {"crps": validation_crps(method_of(learner, learned), problem)}
        methods[entry.contender.name] = method_of(learner, calibrated(learner, learned, problem.family))
        if entry.contender.fit_weights:
            weighted = dataclasses.replace(learner, evidence_weights=True)
            learned = calibrated(weighted, {**learned, "log_temperature": torch.zeros(())}, problem.family)
            name = f"{entry.contender.name}, evidence weights fitted afterwards"
            methods[name] = method_of(weighted, learned)
    seconds = time.perf_counter() - started
    return {
        "variants": {name: score(problem, method) for name, method in methods.items()},
        "seconds": seconds,
        "step_size": entry.step_size,
    }


def _learner(entry: Entry) -> Learner[Any]:
    contender = entry.contender
    network = {"inputs": 1, "outputs": 1, **contender.network}
    settings: dict[str, Any] = {"network": network, **contender.settings}
    if entry.data:
        settings |= contender.on_curves
    if entry.step_size is not None:
        settings["step_size"] = entry.step_size
    assert contender.learner is not None
    return learner_from(contender.learner, settings)


def _trained(entry: Entry, learner: Learner[Any], problem: Problem) -> dict[str, Tensor]:
    """The parameters with the best validation NLL of eight looks; nothing is published."""
    steps = entry.meta_steps
    plan = Optimisation(
        meta_steps=steps,
        meta_batch=entry.contender.meta_batch,
        learning_rate=(entry.data and entry.contender.rate_on_curves) or entry.contender.learning_rate,
        final_rate=0.02,
        decay="cosine",
        evaluate_every=max(1, steps // LOOKS) if entry.share == 1 else steps,
        patience=3,
    )
    config = TrainingConfig("entry", SinusoidConfig(), learner.name, {}, plan, entry.seed)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        return train(config, problem.family, learner, Path(folder)).learned


def _baseline(entry: Entry, problem: Problem) -> Method:
    floor = problem.smallest_std / problem.output.std
    kernel_tasks = KERNEL_TASKS if entry.tasks is None else min(KERNEL_TASKS, entry.tasks)
    schedule = Schedule(entry.meta_steps)
    makers: dict[str, Callable[[], Method]] = {
        "neural process (CNP)": lambda: neural_process(
            problem.family.batch, lambda: next(iter(problem.family.validation())), schedule, entry.seed
        ),
        "GP, kernel learned on the training tasks": lambda: task_by_task(
            gp_with_learned_kernel(problem.training_tasks(kernel_tasks, entry.seed)), floor
        ),
        "gradient boosting for just this question": lambda: gradient_boosting(
            problem.training_tasks(BOOSTED_TASKS, entry.seed), problem.validation_tasks(), entry.seed
        ),
        "GP per task": lambda: task_by_task(gp_per_task, floor),
        "last value": lambda: task_by_task(last_value, floor),
        "fitted exponential": lambda: task_by_task(exponential, floor),
    }
    return makers[entry.contender.name]()
