"""Pooled processes: what all training tasks together say of a new one, as hypotheses beside the particles.

`pooled_fit.py` fits one layer, with or without correlations of a task's deviations and noise that varies. The
version of each layer, and the prior weights of the layers, follow how well they predict tasks that they were
not fitted to, in `FOLDS` parts: weight ∝ exp(Σ over tasks of the mean log density of a row). With more than
`MAX_CROSS_VALIDATED` tasks no version overfits. Each layer then has its largest one, and the weights are
those of the Bayesian information criterion (Schwarz 1978): the marginal likelihood of the training tasks,
less ½ log T for each hyperparameter. Each layer has a *far* one beside it, of tasks that deviate `FAR` times
as much: the noise of a task is known even where its level was never seen. Few training tasks do not rule such
a task out, and the far layers' part of the prior is that of Laplace's rule of succession.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from bmaml.learners.interface import InvalidLearner
from bmaml.learners.pooled_fit import LAYERS, FittedLayer, MarginalLikelihood, fitted_layer
from bmaml.learners.processes import noise_of
from bmaml.random_features import fourier_features, normal_sobol
from bmaml.task import Examples

MIN_LOG_PRIOR = -5.0
"""The logarithm of a layer's prior weight relative to the best one's, at least: none is ever ruled out."""
FOLDS = 4
MAX_CROSS_VALIDATED = 64
FAR, LEAST_FAR_SHARE = 4.0, 0.01
"""The factor of far layers, and the least part of the prior weight that they have."""
POOLED_LAYERS = 2 * len(LAYERS)
"""The layers, then the far ones in the same order."""
SHOWN = (1, 3, 6)
"""Rows of a left-out task that are shown."""


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
        width = 1 + 2 * inputs + 2 * self.frequencies
        return {
            "pooled_frequencies": self.draw_frequencies(inputs).repeat(POOLED_LAYERS, 1, 1)
            / math.sqrt(inputs),
            "pooled_roots": torch.eye(width).repeat(POOLED_LAYERS, 1, 1),
            "pooled_means": torch.zeros(POOLED_LAYERS, width, outputs),
            "pooled_noise": torch.zeros(POOLED_LAYERS, 1 + inputs),
            "pooled_log_prior": torch.zeros(POOLED_LAYERS).log_softmax(-1),
            "log_pooled_widening": torch.zeros(()),
        }

    def fitted(self, tasks: Examples) -> dict[str, Tensor]:
        """The learned tensors of all layers, from all rows of the training tasks."""
        double = Examples(tasks.x.double(), tasks.y.double(), tasks.mask)
        frequencies = self.draw_frequencies(tasks.x.shape[-1]).double()
        if len(tasks) > MAX_CROSS_VALIDATED:
            found = [fitted_layer(MarginalLikelihood(double, frequencies, layer)) for layer in LAYERS]
            scores = torch.stack([each.criterion for each in found])
        else:
            best = [best_version(double, frequencies, layer) for layer in LAYERS]
            found = [layer for layer, _ in best]
            scores = torch.tensor([score for _, score in best])
        log_prior = (scores - scores.max()).clamp_min(MIN_LOG_PRIOR).log_softmax(-1)
        far = far_share(len(tasks))
        log_prior = torch.cat([log_prior + math.log1p(-far), log_prior + math.log(far)])
        found += [layer.far(FAR) for layer in found]
        return {
            "pooled_frequencies": torch.stack([each.frequencies for each in found]).float(),
            "pooled_roots": torch.stack([each.root for each in found]).float(),
            "pooled_means": torch.stack([each.mean for each in found]).float(),
            "pooled_noise": torch.stack([each.noise for each in found]).float(),
            "pooled_log_prior": log_prior.float(),
            "log_pooled_widening": torch.zeros(()),
        }


def far_share(tasks: int) -> float:
    """The prior probability of a task farther away than any of so many: 1/(T + 2) (Laplace 1814)."""
    return max(LEAST_FAR_SHARE, 1 / (tasks + 2))


def best_version(
    tasks: Examples, frequencies: Float[Tensor, "input frequency"], layer: str
) -> tuple[FittedLayer, float]:
    """A layer fitted to all tasks in the version that predicts left-out tasks best, and its score there."""
    correlations = MarginalLikelihood(tasks, frequencies, layer).sizes["correlations"]
    choices = list(itertools.product((False, True) if correlations else (False,), (False, True)))
    scores = [left_out_score(tasks, frequencies, layer, *choice) for choice in choices]
    best = choices[scores.index(max(scores))]
    return fitted_layer(MarginalLikelihood(tasks, frequencies, layer, *best)), max(scores)


def left_out_score(
    tasks: Examples, frequencies: Tensor, layer: str, correlated: bool, varying_noise: bool
) -> float:
    """Σ over tasks of the mean log density of a row, given few rows of it and all rows of other folds."""
    total, folds = 0.0, min(FOLDS, len(tasks))
    for fold in range(folds):
        left_out = torch.arange(len(tasks)) % folds == fold
        others, own = (
            Examples(tasks.x[chosen], tasks.y[chosen], tasks.mask[chosen]) for chosen in (~left_out, left_out)
        )
        if not len(others):
            return 0.0
        found = fitted_layer(MarginalLikelihood(others, frequencies, layer, correlated, varying_noise))
        for x, y, mask in zip(own.x, own.y, own.mask, strict=True):
            total += _mean_log_density(found, x[mask], y[mask])
    return total


def _mean_log_density(layer: FittedLayer, x: Tensor, y: Tensor) -> float:
    """The mean log density of a row of one task, given `SHOWN` of its rows, a mean over these numbers."""
    features = fourier_features(x.unsqueeze(0), (x @ layer.frequencies).unsqueeze(0))[0] @ layer.root
    residual = y - features @ layer.mean
    kernel = features @ features.mT
    noise = noise_of(layer.noise.unsqueeze(0), x.unsqueeze(0))[0, 0]
    found = []
    for shown in SHOWN:
        if shown >= len(x):
            break
        lower = torch.linalg.cholesky(kernel[:shown, :shown] + torch.diag(noise[:shown]))
        gain = torch.linalg.solve_triangular(lower, kernel[:shown, shown:], upper=False)
        seen = torch.linalg.solve_triangular(lower, residual[:shown], upper=False)
        variance = kernel.diagonal()[shown:] - gain.square().sum(0) + noise[shown:]
        belief = Normal(gain.mT @ seen, variance.sqrt().unsqueeze(-1), validate_args=False)
        found.append(float(belief.log_prob(residual[shown:]).mean()))
    return sum(found) / len(found) if found else 0.0
