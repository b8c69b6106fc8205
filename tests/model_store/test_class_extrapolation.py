"""Classes of fixed meaning return to the prior outside the training range, as numbers do."""

import numpy as np
import pytest
import torch

from bmaml.task import Examples
from tests.class_tables import LABELS, publish_class_table

LEARNERS = ["laplace", "emaml", "bmaml"]
SHOWN = (-4.0, -1.0, 2.0, 4.5)
LARGE = 512.0
"""A value of the second input in its training range, which is the same in all rows."""


def rows_at(model, values):
    """Rows with these values of x, standardised, `[1, row, input]`; the range of x is -5 to 5."""
    rows = np.column_stack([values, np.full(len(values), LARGE)])
    return torch.from_numpy(model.standardised_inputs(rows)).unsqueeze(0)


def asked(tmp_path, learner, values, shown=SHOWN, ordered=False):
    """The model's belief about rows, the learner's own, and the prior of the nearest rows in the range."""
    model = publish_class_table(tmp_path, learner=learner, ordered=ordered)
    support = Examples.full(rows_at(model, shown), torch.eye(len(LABELS))[[0, 1, 0, 0]].unsqueeze(0))
    x, nearest = rows_at(model, values), rows_at(model, np.clip(values, -5, 5))
    nothing = Examples(support.x[:, :0], support.y[:, :0], support.mask[:, :0])
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, support)
        prior = model.learner.predict(model.learner.adapt(model.learned, nothing), nearest)
        return model.classify(posterior, x, support), model.learner.predict(posterior, x), prior


@pytest.mark.parametrize("learner", LEARNERS)
def test_inside_the_training_range_nothing_changes(tmp_path, learner):
    belief, own, _ = asked(tmp_path, learner, [-5.0, 0.0, 5.0])
    assert torch.equal(belief.log_probabilities, own.log_probabilities)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("far", [200.0, 1e6])
def test_far_away_probabilities_and_their_uncertainty_are_the_prior_s(tmp_path, learner, far):
    belief, own, prior = asked(tmp_path, learner, [-far, far])
    torch.testing.assert_close(belief.probabilities(), prior.probabilities())
    torch.testing.assert_close(belief.expected_entropy(), prior.expected_entropy())
    torch.testing.assert_close(belief.mutual_information(), prior.mutual_information(), atol=1e-5, rtol=0)
    assert float((own.probabilities() - prior.probabilities()).abs().max()) > 0.01


def test_the_order_of_classes_makes_no_difference_to_it(tmp_path):
    belief, _, prior = asked(tmp_path, "laplace", [-1e6, 1e6], ordered=True)
    torch.testing.assert_close(belief.probabilities(), prior.probabilities())


def test_on_the_way_the_prior_s_share_grows_without_a_jump(tmp_path):
    belief, own, prior = asked(tmp_path, "laplace", [5.0, 5.0001, 8.0, 11.0])  # the range is 10 wide
    distance = np.array([0.0, 1e-5, 0.3, 0.6]) / np.sqrt(2)  # one of two inputs is outside
    shares = torch.from_numpy(1 - np.exp(-0.5 * (distance / 0.25) ** 2)).float()[None, :, None]
    expected = torch.lerp(own.probabilities(), prior.probabilities(), shares)
    torch.testing.assert_close(belief.probabilities(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("learner", LEARNERS)
def test_at_support_rows_outside_the_range_the_answer_is_the_learner_s_own(tmp_path, learner):
    shown = (-20.0, -19.0, 18.0, 20.0)
    belief, own, _ = asked(tmp_path, learner, [*shown, -19.5, 19.0], shown=shown)
    torch.testing.assert_close(belief.probabilities(), own.probabilities())


def test_the_prior_of_a_far_row_is_that_of_the_nearest_row_in_the_range(tmp_path):
    model = publish_class_table(tmp_path, learner="laplace")
    far, near = (rows_at(model, [value])[0] for value in (1e6, 5.0))
    torch.testing.assert_close(model.prior_of_classes(far), model.prior_of_classes(near))


def test_new_classes_have_no_prior_to_return_to(tmp_path):
    model = publish_class_table(tmp_path, labels=None, learner="conjugate")
    support = Examples.full(rows_at(model, (-1.0, 2.0)), torch.eye(4)[[0, 1]].unsqueeze(0))
    x = rows_at(model, [30.0])
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, support)
        own = model.learner.predict(posterior, x).log_probabilities
        assert torch.equal(model.classify(posterior, x, support).log_probabilities, own)


@pytest.mark.parametrize("learner", LEARNERS)
def test_tasks_return_alike_alone_and_beside_others(tmp_path, learner):
    model = publish_class_table(tmp_path, learner=learner)
    x = rows_at(model, SHOWN).repeat(2, 1, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    support = Examples.full(x, torch.eye(len(LABELS))[torch.tensor([[0, 1, 0, 0], [2, 2, 1, 0]])])
    asked = rows_at(model, [-30.0, 8.0, 1.0]).repeat(2, 1, 1)
    with torch.no_grad():
        both = model.classify(model.learner.adapt(model.learned, support), asked, support)
        for task in range(2):
            own = slice(task, task + 1)
            one = Examples(support.x[own], support.y[own], support.mask[own])
            alone = model.classify(model.learner.adapt(model.learned, one), asked[own], one)
            part = both.part(own)
            torch.testing.assert_close(part.probabilities(), alone.probabilities())
            torch.testing.assert_close(part.mutual_information(), alone.mutual_information())
