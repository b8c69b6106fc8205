"""A mixture of class probabilities against entropies and votes written out."""

import torch

from bmaml.categorical import Categorical, normalised, present_classes
from tests.bmaml.acquisition.pools import class_belief


def test_entropies_are_those_written_out_and_add_up():
    found = class_belief()
    p, w = found.log_probabilities.exp(), found.log_weights.exp()
    mixed = (w[..., None, None] * p).sum(1)
    torch.testing.assert_close(found.probabilities(), mixed)
    torch.testing.assert_close(found.entropy(), -(mixed * mixed.log()).sum(-1))
    inside = (w.unsqueeze(-1) * -(p * p.log()).sum(-1)).sum(1)
    torch.testing.assert_close(found.expected_entropy(), inside)
    torch.testing.assert_close(found.entropy(), inside + found.mutual_information())


def test_particles_that_agree_leave_nothing_epistemic():
    one = class_belief(particles=1)
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
    assert present_classes(y, mask).tolist() == [[True, False, False], [False, False, True]]


def test_votes_and_margins_by_hand():
    p = torch.tensor([[[[0.6, 0.4]], [[0.9, 0.1]], [[0.2, 0.8]]]])
    found = Categorical(p.log(), torch.tensor([[0.5, 0.3, 0.2]]).log())
    torch.testing.assert_close(found.probabilities(), torch.tensor([[[0.61, 0.39]]]))
    torch.testing.assert_close(found.margin(), torch.tensor([[0.22]]))
    torch.testing.assert_close(found.variation_ratio(), torch.tensor([[0.2]]))
