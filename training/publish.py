"""Publication of a training result: evaluation, model card, version in the store."""

import math
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from bmaml import __version__
from bmaml.embedding import ConvNet
from bmaml.learners import Learner, settings_of
from model_store import Manifest, Model, Store
from model_store.backbone import Backbone
from model_store.class_target import ClassTarget
from model_store.manifest import WEIGHTS_FILE, ValidationPoint
from training.cards import classification_card, conformal_section, regression_card, table_of_classes_card
from training.config import TableConfig, TrainingConfig
from training.conformal import conformal_calibration
from training.evaluate import Evaluation, evaluate
from training.evaluate_classes import evaluate_classes, evaluate_table_of_classes
from training.families import BackboneImages, ImageFeatures, Images, Sinusoid, Table, Vectors
from training.families.image_collection import ImageCollection
from training.fingerprint import digest_of_file
from training.loop import TrainingResult
from training.prior_check import check_prior
from training.surprise_threshold import surprise_threshold

MAX_CLASSES = 100
"""Classes of a request to a learner that has no limit of its own."""


PublishableFamily = Sinusoid | Table | Vectors | Images | ImageFeatures | BackboneImages
"""The families that models are published from."""


def publish(
    store: Store,
    config: TrainingConfig,
    family: PublishableFamily,
    learner: Learner[Any],
    trained: TrainingResult,
    description: str = "",
    note: str = "",
    choices: int = 0,
) -> tuple[Model, Evaluation]:
    """Evaluate on the held-out tasks, then publish with those metrics and a card.

    Args:
        description: a sentence for the head of the card.
        note: a sentence for the card's limits.
        choices: recorded steps, of all trials, among which the validation tasks chose these parameters; 0
            takes those of this run alone.
    """
    described: dict[str, Any] = {
        "name": config.name,
        "description": description,
        "learner": learner.name,
        "settings": settings_of(learner),
        "training": _training_of(config),
        "history": tuple(
            ValidationPoint(step=step, loss=loss, nll=nll)
            for step, loss, nll in trained.history
            if math.isfinite(nll)
        ),
        "seed": config.seed,
        "code_version": __version__,
    }
    learned = dict(trained.learned)
    backbone = family.backbone if isinstance(family, BackboneImages) else None
    tasks = family.images if isinstance(family, ImageFeatures) else family
    if isinstance(tasks, ImageCollection):
        most = learner.max_classes or MAX_CLASSES
        described |= {"image": tasks.image, "classes": most, "embedding": config.embedding}
        described["kind"] = "classification"
        described |= {} if backbone is None else {"backbone": backbone.info}
        learned |= family.frozen if isinstance(family, ImageFeatures) else {}
        evaluation = evaluate_classes(unpublished(described, learner, learned, backbone), tasks)
        card = classification_card(described, tasks, evaluation, note)
    elif isinstance(tasks, Vectors) or (isinstance(tasks, Table) and tasks.labels):
        described |= _table_of_classes(tasks, learner)
        evaluation = evaluate_table_of_classes(unpublished(described, learner, learned), tasks)
        card = table_of_classes_card(described, tasks, evaluation, note)
    else:
        described |= {"inputs": tasks.inputs, "outputs": tasks.outputs}
        model = unpublished(described, learner, learned)
        described["conformal"] = conformal_calibration(model, tasks)
        described["surprise_threshold"] = surprise_threshold(model, tasks)
        prior = check_prior(model, tasks, config.seed)
        if prior.worse:
            print(f"warning: {prior.sentence}", file=sys.stderr)
        groups = tasks.rows.groups[tasks.held_out_tasks()] if isinstance(tasks, Table) else None
        evaluation = evaluate(unpublished(described, learner, learned), tasks.held_out(), groups=groups)
        card = regression_card(described, tasks, evaluation, prior, note) + conformal_section(
            described, evaluation, choices or max(1, len(trained.history))
        )
    model = store.publish(
        config.name,
        card,
        learned,
        None if backbone is None else backbone.content,
        **_without(described, "name"),
        metrics=evaluation.metrics,
    )
    return model, evaluation


def unpublished(
    described: dict[str, Any],
    learner: Learner[Any],
    learned: dict[str, Tensor],
    backbone: Backbone | None = None,
) -> Model:
    """The model that a version would have, before it is published."""
    manifest = Manifest(version=1, metrics={}, tensors={}, files={WEIGHTS_FILE: "0" * 64}, **described)
    embedding = None if manifest.embedding is None else ConvNet(**manifest.embedding)
    return Model(manifest, learner, learned, embedding if backbone is None else backbone)


def _without(described: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key != name}


def _training_of(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as plain data, and the digest of a table's file: it tells later what is the same."""
    data = config.as_data()
    if isinstance(config.family, TableConfig):
        data["family"]["sha256"] = digest_of_file(Path(config.family.path))
    return data


def _table_of_classes(family: Table | Vectors, learner: Learner[Any]) -> dict[str, Any]:
    """The fields of the manifest that tell the inputs and the classes of a table."""
    if isinstance(family, Vectors):
        classes, target = learner.max_classes or MAX_CLASSES, ClassTarget(name=family.target)
    else:
        ordered = family.rows.target == "ordered"
        classes = len(family.labels)
        target = ClassTarget(name=family.config.y[0], labels=family.labels, ordered=ordered)
    return {"kind": "classification", "inputs": family.inputs, "classes": classes, "target": target}
