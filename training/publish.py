"""From learned tensors to a published version: measure, describe, publish."""

from typing import Any

from torch import Tensor

from bmaml import __version__
from bmaml.embedding import ConvNet
from bmaml.learners import Learner, settings_of
from model_store import Manifest, Model, Store
from model_store.manifest import WEIGHTS, Look
from training.config import TrainingConfig
from training.evaluate import Evaluation, evaluate
from training.evaluate_classes import evaluate_classes
from training.families import Featured, Images, Sinusoid, Table
from training.loop import Trained

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
OF_NUMBERS = """Errors and widths are in the outputs' units, `nll` is in nats per value. Each figure is a mean
within a task first, then over tasks. `coverage_90` is the fraction of truths inside the central
90 % interval."""
OF_CLASSES = """On tasks of so many classes (ways) with so many labelled pictures of each (shots), 15 asked.
`half_width` is that of the accuracy's 95 % interval, `nll` is in nats per picture, `ece` is the expected
calibration error."""
MOST_CLASSES = 100
"""Of a request to a learner that has no limit of its own."""


Tasks = Sinusoid | Table | Images | Featured
"""The families that can be published from."""


def publish(
    store: Store,
    config: TrainingConfig,
    family: Tasks,
    learner: Learner[Any],
    trained: Trained,
    description: str = "",
) -> tuple[Model, Evaluation]:
    """Measure on the held-out tasks, then publish with those figures and a card."""
    described: dict[str, Any] = {
        "name": config.name,
        "description": description,
        "learner": learner.name,
        "settings": settings_of(learner),
        "training": config.as_data(),
        "history": tuple(Look(step=step, loss=loss, nll=nll) for step, loss, nll in trained.history),
        "seed": config.seed,
        "code_version": __version__,
    }
    learned = dict(trained.learned)
    pictures = family.images if isinstance(family, Featured) else family
    if isinstance(pictures, Images):
        most = learner.max_classes or MOST_CLASSES
        described |= {"image": pictures.image, "classes": most, "embedding": config.embedding}
        described["kind"] = "classification"
        learned |= family.frozen if isinstance(family, Featured) else {}
        evaluation = evaluate_classes(_unpublished(described, learner, learned), pictures)
        card = _card_of_pictures(described, pictures, evaluation)
    else:
        described |= {"inputs": pictures.inputs, "outputs": pictures.outputs}
        evaluation = evaluate(_unpublished(described, learner, learned), pictures.held_out())
        card = _card_of_numbers(described, pictures, evaluation)
    model = store.publish(
        config.name, card, learned, **_without(described, "name"), metrics=evaluation.metrics
    )
    return model, evaluation


def _unpublished(described: dict[str, Any], learner: Learner[Any], learned: dict[str, Tensor]) -> Model:
    manifest = Manifest(version=1, metrics={}, tensors={}, files={WEIGHTS: "0" * 64}, **described)
    embedding = None if manifest.embedding is None else ConvNet(**manifest.embedding)
    return Model(manifest, learner, learned, embedding)


def _without(described: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key != name}


def _card_of_numbers(described: dict[str, Any], family: Sinusoid | Table, evaluation: Evaluation) -> str:
    ranges = "; ".join(f"{c.name} in [{c.lower:.4g}, {c.upper:.4g}]" for c in family.inputs)
    return _card(
        described,
        evaluation,
        description="A few-shot regression model.",
        maps=f"{', '.join(c.name for c in family.inputs)} → {', '.join(c.name for c in family.outputs)}",
        reading=OF_NUMBERS,
        limits=f"Inputs seen in training: {ranges}. Queries far outside are answered with a warning.",
    )


def _card_of_pictures(described: dict[str, Any], family: Images, evaluation: Evaluation) -> str:
    image, trained = family.image, int((family.pictures.roles == "train").sum())
    colour = "grey" if image.channels == 1 else "RGB"
    return _card(
        described,
        evaluation,
        description="A few-shot classifier of pictures.",
        maps=f"{colour} pictures of {image.size} × {image.size} → any classes, up to {described['classes']}",
        reading=OF_CLASSES,
        limits=f"Features come from {trained} training classes. A picture of another sort is put into one of "
        "the classes shown, with more uncertainty than a fitting one, not with certainty that it fits none.",
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
