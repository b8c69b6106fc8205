"""Discriminants in closed form, and the scatter of a task's own rows."""

from dataclasses import replace

import pytest
import torch

from bmaml.learners import InvalidLearner
from bmaml.learners.conjugate import Conjugate, ConjugatePosterior
from bmaml.networks import MLP
from bmaml.plda import BETWEEN_SHRINKAGE, WITHIN_SHRINKAGE, discriminants
from bmaml.task import Examples, TaskBatch
from tests.closed_form import generator

WAYS, SHOTS, WIDTH = 3, 4, 5


@pytest.fixture
def rows():
    draw = generator(4)
    middles = 2 * torch.randn(WAYS, 1, WIDTH, generator=draw, dtype=torch.float64)
    noise = torch.randn(WAYS, SHOTS, WIDTH, generator=draw, dtype=torch.float64)
    return (middles + noise @ torch.diag(torch.tensor([3.0, 1, 1, 0.5, 0.2]).double())).flatten(0, 1)


LABELS = torch.arange(WAYS).repeat_interleave(SHOTS)


def learner(**settings):
    return Conjugate(MLP(WIDTH, (), WIDTH), particles=2, evidence_weights=False, own_scatter=True, **settings)


def adapted(built, rows, labels=LABELS):
    learned = {name: tensor.double() for name, tensor in built.initialise(generator(2)).items()}
    learned["log_within"] = torch.randn(2, WIDTH, generator=generator(3), dtype=torch.float64)
    hot = torch.nn.functional.one_hot(labels, WAYS).double()
    return learned, built.adapt(learned, Examples.full(rows.unsqueeze(0), hot.unsqueeze(0)))


def matrix(posterior, particle):
    """W^(−½) of the first task, in units of the scatter."""
    p = posterior.directions[0, particle]
    return posterior.stretch.flatten()[0] * (torch.eye(WIDTH).double() - p.mT @ p)


def test_a_task_is_whitened_by_its_shrunk_scatter(rows):
    built = learner()
    learned, posterior = adapted(built, rows)
    z = built.network(learned["initial"].unsqueeze(0), rows.unsqueeze(0))[0]
    for particle in range(2):
        unit = z[particle] / learned["log_within"][particle].exp()
        residuals = unit - torch.stack([unit[c == LABELS].mean(0) for c in range(WAYS)])[LABELS]
        number, degrees = learned["log_rows"].exp(), WAYS * (SHOTS - 1)
        scatter = (number * torch.eye(WIDTH).double() + residuals.mT @ residuals) / (number + degrees)
        root = matrix(posterior, particle)
        torch.testing.assert_close(root @ scatter @ root, torch.eye(WIDTH).double())


def test_one_row_of_each_class_has_no_scatter_of_its_own(rows):
    one = rows[::SHOTS]
    built = learner()
    learned, posterior = adapted(built, one, torch.arange(WAYS))
    plain = Conjugate(built.network, particles=2, evidence_weights=False)
    expected = plain.predict(plain.adapt(learned, _examples(one)), rows.unsqueeze(0))
    found = built.predict(posterior, rows.unsqueeze(0))
    torch.testing.assert_close(found.log_probabilities, expected.log_probabilities)


def _examples(rows):
    return Examples.full(rows.unsqueeze(0), torch.eye(WAYS).double().unsqueeze(0))


