"""The fit of a pooled process: what all training tasks together say of a new one, in closed form.

A task's rows are y = ψ(x)ᵀ(μ + u) + noise. The features ψ hold a constant, the inputs, their squares, and
waves: random Fourier features of an RBF kernel with one length for each input. The population's weights are
μ ~ N(0, P), a task's own deviation is u ~ N(0, D), and the noise has the variance exp(a + bᵀx). The layers
differ in the features with variance:

| layer | population | a task's deviation |
|---|---|---|
| level | constant, inputs | constant |
| linear | constant, inputs | constant, inputs (a linear mixed-effects model, Laird & Ware 1982) |
| quadratic | constant, inputs, squares | constant, inputs, squares |
| smooth | constant, inputs | constant, inputs, waves (a pooled Gaussian process) |
| waves | constant, inputs, waves | constant, inputs, waves |

P is diagonal. D is diagonal in the waves, and may be full in the others. Lengths, P, D, a and b maximise the
marginal likelihood of all training tasks, in which μ and every u are integrated out, times a broad prior
(type II maximum a posteriori). With K = ψDψᵀ + noise for each task,

    log p(y₁ … y_T) = log N(y; 0, K₁ ⊕ … ⊕ K_T + ΨPΨᵀ)

comes from the Cholesky factors of the Kₜ and of I + P^½ (Σₜ ψₜᵀKₜ⁻¹ψₜ) P^½. A new task's weights are
N(E μ, cov μ + D), with the moments of μ given all training tasks: few tasks leave μ uncertain, and a new task
is then predicted with more variance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from bmaml.densities import LOG_2PI
from bmaml.learners.processes import noise_of
from bmaml.random_features import fourier_features
from bmaml.shapes import Scalar
from bmaml.task import Examples

LAYERS = ("level", "linear", "quadratic", "smooth", "waves")
ROUNDS = 60
"""Iterations of L-BFGS, at most."""
PRIOR_STD = 2.5
"""Standard deviation of the prior of each logarithm: a factor of 12 in either direction."""
START_LOG_NOISE = 2 * math.log(0.3)
NOISE_SLOPE_STD = 0.3
BOUND = 6.0
"""The largest logarithm of a length or a standard deviation, relative to the centre of its prior."""
JITTER = 1e-8
"""Variance added to every weight, for the Cholesky factor of features that no task needs."""


@dataclass(frozen=True)
class FittedLayer:
    """One layer.

    Attributes:
        frequencies: of its features.
        root, mean: of its weights' prior, the mean in units of the root.
        deviation: root of D.
        noise: log variance at x = 0 and its slopes.
        criterion: the logarithm of its prior weight, but for a constant.
    """

    frequencies: Tensor
    root: Tensor
    mean: Tensor
    deviation: Tensor
    noise: Tensor
    criterion: Tensor

    def far(self, factor: float) -> "FittedLayer":
        """The layer of tasks whose deviations have `factor` times the standard deviation."""
        more = (factor**2 - 1) * self.deviation @ self.deviation.mT
        covariance = self.root @ self.root.mT + more
        root = torch.linalg.cholesky(covariance + JITTER * torch.eye(len(covariance), dtype=more.dtype))
        mean = torch.linalg.solve_triangular(root, self.root @ self.mean, upper=False)
        return replace(self, root=root, mean=mean)


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of one layer, in double precision.

    Attributes:
        lengths: of each input.
        population: standard deviations of the population's weights, `[feature]`.
        linear: Cholesky factor of a task's deviations in the constant, the inputs and their squares.
        waves: standard deviation of a task's deviations in each Fourier feature.
        noise: log variance at x = 0 and its slopes.
    """

    lengths: Float[Tensor, " length"]
    population: Float[Tensor, " feature"]
    linear: Float[Tensor, "linear linear"]
    waves: Float[Tensor, " wave"]
    noise: Float[Tensor, " coefficient"]

    @property
    def deviation(self) -> Float[Tensor, "feature feature"]:
        """The root of D."""
        return torch.block_diag(self.linear, torch.diag(self.waves))


