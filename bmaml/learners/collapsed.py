"""Collapsed particles: exact Gaussian last layers on learned features, weighted by their evidence.

Particle m predicts y = φ(x)ᵀw + noise of precision γ. Its features φ(x) are the network's last hidden layer
and a constant 1, scaled by 1/√(H + 1). Its last layer w ~ N(μ, λ⁻¹ I) is integrated out. The network's own
output layer is the prior mean μ, so that f(x) = φᵀμ is the prediction without data. With Φ the support
features, r = y − f(x) and K = ΦΦᵀ/λ + I/γ,

    log p(y | X)   = −½ rᵀK⁻¹r − ½ log |K| − ½ n log 2π                  (the particle's evidence)
    mean(x*)       = f(x*) + k*ᵀK⁻¹ r          with k* = Φ φ(x*)/λ
    variance(x*)   = φ*ᵀφ*/λ − k*ᵀK⁻¹k* + 1/γ

(Rasmussen & Williams 2006, eqs 2.11 and 2.25–2.30, in weight space). The answer is the mixture of the
particles with weight ∝ exp(τ · evidence), which is Bayesian model averaging over hypotheses; τ is learned
(`hypothesis_weights.py`).
Padding has zero features, zero residual and unit diagonal, and adds nothing.

**Varying noise.** The variance of a row's noise may depend on x: it is exp(aᵀψ(x)) / γ, on K's diagonal and
in the prediction. ψ are the features before their scaling, and a is meta-learned for each particle.

**Scales.** Tasks also differ in the size of their targets. Each particle may therefore have several scales s,
which multiply every standard deviation. K becomes s²K, with the same Cholesky factor, and the evidence
−½ rᵀK⁻¹r/s² − ½ log |K| − n log s − ½ n log 2π. A (particle, scale) pair is a hypothesis of its own. The
average over scales is a discrete form of the Student-t of an unknown scale, with Gaussian components.

**Widening.** Particles fitted to thousands of tasks may be over- or under-confident of a new one. The
widening ω multiplies predicted standard deviations, but not the evidence. Its factor is ω^(1 − v/v₀), with v
and v₀ a particle's epistemic variance after and before the rows: 1 where the rows say nothing, ω where they
determine the prediction. With `prior_widening` the epistemic part also has the factor ω₀^(v/v₀). It corrects
the prior: particles that are trained to explain tasks with rows need not spread like the tasks without any.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml import svgd, tails
from bmaml.densities import PRECISIONS, Precisions, noise_variance, weights_of, with_precisions
from bmaml.frequency_bands import redraw_in_bands
from bmaml.last_layer import ConditionedLayers, condition
from bmaml.learners.collapsed_posterior import CollapsedPosterior, LayerMoments
from bmaml.learners.hypotheses import Layout
from bmaml.learners.hypothesis_weights import (
    evidence_exponent,
    log_prior_of,
    log_weights,
    softened,
    start_shares,
)
from bmaml.learners.interface import Belief, CalibratedScalar, InvalidLearner, Learned, Learner
from bmaml.learners.pooled import POOLED_LAYERS, Pooled
from bmaml.learners.processes import ConditionedProcesses, Processes
from bmaml.learners.pruning import KeptHypotheses
from bmaml.learners.surprise import LOG_NOTHING, Surprise
from bmaml.networks import MLP, affine
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Particles, PerParticle, PerTask, Scalar
from bmaml.task import Examples, TaskBatch

MIN_NOISE = torch.finfo(torch.float32).eps ** 2
"""Variance of the noise, standardised: that of rounding a label to single precision.

