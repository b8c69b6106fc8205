"""What a mixture of class probabilities says, and which row it would have labelled."""

import itertools
import math

import pytest
import torch

from bmaml.acquisition import class_batches
from bmaml.acquisition.batches import Candidates
from bmaml.acquisition.class_batches import CLASS_STRATEGIES, MOST_OUTCOMES
from bmaml.acquisition.class_scores import CLASS_ACQUISITIONS, ClassPool, ceiling
from bmaml.categorical import Categorical, classes_of, normalised
from tests.closed_form import generator


def belief(particles=4, rows=6, classes=3, sharp=2.0, seed=0, tasks=1):
    draw = generator(seed)
    logits = sharp * torch.randn(tasks, particles, rows, classes, generator=draw)
    weights = torch.randn(tasks, particles, generator=draw)
    return Categorical(logits.log_softmax(-1), weights.log_softmax(-1))


def pool_of(predictive, target=None, seed=1):
    rows = predictive.log_probabilities.shape[2]
    uniform = torch.rand(len(predictive.log_weights), rows, generator=generator(seed))
    return ClassPool(predictive, uniform, target)


def candidates(predictive, available=None, seed=1):
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


def information(predictive, chosen):
    return joint_entropy(predictive, chosen) - float(predictive.expected_entropy()[0, list(chosen)].sum())


def test_entropies_are_those_written_out_and_add_up():
    found = belief()
    p, w = found.log_probabilities.exp(), found.log_weights.exp()
    mixed = (w[..., None, None] * p).sum(1)
    torch.testing.assert_close(found.probabilities(), mixed)
    torch.testing.assert_close(found.entropy(), -(mixed * mixed.log()).sum(-1))
    inside = (w.unsqueeze(-1) * -(p * p.log()).sum(-1)).sum(1)
    torch.testing.assert_close(found.expected_entropy(), inside)
    torch.testing.assert_close(found.entropy(), inside + found.mutual_information())


def test_particles_that_agree_leave_nothing_epistemic():
    one = belief(particles=1)
    same = Categorical(one.log_probabilities.expand(-1, 5, -1, -1), torch.zeros(1, 5).log_softmax(-1))
    torch.testing.assert_close(same.mutual_information(), torch.zeros(1, 6), atol=1e-12, rtol=0)
    torch.testing.assert_close(same.variation_ratio(), torch.zeros(1, 6), atol=1e-12, rtol=0)


def test_absent_classes_have_no_probability_and_no_effect_on_entropy():
    logits = torch.randn(1, 3, 4, 5)
    present = torch.tensor([[True, False, True, True, False]])
    wide = Categorical(normalised(logits, present), torch.zeros(1, 3).log_softmax(-1))
    narrow = Categorical(logits[..., present[0]].log_softmax(-1), wide.log_weights)
    torch.testing.assert_close(wide.probabilities()[..., present[0]], narrow.probabilities())
    torch.testing.assert_close(wide.entropy(), narrow.entropy())
    torch.testing.assert_close(wide.margin(), narrow.margin())


def test_the_classes_of_a_task_are_those_of_its_real_rows():
    y = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])]
    mask = torch.tensor([[True, False], [True, True]])
    assert classes_of(y, mask).tolist() == [[True, False, False], [False, False, True]]


def test_votes_and_margins_by_hand():
    p = torch.tensor([[[[0.6, 0.4]], [[0.9, 0.1]], [[0.2, 0.8]]]])
    found = Categorical(p.log(), torch.tensor([[0.5, 0.3, 0.2]]).log())
    torch.testing.assert_close(found.probabilities(), torch.tensor([[[0.61, 0.39]]]))
    torch.testing.assert_close(found.margin(), torch.tensor([[0.22]]))
    torch.testing.assert_close(found.variation_ratio(), torch.tensor([[0.2]]))


def test_epig_is_the_mean_information_that_a_label_gives_about_another():
    both = belief(rows=7)
    pool, target = both.part(slice(None), slice(4)), both.part(slice(None), slice(4, 7))
    found = CLASS_ACQUISITIONS["epig"].score(pool_of(pool, target))
    single = both.entropy()[0]
    for row in range(4):
        each = [single[row] + single[t] - joint_entropy(both, (row, t)) for t in (4, 5, 6)]
        torch.testing.assert_close(found[0, row], torch.stack(each).mean())


@pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence"])
def test_scores_of_doubt_are_highest_where_all_classes_are_alike(name):
    sure, unsure = torch.tensor([10.0, 0, 0]), torch.zeros(3)
    logits = torch.stack([sure, unsure, sure]).expand(1, 2, 3, 3)
    doubt = Categorical(logits.log_softmax(-1), torch.zeros(1, 2).log_softmax(-1))
    assert int(CLASS_ACQUISITIONS[name].score(pool_of(doubt)).argmax()) == 1


def test_every_score_follows_the_rows_when_the_pool_is_permuted():
    both, order = belief(rows=9), torch.tensor([4, 1, 0, 5, 3, 2])
    pool, target = both.part(slice(None), slice(6)), both.part(slice(None), slice(6, 9))
    straight = pool_of(pool, target)
    moved = Categorical(pool.log_probabilities[:, :, order], pool.log_weights)
    permuted = ClassPool(moved, straight.uniform[:, order], target)
    for acquisition in CLASS_ACQUISITIONS.values():
        torch.testing.assert_close(acquisition.score(permuted), acquisition.score(straight)[:, order])


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_joint_selection_is_greedy_in_exact_joint_information(monkeypatch, at_once):
    monkeypatch.setattr(class_batches, "MAX_JOINT_PROBABILITIES", at_once)
    predictive = belief(particles=5, rows=6, classes=3)
    found = CLASS_STRATEGIES["joint"](candidates(predictive), 3)
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
    predictive = belief(particles=4, rows=5, classes=8, sharp=1.0)
    found = CLASS_STRATEGIES["joint"](candidates(predictive), 5)
    assert MOST_OUTCOMES < 8**4  # the last row was chosen on a sample
    chosen = found.indices[0].tolist()
    assert float(found.gains.sum()) == pytest.approx(information(predictive, chosen), abs=0.02)


def test_the_labels_of_many_rows_together_stay_finite_in_single_precision():
    """The probability of a hundred labels is less than the least number that there is."""
    predictive = belief(particles=4, rows=120, classes=8, sharp=0.1)
    predictive = Categorical(predictive.log_probabilities.float(), predictive.log_weights.float())
    found = CLASS_STRATEGIES["joint"](candidates(predictive), 100)
    assert len(set(found.indices[0].tolist())) == 100
    assert torch.isfinite(found.gains).all()
    assert float(found.gains[0, :20].sum()) < ceiling(predictive)


def test_where_particles_agree_there_is_nothing_to_learn_and_distance_chooses_at_once():
    predictive = belief(particles=4, rows=9, classes=3)
    one = Categorical(predictive.log_probabilities[:, :1].expand(-1, 4, -1, -1), predictive.log_weights)
    sure = Categorical(
        predictive.log_probabilities, torch.tensor([[1.0, 1e-30, 1e-30, 1e-30]]).double().log()
    )
    found = CLASS_STRATEGIES["joint"](candidates(sure), 4)
    assert (found.strategies, found.saturated_at.tolist()) == (["k_centre"], [0])
    assert one.mutual_information().abs().max() < 1e-6
    assert CLASS_STRATEGIES["joint"](candidates(one), 4).gains[0, 0].abs() < 1e-6


def test_what_can_be_learned_ends_at_the_entropy_of_the_weights_and_distance_takes_over():
    logits = torch.zeros(1, 2, 6, 2)
    logits[:, 0, :, 0], logits[:, 1, :, 1] = 40, 40  # one label settles which of two particles is right
    predictive = Categorical(logits.log_softmax(-1), torch.zeros(1, 2).log_softmax(-1))
    given = candidates(predictive)
    found = CLASS_STRATEGIES["joint"](given, 4)
    assert found.strategies == ["joint", "k_centre"]
    assert found.saturated_at.tolist() == [1]
    assert found.ceiling == pytest.approx(math.log(2))
    assert found.gains[0, 0] == pytest.approx(math.log(2))
    assert len(set(found.indices[0].tolist())) == 4
    assert ceiling(predictive) == pytest.approx(math.log(2))


@pytest.mark.parametrize("strategy", sorted(CLASS_STRATEGIES))
def test_rows_that_may_not_be_chosen_are_not_and_none_twice(strategy):
    predictive = belief(rows=8, tasks=2)
    available = torch.rand(2, 8, generator=generator(4)) > 0.4
    found = CLASS_STRATEGIES[strategy](candidates(predictive, available), 20)
    for task in range(2):
        picks = [index for index in found.indices[task].tolist() if index >= 0]
        assert sorted(picks) == available[task].nonzero().squeeze(1).tolist()
