"""Accuracy, likelihood and calibration of a classifier on classes it has never seen."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml.categorical import Categorical
from bmaml.learners import Belief
from model_store.model import Model
from training.evaluate import Evaluation
from training.families.bank import Bank
from training.families.featured import embed
from training.families.images import Images, dealt

EPISODES = 1000
AT_ONCE = 50
QUERIES = 15
SETTINGS = ((5, 1), (5, 5), (20, 1), (20, 5))
"""Ways and shots of the figures that are published, as in the literature."""
BINS = 15


@dataclass(frozen=True)
class Scores:
    """Of one number of ways and shots.

    Attributes:
        accuracy: the mean over tasks; `half_width` is that of its 95 % interval.
        nll: nats per query picture.
        ece: expected calibration error of the most probable class, 15 bins (Guo et al. 2017).
    """

    accuracy: float
    half_width: float
    nll: float
    ece: float


def evaluate_classes(model: Model, family: Images, episodes: int = EPISODES, seed: int = 77) -> Evaluation:
    """The figures of a classifier on the family's test classes; each picture is embedded once."""
    assert model.embedding is not None
    images, bank = family.bank("test")
    features = embed(model.embedding, model.learned, images)
    metrics = {}
    for ways, shots in SETTINGS:
        if ways > (model.manifest.classes or ways) or not _possible(bank, ways, shots):
            continue
        found = scored(model, features, bank, ways, shots, episodes, seed)
        for name in ("accuracy", "half_width", "nll", "ece"):
            metrics[f"{name}_{ways}way_{shots}shot"] = getattr(found, name)
    return Evaluation(episodes, metrics)


def scored(
    model: Model, features: Tensor, bank: Bank, ways: int, shots: int, episodes: int, seed: int
) -> Scores:
    """Scores over random tasks; queries are 15 a class, or as many as every class has left."""
    generator = torch.Generator().manual_seed(seed)
    queries = min(QUERIES, _queries(bank, ways, shots))
    right, confidence, nll = [], [], []
    with torch.no_grad():
        for start in range(0, episodes, AT_ONCE):
            deal = bank.deal(min(AT_ONCE, episodes - start), ways, shots, queries, generator)
            batch = dealt(deal, features[deal.pictures])
            belief: Belief = model.learner.predict(
                model.learner.adapt(model.learned, batch.support), batch.query.x
            )
            assert isinstance(belief, Categorical)
            best = belief.probabilities().max(-1)
            right.append((best.indices == batch.query.y.argmax(-1)).double())
            confidence.append(best.values.double())
            nll.append(-belief.log_density(batch.query.y).double().mean())
    each = torch.cat([values.mean(1) for values in right])
    half_width = 1.96 * float(each.std()) / math.sqrt(len(each))
    flat = torch.cat([v.flatten() for v in right]), torch.cat([v.flatten() for v in confidence])
    error = expected_calibration_error(*flat)
    return Scores(float(each.mean()), half_width, float(torch.stack(nll).mean()), error)


def expected_calibration_error(right: Tensor, confidence: Tensor) -> float:
    """Σ over bins of confidence: fraction in the bin × |mean confidence − accuracy| there."""
    right, confidence = right.double(), confidence.double()
    place = (confidence * BINS).long().clamp_max(BINS - 1)
    sums = torch.zeros(BINS, dtype=torch.float64).index_add(0, place, confidence - right)
    return float(sums.abs().sum() / len(right))


def _queries(bank: Bank, ways: int, shots: int) -> int:
    """Pictures left to ask in the class that has the `ways`-th most."""
    counts = bank.counts.sort(descending=True).values
    return int(counts[ways - 1]) - shots if len(counts) >= ways else 0


def _possible(bank: Bank, ways: int, shots: int) -> bool:
    return _queries(bank, ways, shots) >= 1
