"""The kinds of targets that `auto` chooses: short runs, compared on the validation tasks."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.learners import learner_from
from model_store.model import Model
from training.config import TableConfig, TrainingConfig
from training.families import Table
from training.families.targets import AUTO, candidates
from training.loop import TASKS_PER_BLOCK, train
from training.publish import unpublished

TRIAL_SHARE = 0.1
"""Steps of a trial, as a share of the run's."""
MAX_TRIAL_STEPS = 300
"""Steps of a trial, at most."""

Configure = Callable[[TableConfig, Table], TrainingConfig]
"""The configuration of a run on a table."""


def with_chosen_kinds(
    family: TableConfig, configure: Configure, seed: int, device: str
) -> tuple[TableConfig, tuple[str, ...]]:
    """The configuration with a kind for every target of kind `auto`, and a sentence about each choice.

    Each is tried with the other targets as real numbers. The plain kind is the first candidate; another one
    is taken where its NLL of the validation tasks, in the caller's units, is lower by more than the standard
    error of the difference, with the tasks as independent.
    """
    words = [word for _, word in family.outputs]
    if AUTO not in words:
        return family, ()
    plain = Table(replace(family, kinds=("real",) * len(words)), seed)
    if plain.labels:
        return plain.config, ()
    sentences = []
    for place, (name, word) in enumerate(family.outputs):
        if word != AUTO:
            continue
        tried = candidates(plain.rows.y[:, place])
        nlls = {}
        for kind in tried if len(tried) > 1 else ():
            kinds = ["real" if other == AUTO else other for other in words]
            kinds[place] = kind
            print(f"trying {name}:{kind}", file=sys.stderr)
            nlls[kind] = _trial(replace(family, kinds=tuple(kinds)), configure, seed, device)[:, place]
        words[place] = best_kind(nlls) if nlls else tried[0]
        sentences.append(_sentence(name, words[place], nlls))
    return replace(family, kinds=tuple(words)), tuple(sentences)


def best_kind(nlls: dict[str, Tensor]) -> str:
    """The kind with the lowest mean NLL; the first one, unless it is worse by more than a standard error.

    Args:
        nlls: of each validation task under each kind, `[task]`.
    """
    plain = next(iter(nlls))
    best = min(nlls, key=lambda kind: float(nlls[kind].mean()))
    gain = nlls[plain] - nlls[best]
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else float("inf")
    return best if float(gain.mean()) > error else plain


def _sentence(name: str, chosen: str, nlls: dict[str, Tensor]) -> str:
    if not nlls:
        return f"{name}:auto is {chosen}, the only kind that fits its labels"
    found = ", ".join(f"{kind} {float(each.mean()):.4g}" for kind, each in nlls.items())
    return f"{name}:auto is {chosen} (validation NLL of short trials: {found})"


def _trial(family: TableConfig, configure: Configure, seed: int, device: str) -> Tensor:
    """NLL of each validation task after a short run, in the caller's units, `[task, output]`."""
    tasks = Table(family, seed)
    config = configure(family, tasks)
    plan = config.optimisation
    steps = max(1, min(MAX_TRIAL_STEPS, int(TRIAL_SHARE * plan.meta_steps)))
    plan = replace(
        plan, meta_steps=steps, evaluate_every=max(1, steps // 5), warmup=min(plan.warmup, steps // 5)
    )
    config = replace(config, optimisation=plan)
    learner = learner_from(config.learner, config.settings)
    with tempfile.TemporaryDirectory() as folder:
        learned = train(config, tasks, learner, Path(folder), device=device).learned
    described = {
        "name": config.name,
        "inputs": tasks.inputs,
        "outputs": tasks.outputs,
        "learner": learner.name,
        "settings": config.settings,
        "training": {},
        "seed": seed,
        "code_version": "",
    }
    return task_nlls(unpublished(described, learner, learned), tasks)


def task_nlls(model: Model, tasks: Table) -> Tensor:
    """Mean NLL of the labels of each validation task, in the caller's units, `[task, output]`."""
    found = []
    with torch.no_grad():
        for batch in tasks.validation(spread=False):
            for part in map(batch.tasks, blocks(len(batch), TASKS_PER_BLOCK)):
                posterior = model.learner.adapt(model.learned, part.support)
                belief = model.in_callers_units(model.predict(posterior, part.query.x, part.support))
                weights = part.query.mask.unsqueeze(-1)
                nll = torch.where(weights, -belief.log_density(model.labels(part.query.y)), 0).double()
                found.append(nll.sum(1) / weights.sum(1))
    return torch.cat(found).view(-1, tasks.validation_tasks, len(model.manifest.outputs)).mean(0)
