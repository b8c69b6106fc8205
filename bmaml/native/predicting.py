"""The Gaussian predictions of a task's hypotheses at a block of rows, `[row, output, hypothesis]`."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.extrapolation import FAR_DISTANCE, MIN_GAP
from bmaml.native.arithmetic import exp
from bmaml.native.compiling import kernel
from bmaml.native.features import hidden_layer, particle_noise, process_features, process_noise
from bmaml.native.linear_algebra import add_multiple, dot
from bmaml.native.tables import Particles, ProcessLayers, TaskPosterior, Units
from bmaml.native.weighting import weight

Array = NDArray[np.float64]


@kernel
def components(
    particles: Particles,
    processes: ProcessLayers,
    posterior: TaskPosterior,
    max_noise: Array,
    x: Array,
    shown: tuple[Array, Array],
    means: Array,
    noise: Array,
    within: Array,
) -> None:
    """Means, noise variances and epistemic variances of all hypotheses at rows x, in the network's units.

    Args:
        shown: `adapting.shown_features` of these rows; without rows where they are still to be computed.
    """
    hidden, waves = shown
    rows, outputs = len(x), means.shape[1]
    own, others = len(posterior.layers), len(posterior.processes)
    is_shown = hidden.shape[1] > 0
    width = particles.widths[len(particles.widths) - 2] + 1
    layer_means = np.empty((own + others, rows, outputs))
    layer_noise, layer_within = np.empty((own + others, rows)), np.empty((own + others, rows))
    scratch = np.empty((2, rows, 1 if is_shown else particles.widths.max()))
    computed = np.empty((rows, 1 if is_shown else width))
    for place in range(own):
        layer = posterior.layers[place]
        features = computed
        if is_shown:
            features = hidden[particles.feature_of[layer]]
        else:
            hidden_layer(particles, layer, x, rows, computed, scratch)
        _particle_at(
            particles,
            layer,
            features,
            posterior.heads[place],
            posterior.seen[place],
            posterior.spent[place],
            layer_means[place],
            layer_noise[place],
            layer_within[place],
        )
    last, chi = -1, np.empty((1 if is_shown else rows, processes.means.shape[2]))
    for place in range(others):
        layer = posterior.processes[place]
        one = processes.maps[layer]
        features = chi
        if is_shown:
            features = waves[one]
        elif one != last:
            process_features(processes, one, x, rows, chi)
            last = one
        _process_at(
            processes,
            layer,
            x,
            features,
            posterior.process_heads[place],
            posterior.process_seen[place],
            posterior.process_spent[place],
            layer_means[own + place],
            layer_noise[own + place],
            layer_within[own + place],
        )
    for row in range(rows):
        for output in range(outputs):
            ceiling = max_noise[output]
            for i in range(len(posterior.owner)):
                layer, scale = posterior.owner[i], posterior.scales[i]
                variance = layer_noise[layer, row] * (scale * scale)
                means[row, output, i] = layer_means[layer, row, output]
                noise[row, output, i] = ceiling if variance > ceiling else variance
                within[row, output, i] = layer_within[layer, row] * (scale * scale)


@kernel
def _particle_at(
    particles: Particles,
    layer: int,
    features: Array,
    heads: Array,
    seen: Array,
    spent: Array,
    means: Array,
    noise: Array,
    within: Array,
) -> None:
    """A particle's moments at rows with these features `[row, feature + 1]`, at scale 1."""
    theta, width, rank = particles.thetas[layer], heads.shape[1], len(seen)
    precision = math.exp(theta[len(theta) - 1]) * width
    left = np.empty(width)
    for row in range(len(means)):
        own = features[row]
        for output in range(len(heads)):
            means[row, output] = dot(own, heads[output], width)
        prior = dot(own, own, width)
        _remaining(own, seen, spent, rank, width, left)
        squares = dot(left, left, width)
        remaining = squares / prior
        log_widening = (1 - remaining) * particles.log_widening
        within[row] = squares / precision * exp(2 * (log_widening + remaining * particles.log_prior_widening))
        noise[row] = particle_noise(particles, layer, own) * exp(2 * log_widening)


@kernel
def _process_at(
    processes: ProcessLayers,
    layer: int,
    x: Array,
    features: Array,
    heads: Array,
    seen: Array,
    spent: Array,
    means: Array,
    noise: Array,
    within: Array,
) -> None:
    """A process's moments at rows x with these features `[row, feature]`, at scale 1."""
    width, rank = processes.widths[processes.maps[layer]], len(seen)
    square = math.exp(2 * processes.log_widening[layer])
    left = np.empty(width)
    for row in range(len(means)):
        own = features[row]
        for output in range(len(heads)):
            means[row, output] = dot(own, heads[output], width)
        _remaining(own, seen, spent, rank, width, left)
        within[row] = dot(left, left, width) * square
        noise[row] = process_noise(processes, layer, x[row]) * square


@kernel
def _remaining(own: Array, seen: Array, spent: Array, rank: int, width: int, left: Array) -> None:
    """u − spent seenᵀu, what the rows leave unknown."""
    for j in range(width):
        left[j] = own[j]
    for i in range(rank):
        add_multiple(left, -dot(own, seen[i], width), spent[i], width)


@kernel
def prior_share(x: Array, support_x: Array, trained: Array) -> float:
    """The prior's share of the answer at a row x `[input]` (see `bmaml.extrapolation`)."""
    total = 0.0
    for i in range(len(x)):
        low, high = trained[0, i], trained[1, i]
        if not (x[i] < low or x[i] > high):
            continue
        below, above = math.inf, math.inf
        for j in range(len(support_x) + 2):
            covered = trained[j, i] if j < 2 else support_x[j - 2, i]
            if covered >= x[i]:
                above = min(above, covered - x[i])
            else:
                below = min(below, x[i] - covered)
        near = 1 - FAR_DISTANCE * (high - low) / (below + above)
        gap = min(below, above) / (high - low) * max(near, 0.0)
        if gap > MIN_GAP:
            total += gap * gap
    distance = math.sqrt(total / len(x)) / FAR_DISTANCE
    return -math.expm1(-0.5 * distance * distance)


@kernel
def move_towards(
    share: float, means: Array, within: Array, prior: TaskPosterior, prior_means: Array, prior_within: Array
) -> None:
    """Mix the hypotheses' predictions `[output, hypothesis]` with the prior's, which has this share."""
    for output in range(len(means)):
        mean, epistemic = 0.0, 0.0
        for i in range(len(prior.log_weights)):
            mean += weight(prior.log_weights[i]) * prior_means[output, i]
        for i in range(len(prior.log_weights)):
            offset = prior_means[output, i] - mean
            epistemic += weight(prior.log_weights[i]) * (offset * offset + prior_within[output, i])
        for i in range(means.shape[1]):
            means[output, i] = (1 - share) * means[output, i] + share * mean
            within[output, i] = (1 - share) * within[output, i] + share * epistemic


@kernel
def to_own_scale(units: Units, means: Array, noise: Array, within: Array) -> None:
    """The predictions `[row, output, hypothesis]` on the outputs' own scales."""
    for row in range(len(means)):
        for output in range(means.shape[1]):
            shift, scale = units.shift[output], units.scale[output]
            for i in range(means.shape[2]):
                means[row, output, i] = means[row, output, i] * scale + shift
                noise[row, output, i] *= scale * scale
                within[row, output, i] *= scale * scale
