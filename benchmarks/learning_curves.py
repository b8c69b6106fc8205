"""Extrapolating real learning curves: a published model beside what a user would reach for first.

    python benchmarks/learning_curves.py learning_curves.parquet [--model learning-curves] [--shots 5]

Every curve of the validation split with at least `--anchors` points is cut after its first `--shots`;
all later points are asked. Figures are means within a curve first, then over curves. The baselines
see the same points: the last value stays; a + b·exp(−c·log₂ size) fitted by least squares with the
residuals' spread as its noise; and a scikit-learn GP (RBF + white noise, hyperparameters by marginal
likelihood) for each curve.
"""

import argparse
import math
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from bmaml.task import Examples
from model_store import SHIPPED, Store

Array = NDArray[np.float64]
SMALLEST_STD = 0.01


@dataclass(frozen=True)
class Curve:
    """log₂ of the training sizes and the accuracies, in order of size."""

    x: Array
    y: Array


@dataclass(frozen=True)
class Forecast:
    """Mean, NLL of the truths, and whether each lies inside the central 90 % interval."""

    mean: Array
    nll: Array
    inside: NDArray[np.bool_]


def normal(mean: Array, std: Array, truth: Array) -> Forecast:
    """A Gaussian forecast, with a floor on its width so that no baseline is ruined by one zero."""
    std = np.maximum(std, SMALLEST_STD)
    inside = np.abs(truth - mean) <= stats.norm.ppf(0.95) * std
    return Forecast(mean, -stats.norm.logpdf(truth, mean, std), inside)


def last_value(seen: Curve, asked: Curve) -> Forecast:
    """The last value stays, with the spread of the steps so far."""
    return normal(np.full(len(asked.x), seen.y[-1]), np.full(len(asked.x), np.diff(seen.y).std()), asked.y)


def exponential(seen: Curve, asked: Curve) -> Forecast:
    """a + b·exp(−c·x) by bounded least squares, with the residuals' spread."""

    def curve(x: Array, a: float, b: float, c: float) -> Array:
        return a + b * np.exp(-c * (x - seen.x[0]))

    start = (seen.y[-1], seen.y[0] - seen.y[-1], 0.5)
    try:
        best, _ = optimize.curve_fit(
            curve,
            seen.x,
            seen.y,
            p0=np.clip(start, [0, -1, 1e-3], [1, 1, 5]),
            bounds=([0, -1, 1e-3], [1, 1, 5]),
        )
    except RuntimeError:
        return last_value(seen, asked)
    spread = (curve(seen.x, *best) - seen.y).std(ddof=min(3, len(seen.y) - 1))
    return normal(curve(asked.x, *best), np.full(len(asked.x), spread), asked.y)


def gaussian_process(seen: Curve, asked: Curve) -> Forecast:
    """A GP fitted to the points of the one curve."""
    kernel = ConstantKernel(1.0) * RBF(2.0, (0.1, 100)) + WhiteKernel(1e-2, (1e-6, 1))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hyperparameters at their bounds: five points say little
        process.fit(seen.x[:, None], seen.y)
    mean, std = process.predict(asked.x[:, None], return_std=True)
    return normal(mean, std, asked.y)


def model_forecasts(name: str, store: Path, seen: list[Curve], asked: list[Curve]) -> list[Forecast]:
    """All curves adapted together."""
    model = Store(store).load(name)

    def rows(curve: Curve) -> tuple[torch.Tensor, torch.Tensor]:
        x = model.standardised_inputs(2 ** curve.x[:, None])
        y = model.standardised_targets(curve.y[:, None])
        return torch.from_numpy(x), torch.from_numpy(y)

    with torch.no_grad():
        support = Examples.padded([rows(curve) for curve in seen])
        query = Examples.padded([rows(curve) for curve in asked])
        posterior = model.learner.adapt(model.learned, support)
        belief = model.in_callers_units(model.learner.predict(posterior, query.x))
        units = model.manifest.outputs[0]
        truth = query.y * units.std + units.mean
        inside = (belief.cdf(truth) - 0.5).abs() <= 0.45
        mean, nll = belief.mean(), -belief.log_density(truth)
    return [
        Forecast(
            *(values[task, : len(curve.x), 0].double().numpy() for values in (mean, nll)),
            inside[task, : len(curve.x), 0].numpy(),
        )
        for task, curve in enumerate(asked)
    ]


def read(path: Path, anchors: int) -> list[Curve]:
    """The validation curves with enough points."""
    table = pyarrow.parquet.read_table(path, columns=["curve", "train_size", "accuracy", "split"])
    table = table.filter(pyarrow.compute.equal(table["split"], "validation"))
    table = table.sort_by([("curve", "ascending"), ("train_size", "ascending")])
    names = np.array(table["curve"].to_pylist())
    cuts = np.flatnonzero(names[1:] != names[:-1]) + 1
    sizes = np.split(np.log2(table["train_size"].to_numpy()), cuts)
    values = np.split(table["accuracy"].to_numpy().astype(np.float64), cuts)
    return [Curve(x, y) for x, y in zip(sizes, values, strict=True) if len(x) >= anchors]


def row(name: str, forecasts: list[Forecast], asked: list[Curve], seconds: float) -> str:
    """One line of the table."""
    squares = [np.mean((f.mean - curve.y) ** 2) for f, curve in zip(forecasts, asked, strict=True)]
    nll = np.mean([f.nll.mean() for f in forecasts])
    inside = np.mean([f.inside.mean() for f in forecasts])
    rmse, per_curve = math.sqrt(np.mean(squares)), np.mean(np.sqrt(squares))
    each = 1000 * seconds / len(asked)
    return f"| {name} | {rmse:.4f} | {per_curve:.4f} | {nll:.3f} | {100 * inside:.1f} % | {each:.2f} |"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", nargs="+", default=["learning-curves"])
    parser.add_argument("--store", type=Path, default=SHIPPED)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--anchors", type=int, default=8)
    parser.add_argument("--no-baselines", action="store_true")
    options = parser.parse_args()
    curves = read(options.file, max(options.anchors, options.shots + 1))
    seen = [Curve(curve.x[: options.shots], curve.y[: options.shots]) for curve in curves]
    asked = [Curve(curve.x[options.shots :], curve.y[options.shots :]) for curve in curves]
    print(
        f"{len(curves)} validation curves with more than {max(options.anchors - 1, options.shots)} anchors, "
        f"the first {options.shots} given;"
    )
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads\n")
    print("| | RMSE | mean of the curves' RMSE | NLL | inside 90 % | ms per curve |")
    print("|---|---|---|---|---|---|")
    for name in options.model:
        start = time.perf_counter()
        forecasts = model_forecasts(name, options.store, seen, asked)
        print(row(f"`{name}`", forecasts, asked, time.perf_counter() - start))
    if options.no_baselines:
        return
    baselines: list[tuple[str, Callable[[Curve, Curve], Forecast]]] = [
        ("last value", last_value),
        ("fitted exponential", exponential),
        ("GP per curve (scikit-learn)", gaussian_process),
    ]
    for name, forecast in baselines:
        start = time.perf_counter()
        forecasts = [forecast(*pair) for pair in zip(seen, asked, strict=True)]
        print(row(name, forecasts, asked, time.perf_counter() - start))


if __name__ == "__main__":
    main()
