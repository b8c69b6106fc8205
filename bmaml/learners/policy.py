"""Policies: few-shot reinforcement learning by MAML, EMAML and BMAML (Yoon et al. 2018, §5.3).

A particle θ is a Gaussian policy N(MLP(o), diag σ²), whose parameter vector ends with log σ of each action.
Its evidence about a task is a round of its own episodes. All gradients are on policy: a round is acted by the
particles that the rounds before left, so that the behaviour's log probabilities follow from the parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml import returns, svgd
from bmaml.episodes import Episodes, Steps, rounds_of
from bmaml.learners.interface import InvalidLearner, Kind, Learned, Learner
from bmaml.learners.policy_posterior import Action, Choice, PolicyParticles
from bmaml.networks import MLP
from bmaml.predictive import Predictive
from bmaml.shapes import Inputs, Particles, PerParticle, Scalar
from bmaml.task import Examples, TaskBatch

MetaObjective = Literal["mean", "chaser", "mixture"]
"""The quantity that the start is trained for; see `Policy.meta_loss`."""
Bandwidth = Literal["median", "mean"]
"""The distance between particles that sets the kernel's width."""
LEAST_LOG_STD = -4.0
LEAST_EPISODES = 2
"""A particle with fewer episodes in a round stays where it is."""


