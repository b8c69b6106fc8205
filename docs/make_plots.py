"""Draw the plots of docs/uncertainty.md from answers of the shipped versions.

    python docs/make_plots.py

Needs the `train` and `sklearn` extras; takes about half a minute.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from bmaml_client.connections import connection

mpl.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[np.float64]

FOLDER = Path(__file__).parent
BAND, LINE, HYPOTHESIS, GIVEN, NOISE = "#2a6f97", "#014f86", "#e07a5f", "#c9184a", "#6a994e"
GRID = np.linspace(-5, 5, 201)
TASKS, ASKED = 300, 20
LEVELS = np.linspace(0.1, 0.9, 9)


def main() -> None:
    """All of them."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    client: Any = connection(None, None, None, 60.0)
    _parts(client)
    _mixture(client)
    _calibration(client)


def curve(x: Array) -> Array:
    """The sine of the first two plots."""
    return 3 * np.sin(1.1 * x - 0.6)


def _parts(client: Any) -> None:
    """Belief, and its two standard deviations, after two, four and seven labels."""
    every = np.array([-3.1, -2.2, -0.4, 0.9, 2.4, 3.3, 4.4])
    figure, axes = plt.subplots(
        2, 3, figsize=(9, 4.6), sharex=True, sharey="row", height_ratios=(2, 1), layout="constrained"
    )
    for column, places in enumerate(([0, 3], [0, 2, 3, 5], range(7))):
        x = every[list(places)]
        answer = client.adapt_predict(
            "sinusoid", x[:, None], curve(x), GRID[:, None], quantiles=[0.25, 0.75], particles=True
        )
        above, below = axes[:, column]
        for mean, weight in zip(answer.particles.mean[:25], answer.particles.weight, strict=False):
            strength = weight / answer.particles.weight[0]
            above.plot(GRID, mean, color=HYPOTHESIS, lw=0.7, alpha=0.1 + 0.4 * strength)
        interval = answer.interval
        above.fill_between(
            GRID, interval.lower, interval.upper, color=BAND, alpha=0.16, lw=0, label="90 % interval"
        )
        above.fill_between(GRID, *answer.quantiles.values, color=BAND, alpha=0.3, lw=0, label="50 % interval")
        above.plot(GRID, answer.mean, color=LINE, lw=1.8, label="mean")
        above.plot(GRID, curve(GRID), color="0.35", lw=1, ls="--", label="the truth")
        above.plot(x, curve(x), "o", color=GIVEN, ms=5, label="labels")
        above.set_title(
            f"{len(x)} labels, {answer.diagnostics.effective_particles:.1f} effective particles", fontsize=9
        )
        below.semilogy(GRID, np.sqrt(answer.variance.epistemic), color=LINE, lw=1.6, label="epistemic")
        below.semilogy(GRID, np.sqrt(answer.variance.aleatoric), color=NOISE, lw=1.6, label="aleatoric")
        below.plot(x, np.full(len(x), 3e-3), "|", color=GIVEN, ms=9)
        below.set(xlabel="x", xlim=(-5, 5))
    axes[0, 0].set(ylabel="y", ylim=(-7.5, 7.5))
    axes[1, 0].set(ylabel="std", ylim=(2e-3, 8))
    axes[0, 2].legend(frameon=False, fontsize=7, ncols=2, loc="lower center")
    axes[1, 2].legend(frameon=False, fontsize=7, loc="upper right")
    figure.savefig(FOLDER / "uncertainty-parts.png", dpi=130)


def _mixture(client: Any) -> None:
    """The density at one row, and the normal with the same two moments."""
    x, asked = np.array([-3.1, 0.9]), np.array([[3.2]])
    answer = client.adapt_predict(
        "sinusoid", x[:, None], curve(x), asked, quantiles=[0.05, 0.5, 0.95], particles=True
    )
    y = np.linspace(-8, 8, 801)
    weights, means, stds = answer.particles.weight, answer.particles.mean[:, 0], answer.particles.std[:, 0]
    mixture = (weights[:, None] * _normal(y, means[:, None], stds[:, None])).sum(0)
    mean, std = float(answer.mean[0]), float(answer.std[0])
    figure, axis = plt.subplots(figsize=(7.6, 3), layout="constrained")
    axis.fill_between(y, mixture, color=BAND, alpha=0.25, lw=0)
    axis.plot(y, mixture, color=LINE, lw=1.8, label="what is believed: the mixture")
    axis.plot(y, _normal(y, mean, std), color="0.4", lw=1.2, ls="--", label="a normal with its mean and std")
    top = 1.15 * max(mixture.max(), _normal(mean, mean, std))
    for level, (value,) in zip((5, 50, 95), answer.quantiles.values, strict=True):
        axis.axvline(value, ymax=0.86, color=GIVEN, lw=1)
        axis.text(value, 0.9 * top, f"{level} %", color=GIVEN, ha="center", fontsize=8)
    for shift in (-1.645, 1.645):
        axis.axvline(mean + shift * std, ymax=0.12, color="0.4", lw=1.2, ls="--")
    axis.set(xlabel="y at x = 3.2, from two labels", ylabel="density", ylim=(0, top), xlim=(-8, 8))
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.72, 0.75))
    figure.savefig(FOLDER / "uncertainty-mixture.png", dpi=130)
    print(f"mixture: 5 to 95 % {answer.quantiles.values[0, 0]:.2f} to {answer.quantiles.values[2, 0]:.2f},")
    print(f"normal: {mean - 1.645 * std:.2f} to {mean + 1.645 * std:.2f}")


def _calibration(client: Any) -> None:
    """How many truths lie in the central intervals, over the levels, for both versions of the sine curves."""
    tails = np.concatenate([0.5 - LEVELS[::-1] / 2, 0.5 + LEVELS / 2])
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.5), sharey=True, layout="constrained")
    for axis, model in zip(axes, ("sinusoid", "sinusoid-bmaml"), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--")
        for shots, colour in ((2, "#e9c46a"), (5, HYPOTHESIS), (10, LINE)):
            draw, inside, noisy = np.random.default_rng(1), np.zeros(len(LEVELS)), 0.0
            for _ in range(TASKS):
                # The family of the paper: amplitude, frequency, phase, noise of one percent.
                a, w, b = draw.uniform(0.1, 5), draw.uniform(0.5, 2), draw.uniform(0, 2 * np.pi)
                x = draw.uniform(-5, 5, shots + ASKED)
                truth = a * np.sin(w * x - b)
                y = truth + 0.01 * a * draw.normal(size=len(x))
                answer = client.adapt_predict(
                    model, x[:shots, None], y[:shots], x[shots:, None], quantiles=tails
                )
                low, high = (
                    answer.quantiles.values[: len(LEVELS)][::-1],
                    answer.quantiles.values[len(LEVELS) :],
                )
                inside += ((low <= truth[shots:]) & (truth[shots:] <= high)).mean(1)
                noisy += ((low[-1] <= y[shots:]) & (y[shots:] <= high[-1])).mean()
            axis.plot(LEVELS, inside / TASKS, "o-", ms=3.5, lw=1.4, color=colour, label=f"{shots} labels")
            print(
                f"{model}, {shots} labels: in the 90 % interval {inside[-1] / TASKS:.0%} of truths, "
                f"{noisy / TASKS:.0%} of measurements"
            )
        axis.set(title=model, xlabel="central interval", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes[0].set_ylabel("truths inside")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(FOLDER / "uncertainty-calibration.png", dpi=130)


def _normal(y: Any, mean: Any, std: Any) -> Any:
    return np.exp(-0.5 * ((y - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


if __name__ == "__main__":
    main()
