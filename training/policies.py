"""Policies from options to a published version: configuration, training, evaluation, card."""

import sys
from pathlib import Path
from typing import Any

from bmaml import __version__
from bmaml.learners import Policy, policy_from, settings_of
from model_store import Model, Store
from model_store.manifest import ValidationPoint, checked_name
from training.cards import CARD
from training.config import InvalidConfig, TrainingConfig, WorldConfig
from training.evaluate import Evaluation
from training.families.world_tasks import HELD_OUT_TASKS, WorldTasks
from training.loop import TrainingResult
from training.options import RunOptions, Settings, learner_name
from training.policy_returns import FRESH_EPISODES
from training.recipes import recipe_for

METRICS = """`return_n` is the mean return of all particles after n rounds of {episodes} episodes of each.
`chosen_n` is that of the particle whose episodes of the next round return most, `served_n` of the one whose
episodes of the round before did. Returns are of {fresh} fresh episodes of each particle, draws included;
nothing was chosen on them."""
FOUND = """ `found_n` is the fraction of tasks in which any particle meets a reward in the
next round."""
LIMITS = """Tasks unlike those of `{world}` are answered without a warning. A particle moves after two or more
episodes of its own, acted as the latest answer left it."""


def policy_configuration(run: RunOptions, family: WorldConfig, settings: Settings) -> TrainingConfig:
    """The configuration that options describe; settings that are not given are the recipe's.

    Raises:
        InvalidLearner, InvalidConfig, InvalidName: settings that make no sense.
    """
    if run.compile:
        raise InvalidConfig("policies are trained without --compile: most of a step is the world's")
    tasks = WorldTasks(family, run.seed)
    if tasks.note:
        print(tasks.note, file=sys.stderr)
    name = learner_name(settings, "world")
    recipe = recipe_for(name, "world")
    given = {key: value for key, value in settings["learner"].items() if key != "learner"}
    network = {
        "inputs": len(tasks.inputs),
        "hidden": given.pop("hidden", recipe.hidden),
        "outputs": len(tasks.outputs),
        "activation": given.pop("activation", recipe.activation),
    }
    chosen = {"network": network, **recipe.settings, **given}
    learner = policy_from(name, chosen)
    plan = {**vars(recipe.optimisation), **settings["outer_loop"]}
    return TrainingConfig(
        checked_name(run.name),
        family,
        learner.name,
        chosen,
        type(recipe.optimisation)(**plan),
        run.seed,
        start_from=run.start_from,
    )


def evaluate_policy(policy: Policy, learned: Any, tasks: WorldTasks) -> Evaluation:
    """Returns on the held-out tasks of a world."""
    found = tasks.held_out_returns(policy, learned)
    return Evaluation(HELD_OUT_TASKS, found.metrics(tasks.world.sparse))


def publish_policy(
    folder: Path,
    config: TrainingConfig,
    tasks: WorldTasks,
    policy: Policy,
    trained: TrainingResult,
    description: str = "",
    note: str = "",
) -> tuple[Model, Evaluation]:
    """Evaluate on the held-out tasks, then publish with those metrics and a card."""
    evaluation = evaluate_policy(policy, trained.learned, tasks)
    description = description or f"Policies for tasks of the world `{tasks.config.world}`."
    sentence = METRICS.format(episodes=tasks.config.episodes, fresh=FRESH_EPISODES)
    card = CARD.format(
        name=config.name,
        description=description,
        learner=config.learner,
        particles="1 particle" if policy.particles == 1 else f"{policy.particles} particles",
        maps=f"{_names(tasks.inputs)} → {_names(tasks.outputs)}; meta-objective `{policy.objective}`",
        seed=config.seed,
        code_version=__version__,
        tasks=evaluation.tasks,
        figures="\n".join(f"| {name} | {value:.4g} |" for name, value in evaluation.metrics.items()),
        reading=sentence + (FOUND if tasks.world.sparse else ""),
        limits=" ".join(part for part in (LIMITS.format(world=tasks.config.world), tasks.note, note) if part),
    )
    model = Store(folder).publish(
        config.name,
        card,
        trained.learned,
        kind="policy",
        description=description,
        learner=policy.name,
        settings=settings_of(policy),
        inputs=tasks.seen(policy, trained.learned),
        outputs=tasks.outputs,
        training=config.as_data(),
        history=tuple(ValidationPoint(step=step, loss=loss, nll=nll) for step, loss, nll in trained.history),
        seed=config.seed,
        code_version=__version__,
        metrics=evaluation.metrics,
    )
    return model, evaluation


def _names(columns: Any) -> str:
    return ", ".join(column.name for column in columns)
