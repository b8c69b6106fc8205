"""Who takes part in the accuracy benchmark, and how one entry is trained and scored."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from baselines import (
    Method,
    Schedule,
    exponential,
    gp_per_task,
    gp_with_learned_kernel,
    last_value,
    neural_process,
    task_by_task,
)
from boosting import gradient_boosting
from problems import Problem, learning_curves, sine
from torch import Tensor

from bmaml.learners import Learner, learner_from
from bmaml.task import Examples, TaskBatch
from model_store import Model
from service.adaptation import NEGLIGIBLE
from training.calibrate import calibrated
from training.config import Optimisation, Shots, SinusoidConfig, TrainingConfig
from training.evaluate import TASKS_AT_ONCE, scored, summarised
from training.loop import TrainingDiverged, train

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TUNING_STEPS = 1500
LOOKS = 8
LEVELS = [step / 20 for step in range(1, 20)]
KERNEL_TASKS = 100
BOOSTED_TASKS = 6000

PAPER = {"hidden": (40, 40, 40), "activation": "relu"}
PERIODIC = {"hidden": (12,), "activation": "sine"}
WIDER = {"hidden": (32, 32), "activation": "sine"}
ON_TABLES = {
    "network": {"inputs": 1, "outputs": 1, **WIDER},
    "particles": 32,
    "bands": None,
    "priors": {},
    "scales": (0.25, 0.5, 1.0, 2.0, 4.0),
    "pointwise": True,
    "varying_noise": True,
}
IN_BANDS = {"particles": 128, "scales": (0.25, 0.5, 1.0, 2.0, 4.0), "priors": {"noise_start": 5000.0}}


@dataclass(frozen=True, eq=False)
class Contender:
    """A row of the table.

    Attributes:
        learner: of the registry, or None for a baseline that `name` tells.
        network, settings: of the learner.
        on_curves: settings that differ on learning curves.
        tuned: the inner rate is searched.
        steps: meta-steps on sine curves and on learning curves; none where a problem is skipped.
        variable_shots: train on a range of shots, dealing a task's fixed points anew each time.
        everywhere: on every number of training tasks, not on 1000 alone.
        seeded: the answer depends on the seed; else once is enough.
        rate_on_curves: the outer rate on learning curves, where it differs.
        fit_weights: also score with Laplace evidence weights whose exponent is fitted afterwards.
    """

    name: str
    learner: str | None = None
    network: Mapping[str, Any] = field(default_factory=lambda: PAPER)
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_curves: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, int] = field(default=(0, 0), repr=False)
    tuned: bool = False
    variable_shots: bool = False
    everywhere: bool = True
    fit_weights: bool = False
    meta_batch: int = 10
    learning_rate: float = 1e-3
    rate_on_curves: float | None = field(default=None, repr=False)
    seeded: bool = field(default=True, repr=False)


FLAGSHIP = "collapsed (shipped recipe)"
CONTENDERS = [
    Contender("maml", "maml", settings={"particles": 1}, steps=(5_000, 2_000), tuned=True),
    Contender("emaml", "emaml", steps=(3_000, 1_500), tuned=True, fit_weights=True),
    Contender("llama", "llama", steps=(3_000, 1_500), tuned=True),
    Contender("bfa", "bfa", steps=(3_000, 1_500), tuned=True, fit_weights=True),
    Contender(
        "bfa, trained with evidence weights",
        "bfa",
        settings={"evidence_weights": True},
        steps=(3_000, 1_500),
        tuned=True,
        everywhere=False,
    ),
    Contender("bmaml", "bmaml", steps=(12_000, 1_500), tuned=True, fit_weights=True),
    Contender(
        "collapsed, one particle (ridge head)",
        "collapsed",
        settings={"particles": 1, "evidence_weights": False},
        steps=(2_500, 1_500),
        variable_shots=True,
        everywhere=False,
    ),
    Contender(
        "collapsed, equal weights",
        "collapsed",
        settings={"evidence_weights": False},
        steps=(2_500, 1_500),
        variable_shots=True,
        everywhere=False,
    ),
    Contender("collapsed, relu, 10 particles", "collapsed", steps=(2_500, 1_500), variable_shots=True),
    Contender(
        FLAGSHIP,
        "collapsed",
        network=PERIODIC,
        settings={**IN_BANDS, "bands": (0.47, 2.05)},
        on_curves={**ON_TABLES, "correlated": (3, 10)},
        steps=(200, 2_000),
        variable_shots=True,
        meta_batch=16,
        learning_rate=1e-3,
        rate_on_curves=3e-3,
    ),
    Contender(
        "collapsed, rows taken as independent",
        "collapsed",
        on_curves=ON_TABLES,
        steps=(0, 2_000),
        variable_shots=True,
        meta_batch=16,
        rate_on_curves=3e-3,
    ),
    Contender(
        "collapsed, bands for any curve (0.1 to 8)",
        "collapsed",
        network=PERIODIC,
        settings={**IN_BANDS, "bands": (0.1, 8.0)},
        steps=(200, 0),
        variable_shots=True,
        everywhere=False,
        meta_batch=16,
    ),
    Contender("neural process (CNP)", steps=(6_000, 3_000), variable_shots=True),
    Contender("GP, kernel learned on the training tasks", steps=(1, 1)),
    Contender("gradient boosting for just this question", steps=(0, 1)),
    Contender("GP per task", steps=(1, 1), everywhere=False, seeded=False),
    Contender("last value", steps=(0, 1), seeded=False),
    Contender("fitted exponential", steps=(0, 1), seeded=False),
]


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
            return {"crps": _validation_crps(method_of(learner, learned), problem)}
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


def score(problem: Problem, method: Method) -> dict[str, dict[str, Any]]:
    """By shots: the metrics of `Evaluation`, coverage at many levels, milliseconds for one task."""
    found = {}
    with torch.no_grad():
        for shots, batch in problem.held_out.items():
            parts, pits = [], []
            truths = problem.truths(shots)
            for start in range(0, len(batch), TASKS_AT_ONCE):
                some = slice(start, start + TASKS_AT_ONCE)
                belief = problem.in_units(method(batch.support.tasks(some), batch.query.x[some]))
                truth = truths.tasks(some)
                parts.append(scored(belief, truth))
                pits.append(belief.cdf(truth.y)[truth.mask].flatten())
            metrics = summarised({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
            offsets = (torch.cat(pits) - 0.5).abs()
            found[str(shots)] = {
                **metrics.metrics,
                "reliability": [float((offsets <= level / 2).double().mean()) for level in LEVELS],
                "ms": _milliseconds(method, batch),
                "tasks": len(batch),
            }
    return found


def _validation_crps(method: Method, problem: Problem) -> float:
    """Mean over the validation tasks: proper like the NLL, and in the targets' units like the error."""
    scores = []
    with torch.no_grad():
        for batch in problem.family.validation():
            for start in range(0, len(batch), TASKS_AT_ONCE):
                part = batch.tasks(slice(start, start + TASKS_AT_ONCE))
                scores.append(scored(method(part.support, part.query.x), part.query)["crps"])
    mean = float(torch.cat(scores).double().mean())
    return mean if math.isfinite(mean) else math.inf


def _milliseconds(method: Method, batch: TaskBatch) -> float:
    """Median of one task alone, from support set to the mean of fifty query rows."""
    support = batch.support.tasks(slice(1))
    x = batch.query.x[:1, :1].expand(1, 50, -1)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        method(support, x).mean()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


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


def method_of(learner: Learner[Any], learned: Mapping[str, Tensor]) -> Method:
    """What answers from a support set about query rows."""

    def method(support: Examples, x: Tensor) -> Any:
        return learner.predict(learner.adapt(learned, support), x)

    return method


def as_served(model: Model) -> Method:
    """What the service answers with, in the network's units."""

    def method(support: Examples, x: Tensor) -> Any:
        return model.predict(model.learner.adapt(model.learned, support, lost=NEGLIGIBLE), x)

    return method


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
