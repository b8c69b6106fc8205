"""From learned tensors to a published version: measure, describe, publish."""

from typing import Any

from torch import Tensor

from bmaml import __version__
from bmaml.learners import Learner, settings_of
from model_store import Manifest, Model, Store
from model_store.manifest import WEIGHTS, Look
from training.config import TrainingConfig
from training.evaluate import Evaluation, evaluate
from training.families import Family
from training.loop import Trained

CARD = """# {name}

{description}

* Learner: `{learner}` with {particles} particles; {inputs} → {outputs}
* Trained with seed {seed} on {code_version}; the whole configuration is in `manifest.json`.

## Measured on {tasks} held-out tasks

| figure | value |
|---|---|
{figures}

Errors and widths are in the outputs' units, `nll` is in nats per value. Each figure is a mean
within a task first, then over tasks. `coverage_90` is the fraction of truths inside the central
90 % interval.

## Limits

Inputs seen in training: {ranges}. Queries far outside are answered with a warning.
"""


def measured(
    config: TrainingConfig, family: Family, learner: Learner[Any], learned: dict[str, Tensor]
) -> Evaluation:
    """The figures of fresh parameters on the family's held-out tasks."""
    manifest = Manifest(
        name=config.name,
        version=1,
        learner=learner.name,
        settings=settings_of(learner),
        inputs=family.inputs,
        outputs=family.outputs,
        training=config.as_data(),
        seed=config.seed,
        code_version=__version__,
        metrics={},
        tensors={},
        files={WEIGHTS: "0" * 64},
    )
    return evaluate(Model(manifest, learner, learned), family.held_out())


def publish(
    store: Store,
    config: TrainingConfig,
    family: Family,
    learner: Learner[Any],
    trained: Trained,
    description: str = "",
) -> tuple[Model, Evaluation]:
    """Measure on the held-out tasks, then publish with those figures and a card."""
    evaluation = measured(config, family, learner, trained.learned)
    card = CARD.format(
        name=config.name,
        description=description or "A few-shot regression model.",
        learner=learner.name,
        particles=learner.particles,
        inputs=", ".join(column.name for column in family.inputs),
        outputs=", ".join(column.name for column in family.outputs),
        seed=config.seed,
        code_version=__version__,
        tasks=evaluation.tasks,
        figures="\n".join(f"| {name} | {value:.4g} |" for name, value in evaluation.metrics.items()),
        ranges="; ".join(f"{c.name} in [{c.lower:.4g}, {c.upper:.4g}]" for c in family.inputs),
    )
    model = store.publish(
        config.name,
        card,
        trained.learned,
        description=description,
        inputs=family.inputs,
        outputs=family.outputs,
        learner=learner.name,
        settings=settings_of(learner),
        training=config.as_data(),
        history=tuple(Look(step=step, loss=loss, nll=nll) for step, loss, nll in trained.history),
        seed=config.seed,
        code_version=__version__,
        metrics=evaluation.metrics,
    )
    return model, evaluation
