"""The arrays that native functions work on: a model's constants, and the posterior of one task.

They are named tuples, which compiled functions take. Numbers are in double precision. `layer` and
`hypothesis` are those of `bmaml.learners.hypotheses.Layout`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml.learners.collapsed import Collapsed
from bmaml.learners.hypothesis_weights import log_prior_of
from bmaml.learners.interface import Learned
from bmaml.learners.processes import MAX_LOG_NOISE_CHANGE
from bmaml.learners.surprise import LOG_NOTHING
from bmaml.links import Link

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
ACTIVATION_CODES = {"relu": 0, "tanh": 1, "sine": 2}
SCALE_CODES = {"none": 0, "log": 1, "logit": 2, "log1p": 3}


class Particles(NamedTuple):
    """The layers of particles.

    Attributes:
        widths: of the network's layers, inputs and outputs included, `[depth]`.
        activation: see `ACTIVATION_CODES`.
        thetas: parameters of each layer, its precisions included, `[layer, param]`.
        heads: weights of the last layers without data, `[layer, output, feature + 1]`.
        log_noise: log variance of the noise without slopes, `[layer]`.
        log_precision: log λ, `[layer]`.
        feature_of: the features that a layer uses, of those that are shown, `[layer]`.
        slopes: of the noise, `[layer, feature + 1]`; without columns where the noise does not vary.
        min_noise: variance of the noise, at least.
        log_widening, log_prior_widening: log ω and log ω₀.
    """

    widths: Indices
    activation: int
    thetas: Array
    heads: Array
    log_noise: Array
    log_precision: Array
    feature_of: Indices
    slopes: Array
    min_noise: float
    log_widening: float
    log_prior_widening: float


class ProcessLayers(NamedTuple):
    """The process layers (see `bmaml.learners.processes.Processes`); without rows where there are none.

    Attributes:
        pooled_frequencies: `[pooled, input, frequency]`.
        roots: of pooled layers, `[pooled, feature, feature]`.
        root_ends: first and last row (plus one) of each column that are not zero, `[pooled, 2, feature]`.
        broad_frequencies: divided by their lengths, `[length, input, frequency]`.
        linear: factor of the inputs in broad maps.
        widths: features of each map, `[map]`; pooled maps come first.
        maps: the map of each layer, `[layer]`.
        means: m, `[layer, output, feature]`.
        noise: log variance at x = 0 and its slopes, `[layer, 1 + input]`.
        max_change: bound of the change of log noise.
        min_noise: variance of the noise, at least.
        log_widening: of each layer, `[layer]`.
    """

    pooled_frequencies: Array
    roots: Array
    root_ends: Indices
    broad_frequencies: Array
    linear: float
    widths: Indices
    maps: Indices
    means: Array
    noise: Array
    max_change: float
    min_noise: float
    log_widening: Array


class Hypotheses(NamedTuple):
    """The hypotheses and their weights before any row.

    Attributes:
        layer, scale, log_scale, log_prior, group: `[hypothesis]`.
        layers, groups: their numbers.
        weighted: whether evidence counts.
        temperature: τ.
        correlation, fewest, most: see `hypothesis_weights.evidence_exponent`; `most` is zero for
            independent errors.
        softening: the power of the softened share; zero where there is none.
        log_softened: logarithm of that share.
    """

    layer: Indices
    scale: Array
    log_scale: Array
    log_prior: Array
    group: Indices
    layers: int
    groups: int
    weighted: bool
    temperature: float
    correlation: float
    fewest: int
    most: int
    softening: float
    log_softened: float


class Units(NamedTuple):
    """The caller's units, and the bounds of answers.

    Attributes:
        shift, scale: of each output's own scale, `[output]`.
        max_noise: variance of the noise, at most, in the network's units, `[output]`.
        trained: range of inputs in training, in the network's units, `[2, input]`.
        links: scale code, low, high, margin, step (NaN for none), whole, largest location and variance of
            each output, `[output, 8]`.
        plain: whether no output has a link of its own.
    """

    shift: Array
    scale: Array
    max_noise: Array
    trained: Array
    links: Array
    plain: bool


class TaskPosterior(NamedTuple):
    """The posterior of one task: its kept hypotheses, heaviest first, and their layers.

    Attributes:
        log_weights, owner, scales: of the hypotheses; processes follow the particles among the owners.
        layers, processes: indices of the kept layers, `[kept]`.
        heads: means of the last layers, `[kept, output, feature + 1]`.
        seen, spent: factors of their covariances' roots, `[kept, rank, feature + 1]`.
        process_heads, process_seen, process_spent: the same of processes.
        group_weights: `[group]`.
        effective: 1 / Σ weight² over layers.
        finite: whether all of it is.
    """

    log_weights: Array
    owner: Indices
    scales: Array
    layers: Indices
    processes: Indices
    heads: Array
    seen: Array
    spent: Array
    process_heads: Array
    process_seen: Array
    process_spent: Array
    group_weights: Array
    effective: float
    finite: bool


class Model(NamedTuple):
    """A model's constants.

    Attributes:
        prior: the posterior given no rows, of a task that is like those of training.
    """

    particles: Particles
    processes: ProcessLayers
    units: Units
    prior: TaskPosterior


class Task(NamedTuple):
    """The question about a task.

    Attributes:
        support_x, support_y: rows and labels, `[row, column]`.
        query_x: `[row, input]`.
        targets: numbers whose log density is asked for, `[row, output]`; without rows where none are.
        levels: of quantiles, `[level]`.
        tolerance: relative error of a level for which light hypotheses are left out.
    """

    support_x: Array
    support_y: Array
    query_x: Array
    targets: Array
    levels: Array
    tolerance: float


class Results(NamedTuple):
    """The beliefs about a batch, to be written.

    Attributes:
        finite: whether the adaptation and what is answered in single precision are finite, `[task]`.
        effective: effective particles, `[task]`.
        group_weights: `[task, group]`.
        nll_before, nll_after: of the support labels, `[task]`.
        mean, aleatoric, epistemic, log_density: `[task, row, output]`.
        quantiles: `[task, level, row, output]`.
        own_scale: mean and variance on the scale of the link, `[2, task, row, output]`.
        components: means, noise and epistemic variances on that scale, of a lone task,
            `[3, row, output, hypothesis]`; without rows where they are not asked for.
    """

    finite: NDArray[np.bool_]
    effective: Array
    group_weights: Array
    nll_before: Array
    nll_after: Array
    mean: Array
    aleatoric: Array
    epistemic: Array
    log_density: Array
    quantiles: Array
    own_scale: Array
    components: Array


def no_results(
    tasks: int, groups: int, levels: int, rows: int, target_rows: int, components: int, outputs: int = 1
) -> Results:
    """Results of which nothing is written yet.

    Args:
        components: hypotheses whose predictions are to be written; zero for none.
    """
    return Results(
        finite=np.ones(tasks, np.bool_),
        effective=np.zeros(tasks),
        group_weights=np.zeros((tasks, groups)),
        nll_before=np.zeros(tasks),
        nll_after=np.zeros(tasks),
        mean=np.zeros((tasks, rows, outputs)),
        aleatoric=np.zeros((tasks, rows, outputs)),
        epistemic=np.zeros((tasks, rows, outputs)),
        log_density=np.zeros((tasks, target_rows, outputs)),
        quantiles=np.zeros((tasks, levels, rows, outputs)),
        own_scale=np.zeros((2, tasks, rows, outputs)),
        components=np.zeros((3, rows if components else 0, outputs, components)),
    )


def array(values: Tensor) -> Array:
    """A tensor's numbers in double precision, contiguous."""
    return np.ascontiguousarray(values.detach().cpu().double().numpy())


