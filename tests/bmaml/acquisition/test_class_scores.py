"""Scores of classes against entropies that are written out."""

import pytest
import torch

from bmaml.acquisition import CLASS_ACQUISITIONS, ClassPool, NeedsTarget
from bmaml.categorical import Categorical
from tests.bmaml.acquisition.pools import class_belief, class_pool, joint_entropy


def test_epig_is_the_mean_information_that_a_label_gives_about_another():
    both = class_belief(rows=7)
    pool, target = both.part(slice(None), slice(4)), both.part(slice(None), slice(4, 7))
    found = CLASS_ACQUISITIONS["epig"].score(class_pool(pool, target))
    single = both.entropy()[0]
    for row in range(4):
        each = [single[row] + single[t] - joint_entropy(both, (row, t)) for t in (4, 5, 6)]
        torch.testing.assert_close(found[0, row], torch.stack(each).mean())


@pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence"])
def test_scores_of_doubt_are_highest_where_all_classes_are_alike(name):
    sure, unsure = torch.tensor([10.0, 0, 0]), torch.zeros(3)
    logits = torch.stack([sure, unsure, sure]).expand(1, 2, 3, 3)
    doubt = Categorical(logits.log_softmax(-1), torch.zeros(1, 2).log_softmax(-1))
    assert int(CLASS_ACQUISITIONS[name].score(class_pool(doubt)).argmax()) == 1


def test_every_score_follows_the_rows_when_the_pool_is_permuted():
    both, order = class_belief(rows=9), torch.tensor([4, 1, 0, 5, 3, 2])
    pool, target = both.part(slice(None), slice(6)), both.part(slice(None), slice(6, 9))
    straight = class_pool(pool, target)
    moved = Categorical(pool.log_probabilities[:, :, order], pool.log_weights)
    permuted = ClassPool(moved, straight.uniform[:, order], target)
    for acquisition in CLASS_ACQUISITIONS.values():
        torch.testing.assert_close(acquisition.score(permuted), acquisition.score(straight)[:, order])


def test_epig_of_classes_needs_a_target():
    with pytest.raises(NeedsTarget):
        CLASS_ACQUISITIONS["epig"].score(class_pool(class_belief()))
