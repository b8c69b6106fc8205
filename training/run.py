"""A run, from its options and data to a published version."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bmaml.learners import Learner, Policy, learner_from, policy_from
from model_store import SHIPPED, Model, Store, UnknownModel
from training.calibrate import calibrated
from training.config import TrainingConfig
from training.evaluate import Evaluation
from training.families import BackboneImages, FinetunedImages, ImageFeatures
from training.families.world_tasks import WorldTasks
from training.loop import SINGLE_PROCESS, OnLook, TrainingResult, train
from training.options import RunOptions
from training.policies import publish_policy
from training.processes import Processes, process_group
from training.publish import PublishableFamily, publish
from training.starting import starting_parameters
from training.tracking import tracked

FEW_VALIDATION_TASKS = 2
"""Validation tasks, at most, about which a run warns."""


@dataclass(frozen=True)
class Run:
    """A run whose options are checked and whose data are read.

    Attributes:
        options: its name, folders and device.
        config: everything that decides its result.
        tasks: the family that it trains on.
    """

    options: RunOptions
    config: TrainingConfig
    tasks: PublishableFamily | WorldTasks

    @property
    def folder(self) -> Path:
        """The folder of its checkpoint and logs."""
        return self.options.runs / self.config.name

    def learner(self) -> Learner[Any]:
        """The learner that the configuration describes."""
        if isinstance(self.tasks, WorldTasks):
            return policy_from(self.config.learner, self.config.settings)
        return learner_from(self.config.learner, self.config.settings)


def complete(run: Run) -> None:
    """Train and publish; of several processes the leading one publishes, and records the run in MLflow."""
    with tracked(run.config.name, run.config) as tracking:
        on_look = None if tracking is None else tracking.look
        with process_group(device_of(run.options.device)) as (processes, device):
            trained = train_run(run, run.folder, device, processes, on_look)
        if processes.leads:
            model = publish_run(run, trained)
            if tracking is not None:
                tracking.published(model, version_folder(run.options.store, model))


def train_run(
    run: Run,
    folder: Path,
    device: str,
    processes: Processes = SINGLE_PROCESS,
    on_look: OnLook | None = None,
    stopped: Callable[[], bool] | None = None,
) -> TrainingResult:
    """The result of the training loop, with checkpoint and logs in a folder; see `training.loop.train`."""
    options, learner = run.options, run.learner()
    return train(
        run.config,
        run.tasks,
        learner,
        folder,
        options.resume,
        device,
        processes,
        options.compile,
        _start(run, learner),
        on_look,
        stopped,
    )


def publish_run(run: Run, trained: TrainingResult, choices: int = 0) -> Model:
    """Fit what is fitted after training, evaluate, publish and print the figures.

    Args:
        choices: recorded steps, of all trials, among which the validation tasks chose these parameters; 0
            takes those of the run alone.
    """
    options, config, tasks, learner = run.options, run.config, run.tasks, run.learner()
    print(f"kept the parameters of step {trained.kept}; {trained.ending}", file=sys.stderr)
    if isinstance(tasks, WorldTasks):
        assert isinstance(learner, Policy)
        model, evaluation = publish_policy(
            options.store, config, tasks, learner, trained, options.description, options.note
        )
    else:
        if tasks.validation_tasks <= FEW_VALIDATION_TASKS:
            print(
                "warning: the step that is kept and the widths of predictions rest on "
                f"{tasks.validation_tasks} validation task(s): give more tasks, and look at the coverage of "
                "the held-out ones",
                file=sys.stderr,
            )
        learned = trained.learned
        if isinstance(tasks, FinetunedImages):
            tasks, learned = tasks.closed(learned)
        learned = calibrated(learner, learned, tasks, config.trained_embedding)
        model, evaluation = publish(
            Store(options.store),
            config,
            tasks,
            learner,
            replace(trained, learned=learned),
            options.description,
            options.note,
            choices,
        )
    print_figures(evaluation)
    print(f"published {model.manifest.name} version {model.manifest.version} in {options.store}")
    print(f"to serve it: BMAML_STORE={options.store} bmaml-serve", file=sys.stderr)
    return model


def published_version(folder: Path, name: str, version: int | None = None) -> tuple[Model, Path]:
    """A published version, and the store that has it: `folder`, or the shipped versions.

    Raises:
        UnknownModel, CorruptModel: neither has it, or it is not what its manifest says.
    """
    try:
        return Store(folder).load(name, version), folder
    except UnknownModel:
        if name in Store(folder).names() or name not in Store(SHIPPED).names():
            raise
    return Store(SHIPPED).load(name, version), SHIPPED


def version_folder(store: Path, model: Model) -> Path:
    """The folder of a published version."""
    return store / model.manifest.name / str(model.manifest.version)


def device_of(choice: str) -> str:
    """The device of a choice: `auto` takes a GPU where there is one."""
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choice


def print_figures(evaluation: Evaluation) -> None:
    """Print the figures of the held-out tasks."""
    print(f"{evaluation.tasks} held-out tasks")
    for name, value in evaluation.metrics.items():
        print(f"  {name:<20} {value: .5g}")


def _start(run: Run, learner: Learner[Any]) -> Mapping[str, Tensor] | None:
    """The first parameters of a run that begins with those of a published version."""
    name = run.config.start_from
    if name is None:
        return None
    source = published_version(run.options.store, name)[0]
    if isinstance(run.tasks, WorldTasks):
        return source.learned
    frozen = isinstance(run.tasks, ImageFeatures | BackboneImages)
    return starting_parameters(source, learner, run.tasks, frozen)
