"""Collapsed particles: exact Gaussian last layers on learned features, weighted by their evidence.

Particle m has features φ(x) (the network's last hidden layer and a constant 1, scaled by
1/√(H + 1)) and a last layer w ~ N(μ, λ⁻¹ I) that is integrated out, y = φᵀw + noise of precision γ.
The network's own output layer is the prior mean μ, so f(x) = φᵀμ is what the particle believes
before any data. With Φ the support features, r = y − f(x) and K = ΦΦᵀ/λ + I/γ,

    log p(y | X)   = −½ rᵀK⁻¹r − ½ log |K| − ½ n log 2π                  (the particle's evidence)
    mean(x*)       = f(x*) + k*ᵀK⁻¹ r          with k* = Φ φ(x*)/λ
    variance(x*)   = φ*ᵀφ*/λ − k*ᵀK⁻¹k* + 1/γ

(Rasmussen & Williams 2006, eqs 2.11 and 2.25–2.30, in weight space). The answer is the mixture of
the particles with weight ∝ exp(τ · evidence): Bayesian model averaging over hypotheses. τ is
learned. Padding has zero features, zero residual and unit diagonal, so it adds nothing.

The noise may depend on x: then the variance 1/γ of a row becomes exp(aᵀψ(x)) / γ, with ψ the features
before their scaling and a meta-learned per particle, on K's diagonal and in the prediction alike.

Tasks also differ in the size of their targets. Each particle may therefore be held at several
scales s, which multiply every standard deviation: K becomes s²K, and with the same Cholesky
factor the evidence is −½ rᵀK⁻¹r/s² − ½ log |K| − n log s − ½ n log 2π. A (particle, scale) pair is a
hypothesis of its own; the average over scales is a discrete stand-in for the Student-t of an
unknown scale, with Gaussian components.

One last number, the widening ω, multiplies predicted standard deviations but not the evidence:
features chosen among thousands of tasks are a little too sure, or too careful, of a new one. It counts
as far as the rows have spoken: where a particle's epistemic variance v is still its prior's v₀, nothing
is widened, and everything where it is gone; the factor is ω^(1 − v/v₀).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml import svgd
from bmaml.bands import in_bands
from bmaml.densities import LOG_2PI, PRECISIONS, Precisions, noise_variance, weights_of, with_precisions
from bmaml.learners.interface import InvalidLearner, Learned, Learner
from bmaml.predictive import Predictive
from bmaml.shapes import Features, Inputs, Outputs, Particles, PerParticle, Scalar, Verdicts
from bmaml.task import Examples, TaskBatch


@dataclass(frozen=True)
class CollapsedPosterior:
    """Particles, their weights, and each one's exact posterior over its last layer.

    Attributes:
        particles: adapted parameters; `[1, …]` where no step was taken.
        log_weights: of each (particle, scale) hypothesis, `[task, particle × scale]`, normalised.
        features: Φ of the support rows, float64, zero where padded.
        noise: variance of the support rows' noise, one where padded.
        cholesky: lower factor of K, `[task, particle, row, row]`.
        whitened: cholesky⁻¹ r, `[task, particle, row, output]`.
        noise_slopes: a, where the noise depends on x, `[particle, feature]`.
        widening: ω, what predicted standard deviations are multiplied by once the rows have spoken.
    """

    particles: Particles
    log_weights: Float[Tensor, "task hypothesis"]
    features: Features
    noise: Float[Tensor, "task particle row"]
    cholesky: Tensor
    whitened: Outputs
    noise_slopes: Tensor | None
    widening: Scalar


@dataclass(frozen=True)
class Collapsed(Learner[CollapsedPosterior]):
    """Learn features whose exact Bayesian last layers explain a task after a few rows.

    Minimises −log Σₘ weightₘ Π_q N(y_q | particle m), so that particles become rival hypotheses
    about the whole task; with `pointwise`, −Σ_q log Σₘ weightₘ N(y_q | particle m), the very figure
    that is reported, which is kinder to tasks that no single particle explains. `steps` SVGD steps
    on the features under the evidence may come first; zero steps are allowed, and the default.

    The linear algebra of the last layer runs in float64 whatever the network's precision: the
    variance is a difference of nearly equal numbers, and S × S systems are tiny.

    Attributes:
        priors: only the starting values of γ and λ are used; both are then meta-learned.
        spread: particles start with both precisions multiplied by e^−spread … e^spread, evenly in the
            logarithm: rival hypotheses about the size of a task from the first step on.
        scales: s, the sizes at which each particle is held.
        bands: lowest and highest frequency of a sine network's first layer, of which every particle
            starts in a band of its own (see `bmaml.bands`); None draws all from one distribution.
        pointwise: score each query row on its own.
        evidence_weights: False weights all particles alike (the ablation).
        varying_noise: let the noise depend on x.
    """

    name: ClassVar[str] = "collapsed"
    calibrated: ClassVar[dict[str, tuple[float, float]]] = {"log_widening": (-1.0, 1.0)}

    steps: int = 0
    priors: Precisions = field(default_factory=Precisions)
    spread: float = 0.0
    scales: tuple[float, ...] = (1.0,)
    bands: tuple[float, float] | None = None
    pointwise: bool = False
    evidence_weights: bool = True
    varying_noise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise InvalidLearner(f"scales must be positive numbers; found {self.scales}")
        if not 0 <= self.spread < math.inf:
            raise InvalidLearner(f"spread cannot be negative; found {self.spread}")
        if self.bands is not None:
            if not 0 <= self.bands[0] < self.bands[1] < math.inf:
                raise InvalidLearner(f"bands are a lowest and a higher frequency; found {self.bands}")
            if self.network.activation != "sine":
                raise InvalidLearner(f"bands need sine features; found {self.network.activation}")

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`, scalars `log_temperature` (log τ) and `log_widening`.

        With varying noise also `noise_slopes`, a, `[particle, feature + 1]`. The prior mean of the
        last layer starts at zero.
        """
        weights = self.network.initialise(self.particles, generator)
        if self.bands is not None:
            weights = in_bands(self.network, weights, self.bands, generator)
        weights[:, -self.network.head_size :] = 0
        initial = with_precisions(weights, *self.priors.starts())
        initial[:, -PRECISIONS:] += torch.linspace(-1, 1, self.particles).unsqueeze(-1) * self.spread
        rate = self._rate_start(initial.shape[-1])
        learned = {"initial": initial, "log_widening": torch.zeros(()), **rate}
        if self.evidence_weights:
            learned["log_temperature"] = torch.zeros(())
        if self.varying_noise:
            learned["noise_slopes"] = torch.zeros(self.particles, self.network.feature_size + 1)
        return learned

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> CollapsedPosterior:
        """Condition every last layer on the support set, after `steps` moves of the features."""
        particles = learned["initial"].unsqueeze(0)
        steps = self.steps if steps is None else steps
        if steps:
            particles = self._move_features(learned, support, steps)
        slopes = learned.get("noise_slopes")
        features, noise, cholesky, whitened = self._condition(particles, slopes, support)
        evidence = self._evidence(cholesky, whitened, support).flatten(1)
        if self.evidence_weights:
            weights = (learned["log_temperature"].exp() * evidence).log_softmax(-1)
        else:
            weights = torch.zeros_like(evidence).log_softmax(-1)
        widening = learned["log_widening"].exp()
        return CollapsedPosterior(particles, weights, features, noise, cholesky, whitened, slopes, widening)

    def predict(self, posterior: CollapsedPosterior, x: Inputs, joint: bool = False) -> Predictive:
        """The mixture of the particles' exact predictions, in x's precision."""
        features, prior_mean = self._features(posterior.particles, x)
        precision = _weight_precision(posterior.particles)
        cross = posterior.features @ features.mT / precision  # [task, particle, support, query]
        solved = torch.linalg.solve_triangular(posterior.cholesky, cross, upper=False)
        means = prior_mean + solved.mT @ posterior.whitened
        before = features.square().sum(-1) / precision.squeeze(-1)
        within = (before - solved.square().sum(-2)).clamp_min(0)
        noise = self._noise(posterior.particles, posterior.noise_slopes, features).to(x.dtype).unsqueeze(-1)
        factor = self._factor(posterior, features, precision).to(x.dtype) if joint else None
        widening = (posterior.widening.double().log() * (1 - within / before)).exp().to(x.dtype).unsqueeze(-1)
        wider = self._at_scales(widening.square(), 0)
        return Predictive(
            means=means.to(x.dtype).repeat_interleave(len(self.scales), 1),
            noise=wider * self._at_scales(noise, 2),
            within=wider * self._at_scales(within.unsqueeze(-1).to(x.dtype), 2),
            log_weights=posterior.log_weights.to(x.dtype),
            factor=None if factor is None else self._at_scales(widening.unsqueeze(-1) * factor, 1),
        )

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log of the weighted mixture's likelihood of the query set, per query row."""
        predictive = self.predict(self.adapt(learned, batch.support), batch.query.x)
        mask, counts = batch.query.mask, batch.query.counts().clamp_min(1)
        if self.pointwise:
            logs = (predictive.log_density(batch.query.y) * mask.unsqueeze(-1)).sum((-1, -2))
        else:
            each = predictive.component_log_density(batch.query.y) * mask[:, None, :, None]
            logs = torch.logsumexp(each.sum((-1, -2)) + predictive.log_weights, -1)
        return -(logs / counts).mean()

    def finite(self, posterior: CollapsedPosterior) -> Verdicts:
        """True for each task whose weights and last layers are finite."""
        return (
            posterior.log_weights.isfinite().all(-1)
            & posterior.whitened.isfinite().flatten(1).all(-1)
            & posterior.particles.isfinite().flatten(1).all(-1)
        )

    def evidence(
        self, particles: Particles, support: Examples, noise_slopes: Tensor | None = None
    ) -> PerParticle:
        """log p(y | X) of every particle on each support set, averaged over its scales.

        Zero for an empty support set.
        """
        _, _, cholesky, whitened = self._condition(particles, noise_slopes, support)
        return self._evidence(cholesky, whitened, support).logsumexp(-1) - math.log(len(self.scales))

    def _features(self, particles: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled features with the constant, and the prior mean f(x); both float64."""
        hidden, prior_mean = self.network.features_and_outputs(weights_of(particles), x)
        features = torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)
        scaled = features.double() / math.sqrt(self.network.feature_size + 1)
        return scaled, prior_mean.double()

    def _noise(self, particles: Tensor, slopes: Tensor | None, features: Tensor) -> Tensor:
        """Variance of the noise at rows with these features, `[task, particle, row]`."""
        base = noise_variance(particles).double().unsqueeze(-1)
        if slopes is None:
            return base
        root = math.sqrt(self.network.feature_size + 1)
        return base * torch.exp(root * (features @ slopes.double().unsqueeze(-1)).squeeze(-1))

    def _condition(
        self, particles: Tensor, slopes: Tensor | None, support: Examples
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask = support.mask[:, None, :, None]
        features, prior_mean = self._features(particles, support.x)
        noise = torch.where(support.mask.unsqueeze(1), self._noise(particles, slopes, features), 1.0)
        features = features * mask
        residual = (support.y.unsqueeze(1) - prior_mean) * mask
        gram = features @ features.mT / _weight_precision(particles) + torch.diag_embed(noise)
        # cholesky_ex reports failure in numbers, not by raising: one bad task must fail alone.
        cholesky = torch.linalg.cholesky_ex(gram).L
        whitened = torch.linalg.solve_triangular(cholesky, residual, upper=False)
        return features, noise, cholesky, whitened

    def _evidence(
        self, cholesky: Tensor, whitened: Tensor, support: Examples
    ) -> Float[Tensor, "task particle scale"]:
        scales = whitened.new_tensor(self.scales)
        outputs = whitened.shape[-1]
        fit = whitened.square().sum((-1, -2)).unsqueeze(-1) / scales.square()
        volume = 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        rows = support.mask.sum(-1).view(-1, 1, 1)
        return -0.5 * (fit + outputs * (volume + rows * (LOG_2PI + 2 * scales.log())))

    def _at_scales(self, values: Tensor, power: int) -> Tensor:
        """`[task, particle, …]` times each scale to a power, as `[task, particle × scale, …]`."""
        scales = values.new_tensor(self.scales) ** power
        return (values.unsqueeze(2) * scales.view(-1, *[1] * (values.ndim - 2))).flatten(1, 2)

    def _move_features(self, learned: Learned, support: Examples, steps: int) -> Tensor:
        """SVGD on the hidden layers alone, each particle's target being its evidence."""
        particles, rates = learned["initial"].unsqueeze(0), self.rates(learned, support)
        fixed_from = particles.shape[-1] - self.network.head_size - PRECISIONS
        fixed = particles[..., fixed_from:]

        def scores(hidden: Tensor) -> Tensor:
            differentiable = torch.is_grad_enabled() and hidden.requires_grad
            with torch.enable_grad():
                hidden = hidden.expand(len(support), -1, -1)
                hidden = hidden if differentiable else hidden.detach().requires_grad_()
                whole = torch.cat([hidden, fixed.expand(len(hidden), -1, -1)], -1)
                total = self.evidence(whole, support, learned.get("noise_slopes")).sum()
                return torch.autograd.grad(total, hidden, create_graph=differentiable)[0]

        rates = rates[..., :fixed_from]
        moved = svgd.run(particles[..., :fixed_from], scores, steps, rates)
        return torch.cat([moved, fixed.expand(len(moved), -1, -1)], -1)

    def _factor(self, posterior: CollapsedPosterior, features: Tensor, precision: Tensor) -> Tensor:
        """Rows F with F Fᵀ the covariance inside each particle: Φ* (λI + γΦᵀΦ)^(−½)."""
        information = (posterior.features / posterior.noise.unsqueeze(-1)).mT @ posterior.features
        size = information.shape[-1]
        identity = torch.eye(size, dtype=information.dtype, device=information.device)
        root = torch.linalg.cholesky_ex(precision * identity + information).L
        return torch.linalg.solve_triangular(root, features.mT, upper=False).mT.unsqueeze(-2)


def _weight_precision(particles: Tensor) -> Tensor:
    """λ as `[task, particle, 1, 1]`, float64."""
    return particles[..., -1].double().exp()[..., None, None]
