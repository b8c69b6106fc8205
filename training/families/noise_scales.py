"""The sizes of the noise of several targets, before training.

A particle has one noise for all outputs of a model, in standardised units. Outputs are therefore standardised
so that their noise is about alike, and not their whole variance.
"""

import math

import torch

from bmaml.learners.pooled import Pooled
from bmaml.learners.pooled_fit import MarginalLikelihood, minimised
from bmaml.task import Examples

MAX_TASKS, MAX_ROWS = 50, 20
"""Training tasks, and rows of each, that the noise is fitted to."""
LEAST_NOISE = 0.03
"""Standard deviation of a noise, at least, where that of the labels is one: x may tell a target exactly."""


def noise_scales(tasks: Examples) -> list[float]:
    """A factor of each output's standard deviation, in geometric mean one.

    It is the noise of the smooth process of `bmaml.learners.pooled_fit`, fitted to each output alone: tasks
    differ in level, slopes and a Gaussian process with learned lengths.

    Args:
        tasks: rows of the training tasks, standardised.
    """
    outputs = tasks.y.shape[-1]
    if outputs == 1:
        return [1.0]
    logs = torch.tensor([_log_noise(tasks, output) for output in range(outputs)], dtype=torch.float64)
    return (logs - logs.mean()).exp().tolist()


def _log_noise(tasks: Examples, output: int) -> float:
    """The logarithm of the standard deviation of one output's noise."""
    x, y = tasks.x.double(), tasks.y[..., output : output + 1].double()
    frequencies = Pooled().draw_frequencies(x.shape[-1]).double()
    one = Examples(x, y, tasks.mask)
    likelihood = MarginalLikelihood(one, frequencies, "smooth", correlated=False, varying_noise=False)
    found = likelihood.hyperparameters(minimised(likelihood.objective, likelihood.start()))
    return max(0.5 * float(found.noise[0]), math.log(LEAST_NOISE))
