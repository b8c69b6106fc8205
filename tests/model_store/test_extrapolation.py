"""Outside the training range an answer returns to the prior; inside it is the learner's own."""

import numpy as np
import pytest
import torch

from bmaml.task import Examples
from tests.published import publish

KINDS = ["maml", "emaml", "llama", "bfa", "bmaml", "collapsed"]


def asked(tmp_path, kind, rows, joint=False, shown=(-4.0, -1.0, 2.0, 4.5)):
    """The model's belief about x in the caller's units, the learner's own, and the nearest prior."""
    settings = {"particles": 1} if kind == "maml" else {}
    model = publish(tmp_path, learner=kind, **settings)  # trained on x in [-5, 5]
    draw = torch.Generator().manual_seed(1)
    shown_x = torch.from_numpy(model.standardised_inputs(np.array(shown)[:, None])).unsqueeze(0)
    support = Examples.full(shown_x, torch.randn(1, 4, 1, generator=draw))
    x = torch.from_numpy(model.standardised_inputs(np.array(rows)[:, None])).unsqueeze(0)
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, support)
        nothing = Examples(x[:, :0], x[:, :0], x[:, :0, 0].bool())
        nearest = torch.from_numpy(model.standardised_inputs(np.clip(rows, -5.0, 5.0)[:, None])).unsqueeze(0)
        prior = model.learner.predict(model.learner.adapt(model.learned, nothing), nearest)
        return model.predict(posterior, x, support, joint), model.learner.predict(posterior, x, joint), prior


@pytest.mark.parametrize("kind", KINDS)
def test_inside_the_training_range_nothing_changes(tmp_path, kind):
    belief, own, _ = asked(tmp_path, kind, [-5.0, 0.0, 5.0])
    assert torch.equal(belief.means, own.means)
    assert torch.equal(belief.within, own.within)


@pytest.mark.parametrize("kind", KINDS)
def test_far_away_mean_and_epistemic_variance_are_the_prior_s(tmp_path, kind):
    belief, own, prior = asked(tmp_path, kind, [-20.0, 20.0])
    torch.testing.assert_close(belief.mean(), prior.mean())
    torch.testing.assert_close(belief.epistemic(), prior.epistemic())
    torch.testing.assert_close(belief.aleatoric(), own.aleatoric())


def test_on_the_way_the_prior_s_share_grows_without_a_jump(tmp_path):
    belief, own, prior = asked(tmp_path, "collapsed", [5.0, 5.001, 7.5, 10.0])  # the range is 10 wide
    shares = (belief.mean() - own.mean()) / (prior.mean() - own.mean())
    expected = torch.tensor([0.0, 0.0, 1 - np.exp(-0.5), 1 - np.exp(-2.0)])
    torch.testing.assert_close(shares[0, :, 0], expected.to(shares), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_at_support_rows_outside_the_range_the_answer_is_the_learner_s_own(tmp_path, kind):
    shown = (-20.0, -19.0, 18.0, 20.0)  # the range is 10 wide
    belief, own, _ = asked(tmp_path, kind, [*shown, -19.5, 19.0], shown=shown)
    assert torch.equal(belief.means, own.means)
    assert torch.equal(belief.within, own.within.expand_as(belief.within))


def test_far_from_support_rows_outside_the_range_the_answer_is_the_prior_s(tmp_path):
    belief, _, prior = asked(tmp_path, "collapsed", [-40.0, 40.0], shown=(18.0, 19.0, 19.5, 20.0))
    torch.testing.assert_close(belief.mean(), prior.mean())
    torch.testing.assert_close(belief.epistemic(), prior.epistemic())


@pytest.mark.parametrize("kind", ["bfa", "collapsed"])
def test_covariances_between_rows_fit_the_variances_everywhere(tmp_path, kind):
    belief, _, _ = asked(tmp_path, kind, [0.0, 6.0, 8.0, 30.0], joint=True)
    root = belief.covariance_root()
    torch.testing.assert_close(root.square().sum(-1), belief.epistemic())
