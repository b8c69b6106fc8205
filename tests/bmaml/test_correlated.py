"""Rows whose errors are alike count as fewer rows in what a particle is worth, and in nothing else."""

import pytest
import torch

from bmaml.learners import InvalidLearner
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.hypothesis_weights import REFERENCE_ROWS
from bmaml.networks import MLP
from bmaml.task import Examples
from tests.closed_form import full_batch, generator, learner_of, ragged


def effective_rows(rows: int, correlation: float) -> float:
    """How many independent measurements have a mean as exact as that of so many correlated ones."""
    whole = torch.full((rows, rows), correlation) + (1 - correlation) * torch.eye(rows)
    return float(1 / whole.mean())


def correlated(value: float):
    learner, learned = learner_of(Collapsed, steps=0, correlated=(2, 12))
    return learner, {**learned, "correlation": torch.tensor(value, dtype=torch.float64)}


@pytest.mark.parametrize("rows", [1, 3, 5, 12, 20])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_rows_count_as_far_as_they_are_new_between_the_numbers_it_was_found_on(rows, correlation):
    learner, learned = correlated(correlation)
    support = full_batch(shots=rows).support
    counted = min(max(rows, 2), 12)
    each = effective_rows(counted, correlation) / counted
    usual = effective_rows(REFERENCE_ROWS, correlation) / REFERENCE_ROWS
    evidence = learner.evidence(learned["initial"].unsqueeze(0), support)
    expected = (learned["log_temperature"].exp() * each / usual * evidence).softmax(-1)
    posterior = learner.adapt(learned, support)
    torch.testing.assert_close(posterior.log_weights.exp(), expected)


@pytest.mark.parametrize(("log_temperature", "counted"), [(-0.7, -0.7), (0.0, 0.0), (1.5, 0.0)])
def test_evidence_counts_at_most_once(log_temperature, counted):
    learner, learned = learner_of(Collapsed, steps=0)
    support = full_batch().support
    evidence = learner.evidence(learned["initial"].unsqueeze(0), support)
    expected = (torch.tensor(counted, dtype=torch.float64).exp() * evidence).softmax(-1)
    learned = {**learned, "log_temperature": torch.tensor(log_temperature, dtype=torch.float64)}
    torch.testing.assert_close(learner.adapt(learned, support).log_weights.exp(), expected)


def test_every_task_has_its_own_number_of_rows():
    learner, learned = correlated(0.7)
    tasks = ragged(6, rows=9)
    together = learner.adapt(learned, Examples.padded(tasks)).log_weights
    for task, rows in enumerate(tasks):
        alone = learner.adapt(learned, Examples.padded([rows])).log_weights
        torch.testing.assert_close(together[task], alone[0])


def test_independent_rows_are_those_of_a_learner_that_knows_no_others():
    batch = full_batch()
    learner, learned = correlated(0.0)
    plain = Collapsed(learner.network, particles=5, steps=0)
    for name in ("log_weights", "head", "seen", "spent"):
        one, other = (getattr(each.adapt(learned, batch.support), name) for each in (learner, plain))
        torch.testing.assert_close(one, other)


def test_only_the_weights_depend_on_the_correlation():
    batch = full_batch()
    one, other = (
        learner.predict(learner.adapt(learned, batch.support), batch.query.x)
        for learner, learned in (correlated(0.1), correlated(0.9))
    )
    assert not torch.equal(one.log_weights, other.log_weights)
    for name in ("means", "noise", "within"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_training_takes_rows_for_independent():
    network, batch = MLP(2, (6, 5), 2, "tanh"), full_batch(shots=9)
    losses, gradients = [], []
    for learner in (Collapsed(network, particles=5, correlated=each) for each in (None, (2, 12))):
        learned = {name: value.double() for name, value in learner.initialise(generator()).items()}
        for name, value in learned.items():
            value.requires_grad_(learner.trains(name))
        loss = learner.loss(learned, batch)
        loss.backward()
        losses.append(loss)
        gradients.append({name: value.grad for name, value in learned.items()})
    assert torch.equal(*losses)
    assert gradients[1].pop("correlation") is None
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_it_needs_weights_and_more_than_one_number_of_rows():
    network = MLP(1, (4,), 1)
    assert "correlation" not in Collapsed(network).initialise(generator())
    with pytest.raises(InvalidLearner, match="evidence weights"):
        Collapsed(network, correlated=(2, 12), evidence_weights=False)
    with pytest.raises(InvalidLearner, match="more rows"):
        Collapsed(network, correlated=(3, 3))
