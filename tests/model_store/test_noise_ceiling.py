"""No label is said to be noisier than the labels of training differ."""

import torch

from bmaml.densities import Precisions
from bmaml.task import Examples
from model_store import Column
from tests.published import Y, Z, publish


def believed(model, rows=3):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(1, rows, 1, generator=draw) / 4
    support = Examples.full(x, torch.randn(1, rows, len(model.manifest.outputs), generator=draw))
    posterior = model.learner.adapt(model.learned, support)
    return model.predict(posterior, x, support), model.learner.predict(posterior, x)


def test_noise_is_at_most_the_square_of_the_range_of_each_output(tmp_path):
    model = publish(tmp_path, outputs=(Y, Z), varying_noise=True, priors=Precisions(noise_start=1.0))
    model.learned["noise_slopes"][0] = 20.0  # one particle passes over rows
    belief, own = believed(model)
    ranges = torch.tensor([20.0 / 3.0, 2.0 / 0.5])
    expected = torch.minimum(own.noise, ranges.square())
    assert bool((own.noise > ranges.square()).any())
    assert bool((own.noise < ranges.square()).any())
    torch.testing.assert_close(belief.noise, expected)
    for name in ("means", "within", "log_weights"):
        assert torch.equal(getattr(belief, name), getattr(own, name))
    torch.testing.assert_close(model.prior(torch.zeros(1, 1, 1)).noise.amax((0, 1, 2)), ranges.square())


def test_an_output_of_which_training_saw_one_value_bounds_nothing(tmp_path):
    y = Column(name="y", lower=1.0, upper=1.0)
    model = publish(tmp_path, outputs=(y,), priors=Precisions(noise_start=1e-3))
    belief, own = believed(model)
    assert float(own.noise.amin()) > 1
    torch.testing.assert_close(belief.noise, own.noise)
