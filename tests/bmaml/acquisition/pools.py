"""Random beliefs about pools, of numbers and of classes."""

import itertools

import torch

from bmaml.acquisition import Candidates, ClassPool, Pool
from bmaml.categorical import Categorical
from bmaml.predictive import Predictive
from tests.closed_form import generator


def belief(rows=12, particles=5, tasks=2, rank=None):
    factor = None if rank is None else 0.5 * torch.randn(tasks, rows, 1, particles * rank) / particles**0.5
    within = torch.zeros(1, 1, 1, 1) if factor is None else factor.square().sum(-1).unsqueeze(1)
    return Predictive(
        means=torch.randn(tasks, particles, rows, 1),
        noise=torch.full((tasks, particles, 1, 1), 0.2),
        within=within,
        log_weights=torch.randn(tasks, particles).log_softmax(-1),
        factor=factor,
    )


def pool(predictive, target=None, best=0.3):
    rows = predictive.means.shape[2]
    return Pool(predictive, torch.full((2,), best), torch.rand(2, rows), target)


def candidates(predictive, scores=None, available=None, labelled=0):
    tasks, _, rows, _ = predictive.means.shape
    return Candidates(
        scores=torch.rand(tasks, rows) if scores is None else scores,
        available=torch.ones(tasks, rows, dtype=torch.bool) if available is None else available,
        uniform=0.001 + 0.998 * torch.rand(tasks, rows),
        predictive=predictive,
        x=torch.randn(tasks, rows, 2),
        labelled=torch.randn(tasks, labelled, 2),
        labelled_mask=torch.ones(tasks, labelled, dtype=torch.bool),
    )


def class_belief(particles=4, rows=6, classes=3, sharp=2.0, seed=0, tasks=1):
    draw = generator(seed)
    logits = sharp * torch.randn(tasks, particles, rows, classes, generator=draw)
    weights = torch.randn(tasks, particles, generator=draw)
    return Categorical(logits.log_softmax(-1), weights.log_softmax(-1))


def class_pool(predictive, target=None, seed=1):
    rows = predictive.log_probabilities.shape[2]
    uniform = torch.rand(len(predictive.log_weights), rows, generator=generator(seed))
    return ClassPool(predictive, uniform, target)


def class_candidates(predictive, available=None, seed=1):
    tasks, _, rows, _ = predictive.log_probabilities.shape
    draw = generator(seed)
    return Candidates(
        scores=predictive.mutual_information(),
        available=torch.ones(tasks, rows, dtype=torch.bool) if available is None else available,
        uniform=torch.rand(tasks, rows, generator=draw),
        predictive=predictive,
        x=torch.randn(tasks, rows, 2, generator=draw),
        labelled=torch.zeros(tasks, 1, 2),
        labelled_mask=torch.ones(tasks, 1, dtype=torch.bool),
    )


def joint_entropy(predictive, chosen):
    """H(labels of the chosen rows), by writing out every labelling."""
    p, w = predictive.log_probabilities[0].exp(), predictive.log_weights[0].exp()
    total = 0.0
    for labels in itertools.product(range(p.shape[-1]), repeat=len(chosen)):
        each = torch.stack([p[:, row, label] for row, label in zip(chosen, labels, strict=True)]).prod(0)
        total += float(torch.special.entr((w * each).sum()))
    return total
