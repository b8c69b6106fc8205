"""Adaptation to one task: all last layers conditioned, hypotheses weighted, the kept ones' posteriors."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.arithmetic import exp
from bmaml.native.compiling import kernel
from bmaml.native.conditioning import condition, posterior, standardise
from bmaml.native.features import (
    by_column,
    hidden_layer,
    padded,
    particle_log_noise,
    process_features,
    process_log_noise,
)
from bmaml.native.linear_algebra import dot
from bmaml.native.tables import Hypotheses, Particles, ProcessLayers, TaskPosterior
from bmaml.native.weighting import kept, log_weights, weight

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@kernel
def shown_features(particles: Particles, processes: ProcessLayers, x: Array) -> tuple[Array, Array]:
    """Features at rows x `[input, row]`: of particles `[particle, feature + 1, row]`, of maps `[map, …]`."""
    rows, width = x.shape[1], particles.widths[len(particles.widths) - 2]
    count = particles.feature_of.max() + 1
    hidden = np.empty((count, width + 1, rows))
    scratch = np.empty((2, particles.widths.max(), rows))
    for layer in range(count):  # the first layers are the particles
        hidden_layer(particles, layer, x, hidden[layer], scratch)
    maps = len(processes.widths)
    waves = np.empty((maps, processes.means.shape[2], rows))
    for one in range(maps):
        process_features(processes, one, x, waves[one])
    return hidden, waves


@kernel
def adapt(
    particles: Particles,
    processes: ProcessLayers,
    hypotheses: Hypotheses,
    hidden: Array,
    waves: Array,
    x: Array,
    y: Array,
    negligible: float,
) -> TaskPosterior:
    """The posterior given rows x `[row, input]` and labels y `[row, output]`.

    Args:
        hidden, waves: `shown_features` of the rows.
        negligible: total weight of the hypotheses that are left out, at most.
    """
    rows, outputs = y.shape
    own, others = len(particles.thetas), len(processes.maps)
    width, whole = hidden.shape[1], padded(rows)
    columns, labels = by_column(x), by_column(y)
    log_noise, inverse_stds = np.empty((own + others, whole)), np.empty((own + others, 1, whole))
    for layer in range(own):
        particle_log_noise(particles, layer, hidden[particles.feature_of[layer]], log_noise[layer])
    for layer in range(others):
        process_log_noise(processes, layer, columns, log_noise[own + layer])
    misfit, log_volume = np.empty(own + others), np.zeros(own + others)
    every, inverse = log_noise.reshape(-1), inverse_stds.reshape(-1)
    for i in range(len(every)):
        inverse[i] = exp(-0.5 * every[i])
    inverse_stds[:, 0, rows:] = 0.0
    for layer in range(own + others):
        for row in range(rows):
            log_volume[layer] += log_noise[layer, row]
    factors, ones = np.exp(-0.5 * particles.log_precision) / math.sqrt(width), np.ones(others)
    conditioned = _conditioned(
        hidden,
        particles.feature_of,
        np.full(len(hidden), width),
        particles.heads,
        factors,
        inverse_stds[:own],
        labels,
        rows,
        misfit[:own],
        log_volume[:own],
    )
    processes_conditioned = _conditioned(
        waves,
        processes.maps,
        processes.widths,
        processes.means,
        ones,
        inverse_stds[own:],
        labels,
        rows,
        misfit[own:],
        log_volume[own:],
    )
    logs, group_weights = log_weights(hypotheses, misfit, log_volume, rows, outputs)
    owner, scales, kept_logs = kept(hypotheses, logs, negligible)
    layers, kept_processes = _places(owner, own, others)
    full = np.full(own, width)
    heads, seen, spent = _posteriors(layers, conditioned, particles.heads, factors, full, rows)
    process_heads, process_seen, process_spent = _posteriors(
        kept_processes, processes_conditioned, processes.means, ones, processes.widths[processes.maps], rows
    )
    finite = np.isfinite(heads).all() and np.isfinite(process_heads).all()
    for each in logs:
        finite = finite and each == each
    return TaskPosterior(
        kept_logs,
        owner,
        scales,
        layers,
        kept_processes,
        heads,
        seen,
        spent,
        process_heads,
        process_seen,
        process_spent,
        group_weights,
        _effective(owner, kept_logs, len(layers) + len(kept_processes)),
        finite,  # type: ignore[arg-type]
    )


@kernel
def _conditioned(
    features: Array,
    feature_of: Indices,
    widths: Indices,
    means: Array,
    factors: Array,
    inverse_stds: Array,
    y: Array,
    rows: int,
    misfit: Array,
    log_volume: Array,
) -> tuple[Array, Array, Array]:
    """G, Cholesky factors and projected residuals of layers of one kind (see `conditioning`), `[layer, …]`.

    Args:
        features: `[map, feature, row]`.
        feature_of: the map of each layer.
        widths: features of each map.
        means: weights without data, `[layer, output, feature]`.
        factors: λ^(−½) per feature, `[layer]`.
        inverse_stds: `[layer, 1, row]`.
        y: `[output, row]`.
        misfit, log_volume: of each layer; the first is written, the second added to.
    """
    layers, outputs, widest = means.shape
    rank, whole = min(rows, widest), y.shape[1]
    scaled = np.empty((layers if rows <= widest else 1, widest, whole))  # all in feature form need no G later
    lower, projected = np.empty((layers, rank, padded(rank))), np.empty((layers, outputs, rank))
    residual = np.empty((outputs, whole))
    for layer in range(layers):
        one = feature_of[layer]
        width, target = widths[one], scaled[layer % len(scaled)]
        standardise(
            features[one], width, means[layer], factors[layer], inverse_stds[layer], y, target, residual
        )
        misfit[layer], volume = condition(target, residual, rows, width, lower[layer], projected[layer])
        log_volume[layer] += volume
    return scaled, lower, projected


@kernel
def _posteriors(
    chosen: Indices,
    conditioned: tuple[Array, Array, Array],
    means: Array,
    factors: Array,
    widths: Indices,
    rows: int,
) -> tuple[Array, Array, Array]:
    """Means of the chosen layers and their covariances' roots (see `conditioning.posterior`).

    Args:
        conditioned: `_conditioned` of all layers.
        widths: of each layer.
    """
    scaled, lower, projected = conditioned
    count, outputs, widest = len(chosen), means.shape[1], means.shape[2]
    heads, rank = np.empty((count, outputs, widest)), lower.shape[1]
    seen, spent = np.zeros((count, rank, widest)), np.zeros((count, rank, widest))
    for place in range(count):
        layer = chosen[place]
        heads[place] = means[layer]
        posterior(
            scaled[layer % len(scaled)],
            lower[layer],
            projected[layer],
            rows,
            widths[layer],
            factors[layer],
            heads[place],
            seen[place],
            spent[place],
        )
    return heads, seen, spent


@kernel
def _places(owner: Indices, own: int, others: int) -> tuple[Indices, Indices]:
    """The kept layers of particles and of processes; `owner` then counts places among them."""
    place = np.full(own + others, -1, np.int64)
    for layer in owner:
        place[layer] = 0
    count = 0
    for layer in range(own + others):
        if place[layer] == 0:
            place[layer] = count
            count += 1
    layers, processes = np.empty(count, np.int64), np.empty(count, np.int64)
    of_particles = 0
    for layer in range(own + others):
        if place[layer] < 0:
            continue
        if layer < own:
            layers[place[layer]] = layer
            of_particles += 1
        else:
            processes[place[layer] - of_particles] = layer - own
    for i in range(len(owner)):
        owner[i] = place[owner[i]]
    return layers[:of_particles].copy(), processes[: count - of_particles].copy()


@kernel
def _effective(owner: Indices, logs: Array, layers: int) -> float:
    """1 / Σ weight², the hypotheses of a layer counted together."""
    totals = np.zeros(layers)
    for i in range(len(owner)):
        totals[owner[i]] += weight(logs[i])
    return 1 / dot(totals, totals, layers)