@dataclass(frozen=True)
class Policy(Learner[PolicyParticles]):
    """The base of learners of policies; a subclass says in which direction particles move.

    Attributes:
        steps: rounds of episodes before the meta-objective's own, in training.
        later_rate: the factor of the inner rate in all rounds after the first.
        initial_std: σ at the start of training.
        discount: γ, the weight of a reward one step later.
        objective: the meta-objective: mean, chaser or mixture.
        temperature: τ, of the mixture and of Thompson's choice.

    Raises:
        InvalidLearner: a value outside its range, or an unknown objective.
    """

    network: MLP
    step_size: float = 0.1
    later_rate: float = 0.5
    initial_std: float = 1.0
    discount: float = 0.99
    objective: MetaObjective = "mean"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in get_args(MetaObjective):
            choices = ", ".join(get_args(MetaObjective))
            raise InvalidLearner(f"objective is one of {choices}; found {self.objective!r}")
        if self.steps < 1:
            raise InvalidLearner(f"a policy adapts to at least one round; found {self.steps}")
        if not 0 <= self.discount <= 1:
            raise InvalidLearner(f"discount must lie in [0, 1]; found {self.discount}")
        for name in ("temperature", "initial_std", "later_rate"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise InvalidLearner(f"{name} must be positive; found {value}")

    @property
    def kind(self) -> Kind:
        """Policies."""
        return "policy"

    @property
    def has_epistemic(self) -> bool:
        """True for more than one particle."""
        return self.particles > 1

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`initial` `[particle, param]`: Glorot's uniform weights, zero biases, log σ last."""
        blocks = []
        for i, o in self.network.layers:
            bound = math.sqrt(6 / (i + o))
            blocks.append((2 * torch.rand(self.particles, i * o, generator=generator) - 1) * bound)
            blocks.append(torch.zeros(self.particles, o))
        log_std = torch.full((self.particles, self.network.outputs), math.log(self.initial_std))
        initial = torch.cat([*blocks, log_std], -1)
        return {"initial": initial, **self._rate_start(initial.shape[-1])}

    def prior(self, learned: Learned) -> PolicyParticles:
        """The policies before any episode."""
        initial = learned["initial"].unsqueeze(0)
        none = initial.new_zeros(initial.shape[:2])
        return PolicyParticles(none.log_softmax(-1), initial, none, none, none[:, 0])

    def adapt(self, learned: Learned, support: Examples, steps: int | None = None) -> PolicyParticles:
        """The posterior given the rows of all rounds (`episodes.rows_of`); the prior for no rows.

        Args:
            steps: without effect: the rounds are the steps.
        """
        return self.adapt_rounds(learned, None, rounds_of(support, self.particles))

    def adapt_rounds(
        self, learned: Learned, posterior: PolicyParticles | None, rounds: Sequence[Episodes]
    ) -> PolicyParticles:
        """The posterior after more rounds, each acted by the particles that the one before it left.

        Differentiable in `learned`. Rounds folded one by one equal all at once.

        Args:
            posterior: the one that acted the first of the rounds; None is the prior.
        """
        posterior = self.prior(learned) if posterior is None else posterior
        for episodes in rounds:
            posterior = self._after(learned, posterior, episodes)
        return posterior

    def predict(self, posterior: PolicyParticles, x: Inputs, joint: bool = False) -> Predictive:
        """The belief about the action at each observation: σ² is its noise, disagreement is epistemic."""
        del joint  # the particles themselves have all covariances
        weights, log_std = self.parts(posterior.particles)
        means = self.network(weights, x)
        return Predictive(
            means=means,
            noise=(2 * log_std).exp().unsqueeze(2),
            within=means.new_zeros(1, means.shape[1], 1, 1),
            log_weights=posterior.log_weights.expand(len(x), -1),
        )

    def act(
        self, posterior: PolicyParticles, belief: Predictive, how: Choice | int, generator: torch.Generator
    ) -> Action:
        """The action at each row of a belief.

        `best` acts by the particle with the highest return, `thompson` by one drawn with the posterior's
        weights, one for all rows of a task; both draw from its Gaussian. `mean` is the average of all
        particles' means, without noise. A number is the particle itself.
        """
        tasks = len(belief.means)
        if how == "mean":
            return Action(belief.means.mean(1), None)
        if how == "best":
            chosen = posterior.best().expand(tasks)
        elif isinstance(how, int):
            chosen = torch.full((tasks,), how, device=belief.means.device)
        else:
            weights = posterior.log_weights.exp().expand(tasks, -1).cpu()
            drawn = torch.multinomial(weights, 1, generator=generator)[:, 0]
            chosen = drawn.to(belief.means.device)
        means, noise = (
            each[torch.arange(tasks, device=chosen.device), chosen]
            for each in (belief.means, belief.noise.expand_as(belief.means))
        )
        draws = torch.randn(means.shape, generator=generator, dtype=means.dtype).to(means.device)
        return Action(means + noise.sqrt() * draws, chosen)

    def parts(self, particles: Particles) -> tuple[Tensor, Float[Tensor, "#task particle output"]]:
        """The network's parameters, and log σ."""
        weights, log_std = particles.split([self.network.size, self.network.outputs], -1)
        return weights, log_std.clamp_min(LEAST_LOG_STD)

    def means(
        self, weights: Particles, observations: Float[Tensor, "task particle *row observation"]
    ) -> Float[Tensor, "task particle *row output"]:
        """The network's outputs where every particle has observations of its own."""
        shape = observations.shape[:-1]
        if len(weights) == 1:  # one network for the rows of all tasks
            rows = observations.transpose(0, 1).flatten(1, -2)
            outputs = self.network(weights[0].unsqueeze(1), rows)[:, 0]
            return outputs.unflatten(1, (shape[0], *shape[2:])).transpose(0, 1)
        rows = observations.flatten(2, -2).flatten(0, 1)
        outputs = self.network(weights.flatten(0, 1).unsqueeze(1), rows)
        return outputs[:, 0].unflatten(0, shape[:2]).unflatten(2, shape[2:])

    def log_prob(self, particles: Particles, episodes: Episodes) -> Steps:
        """log π_θ(action | observation) of every step under its own particle."""
        weights, log_std = self.parts(particles.expand(len(episodes), -1, -1))
        means = self.means(weights, episodes.observations)
        log_std = log_std[:, :, None, None]
        standard = (episodes.actions - means) * (-log_std).exp()
        constant = 0.5 * math.log(2 * math.pi)
        return (-0.5 * standard.square() - log_std - constant).sum(-1)

    def gain(self, particles: Particles, episodes: Episodes) -> PerParticle:
        """J, whose gradient is the score: the mean of ρ · advantage over each particle's own steps.

        ρ = π_θ / π_behaviour is one, for the episodes are the particle's own; its second derivative is the
        curvature of the expected return (Foerster et al. 2018).
        """
        logs = self.log_prob(particles, episodes)
        ratio = (logs - logs.detach()).exp()
        weighted = torch.where(episodes.mask, ratio * returns.advantages(episodes, self.discount), 0)
        return weighted.sum((-1, -2)) / episodes.lengths().clamp_min(1)

    def scores(self, particles: Particles, episodes: Episodes) -> Particles:
        """∇J of each particle, differentiable where `particles` are."""
        differentiable = torch.is_grad_enabled() and particles.requires_grad
        with torch.enable_grad():
            theta = particles if differentiable else particles.detach().requires_grad_()
            total = self.gain(theta, episodes).sum()
            (gradient,) = torch.autograd.grad(total, theta, create_graph=differentiable)
        return gradient

    def direction(self, particles: Particles, scores: Particles) -> Particles:
        """The move of each particle at rate one: its own score."""
        return scores

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """`meta_loss` of recorded rows: support rounds, and a query round of the adapted particles."""
        query = rounds_of(batch.query, self.particles)
        return self.meta_loss(learned, rounds_of(batch.support, self.particles), query[0])

    def meta_loss(self, learned: Learned, rounds: Sequence[Episodes], query: Episodes) -> Scalar:
        """The meta-objective on fresh episodes of the adapted particles, a mean over tasks.

        * `mean`: −(1/M) Σₘ R_m, with R_m the query episodes' mean return and its gradient that of `gain`.
        * `mixture`: −τ log (1/M) Σₘ exp(R_m/τ), which credits the particles that do best in a task.
        * `chaser`: Σₘ ‖θₘ − leaderₘ‖², whose leader is one more move on the query episodes, held constant.
        """
        return self.adapted_loss(learned, self.adapt_rounds(learned, None, rounds).particles, query)

    def adapted_loss(self, learned: Learned, adapted: Particles, query: Episodes) -> Scalar:
        """`meta_loss` of particles that have been adapted already, differentiably."""
        if self.objective == "chaser":
            with torch.no_grad():
                leader = self._moved(adapted, query, self._rate(learned))
            return (adapted - leader).square().sum() / len(query)
        gains = self.gain(adapted, query)
        expected = query.returns() + gains - gains.detach()
        if self.objective == "mixture":
            log_sum = (expected / self.temperature).logsumexp(-1)
            return -self.temperature * (log_sum - math.log(self.particles)).mean()
        return -expected.mean()

    def _after(self, learned: Learned, before: PolicyParticles, episodes: Episodes) -> PolicyParticles:
        counts = episodes.counts()
        acted = counts > 0
        late = torch.where(before.rounds > 0, self.later_rate, 1.0).to(before.returns.dtype)
        particles = self._moved(before.particles, episodes, self._rate(learned) * late[:, None, None])
        gained = torch.where(acted, episodes.returns(), before.returns)
        total = before.episodes + counts
        # A particle that has never acted has no weight, unless none has.
        unknown = (total == 0) & (total > 0).any(-1, keepdim=True)
        return PolicyParticles(
            log_weights=(gained / self.temperature).masked_fill(unknown, -math.inf).log_softmax(-1),
            particles=particles,
            returns=gained,
            episodes=total,
            rounds=before.rounds + acted.any(-1).to(before.rounds.dtype),
        )

    def _moved(self, particles: Particles, episodes: Episodes, rates: Tensor) -> Particles:
        particles = particles.expand(len(episodes), -1, -1)
        enough = episodes.counts() >= LEAST_EPISODES
        scores = torch.where(enough.unsqueeze(-1), self.scores(particles, episodes), 0)
        moved = particles + rates * self.direction(particles, scores)
        return torch.where(enough.unsqueeze(-1), moved, particles)

    def _rate(self, learned: Learned) -> Float[Tensor, "1 1 #param"]:
        fixed = self.learn_step_size == "none"
        rate = learned["initial"].new_full((), self.step_size) if fixed else learned["log_step_size"].exp()
        return rate.view(1, 1, -1)


@dataclass(frozen=True)
class PolicyEMAML(Policy):
    """Each of M policies is adapted by the plain gradient of its own episodes, as in `emaml`."""

    name: ClassVar[str] = "emaml"


@dataclass(frozen=True)
class PolicyMAML(PolicyEMAML):
    """`emaml` with one particle.

    Raises:
        InvalidLearner: any other number of particles.
    """

    name: ClassVar[str] = "maml"

    particles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles != 1:
            raise InvalidLearner(f"maml has one particle (emaml has many); found {self.particles}")


@dataclass(frozen=True)
class PolicyBMAML(Policy):
    """Policies move by Stein variational policy gradient (Liu et al. 2017), their own scores undiluted.

    The move at rate one is Σⱼ [kᵢⱼ sⱼ + α (2/h) kᵢⱼ (θᵢ − θⱼ)]. The rate keeps its meaning for all α and M.

    Attributes:
        alpha: strength of the repulsion, the temperature of the policy's posterior.
        bandwidth: h is the median squared distance ÷ log(M + 1), or, as in the authors' code, the squared
            mean distance ÷ log(M + 1).

    Raises:
        InvalidLearner: α is not positive, or an unknown bandwidth.
    """

    name: ClassVar[str] = "bmaml"

    objective: MetaObjective = "chaser"
    alpha: float = 0.01
    bandwidth: Bandwidth = "median"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < math.inf:
            raise InvalidLearner(f"alpha must be positive; found {self.alpha}")
        if self.bandwidth not in get_args(Bandwidth):
            raise InvalidLearner(
                f"bandwidth is one of {', '.join(get_args(Bandwidth))}; found {self.bandwidth!r}"
            )

    def direction(self, particles: Particles, scores: Particles) -> Particles:
        """α M φ, with φ the direction of SVGD under scores ÷ α; one particle follows its score."""
        width = None
        if self.bandwidth == "mean":
            width = svgd.mean_bandwidth(svgd.squared_distances(particles))
        return self.alpha * self.particles * svgd.direction(particles, scores / self.alpha, width)
