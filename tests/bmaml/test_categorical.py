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


def returning(share=(0.0, 0.2, 0.5, 0.9, 0.99, 1.0)):
    belief, prior = class_belief(), class_belief(particles=2, seed=5)
    return belief, prior, belief.towards(prior, torch.tensor([share], dtype=torch.float64))


def test_a_belief_that_returns_has_the_prior_s_share_of_probabilities_and_of_hypotheses():
    belief, prior, found = returning()
    p, q, share = belief.probabilities(), prior.probabilities(), found.share
    torch.testing.assert_close(found.probabilities(), p + share.unsqueeze(-1) * (q - p))
    torch.testing.assert_close(found.hypotheses.probabilities(), found.probabilities())
    inside = belief.expected_entropy() * (1 - share) + prior.expected_entropy() * share
    torch.testing.assert_close(found.expected_entropy(), inside)
    torch.testing.assert_close(found.entropy(), inside + found.mutual_information())
    torch.testing.assert_close(found.votes().sum(-1), torch.ones_like(share))


def test_at_both_ends_it_is_the_belief_or_the_prior():
    belief, prior, found = returning((0.0, 1.0, 0.0, 1.0, 0.0, 1.0))
    for part in ("probabilities", "expected_entropy", "mutual_information", "variation_ratio", "margin"):
        own, other, mixed = (getattr(each, part)() for each in (belief, prior, found))
        torch.testing.assert_close(mixed[:, ::2], own[:, ::2])
        torch.testing.assert_close(mixed[:, 1::2], other[:, 1::2])


def test_labels_far_away_say_nothing_about_the_hypotheses():
    _, _, found = returning((1.0,) * 6)
    nothing = torch.zeros(1, 6, dtype=torch.float64)
    torch.testing.assert_close(found.hypotheses.mutual_information(), nothing, atol=1e-12, rtol=0)


def test_a_part_of_a_belief_that_returns_is_the_same_of_its_rows():
    *_, found = returning()
    some = slice(2, 5)
    part = found.part(slice(0, 1), some)
    torch.testing.assert_close(part.probabilities(), found.probabilities()[:, some])
    torch.testing.assert_close(part.mutual_information(), found.mutual_information()[:, some])
    torch.testing.assert_close(part.variation_ratio(), found.variation_ratio()[:, some])


def test_votes_and_margins_by_hand():
    p = torch.tensor([[[[0.6, 0.4]], [[0.9, 0.1]], [[0.2, 0.8]]]])
    found = Categorical(p.log(), torch.tensor([[0.5, 0.3, 0.2]]).log())
    torch.testing.assert_close(found.probabilities(), torch.tensor([[[0.61, 0.39]]]))
    torch.testing.assert_close(found.margin(), torch.tensor([[0.22]]))
    torch.testing.assert_close(found.variation_ratio(), torch.tensor([[0.2]]))
