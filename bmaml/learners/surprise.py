"""Hypotheses about tasks unlike those of training, beside the particles' own.

A mixture weighted by evidence is as sure of itself as its sharpest particle once the rows are easy to
explain, and nothing in it asks whether that particle is true. So hypotheses of three more groups take part:

* *wide*: the particles at scales s beyond those of training;
* *noisy*: the particles with f times their noise variance, while the signal keeps its size;
* *broad*: none of the particles, but Gaussian processes that learn from the task's rows alone.

Each has a small prior, and the evidence of the rows decides, as between particles. Where the rows are like
those of training, the three groups together have almost no weight from a handful of rows on.

**Softened weights.** A few equal labels can rule out all hypotheses but one, where the task then leaves what
they seemed to show. A share ε of the weights therefore follows a small power of the evidence:
weight = (1 − ε) · prior · evidence^τ + ε · prior · evidence^(0.1 τ), each normalised. It is the answer of two
believers, of whom one takes ten rows for one. ε is found on the validation tasks, and is zero where the
answered standard deviation is no better for it.

A broad process has mean zero, a constant, linear and an RBF part, each of variance s² (the linear one at the
ends of the longest length), and noise of variance r s²:

    k(x, x') = s² (1 + 4 xᵀx'/(d ℓ₀²) + exp(−‖x − x'‖²/(2 d ℓ²)) + r [x = x'])

with d inputs and ℓ₀ the longest of the lengths ℓ. Its RBF part is approximated by random Fourier features
(Rahimi & Recht 2007), which makes it one more Bayesian linear last layer, on features that nobody trained.
Labels in a wrong unit are a thousand times too large. Therefore broad processes also have *far* scales, with
a prior of 1/s³ that hardly adds to the variance before any row.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from bmaml.learners.interface import InvalidLearner
from bmaml.random_features import normal_sobol

Group = Literal["known", "wide", "noisy", "broad", "pooled"]
GROUPS: tuple[Group, ...] = ("known", "wide", "noisy", "broad", "pooled")
"""The groups of hypotheses: the particles as trained, the surprising ones, and pooled processes, if any."""
SURPRISING: tuple[Group, ...] = GROUPS[1:4]
START_SHARES = (0.98, 0.007, 0.005, 0.008)
"""Prior weights of the groups, before the validation tasks are counted."""
POOLED_SHARE = 0.5
"""The part of the particles' share that pooled processes have before that."""
LOG_NOTHING = -1e30
"""The logarithm of a softened share that no answer shows."""
DEFAULT_THRESHOLD = 0.07
"""The least part of the known hypotheses' prior weight that surprising ones have gained in a warned task.

Of 200 sine curves like those of training, with 1, 2, 5, 10 or 20 rows each, it warns of none; of those with
ten times the noise of more than nine tenths, from ten rows on.
"""
FAR_SCALES = tuple(32.0 * 8**power for power in range(6))
"""Up to a million times the size of training's targets: millimetres or micrometres posted for metres."""
LEAST_SHARES = (0.05, *START_SHARES[1:], 0.05)
"""The least that calibration leaves to each group."""


@dataclass(frozen=True)
class Surprise:
    """The surprising hypotheses of a learner.

    Within a group the prior falls as 1/s, so that the largest scales do not rule the prior variance; that of
    far scales falls as 1/s³.

    Raises:
        InvalidLearner: no number, or one that is not positive.

    Attributes:
        wide_scales: s of the wide hypotheses.
        noise_levels: f of the noisy hypotheses.
        noisy_scales: s at each noise level.
        noisy_every: one particle in this many has noisy hypotheses; noise blurs the difference of neighbours.
        lengths: ℓ of the broad processes, in units of the network's inputs.
        broad_noises: r of the broad processes.
        broad_scales: s of the broad processes, in units of the network's outputs.
        far_scales: s of the broad processes for labels far beyond those of training, with a prior of 1/s³.
        frequencies: number of random frequencies; each is a cosine and a sine.
        softening: the power of the evidence that the softened share of the weights follows.
    """

    wide_scales: tuple[float, ...] = (8.0, 16.0)
    noise_levels: tuple[float, ...] = (25.0,)
    noisy_scales: tuple[float, ...] = (1.0, 4.0)
    noisy_every: int = 4
    lengths: tuple[float, ...] = (4.0, 1.0, 0.25)
    broad_noises: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    broad_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    far_scales: tuple[float, ...] = FAR_SCALES
    frequencies: int = 32
    softening: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(0 < number < math.inf for number in numbers):
                raise InvalidLearner(f"{field.name} of a surprise must be positive; found {value}")

    @cached_property
    def broad_layers(self) -> tuple[tuple[float, float], ...]:
        """Length and noise of each broad process."""
        return tuple((length, noise) for length in self.lengths for noise in self.broad_noises)

    def with_noise_of_at_least(self, variance: float) -> "Surprise":
        """The same hypotheses, where no broad process has less noise than `variance` at scale 1."""
        return replace(self, broad_noises=tuple(max(noise, variance) for noise in self.broad_noises))

    def draw_frequencies(self, inputs: int) -> Float[Tensor, "input frequency"]:
        """Standard normal frequencies, the same every time."""
        return normal_sobol(inputs, self.frequencies)