With noise much below it, which a particle may learn for some rows, their covariance is numerically singular.
"""


@dataclass(frozen=True)
class Collapsed(Learner[CollapsedPosterior]):
    """Learn features whose exact Bayesian last layers explain a task after a few rows.

    Minimises −log Σₘ weightₘ Π_q N(y_q | particle m), so that particles become rival hypotheses about the
    whole task. With `pointwise` it minimises −Σ_q log Σₘ weightₘ N(y_q | particle m), the NLL that evaluation
    reports, which lets several particles explain a task together. `steps` SVGD steps on the features under
    the evidence may come first; the default is none.

    Conditioning runs in float64, whatever the network's precision: the systems are tiny, and a covariance is
    a difference of nearly equal numbers. Its root is accurate in any precision.

    Attributes:
        priors: only the starting values of γ and λ are used; both are then meta-learned.
        spread: particles start with both precisions multiplied by e^−spread … e^spread, evenly in the
            logarithm, as rival hypotheses about the size of a task.
        scales: s, the sizes at which each particle is held.
        bands: lowest and highest frequency of a sine network's first layer, split into one band for each
            particle's start (see bmaml/frequency_bands.py); None draws all from one distribution.
        pointwise: score each query row on its own.
        evidence_weights: weight particles by their evidence; False weights all alike (the ablation).
        varying_noise: let the noise depend on x.
        prior_widening: fit the width of predictions that the support rows say nothing about.
        resolution: half the distance at which labels can be told apart, standardised. At scale 1 the noise is
            at least that of a uniform error of this size, so that repeated labels reward no spike.
        surprise: hypotheses about tasks unlike those of training; None for none. Training leaves them out.
        pooled: processes fitted to all training tasks before the particles; None for none.
        correlated: fit the correlation of the errors of a task's rows, on tasks with numbers of support
            rows in this range; None takes the errors for independent.
    """

    name: ClassVar[str] = "collapsed"
    calibrated: ClassVar[Mapping[str, CalibratedScalar]] = {
        "log_widening": CalibratedScalar(-1.0, 1.0, prior_std=0.5),
        "log_prior_widening": CalibratedScalar(-1.0, 1.0, trained=False),
        "correlation": CalibratedScalar(0.0, 1.0, trained=False),
        "log_pooled_widening": CalibratedScalar(-1.0, 1.0, trained=False, prior_std=0.5),
    }

    network: MLP
    steps: int = 0
    priors: Precisions = field(default_factory=Precisions)
    spread: float = 0.0
    scales: tuple[float, ...] = (1.0,)
    bands: tuple[float, float] | None = None
    pointwise: bool = False
    evidence_weights: bool = True
    varying_noise: bool = False
    prior_widening: bool = False
    correlated: tuple[int, int] | None = None
    resolution: float = 0.0
    surprise: Surprise | None = None
    pooled: Pooled | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise InvalidLearner(f"scales must be positive numbers; found {self.scales}")
        if not 0 <= self.resolution < math.inf:
            raise InvalidLearner(f"resolution cannot be negative; found {self.resolution}")
        if not 0 <= self.spread < math.inf:
            raise InvalidLearner(f"spread cannot be negative; found {self.spread}")
        if self.correlated is not None:
            if not self.evidence_weights:
                raise InvalidLearner("correlated rows count in evidence weights, which are off")
            if len(self.correlated) != 2 or not 0 <= self.correlated[0] < self.correlated[1]:
                raise InvalidLearner(f"correlated are a fewest and more rows; found {self.correlated}")
        if (self.surprise is not None or self.pooled is not None) and not self.evidence_weights:
            raise InvalidLearner("surprising and pooled hypotheses need evidence weights, which are off")
        if self.bands is not None:
            if not 0 <= self.bands[0] < self.bands[1] < math.inf:
                raise InvalidLearner(f"bands are a lowest and a higher frequency; found {self.bands}")
            if self.network.activation != "sine":
                raise InvalidLearner(f"bands need sine features; found {self.network.activation}")

    @property
    def hypotheses(self) -> int:
        """One for every particle at every scale, the surprising and the pooled ones."""
        return len(self.layout.hypotheses)

    @cached_property
    def layout(self) -> Layout:
        """The layers and their hypotheses."""
        surprise = None if self.surprise is None else self.surprise.with_noise_of_at_least(self.min_noise)
        return Layout(self.particles, self.scales, surprise, POOLED_LAYERS if self.pooled else 0)

    @property
    def min_noise(self) -> float:
        """Variance of the noise at scale 1, at least."""
        return max(MIN_NOISE, self.resolution**2 / 3)

    @cached_property
    def known(self) -> "Collapsed":
        """The learner without the hypotheses about tasks unlike those of training."""
        return self if self.surprise is None else replace(self, surprise=None)

    @cached_property
    def particles_alone(self) -> "Collapsed":
        """The learner whose hypotheses are the particles as they are trained."""
        return self.known if self.pooled is None else replace(self.known, pooled=None)

    def trains(self, name: str) -> bool:
        """Whether training moves this learned tensor."""
        fixed = name in ("log_shares", "log_softened", "frequencies") or name.startswith("pooled_")
        return not fixed and super().trains(name)

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`, scalars `log_temperature` (log τ) and `log_widening`.

        With varying noise also `noise_slopes`, a, `[particle, feature + 1]`; with prior widening the scalar
        `log_prior_widening`, log ω₀; with correlated rows the scalar `correlation`, ρ; with several groups of
        hypotheses `log_shares` `[group]`, the logarithms of their prior weights; with surprising ones the
        scalar `log_softened`, and `frequencies` `[input, frequency]` of the broad processes; with pooled
        processes the tensors of `Pooled.unfitted`. The prior mean of the last layer starts at zero.
        """
        weights = self.network.initialise(self.particles, generator)
        if self.bands is not None:
            weights = redraw_in_bands(self.network, weights, self.bands, generator)
        weights[:, -self.network.head_size :] = 0
        initial = with_precisions(weights, *self.priors.starts())
        initial[:, -PRECISIONS:] += torch.linspace(-1, 1, self.particles).unsqueeze(-1) * self.spread
        rate = self._rate_start(initial.shape[-1])
        learned = {"initial": initial, "log_widening": torch.zeros(()), **rate}
        if self.evidence_weights:
            learned["log_temperature"] = torch.zeros(())
        if self.varying_noise:
            learned["noise_slopes"] = torch.zeros(self.particles, self.network.feature_size + 1)
        if self.prior_widening:
            learned["log_prior_widening"] = torch.zeros(())
        if self.correlated is not None:
            learned["correlation"] = torch.zeros(())
        if self.layout.has_groups:
            learned["log_shares"] = start_shares(self.layout).log()
        if self.pooled is not None:
            learned |= self.pooled.unfitted(self.network.inputs, self.network.outputs)
        if self.surprise is not None:
            learned["log_softened"] = torch.tensor(LOG_NOTHING)
            learned["frequencies"] = self.surprise.draw_frequencies(self.network.inputs)
        return learned

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> CollapsedPosterior:
        """Condition every last layer on the support set, after `steps` moves of the features."""
        return self._adapt(learned, support, steps, 0.0)[0]

    def adapt_pruned(
        self, learned: Learned, support: Examples, negligible: float, steps: int | None = None
    ) -> CollapsedPosterior:
        """The posterior without negligible hypotheses; last layers of dropped particles are not computed."""
        return self._adapt(learned, support, steps, negligible)[0]

    def _adapt(
        self, learned: Learned, support: Examples, steps: int | None, negligible: float
    ) -> tuple[CollapsedPosterior, Float[Tensor, "task hypothesis"]]:
        """The posterior without negligible hypotheses, and the log evidence of all of them."""
        particles = learned["initial"].unsqueeze(0)
        steps = self.steps if steps is None else steps
        if steps:
            particles = self._move_features(learned, support, steps)
        layout, slopes = self.layout, learned["noise_slopes"].unsqueeze(0) if self.varying_noise else None
        hidden, prior_mean = self.network.features_and_outputs(weights_of(particles), support.x)
        if layout.own_layers > self.particles:
            hidden, prior_mean = layout.of_own(hidden), layout.of_own(prior_mean)
            particles = layout.with_noise_levels(particles)
            slopes = None if slopes is None else layout.of_own(slopes)
        layers = self._conditioned(particles, slopes, hidden, prior_mean, support)
        processes = self.processes(learned)
        others = None if processes is None else processes.condition(support)
        evidence = self._evidence_of_hypotheses(layers, others, support)
        weights, group_weights = self._weights(learned, evidence, support)
        kept = KeptHypotheses.of(layout, weights, negligible)
        particles = kept.own.taken(particles)
        mean, seen, spent = kept.own.posterior(layers)
        units, dtype = math.sqrt(self.network.feature_size + 1), support.x.dtype
        prior_mean = torch.cat(self.network.unpack(weights_of(particles))[-1], -2)
        posterior = CollapsedPosterior(
            log_weights=kept.log_weights.to(dtype),
            owner=kept.owner,
            scales=kept.scales.to(dtype),
            group_weights=group_weights.to(dtype),
            particles=particles,
            head=prior_mean + (mean / units).to(dtype),
            seen=seen.to(dtype),
            spent=spent.to(dtype),
            noise_slopes=None if slopes is None else kept.own.taken(slopes),
            **_process_parts(kept, processes, others, support.x),
            log_widening=learned["log_widening"],
            log_prior_widening=learned.get("log_prior_widening", torch.zeros_like(learned["log_widening"])),
        )
        return posterior, evidence

    def predict(self, posterior: CollapsedPosterior, x: Inputs, joint: bool = False) -> Predictive:
        """The mixture of the hypotheses' exact predictions, in x's precision."""
        own, remaining = self._own_moments(posterior, x, joint)
        own = own.widened(remaining, posterior.log_widening, posterior.log_prior_widening)
        return posterior.mixture(own, posterior.process_moments(x, joint), x)

    def looks(self, learned: Learned, support: Examples, x: Inputs) -> Callable[[Learned], Belief]:
        """The prediction as a function of weights and widenings; the layers' moments are computed once."""
        if self.steps:
            return super().looks(learned, support, x)
        posterior, evidence = self._adapt(learned, support, 0, 0.0)
        own, remaining = self._own_moments(posterior, x, False)
        processes = posterior.process_moments(x, False, widen=False)

        def look(trial: Learned) -> Predictive:
            weights, _ = self._weights(trial, evidence, support)
            parameters = self.processes(trial)
            moved = replace(posterior, log_weights=weights.to(x.dtype), processes=parameters)
            prior_widening = trial.get("log_prior_widening", posterior.log_prior_widening)
            own_widened = own.widened(remaining, trial["log_widening"], prior_widening)
            return moved.mixture(own_widened, moved.widened_processes(processes, x), x)

        return look

    def _own_moments(
        self, posterior: CollapsedPosterior, x: Inputs, joint: bool
    ) -> tuple[LayerMoments, Tensor]:
        """The particles' predictions before any widening, and the share of the epistemic variance left."""
        hidden = self.network.features(weights_of(posterior.particles), x)
        means = affine(hidden, posterior.head[..., :-1, :], posterior.head[..., -1:, :])
        precision = posterior.particles[..., -1].exp()[..., None, None] * (self.network.feature_size + 1)
        prior = (_squared_norm(hidden) + 1) / precision
        left, left_of_one, within = hidden, torch.ones_like(prior), prior
        if posterior.seen.shape[-1]:
            known = affine(hidden, posterior.seen[..., :-1, :], posterior.seen[..., -1:, :])
            left = hidden - known @ posterior.spent[..., :-1, :].mT
            left_of_one = 1 - known @ posterior.spent[..., -1:, :].mT
            within = (_squared_norm(left) + left_of_one.square()) / precision
        noise = self._noise(posterior.particles, posterior.noise_slopes, hidden).unsqueeze(-1)
        root = torch.cat([left, left_of_one], -1) * precision.rsqrt() if joint else None
        return LayerMoments(means, noise, within, root), within / prior

    def effective_particles(self, posterior: CollapsedPosterior) -> PerTask:
        """1 / Σ weight², the hypotheses of a layer counted together."""
        weights = tails.exp(posterior.log_weights)
        return 1 / posterior.sum_per_layer(weights).square().sum(-1)

    def group_weights(self, posterior: CollapsedPosterior) -> Float[Tensor, "task group"] | None:
        """The weights of the groups of hypotheses; None where none is surprising."""
        return None if self.surprise is None else posterior.group_weights

    def group_prior(self, learned: Learned) -> Float[Tensor, " group"] | None:
        """The same before any row."""
        if self.surprise is None:
            return None
        log_prior = log_prior_of(self.layout, learned, learned["log_shares"]).log_softmax(-1)
        return self.layout.group_weights(log_prior.unsqueeze(0))[0]

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """−log of the weighted mixture's likelihood of the query set, per query row."""
        predictive = self.predict(self.particles_alone.adapt(learned, batch.support), batch.query.x)
        mask, counts = batch.query.mask, batch.query.counts().clamp_min(1)
        if self.pointwise:
            logs = (predictive.log_density(batch.query.y) * mask.unsqueeze(-1)).sum((-1, -2))
        else:
            each = predictive.component_log_density(batch.query.y) * mask[:, None, :, None]
            logs = torch.logsumexp(each.sum((-1, -2)) + predictive.log_weights, -1)
        return -(logs / counts).mean()

    def evidence(
        self, particles: Particles, support: Examples, noise_slopes: Tensor | None = None
    ) -> PerParticle:
        """log p(y | X) of every particle on each support set, averaged over its scales.

        Zero for an empty support set.
        """
        slopes = None if noise_slopes is None else noise_slopes.unsqueeze(0)
        shown = self.network.features_and_outputs(weights_of(particles), support.x)
        layers = self._conditioned(particles, slopes, *shown, support)
        hypotheses = self.particles_alone.layout
        each = hypotheses.evidence(layers.misfit, layers.log_volume, support.counts(), self.network.outputs)
        return each.unflatten(1, (self.particles, -1)).logsumexp(-1) - math.log(len(self.scales))

    def _evidence_of_hypotheses(
        self, layers: ConditionedLayers, processes: ConditionedProcesses | None, support: Examples
    ) -> Float[Tensor, "task hypothesis"]:
        """The logarithm of every hypothesis's evidence; zero where evidence does not count."""
        if not self.evidence_weights:
            return layers.misfit.new_zeros(len(support), len(self.layout.hypotheses))
        misfit, volume, rows = layers.misfit, layers.log_volume, support.counts()
        if processes is not None:
            misfit = torch.cat([misfit, processes.layers.misfit], 1)
            volume = torch.cat([volume, processes.layers.log_volume], 1)
        return self.layout.evidence(misfit, volume, rows, self.network.outputs)

    def _weights(
        self, learned: Learned, evidence: Float[Tensor, "task hypothesis"], support: Examples
    ) -> tuple[Float[Tensor, "task hypothesis"], Float[Tensor, "task group"]]:
        """Logarithms of the weights of all hypotheses, and the weights of their groups before softening."""
        if not self.evidence_weights:
            weights = evidence.log_softmax(-1)
            return weights, self.layout.group_weights(weights)
        exponent = evidence_exponent(learned, support.counts(), self.correlated)
        weights = log_weights(self.layout, learned, evidence, exponent)
        group_weights = self.layout.group_weights(weights)
        if self.surprise is not None:
            weights = softened(self.layout, learned, weights, self.surprise.softening)
        return weights, group_weights

    def processes(self, learned: Learned) -> Processes | None:
        """The process layers; None without any."""
        if not self.layout.process_layers:
            return None
        return Processes.of(learned, self.layout.surprise, self.pooled is not None, self.min_noise)

    def _noise(self, particles: Tensor, slopes: Tensor | None, hidden: Tensor) -> Tensor:
        """Variance of the noise at rows with these hidden layers, `[task, particle, row]`."""
        noise = noise_variance(particles).unsqueeze(-1)
        if slopes is not None:
            exponent = affine(hidden, slopes[..., :-1, None], slopes[..., -1:, None]).squeeze(-1)
            noise = noise * torch.exp(exponent)
        return noise.clamp_min(self.min_noise)

    def _conditioned(
        self,
        particles: Tensor,
        slopes: Tensor | None,
        hidden: Tensor,
        prior_mean: Tensor,
        support: Examples,
    ) -> ConditionedLayers:
        """The particles' last layers conditioned on each support set.

        Args:
            hidden, prior_mean: the hidden layer and the outputs of each particle at the support rows.
        """
        noise = self._noise(particles, slopes, hidden).double()
        # Rows are scaled to noise of variance one; padding is zero.
        scale = torch.where(support.mask.unsqueeze(1), noise, math.inf).rsqrt().unsqueeze(-1)
        width = torch.exp(-0.5 * particles[..., -1].double())[..., None, None]
        factor = scale * width / math.sqrt(self.network.feature_size + 1)
        scaled = torch.cat([hidden * factor, factor], -1)
        residual = (support.y.unsqueeze(1) - prior_mean) * scale
        log_noise = torch.where(support.mask.unsqueeze(1), noise, 1.0).log().sum(-1)
        return condition(scaled, residual, width, log_noise)

    def _move_features(self, learned: Learned, support: Examples, steps: int) -> Tensor:
        """Particles after SVGD on the hidden layers alone, with the evidence as each particle's target."""
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


def _process_parts(
    kept: KeptHypotheses, processes: Processes | None, others: ConditionedProcesses | None, like: Tensor
) -> dict[str, Any]:
    """The fields of the posterior about processes."""
    names = "process_layers", "process_head", "process_seen", "process_spent"
    if processes is None or others is None:
        return {**dict.fromkeys(names), "processes": None}
    layers = kept.processes
    mean, seen, spent = layers.posterior(others.layers)
    mean = mean + layers.taken(others.means)
    every = torch.arange(others.layers.misfit.shape[1], device=like.device).unsqueeze(0)
    values = layers.taken(every), mean.to(like), seen.to(like), spent.to(like)
    return {**dict(zip(names, values, strict=True)), "processes": processes}


def _squared_norm(values: Tensor) -> Tensor:
    """‖·‖² over the last axis, which stays."""
    return torch.linalg.vector_norm(values, dim=-1, keepdim=True).square()
