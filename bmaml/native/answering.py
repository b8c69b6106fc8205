"""The functions that Python calls: whole answers about tasks, from rows to moments and quantiles."""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.adapting import adapt, shown_features
from bmaml.native.compiling import entry, kernel
from bmaml.native.features import by_column
from bmaml.native.link_moments import (
    label_at,
    log_cell_probability,
    log_slope,
    quantile_value,
    to_scale,
    transform,
)
from bmaml.native.mixtures import heavy, log_density, moments, quantile
from bmaml.native.predicting import components, move_towards, prior_share, to_own_scale
from bmaml.native.tables import (
    Hypotheses,
    Model,
    Particles,
    ProcessLayers,
    Results,
    Task,
    TaskPosterior,
    Units,
)
from bmaml.native.weighting import log_normaliser, weight
from bmaml.transformed import MAX_DEVIATIONS

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

BLOCK_ROWS = 32
"""Rows that are predicted together: their numbers stay in the cache."""
MOST = float(np.finfo(np.float32).max)
"""The largest number of an answer, which is in single precision."""


@entry
def adapted(
    particles: Particles,
    processes: ProcessLayers,
    hypotheses: Hypotheses,
    x: Array,
    y: Array,
    negligible: float,
) -> TaskPosterior:
    """The posterior of a task given rows x `[row, input]` and labels y `[row, output]`."""
    hidden, waves = shown_features(particles, processes, by_column(x))
    return adapt(particles, processes, hypotheses, hidden, waves, x, y, negligible)


@entry
def nll_before(model: Model, x: Array, y: Array) -> float:
    """Mean NLL of labels under the prior, nats per value; zero without rows."""
    shown = shown_features(model.particles, model.processes, by_column(x))
    return _nll(model, model.prior, x, y, shown)


@entry
def answered(model: Model, posterior: TaskPosterior, task: Task, results: Results, place: int) -> None:
    """Write the belief about one task to a row of the results, given its posterior."""
    nothing = np.empty((0, 0, 0)), np.empty((0, 0, 0))
    results.nll_after[place] = _nll(model, posterior, task.support_x, task.support_y, nothing)
    _answer(model, posterior, task, results, place)


@entry
def adapted_and_answered(
    model: Model,
    hypotheses: Hypotheses,
    negligible: float,
    support_x: Array,
    support_y: Array,
    support_rows: Indices,
    query_x: Array,
    query_rows: Indices,
    targets: Array,
    levels: Array,
    level_counts: Indices,
    tolerance: float,
    results: Results,
    first: int,
    last: int,
) -> None:
    """Adapt to tasks `first` … `last` of a batch and write the beliefs about them to the results.

    Args:
        support_x, support_y, query_x, targets: `[task, row, column]`, of which the first rows count;
            `targets` has no rows where none are scored.
        levels: `[task, level]`, of which the first count.
    """
    for place in range(first, last):
        rows = support_rows[place]
        x, y = support_x[place, :rows], support_y[place, :rows]
        shown = shown_features(model.particles, model.processes, by_column(x))
        posterior = adapt(model.particles, model.processes, hypotheses, shown[0], shown[1], x, y, negligible)
        results.finite[place] = posterior.finite
        results.effective[place] = posterior.effective
        results.group_weights[place] = posterior.group_weights
        if not posterior.finite:
            continue
        results.nll_before[place] = _nll(model, model.prior, x, y, shown)
        results.nll_after[place] = _nll(model, posterior, x, y, shown)
        task = Task(
            x,
            y,
            query_x[place, : query_rows[place]],
            targets[place],
            levels[place, : level_counts[place]],
            tolerance,
        )
        _answer(model, posterior, task, results, place)