def particle_layers(learner: Collapsed, learned: Learned) -> Particles:
    """The layers of a learner's particles."""
    layout, network = learner.layout, learner.network
    particles = layout.with_noise_levels(learned["initial"].double().unsqueeze(0))[0]
    own = [particle for particle, _ in layout.own]
    slopes = np.zeros((len(own), 0))
    if learner.varying_noise:
        slopes = array(learned["noise_slopes"])[own]
    thetas = array(particles)
    heads, log_noise, log_precision = _last_parts(
        thetas, (network.inputs, *network.hidden)[-1], network.outputs
    )
    return Particles(
        widths=np.array((network.inputs, *network.hidden, network.outputs)),
        activation=ACTIVATION_CODES[network.activation],
        thetas=thetas,
        heads=heads,
        log_noise=log_noise,
        log_precision=log_precision,
        feature_of=np.array(own),
        slopes=np.ascontiguousarray(slopes),
        min_noise=learner.min_noise,
        log_widening=float(learned["log_widening"]),
        log_prior_widening=float(learned.get("log_prior_widening", 0.0)),
    )


def with_layers(particles: Particles, thetas: Array, slopes: Array) -> Particles:
    """The particles with these layers, each with features of its own, in place of theirs."""
    *_, hidden, outputs = particles.widths.tolist()
    heads, log_noise, log_precision = _last_parts(thetas, hidden, outputs)
    return particles._replace(
        thetas=thetas,
        heads=heads,
        log_noise=log_noise,
        log_precision=log_precision,
        feature_of=np.arange(len(thetas)),
        slopes=slopes,
    )


