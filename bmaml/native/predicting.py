"""The Gaussian predictions of a task's hypotheses at a block of rows, `[row, output, hypothesis]`."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.extrapolation import FAR_DISTANCE, MIN_GAP
from bmaml.native.arithmetic import exp
from bmaml.native.compiling import inlined, kernel
from bmaml.native.features import (
    by_column,
    hidden_layer,
    particle_log_noise,
    process_features,
    process_log_noise,
)
from bmaml.native.lanes import LANES, element, fused, load, spread, store
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
    outputs = means.shape[1]
    own, others = len(posterior.layers), len(posterior.processes)
    is_shown = hidden.shape[2] > 0
    columns = by_column(x)
    whole, width = columns.shape[1], posterior.heads.shape[2]
    layer_means = np.empty((own + others, outputs, whole))
    log_noise, squares = np.empty((own + others, whole)), np.empty((own + others, whole))
    unknown, scratch = np.empty((own + others, whole)), np.empty((2, particles.widths.max(), whole))
    known = np.empty((max(posterior.seen.shape[1], posterior.process_seen.shape[1]), LANES))
    features = np.empty((1 if is_shown else width, whole))
    for place in range(own):
        layer = posterior.layers[place]
        if is_shown:
            features = hidden[particles.feature_of[layer]]
        else:
            hidden_layer(particles, layer, columns, features, scratch)
        particle_log_noise(particles, layer, features, log_noise[place])
        _moments(
            features,
            width,
            posterior.heads[place],
            posterior.seen[place],
            posterior.spent[place],
            known,
            layer_means[place],
            squares[place : place + 1],
            unknown[place : place + 1],
        )
    last, chi = -1, np.empty((1 if is_shown else processes.means.shape[2], whole))
    for place in range(others):
        layer = posterior.processes[place]
        one = processes.maps[layer]
        if is_shown:
            chi = waves[one]
        elif one != last:
            process_features(processes, one, columns, chi)
            last = one
        process_log_noise(processes, layer, columns, log_noise[own + place])
        _moments(
            chi,
            processes.widths[one],
            posterior.process_heads[place],
            posterior.process_seen[place],
            posterior.process_spent[place],
            known,
            layer_means[own + place],
            squares[own + place : own + place + 1],
            unknown[own + place : own + place + 1],
        )
    wider, prior_wider = 2 * particles.log_widening, 2 * particles.log_prior_widening
    log_share = np.empty((own + others, whole))
    for place in range(own):
        precision = particles.log_precision[posterior.layers[place]] + math.log(width)
        for row in range(whole):
            remaining = unknown[place, row] / squares[place, row]
            log_share[place, row] = (1 - remaining) * wider + remaining * prior_wider - precision
            log_noise[place, row] += (1 - remaining) * wider
    for place in range(others):
        log_share[own + place] = 2 * processes.log_widening[posterior.processes[place]]
        log_noise[own + place] += 2 * processes.log_widening[posterior.processes[place]]
    _exponentiate(unknown.reshape(-1), log_share.reshape(-1), log_noise.reshape(-1))
    for row in range(len(x)):
        for output in range(outputs):
            ceiling = max_noise[output]
            for i in range(len(posterior.owner)):
                layer, scale = posterior.owner[i], posterior.scales[i]
                variance = log_noise[layer, row] * (scale * scale)
                means[row, output, i] = layer_means[layer, output, row]
                noise[row, output, i] = ceiling if variance > ceiling else variance
                within[row, output, i] = unknown[layer, row] * (scale * scale)


@inlined
def _exponentiate(factors: Array, logs: Array, others: Array) -> None:
    """Multiply the factors by the exponentials of their logs, and replace the others by their own."""
    for i in range(len(factors)):
        factors[i] *= exp(logs[i])
        others[i] = exp(others[i])


@inlined
def _moments(
    features: Array,
    width: int,
    heads: Array,
    seen: Array,
    spent: Array,
    known: Array,
    means: Array,
    squares: Array,
    unknown: Array,
) -> None:
    """A layer's means at rows with these features `[feature, row]`, and what its posterior leaves unknown.

    Args:
        heads: `[output, feature]`.
        seen, spent: `[rank, feature]`; u − spent seenᵀu is left of features u.
        known: scratch, `[rank, lane]`.
        means: `[output, row]`.
        squares, unknown: squared lengths of the features, and of what is left, `[1, row]`.
    """
    for first in range(0, features.shape[1], LANES):
        for output in range(len(heads)):
            mean = spread(0.0)
            for j in range(width):
                mean = fused(element(heads, output, j), load(features, j, first), mean)
            store(means, output, first, mean)
        for i in range(len(seen)):
            product = spread(0.0)
            for j in range(width):
                product = fused(element(seen, i, j), load(features, j, first), product)
            store(known, i, 0, product)
        square, rest = spread(0.0), spread(0.0)
        for j in range(width):
            own = load(features, j, first)
            left = own
            for i in range(len(seen)):
                left = fused(-element(spent, i, j), load(known, i, 0), left)
            square, rest = fused(own, own, square), fused(left, left, rest)
        store(squares, 0, first, square)
        store(unknown, 0, first, rest)


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
