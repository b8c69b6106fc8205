"""Batches of classes against the joint information of every labelling."""

import math

import pytest
import torch

from bmaml.acquisition import CLASS_STRATEGIES, class_batches
from bmaml.acquisition.class_batches import MAX_OUTCOMES
from bmaml.acquisition.class_scores import information_ceiling
from bmaml.categorical import Categorical
from tests.bmaml.acquisition.pools import class_belief, class_candidates, joint_entropy
from tests.closed_form import generator


def information(predictive, chosen):
    return joint_entropy(predictive, chosen) - float(predictive.expected_entropy()[0, list(chosen)].sum())


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_joint_selection_is_greedy_in_exact_joint_information(monkeypatch, at_once):
    monkeypatch.setattr(class_batches, "MAX_JOINT_PROBABILITIES", at_once)
    predictive = class_belief(particles=5, rows=6, classes=3)
    found = CLASS_STRATEGIES["joint"](class_candidates(predictive), 3)
    chosen: list[int] = []
    for pick, gain in zip(found.indices[0].tolist(), found.gains[0].tolist(), strict=True):
        gains = {
            row: information(predictive, (*chosen, row)) - (information(predictive, chosen) if chosen else 0)
            for row in range(6)
            if row not in chosen
        }
        assert pick == max(gains, key=gains.get)
        assert gain == pytest.approx(gains[pick], abs=1e-9)
        chosen.append(pick)


def test_a_sample_of_labellings_estimates_the_joint_information():
    predictive = class_belief(particles=4, rows=5, classes=8, sharp=1.0)
    found = CLASS_STRATEGIES["joint"](class_candidates(predictive), 5)
    assert MAX_OUTCOMES < 8**4  # the last row was chosen on a sample
    chosen = found.indices[0].tolist()
    assert float(found.gains.sum()) == pytest.approx(information(predictive, chosen), abs=0.02)


def test_the_labels_of_many_rows_together_stay_finite_in_single_precision():
    """The probability of a hundred labels is less than the least number that there is."""
    predictive = class_belief(particles=4, rows=120, classes=8, sharp=0.1)
    predictive = Categorical(predictive.log_probabilities.float(), predictive.log_weights.float())
    found = CLASS_STRATEGIES["joint"](class_candidates(predictive), 100)
    assert len(set(found.indices[0].tolist())) == 100
    assert torch.isfinite(found.gains).all()
    assert float(found.gains[0, :20].sum()) < information_ceiling(predictive)


def test_where_particles_agree_there_is_nothing_to_learn_and_distance_chooses_at_once():
    predictive = class_belief(particles=4, rows=9, classes=3)
    one = Categorical(predictive.log_probabilities[:, :1].expand(-1, 4, -1, -1), predictive.log_weights)
    sure = Categorical(
        predictive.log_probabilities, torch.tensor([[1.0, 1e-30, 1e-30, 1e-30]]).double().log()
    )
    found = CLASS_STRATEGIES["joint"](class_candidates(sure), 4)
    assert (found.strategies, found.saturated_at.tolist()) == (["k_centre"], [0])
    assert one.mutual_information().abs().max() < 1e-6
    assert CLASS_STRATEGIES["joint"](class_candidates(one), 4).gains[0, 0].abs() < 1e-6


def test_what_can_be_learned_ends_at_the_entropy_of_the_weights_and_distance_takes_over():
    logits = torch.zeros(1, 2, 6, 2)
    logits[:, 0, :, 0], logits[:, 1, :, 1] = 40, 40  # one label settles which of two particles is right
    predictive = Categorical(logits.log_softmax(-1), torch.zeros(1, 2).log_softmax(-1))
    given = class_candidates(predictive)
    found = CLASS_STRATEGIES["joint"](given, 4)
    assert found.strategies == ["joint", "k_centre"]
    assert found.saturated_at.tolist() == [1]
    assert found.ceiling == pytest.approx(math.log(2))
    assert found.gains[0, 0] == pytest.approx(math.log(2))
    assert len(set(found.indices[0].tolist())) == 4
    assert information_ceiling(predictive) == pytest.approx(math.log(2))


@pytest.mark.parametrize("strategy", sorted(CLASS_STRATEGIES))
def test_rows_that_may_not_be_chosen_are_not_and_none_twice(strategy):
    predictive = class_belief(rows=8, tasks=2)
    available = torch.rand(2, 8, generator=generator(4)) > 0.4
    found = CLASS_STRATEGIES[strategy](class_candidates(predictive, available), 20)
    for task in range(2):
        picks = [index for index in found.indices[task].tolist() if index >= 0]
        assert sorted(picks) == available[task].nonzero().squeeze(1).tolist()