def _last_parts(thetas: Array, hidden: int, outputs: int) -> tuple[Array, Array, Array]:
    """Weights of last layers, log variances of noise and log λ, of parameters `[layer, param]`."""
    layers, params = thetas.shape
    last = (hidden + 1) * outputs
    heads = thetas[:, params - 2 - last : params - 2].reshape(layers, hidden + 1, outputs)
    return np.ascontiguousarray(heads.transpose(0, 2, 1)), -thetas[:, -2], thetas[:, -1].copy()


def process_layers(learner: Collapsed, learned: Learned) -> ProcessLayers:
    """The process layers of a learner."""
    processes, inputs, outputs = learner.processes(learned), learner.network.inputs, learner.network.outputs
    roots = pooled_frequencies = np.zeros((0, 0, 0))
    broad_frequencies = np.zeros((0, 0, 0))
    linear, widths, noise = 0.0, [], []
    if processes is not None and processes.pooled_roots is not None:
        assert processes.pooled_frequencies is not None
        assert processes.pooled_noise is not None
        roots, pooled_frequencies = array(processes.pooled_roots), array(processes.pooled_frequencies)
        widths += [_last(np.asarray(each.any(0))) for each in roots]
        noise += list(array(processes.pooled_noise))
    if processes is not None and processes.surprise is not None:
        assert processes.frequencies is not None
        root, lengths = math.sqrt(inputs), processes.surprise.lengths
        inverse = np.array([1 / (root * length) for length in lengths])
        broad_frequencies = np.ascontiguousarray(array(processes.frequencies) * inverse[:, None, None])
        linear = 2 / (root * max(lengths))
        widths += [1 + inputs + 2 * broad_frequencies.shape[2]] * len(lengths)
        noise += [np.array([math.log(each), *[0.0] * inputs]) for _, each in processes.broad_layers]
    width, like = max(widths, default=0), torch.zeros(1, dtype=torch.float64)
    means = np.zeros((0, outputs, 0))
    if processes is not None:
        means = array(processes.means(like, max(width, roots.shape[2]), outputs)).transpose(0, 2, 1)[
            ..., :width
        ]
    return ProcessLayers(
        pooled_frequencies=pooled_frequencies,
        roots=roots,
        root_ends=_column_ends(roots),
        broad_frequencies=broad_frequencies,
        linear=linear,
        widths=np.array(widths, np.int64),
        maps=np.zeros(0, np.int64) if processes is None else processes.map_of_layers(like).numpy(),
        means=np.ascontiguousarray(means),
        noise=np.array(noise).reshape(len(noise), 1 + inputs),
        max_change=MAX_LOG_NOISE_CHANGE,
        min_noise=learner.min_noise,
        log_widening=np.zeros(0) if processes is None else array(processes.log_widening(like)),
    )


def hypotheses(learner: Collapsed, learned: Learned) -> Hypotheses:
    """The hypotheses of a learner."""
    layout, like = learner.layout, torch.zeros(1, dtype=torch.float64)
    table = layout.table(like)
    count = len(layout.hypotheses)
    log_prior = np.zeros(count)
    if layout.has_groups:
        log_prior = array(log_prior_of(layout, learned, like))
    fewest, most = learner.correlated or (0, 0)
    return Hypotheses(
        layer=table.layer.numpy(),
        scale=array(table.scale),
        log_scale=np.log(array(table.scale)),
        log_prior=log_prior,
        group=table.group.numpy(),
        layers=layout.own_layers + layout.process_layers,
        groups=len(layout.groups),
        weighted=learner.evidence_weights,
        temperature=math.exp(min(0.0, float(learned.get("log_temperature", 0.0)))),
        correlation=float(learned.get("correlation", 0.0)),
        fewest=fewest,
        most=most,
        softening=0.0 if learner.surprise is None else learner.surprise.softening,
        log_softened=min(math.log(0.5), float(learned.get("log_softened", LOG_NOTHING))),
    )


def link_rows(links: Sequence[Link]) -> Array:
    """The links as rows of numbers (see `Units`)."""
    return np.array(
        [
            (
                SCALE_CODES[link.scale],
                link.low,
                link.high,
                link.margin,
                math.nan if link.step is None else link.step,
                link.whole,
                link.max_location,
                link.max_variance,
            )
            for link in links
        ],
        dtype=np.float64,
    )


def _column_ends(roots: Array) -> Indices:
    """First row of each column that is not zero, and the last plus one, `[pooled, 2, feature]`."""
    ends = np.zeros((len(roots), 2, roots.shape[1]), np.int64)
    for layer, root in enumerate(roots):
        for column, values in enumerate(root.T):
            if values.any():
                ends[layer, :, column] = int(np.flatnonzero(values)[0]), _last(values != 0)
    return ends


def _last(used: NDArray[np.bool_]) -> int:
    """One more than the place of the last true value."""
    return int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0