@kernel
def _answer(model: Model, posterior: TaskPosterior, task: Task, results: Results, place: int) -> None:
    """Write the belief about a task's query rows to a row of the results, and whether it is finite."""
    rows, outputs, count = len(task.query_x), len(model.units.shift), len(posterior.owner)
    weights = np.empty(count)
    for i in range(count):
        weights[i] = weight(posterior.log_weights[i])
    least = 0.5
    for level in task.levels:
        least = min(least, level, 1 - level)
    chosen, heavy_weights = heavy(posterior.log_weights, task.tolerance * least)
    block = min(rows, BLOCK_ROWS)
    means, noise, within = (
        np.empty((block, outputs, count)),
        np.empty((block, outputs, count)),
        np.empty((block, outputs, count)),
    )
    heavy_means, heavy_stds = np.empty(len(chosen)), np.empty(len(chosen))
    inverse_stds, stds, half_root = np.empty(len(chosen)), np.empty(count), math.sqrt(0.5)
    nothing = np.empty((0, 0, 0)), np.empty((0, 0, 0))
    for start in range(0, rows, BLOCK_ROWS):
        x = task.query_x[start : start + BLOCK_ROWS]
        components(
            model.particles,
            model.processes,
            posterior,
            model.units.max_noise,
            x,
            nothing,
            means,
            noise,
            within,
        )
        _return_to_prior(model, task.support_x, x, means, within)
        to_own_scale(model.units, means[: len(x)], noise[: len(x)], within[: len(x)])
        for row in range(len(x)):
            at = start + row
            for output in range(outputs):
                own, own_noise, own_within = means[row, output], noise[row, output], within[row, output]
                for i in range(count):
                    stds[i] = math.sqrt(own_noise[i] + own_within[i])
                for i in range(len(chosen)):
                    heavy_means[i], heavy_stds[i] = own[chosen[i]], stds[chosen[i]]
                    inverse_stds[i] = half_root / heavy_stds[i]
                link = model.units.links[output]
                for j in range(len(task.levels)):
                    same = 0
                    while same < j and task.levels[same] != task.levels[j]:
                        same += 1
                    if same < j:  # the ends of an interval are often asked for as quantiles, too
                        results.quantiles[place, j, at, output] = results.quantiles[place, same, at, output]
                        continue
                    z = quantile(heavy_weights, heavy_means, heavy_stds, inverse_stds, task.levels[j])
                    value = quantile_value(link, z)
                    results.quantiles[place, j, at, output] = value
                    if not abs(value) <= MOST:
                        results.finite[place] = False
                if at < len(task.targets):
                    results.log_density[place, at, output] = _log_density(
                        model.units, output, posterior.log_weights, own, stds, task.targets[at, output]
                    )
                if results.components.shape[1] > 0:
                    for i in range(count):
                        results.components[0, at, output, i] = own[i]
                        results.components[1, at, output, i] = own_noise[i]
                        results.components[2, at, output, i] = own_within[i]
                mean, aleatoric, epistemic = moments(weights, own, own_noise, own_within)
                if not model.units.plain:
                    results.own_scale[0, place, at, output] = mean
                    results.own_scale[1, place, at, output] = aleatoric + epistemic
                    highest = mean + MAX_DEVIATIONS * math.sqrt(aleatoric + epistemic)
                    highest = min(max(mean, link[6]), highest)
                    transform(link, highest, weights, own, own_noise, own_within)
                    mean, aleatoric, epistemic = moments(weights, own, own_noise, own_within)
                if not (abs(mean) <= MOST and 0 <= aleatoric + epistemic <= MOST):
                    results.finite[place] = False
                results.mean[place, at, output] = mean
                results.aleatoric[place, at, output] = aleatoric
                results.epistemic[place, at, output] = epistemic


@kernel
def _return_to_prior(model: Model, support_x: Array, x: Array, means: Array, within: Array) -> None:
    """Mix the predictions at rows outside the training range with the prior's at the nearest row in it."""
    outputs, nothing = means.shape[1], (np.empty((0, 0, 0)), np.empty((0, 0, 0)))
    for row in range(len(x)):
        share = prior_share(x[row], support_x, model.units.trained)
        if not share > 0:
            continue
        nearest, size = np.empty((1, x.shape[1])), len(model.prior.owner)
        for i in range(x.shape[1]):
            nearest[0, i] = min(max(x[row, i], model.units.trained[0, i]), model.units.trained[1, i])
        prior_means, prior_noise, prior_within = (
            np.empty((1, outputs, size)),
            np.empty((1, outputs, size)),
            np.empty((1, outputs, size)),
        )
        components(
            model.particles,
            model.processes,
            model.prior,
            model.units.max_noise,
            nearest,
            nothing,
            prior_means,
            prior_noise,
            prior_within,
        )
        move_towards(share, means[row], within[row], model.prior, prior_means[0], prior_within[0])


@kernel
def _nll(model: Model, posterior: TaskPosterior, x: Array, y: Array, shown: tuple[Array, Array]) -> float:
    """Mean NLL of labels y `[row, output]` at rows x under a posterior, nats per value."""
    rows, outputs = y.shape
    if rows == 0:
        return 0.0
    count, total = len(posterior.owner), 0.0
    means, noise, within = (
        np.empty((rows, outputs, count)),
        np.empty((rows, outputs, count)),
        np.empty((rows, outputs, count)),
    )
    components(
        model.particles, model.processes, posterior, model.units.max_noise, x, shown, means, noise, within
    )
    to_own_scale(model.units, means, noise, within)
    stds = np.empty(count)
    for row in range(rows):
        for output in range(outputs):
            for i in range(count):
                stds[i] = math.sqrt(noise[row, output, i] + within[row, output, i])
            total -= _log_density(
                model.units, output, posterior.log_weights, means[row, output], stds, y[row, output]
            )
    return total / (rows * outputs)


@kernel
def _log_density(
    units: Units, output: int, log_weights: Array, means: Array, stds: Array, target: float
) -> float:
    """Log density at a target in the network's units, per unit of the caller; of a cell, if labels step."""
    z = target * units.scale[output] + units.shift[output]
    if units.plain:
        return log_density(log_weights, means, stds, z)
    link = units.links[output]
    label, step = label_at(link, z), link[4]
    if not step > 0:
        return log_density(log_weights, means, stds, to_scale(link, label)) + log_slope(link, label)
    lower, upper, logs = label - 0.5 * step, label + 0.5 * step, np.empty(len(means))
    low = -math.inf if lower <= link[1] else to_scale(link, lower)
    high = math.inf if upper >= link[2] else to_scale(link, upper)
    for i in range(len(means)):
        logs[i] = log_weights[i] + log_cell_probability(low, high, means[i], stds[i])
    return log_normaliser(logs) - math.log(step)
