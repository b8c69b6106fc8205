"""Accuracy, likelihood and calibration of a classifier on classes that training did not see."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.embedding import ConvNet
from bmaml.learners import Belief
from model_store.model import Model
from training.calibration_error import expected_calibration_error
from training.evaluate import Evaluation
from training.evaluate_fixed_classes import evaluate_fixed_classes
from training.families.class_index import ClassIndex
from training.families.class_tasks import task_batch
from training.families.family import HELD_OUT_SEED
from training.families.image_collection import ImageCollection
from training.families.image_features import embed
from training.families.table import Table
from training.families.vectors import Vectors

TASKS = 1000
TASKS_PER_BLOCK = 50
"""Tasks evaluated at once: a bound on the memory of a belief."""
MAX_QUERIES = 15
"""Query images of each class."""
WAYS_AND_SHOTS = ((5, 1), (5, 5), (20, 1), (20, 5))
"""The published settings, as in the literature."""


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of a classifier at one number of ways and shots.

    Attributes:
        accuracy: the mean over tasks.
        half_width: half the width of the 95 % interval of that mean.
        nll: nats per query image.
        ece: expected calibration error of the most probable class, 15 bins (Guo et al. 2017).
    """

    accuracy: float
    half_width: float
    nll: float
    ece: float


def evaluate_table_of_classes(model: Model, family: Table | Vectors, steps: int | None = None) -> Evaluation:
    """The metrics of a classifier of tables: of fixed classes, or of the family's test classes."""
    if isinstance(family, Table):
        return evaluate_fixed_classes(model, family, steps)
    return evaluate_classes(model, family, steps=steps)


def evaluate_classes(
    model: Model,
    family: ImageCollection | Vectors,
    tasks: int = TASKS,
    seed: int = HELD_OUT_SEED,
    steps: int | None = None,
) -> Evaluation:
    """The metrics of a classifier on the family's test classes; each image is embedded once.

    Fewer than five test classes are all in every task.

    Args:
        steps: inner steps; None takes the learner's.
    """
    rows, index = family.of_role("test")
    features = _features(model, rows)
    fewest = WAYS_AND_SHOTS[0][0]
    sizes = [size for size in WAYS_AND_SHOTS if size[0] == fewest or size[0] <= len(index)]
    metrics = {}
    for wanted, shots in sizes:
        ways = min(wanted, len(index))
        if ways > (model.manifest.classes or ways) or index.queries(ways, shots, MAX_QUERIES) < 1:
            continue
        found = class_metrics(model, features, index, ways, shots, tasks, seed, steps=steps)
        for name in ("accuracy", "half_width", "nll", "ece"):
            metrics[f"{name}_{ways}way_{shots}shot"] = getattr(found, name)
    return Evaluation(tasks, metrics)


def _features(model: Model, rows: Tensor) -> Tensor:
    """The learner's inputs for all rows: features of images, pixels in [0, 1], or the rows themselves."""
    if isinstance(model.embedding, ConvNet):
        return embed(model.embedding, model.learned, rows)
    pixels = model.embedding is None and model.manifest.image is not None
    return rows.float() / 255 if pixels else rows


def class_metrics(
    model: Model,
    features: Tensor,
    index: ClassIndex,
    ways: int,
    shots: int,
    tasks: int,
    seed: int,
    transductive: bool = False,
    steps: int | None = None,
) -> ClassMetrics:
    """The metrics over random tasks, with 15 query images a class or as many as every class has left.

    Classes with no more images than shots take no part.

    Args:
        transductive: a network with normalisation takes the moments of the query images, as published.
        steps: inner steps; None takes the learner's.
    """
    generator = torch.Generator().manual_seed(seed)
    queries = index.queries(ways, shots, MAX_QUERIES)
    right, confidence, nll = [], [], []
    with torch.no_grad():
        for block in blocks(tasks, TASKS_PER_BLOCK):
            draw = index.draw(block.stop - block.start, ways, shots, queries, generator)
            batch = task_batch(draw, features[draw.images])
            posterior = model.learner.adapt(model.learned, batch.support, steps)
            if transductive:
                posterior = replace(posterior, moments=None)
            belief: Belief = model.learner.predict(posterior, batch.query.x)
            assert isinstance(belief, Categorical)
            best = belief.probabilities().max(-1)
            right.append((best.indices == batch.query.y.argmax(-1)).double())
            confidence.append(best.values.double())
            nll.append(-belief.log_density(batch.query.y).double().mean())
    each = torch.cat([values.mean(1) for values in right])
    half_width = 1.96 * float(each.std()) / math.sqrt(len(each))
    flat = torch.cat([v.flatten() for v in right]), torch.cat([v.flatten() for v in confidence])
    error = expected_calibration_error(*flat)
    return ClassMetrics(float(each.mean()), half_width, float(torch.stack(nll).mean()), error)
