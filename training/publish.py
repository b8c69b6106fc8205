"""Publication of a training result: evaluation, model card, version in the store."""

from typing import Any

from torch import Tensor

from bmaml import __version__
from bmaml.embedding import ConvNet
from bmaml.learners import Learner, settings_of
from model_store import Manifest, Model, Store
from model_store.manifest import WEIGHTS_FILE, ValidationPoint
from training.config import TrainingConfig
from training.evaluate import Evaluation, evaluate
from training.evaluate_classes import evaluate_classes
from training.families import ImageFeatures, Images, Sinusoid, Table
from training.loop import TrainingResult

CARD = """# {name}

{description}

* Learner: `{learner}` with {particles} particles; {maps}
* Trained with seed {seed} on {code_version}; the whole configuration is in `manifest.json`.

## Measured on {tasks} held-out tasks

| figure | value |
|---|---|
{figures}

{reading}

## Limits

{limits}
"""
REGRESSION_METRICS = """Errors and widths are in the outputs' units, `nll` is in nats per value. Each figure
is a mean within a task first, then over tasks. `coverage_90` is the fraction of truths in the central 90 %
interval."""
CLASSIFICATION_METRICS = """Tasks have the given numbers of classes (ways), labelled images of each (shots)
and up to 15 query images of each. `half_width` is half the width of the accuracy's 95 % interval, `nll` is
in nats per image, `ece` is the expected calibration error."""
MAX_CLASSES = 100
"""Classes of a request to a learner that has no limit of its own."""


PublishableFamily = Sinusoid | Table | Images | ImageFeatures
"""The families that models are published from."""


def publish(
    store: Store,
    config: TrainingConfig,
    family: PublishableFamily,
    learner: Learner[Any],
    trained: TrainingResult,
    description: str = "",
) -> tuple[Model, Evaluation]:
    """Evaluate on the held-out tasks, then publish with those metrics and a card."""
    described: dict[str, Any] = {
        "name": config.name,
        "description": description,
        "learner": learner.name,
        "settings": settings_of(learner),
        "training": config.as_data(),
        "history": tuple(
            ValidationPoint(step=step, loss=loss, nll=nll) for step, loss, nll in trained.history
        ),
        "seed": config.seed,
        "code_version": __version__,
    }
    learned = dict(trained.learned)
    tasks = family.images if isinstance(family, ImageFeatures) else family
    if isinstance(tasks, Images):
        most = learner.max_classes or MAX_CLASSES
        described |= {"image": tasks.image, "classes": most, "embedding": config.embedding}
        described["kind"] = "classification"
        learned |= family.frozen if isinstance(family, ImageFeatures) else {}
        evaluation = evaluate_classes(_unpublished(described, learner, learned), tasks)
        card = _classification_card(described, tasks, evaluation)
    else:
        described |= {"inputs": tasks.inputs, "outputs": tasks.outputs}
        evaluation = evaluate(_unpublished(described, learner, learned), tasks.held_out())
        card = _regression_card(described, tasks, evaluation)
    model = store.publish(
        config.name, card, learned, **_without(described, "name"), metrics=evaluation.metrics
    )
    return model, evaluation


def _unpublished(described: dict[str, Any], learner: Learner[Any], learned: dict[str, Tensor]) -> Model:
    manifest = Manifest(version=1, metrics={}, tensors={}, files={WEIGHTS_FILE: "0" * 64}, **described)
    embedding = None if manifest.embedding is None else ConvNet(**manifest.embedding)
    return Model(manifest, learner, learned, embedding)


def _without(described: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key != name}


def _regression_card(described: dict[str, Any], family: Sinusoid | Table, evaluation: Evaluation) -> str:
    ranges = "; ".join(f"{c.name} in [{c.lower:.4g}, {c.upper:.4g}]" for c in family.inputs)
    return _card(
        described,
        evaluation,
        description="A few-shot regression model.",
        maps=f"{', '.join(c.name for c in family.inputs)} → {', '.join(c.name for c in family.outputs)}",
        reading=REGRESSION_METRICS,
        limits=f"Inputs seen in training: {ranges}. Queries far outside are answered with a warning.",
    )


def _classification_card(described: dict[str, Any], family: Images, evaluation: Evaluation) -> str:
    image, trained = family.image, int((family.collection.roles == "train").sum())
    colour = "grey" if image.channels == 1 else "RGB"
    return _card(
        described,
        evaluation,
        description="A few-shot classifier of images.",
        maps=f"{colour} images of {image.size} × {image.size} → any classes, up to {described['classes']}",
        reading=CLASSIFICATION_METRICS,
        limits=f"Features come from {trained} training classes. An image of no class in the support set is "
        "assigned to one of them, with more uncertainty than an image that belongs to it.",
    )


def _card(
    described: dict[str, Any],
    evaluation: Evaluation,
    description: str,
    maps: str,
    reading: str,
    limits: str,
) -> str:
    return CARD.format(
        name=described["name"],
        description=described["description"] or description,
        learner=described["learner"],
        particles=described["settings"]["particles"],
        maps=maps,
        seed=described["seed"],
        code_version=described["code_version"],
        tasks=evaluation.tasks,
        figures="\n".join(f"| {name} | {value:.4g} |" for name, value in evaluation.metrics.items()),
        reading=reading,
        limits=limits,
    )
