"""The simple rivals on a panel family: each the best of a few variants on training tasks left out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from benchmarks.accuracy.baselines import Array, TaskForecaster
from benchmarks.accuracy.panel_boosting import BoostedFamily, Boosting
from benchmarks.accuracy.pooled_normal import Basis, MixedEffects, PooledProcess, fitted

Tasks = Sequence[tuple[Array, Array]]
"""x `[row, input]` and y `[row]` of each task, standardised."""
Fit = Callable[[Tasks], TaskForecaster]

FOLDS = 4
SHOTS = (1, 3, 6)
SUPPORTS = 3
"""Random support sets of each task that was left out, for each of `SHOTS` rows."""
RIVALS = ("pooled GP", "mixed effects", "boosting", "GP per task")
MAX_FULL = 6
"""The largest number of inputs whose slopes may be correlated."""
SMALLEST_STD = 0.01
"""A floor under standard deviations, in standardised units: tasks of few rows show no noise."""


def rivals(inputs: int, seed: int) -> Mapping[str, Mapping[str, Fit]]:
    """The variants of each rival."""
    shapes: list[tuple[Basis, Basis]] = [
        ("linear", "constant"),
        ("linear", "linear"),
        ("quadratic", "constant"),
        ("quadratic", "linear"),
        ("quadratic", "quadratic"),
    ]
    mixed = [MixedEffects(fixed, random) for fixed, random in shapes]
    if inputs <= MAX_FULL:
        mixed += [MixedEffects(fixed, random, True) for fixed, random in shapes if random != "constant"]
    bases: list[Basis] = ["constant", "linear", "quadratic"]
    processes = [PooledProcess(fixed, smooth) for fixed in bases for smooth in (True, False)]
    boosted = [Boosting(rounds, leaf) for rounds, leaf in ((60, 40), (200, 15))]
    return {
        "pooled GP": {str(kind): partial(_normal, kind) for kind in processes},
        "mixed effects": {str(kind): partial(_normal, kind) for kind in mixed},
        "boosting": {str(kind): partial(_boosted, kind, seed) for kind in boosted},
        "GP per task": {"": lambda tasks: gp_of_one_task},
    }


def best(variants: Mapping[str, Fit], tasks: Tasks, seed: int) -> tuple[str, TaskForecaster]:
    """The variant with the best NLL on tasks left out, fitted to all tasks, and its name."""
    if len(variants) == 1:
        ((name, fit),) = variants.items()
        return name, fit(tasks)
    folds = np.random.default_rng(seed).permutation(np.arange(len(tasks)) % FOLDS)

    def left_out(fit: Fit) -> float:
        scores: list[float] = []
        for fold in range(FOLDS):
            forecast = fit([task for task, place in zip(tasks, folds, strict=True) if place != fold])
            for number in np.flatnonzero(folds == fold):
                scores += _nlls(forecast, *tasks[int(number)], int(number))
        return float(np.mean(scores))

    name = min(variants, key=lambda name: left_out(variants[name]))
    return name, variants[name](tasks)


def gp_of_one_task(x: Array, y: Array, query: Array) -> tuple[Array, Array]:
    """A GP in standardised units, whose bounded hyperparameters are fitted to the one task."""
    start = ConstantKernel(1.0, (0.3, 5)) * RBF(2.0, (0.3, 10)) + WhiteKernel(0.05, (1e-3, 1))
    optimizer = "fmin_l_bfgs_b" if len(y) > 1 else None
    process = GaussianProcessRegressor(start, optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hyperparameters at their bounds: few points determine little
        process.fit(x, y)
    mean, std = process.predict(query, return_std=True)
    return mean, std


def normal_nll(mean: Array, std: Array, y: Array) -> Array:
    """The negative log density of each label."""
    found: Array = 0.5 * np.square((y - mean) / std) + np.log(std) + 0.5 * np.log(2 * np.pi)
    return found


def _nlls(forecast: TaskForecaster, x: Array, y: Array, seed: int) -> list[float]:
    """The mean NLL of the other rows, for random support sets."""
    found = []
    for shots in SHOTS:
        for draw in range(SUPPORTS if shots < len(y) else 0):
            order = np.random.default_rng([seed, shots, draw]).permutation(len(y))
            shown, asked = order[:shots], order[shots:]
            mean, std = forecast(x[shown], y[shown], x[asked])
            found.append(float(normal_nll(mean, np.maximum(std, SMALLEST_STD), y[asked]).mean()))
    return found


def _normal(kind: MixedEffects | PooledProcess, tasks: Tasks) -> TaskForecaster:
    return fitted(kind, tasks).predict


def _boosted(settings: Boosting, seed: int, tasks: Tasks) -> TaskForecaster:
    return BoostedFamily(settings, tasks, seed).predict
