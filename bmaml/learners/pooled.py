"""Pooled processes: what all training tasks together say of a new one, as hypotheses beside the particles.

`pooled_fit.py` fits one layer. Their prior weights are those of the Bayesian information criterion (Schwarz
1978): the marginal likelihood of the training tasks, less ½ log T for each hyperparameter.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.learners.interface import InvalidLearner
from bmaml.learners.pooled_fit import LAYERS, fitted_layer
from bmaml.random_features import normal_sobol
from bmaml.task import Examples

MIN_LOG_PRIOR = -5.0
"""The logarithm of a layer's prior weight relative to the best one's, at least: none is ever ruled out."""


@dataclass(frozen=True)
class Pooled:
    """The pooled processes of a learner.

    Raises:
        InvalidLearner: no frequency.

    Attributes:
        frequencies: number of random frequencies; each is a cosine and a sine.
    """

    frequencies: int = 32

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise InvalidLearner(f"pooled processes need frequencies; found {self.frequencies}")

    def draw_frequencies(self, inputs: int) -> Float[Tensor, "input frequency"]:
        """Standard normal frequencies from a scrambled Sobol sequence, the same every time."""
        return normal_sobol(inputs, self.frequencies)

    def unfitted(self, inputs: int, outputs: int) -> dict[str, Tensor]:
        """The learned tensors before any task: unit variances, lengths of √inputs."""
        width = 1 + inputs + 2 * self.frequencies
        roots = torch.eye(width).repeat(len(LAYERS), 1, 1)
        roots[:-1, 1 + inputs :] = 0
        return {
            "pooled_frequencies": self.draw_frequencies(inputs) / math.sqrt(inputs),
            "pooled_roots": roots,
            "pooled_means": torch.zeros(len(LAYERS), width, outputs),
            "pooled_noise": torch.zeros(len(LAYERS), 1 + inputs),
            "pooled_log_prior": torch.zeros(len(LAYERS)).log_softmax(-1),
            "log_pooled_widening": torch.zeros(()),
        }

    def fitted(self, tasks: Examples) -> dict[str, Tensor]:
        """The learned tensors of all layers, from all rows of the training tasks."""
        double = Examples(tasks.x.double(), tasks.y.double(), tasks.mask)
        frequencies = self.draw_frequencies(tasks.x.shape[-1]).double()
        found = [fitted_layer(double, frequencies, layer) for layer in LAYERS]
        criterion = torch.stack([each.criterion for each in found])
        log_prior = (criterion - criterion.max()).clamp_min(MIN_LOG_PRIOR).log_softmax(-1)
        return {
            "pooled_frequencies": found[-1].frequencies.float(),
            "pooled_roots": torch.stack([each.root for each in found]).float(),
            "pooled_means": torch.stack([each.mean for each in found]).float(),
            "pooled_noise": torch.stack([each.noise for each in found]).float(),
            "pooled_log_prior": log_prior.float(),
            "log_pooled_widening": torch.zeros(()),
        }
