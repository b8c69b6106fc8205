"""Adaptation to one task: all last layers conditioned, hypotheses weighted, the kept ones' posteriors."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.compiling import kernel
from bmaml.native.conditioning import condition, posterior
from bmaml.native.features import hidden_layer, particle_noise, prior_mean, process_features, process_noise
from bmaml.native.linear_algebra import dot
from bmaml.native.tables import Hypotheses, Particles, ProcessLayers, TaskPosterior
from bmaml.native.weighting import kept, log_weights, weight

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@kernel
def shown_features(particles: Particles, processes: ProcessLayers, x: Array) -> tuple[Array, Array]:
    """Features at rows x: of all particles `[particle, row, feature + 1]`, of maps `[map, row, feature]`."""
    rows, width = len(x), particles.widths[len(particles.widths) - 2]
    count = particles.feature_of.max() + 1
    hidden = np.empty((count, rows, width + 1))
    scratch = np.empty((2, rows, particles.widths.max()))
    for layer in range(count):  # the first layers are the particles
        hidden_layer(particles, layer, x, rows, hidden[layer], scratch)
    maps = len(processes.widths)
    waves = np.empty((maps, rows, processes.means.shape[2]))
    for one in range(maps):
        process_features(processes, one, x, rows, waves[one])
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
    width, widest = hidden.shape[2], processes.means.shape[2]
    misfit, log_volume = np.empty(own + others), np.empty(own + others)
    rank, process_rank = min(rows, width), min(rows, widest)
    scaled = np.empty((own, rows if rows <= width else 0, width))
    lower, projected = np.empty((own, rank, rank)), np.empty((own, outputs, rank))
    process_scaled = np.empty((others, rows if rows <= widest else 0, widest))
    process_lower = np.empty((others, process_rank, process_rank))
    process_projected = np.empty((others, outputs, process_rank))
    scratch, residual = np.empty((rows, max(width, widest))), np.empty((outputs, rows))
    units = math.sqrt(width)
    for layer in range(own):
        features = hidden[particles.feature_of[layer]]
        factor = weight_width(particles, layer) / units
        target = scaled[layer] if rows <= width else scratch
        log_noise = 0.0
        for row in range(rows):
            noise = particle_noise(particles, layer, features[row])
            log_noise += math.log(noise)
            scale = 1 / math.sqrt(noise)
            for j in range(width):
                target[row, j] = features[row, j] * (scale * factor)
            for output in range(outputs):
                expected = prior_mean(particles, layer, features[row], output)
                residual[output, row] = (y[row, output] - expected) * scale
        misfit[layer], volume = condition(target, residual, rows, width, lower[layer], projected[layer])
        log_volume[layer] = volume + log_noise
    for layer in range(others):
        one = processes.maps[layer]
        own_width, features = processes.widths[one], waves[one]
        target = process_scaled[layer] if rows <= own_width else scratch
        log_noise = 0.0
        for row in range(rows):
            noise = process_noise(processes, layer, x[row])
            log_noise += math.log(noise)
            scale = 1 / math.sqrt(noise)
            for j in range(own_width):
                target[row, j] = features[row, j] * scale
            for output in range(outputs):
                expected = dot(features[row], processes.means[layer, output], own_width)
                residual[output, row] = (y[row, output] - expected) * scale
        misfit[own + layer], volume = condition(
            target, residual, rows, own_width, process_lower[layer], process_projected[layer]
        )
        log_volume[own + layer] = volume + log_noise
    logs, group_weights = log_weights(hypotheses, misfit, log_volume, rows, outputs)
    owner, scales, kept_logs = kept(hypotheses, logs, negligible)
    layers, kept_processes = _places(owner, own, others)
    heads = np.zeros((len(layers), outputs, width))
    seen, spent = np.zeros((len(layers), rank, width)), np.zeros((len(layers), rank, width))
    for place in range(len(layers)):
        layer = layers[place]
        posterior(
            scaled[layer],
            lower[layer],
            projected[layer],
            rows,
            width,
            weight_width(particles, layer) / units,
            heads[place],
            seen[place],
            spent[place],
        )
        theta = particles.thetas[layer]
        first = len(theta) - 2 - width * outputs
        for output in range(outputs):
            for j in range(width):
                heads[place, output, j] += theta[first + j * outputs + output]
    count = len(kept_processes)
    process_heads = np.zeros((count, outputs, widest))
    process_seen = np.zeros((count, process_rank, widest))
    process_spent = np.zeros((count, process_rank, widest))
    for place in range(count):
        layer = kept_processes[place]
        process_heads[place] = processes.means[layer]
        posterior(
            process_scaled[layer],
            process_lower[layer],
            process_projected[layer],
            rows,
            processes.widths[processes.maps[layer]],
            1.0,
            process_heads[place],
            process_seen[place],
            process_spent[place],
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
        _effective(owner, kept_logs, len(layers) + count),
        finite,  # type: ignore[arg-type]
    )


@kernel
def weight_width(particles: Particles, layer: int) -> float:
    """λ^(−½) of a layer."""
    theta = particles.thetas[layer]
    return math.exp(-0.5 * theta[len(theta) - 1])


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