def test_padding_and_neighbours_change_no_answer(rows):
    built = learner()
    learned, alone = adapted(built, rows)
    hot = torch.nn.functional.one_hot(LABELS, WAYS).double()
    more = torch.cat([rows, torch.full((3, WIDTH), 7.0).double()])
    named = torch.cat([hot, torch.zeros(3, WAYS).double()])
    mask = torch.arange(len(more)) < len(rows)
    other = Examples.full(rows[:: SHOTS // 2].unsqueeze(0), hot[:: SHOTS // 2].unsqueeze(0))
    padded = built.adapt(learned, Examples(more.unsqueeze(0), named.unsqueeze(0), mask.unsqueeze(0)))
    joined = ConjugatePosterior.joined([alone, built.adapt(learned, other)])
    query = rows.unsqueeze(0) + 0.1
    expected = built.predict(alone, query).log_probabilities
    torch.testing.assert_close(built.predict(padded, query).log_probabilities, expected)
    both = built.predict(joined, query.expand(2, -1, -1)).log_probabilities
    torch.testing.assert_close(both[:1], expected)


def test_the_volume_counts_with_its_part_alone(rows):
    kept = torch.arange(len(rows)) % SHOTS <= LABELS  # one row of the first class, two of the second, …
    built = learner()
    learned, posterior = adapted(built, rows[kept], LABELS[kept])
    densities = [
        built.predict(replace(posterior, volume=torch.tensor(part).double()), rows.unsqueeze(0))
        for part in (1.0, 0.25)
    ]
    whole, part = (each.log_probabilities for each in densities)
    log_volume = (posterior.variances + posterior.scatter).log().sum(-1).unsqueeze(2)
    moved = whole + 0.5 * 0.75 * learned["log_sharpness"].exp() * log_volume
    torch.testing.assert_close(part, moved.log_softmax(-1))


def test_looks_at_a_task_are_its_predictions(rows):
    built = learner()
    learned, _ = adapted(built, rows)
    hot = torch.nn.functional.one_hot(LABELS, WAYS).double().unsqueeze(0)
    support = Examples.full(rows.unsqueeze(0), hot)
    look = built.looks(learned, support, rows.unsqueeze(0) + 0.1)
    for name in built.calibrated:
        trial = {**learned, name: learned[name] - 0.3}
        expected = built.predict(built.adapt(trial, support), rows.unsqueeze(0) + 0.1).log_probabilities
        torch.testing.assert_close(look(trial).log_probabilities, expected)


def test_training_leaves_the_volume_to_calibration(rows):
    built = learner()
    learned, _ = adapted(built, rows)
    hot = torch.nn.functional.one_hot(LABELS, WAYS).double().unsqueeze(0)
    examples = Examples.full(rows.unsqueeze(0), hot)
    traced = {name: tensor.requires_grad_() for name, tensor in learned.items()}
    built.loss(traced, TaskBatch(examples, examples)).backward()
    assert traced["volume"].grad is None
    assert traced["log_sharpness"].grad is not None


def test_evidence_and_an_own_scatter_exclude_each_other():
    with pytest.raises(InvalidLearner, match="one scatter"):
        Conjugate(MLP(WIDTH, (), WIDTH), particles=2, evidence_weights=True, own_scatter=True)


def test_discriminants_whiten_the_rows_of_a_class_and_diagonalise_the_classes():
    draw = generator(1)
    labels = torch.arange(12).repeat_interleave(9)
    means = 3 * torch.randn(12, WIDTH, generator=draw, dtype=torch.float64)
    rows = means[labels] + torch.randn(len(labels), WIDTH, generator=draw, dtype=torch.float64)
    found = discriminants(rows, labels, WIDTH)
    middles = torch.stack([rows[labels == c].mean(0) for c in range(12)])
    residuals = rows - middles[labels]
    within = residuals.mT @ residuals / (len(rows) - 12)
    identity = torch.eye(WIDTH).double()
    shrunk = (1 - WITHIN_SHRINKAGE) * within + WITHIN_SHRINKAGE * within.diagonal().mean() * identity
    torch.testing.assert_close(found.axes.mT @ shrunk @ found.axes, identity)
    centred = (middles - found.middle) @ found.axes
    spread = centred.mT @ centred / 11
    raw = (found.between + 1 / 9 - BETWEEN_SHRINKAGE * spread.diagonal().mean()) / (1 - BETWEEN_SHRINKAGE)
    torch.testing.assert_close(spread, torch.diag(raw))
    assert (found.between.diff() <= 0).all()
    torch.testing.assert_close(discriminants(rows, labels, 2).between, found.between[:2])


def test_one_particle_of_discriminants_tells_classes_apart_without_training():
    draw = generator(6)
    labels = torch.arange(40).repeat_interleave(10)
    means = torch.cat([3 * torch.randn(40, 2, generator=draw), torch.zeros(40, WIDTH - 2)], 1)
    rows = means[labels] + torch.randn(400, WIDTH, generator=draw) * torch.tensor([1, 1, 6, 6, 6.0])
    found = discriminants(rows, labels, WIDTH)
    middles = 3 * torch.randn(6, 2, generator=draw)
    new = torch.cat([middles, torch.zeros(6, 3)], 1).repeat_interleave(20, 0)
    new = new + torch.randn(120, WIDTH, generator=draw) * torch.tensor([1, 1, 6, 6, 6.0])
    z, plain = (new.double() - found.middle) @ found.axes, new.double()
    truth = torch.arange(6).repeat_interleave(20)

    def accuracy(x):
        centres = torch.stack([x[truth == c][:5].mean(0) for c in range(6)])
        return float((torch.cdist(x, centres).argmin(1) == truth).double().mean())

    assert accuracy(z) > accuracy(plain) + 0.1