class MarginalLikelihood:
    """The marginal likelihood of one layer, of all training tasks, in double precision."""

    def __init__(
        self,
        tasks: Examples,
        frequencies: Float[Tensor, "input frequency"],
        layer: str,
        correlated: bool = True,
        varying_noise: bool = True,
    ) -> None:
        self.tasks, self.frequencies, self.layer = tasks, frequencies, layer
        self.inputs = tasks.x.shape[-1]
        self.polynomials = 1 + self.inputs * (2 if layer == "quadratic" else 1)
        self.deviating = {"level": 1, "quadratic": self.polynomials}.get(layer, 1 + self.inputs)
        self.has_waves, self.population_waves = layer in ("smooth", "waves"), layer == "waves"
        self.sizes = {
            "log_lengths": self.inputs if self.has_waves else 0,
            "log_population": self.polynomials + int(self.population_waves),
            "log_linear": self.deviating,
            "correlations": self.deviating * (self.deviating - 1) // 2 if correlated else 0,
            "log_waves": int(self.has_waves),
            "log_noise": 1,
            "noise_slopes": self.inputs if varying_noise else 0,
        }

    def start(self) -> Tensor:
        """Lengths and standard deviations where the priors have their centres."""
        return torch.zeros(sum(self.sizes.values()), dtype=torch.float64)

    def hyperparameters(self, values: Tensor) -> Hyperparameters:
        """Those of a vector of deviations from the centres of their priors, which they cannot leave far."""
        values = BOUND * torch.tanh(values / BOUND)
        part = dict(zip(self.sizes, values.split(list(self.sizes.values())), strict=True))
        waves = 2 * self.frequencies.shape[-1] if self.has_waves else 0
        population = part["log_population"].exp()
        of_waves = (
            population[self.polynomials :].expand(waves) if self.population_waves else values.new_zeros(waves)
        )
        linear = torch.diag(0.5 * part["log_linear"].exp())
        if self.sizes["correlations"]:
            below = torch.tril_indices(self.deviating, self.deviating, -1)
            unit = torch.eye(self.deviating, dtype=values.dtype)
            unit = unit.index_put(tuple(below), part["correlations"])
            linear = linear @ (unit / torch.linalg.vector_norm(unit, dim=-1, keepdim=True))
        squares = values.new_zeros(self.inputs if self.has_waves else 0)
        missing = self.polynomials + len(squares) - self.deviating
        slopes = NOISE_SLOPE_STD * part["noise_slopes"]
        return Hyperparameters(
            lengths=math.sqrt(self.inputs) * part["log_lengths"].exp(),
            population=torch.cat([population[: self.polynomials], squares, of_waves]),
            linear=pad(linear, (0, missing, 0, missing)),
            waves=(0.5 * part["log_waves"].exp()).expand(waves),
            noise=torch.cat(
                [2 * part["log_noise"] + START_LOG_NOISE, pad(slopes, (0, self.inputs - len(slopes)))]
            ),
        )

    def features(self, lengths: Tensor) -> Float[Tensor, "task row feature"]:
        """ψ(x); zero for padding."""
        x, mask = self.tasks.x, self.tasks.mask.unsqueeze(-1)
        if not self.has_waves:
            return fourier_features(x, x[..., :0])[..., : self.polynomials] * mask
        return fourier_features(x, (x / lengths) @ self.frequencies) * mask

    def whitened(self, found: Hyperparameters) -> tuple[Tensor, Tensor, Tensor]:
        """L⁻¹ψ P^½ and L⁻¹y of every row, with K = LLᵀ of each task, and log |K| of all tasks."""
        mask, features = self.tasks.mask, self.features(found.lengths)
        noise = noise_of(found.noise.unsqueeze(0), self.tasks.x).squeeze(1)
        noise = torch.where(mask, noise, 1.0)
        own = features @ found.deviation
        lower = torch.linalg.cholesky(own @ own.mT + torch.diag_embed(noise))
        both = torch.cat([features * found.population, torch.where(mask.unsqueeze(-1), self.tasks.y, 0)], -1)
        rows = torch.linalg.solve_triangular(lower, both, upper=False)
        volume = 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum()
        outputs = self.tasks.y.shape[-1]
        return rows[..., :-outputs].flatten(0, 1), rows[..., -outputs:].flatten(0, 1), volume

    def objective(self, values: Tensor) -> Scalar:
        """−log of the marginal likelihood and the prior."""
        rows, y, volume = self.whitened(self.hyperparameters(values))
        precision = torch.linalg.cholesky(torch.eye(rows.shape[-1], dtype=rows.dtype) + rows.mT @ rows)
        seen = torch.linalg.solve_triangular(precision, rows.mT @ y, upper=False)
        volume = volume + 2 * precision.diagonal().log().sum()
        outputs, count = y.shape[-1], self.tasks.mask.sum()
        misfit = y.square().sum() - seen.square().sum()
        likelihood = -0.5 * (misfit + outputs * volume + outputs * count * LOG_2PI)
        return -likelihood + 0.5 * self.deviations(values).square().sum()

    def deviations(self, values: Tensor) -> Tensor:
        """The values in standard deviations of their priors; that of a correlation or a slope is 1."""
        wide = [name.startswith("log_") for name, size in self.sizes.items() for _ in range(size)]
        return values / torch.where(torch.tensor(wide), PRIOR_STD, 1.0)


def minimised(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The argument of a local minimum near `start`, by L-BFGS with a strong Wolfe line search."""
    values = start.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [values], max_iter=ROUNDS, line_search_fn="strong_wolfe", tolerance_change=1e-6
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = objective(values)
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)
    return values.detach()


def fitted_layer(likelihood: MarginalLikelihood) -> FittedLayer:
    """The layer with the best hyperparameters."""
    frequencies = likelihood.frequencies
    best = minimised(likelihood.objective, likelihood.start())
    found = likelihood.hyperparameters(best)
    rows, y, _ = likelihood.whitened(found)
    precision = torch.linalg.cholesky(torch.eye(rows.shape[-1], dtype=rows.dtype) + rows.mT @ rows)
    mean = found.population.unsqueeze(-1) * torch.cholesky_solve(rows.mT @ y, precision)
    uncertain = (
        found.population.unsqueeze(-1)
        * torch.linalg.solve_triangular(
            precision, torch.eye(len(precision), dtype=rows.dtype), upper=False
        ).mT
    )
    covariance = uncertain @ uncertain.mT + found.deviation @ found.deviation.mT
    root = torch.linalg.cholesky(covariance + JITTER * torch.eye(len(covariance), dtype=rows.dtype))
    mean = torch.linalg.solve_triangular(root, mean, upper=False)
    missing = 1 + 2 * likelihood.inputs + 2 * frequencies.shape[-1] - len(root)
    return FittedLayer(
        frequencies=frequencies / found.lengths.unsqueeze(-1) if likelihood.has_waves else frequencies,
        root=pad(root, (0, missing, 0, missing)),
        deviation=pad(found.deviation, (0, missing, 0, missing)),
        mean=pad(mean, (0, 0, 0, missing)),
        noise=found.noise,
        criterion=-likelihood.objective(best) - 0.5 * len(best) * math.log(len(likelihood.tasks)),
    )
