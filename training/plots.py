"""Plots of a published version: beliefs about held-out tasks, reliability, training history."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray

from bmaml.predictive import Predictive
from bmaml.task import TaskBatch
from bmaml.transformed import Transformed
from model_store.columns import Column, restored, standardised
from model_store.model import Model

mpl.use("Agg")
from matplotlib import pyplot as plt

PANELS = (2, 3)
GRID_POINTS = 300
MARGIN = 0.3
"""Extension of the x axis past the training range on either side, in widths of the range."""
LOG_MARGIN = 1.5
"""Extension of a logarithmic y axis past the intervals on either side, as a factor."""
MAX_PARTICLES = 30
"""Particles drawn in one panel."""
MAX_TASKS = 200
"""Tasks of each batch in the reliability plot."""
INTERVAL_LEVELS = np.linspace(0.05, 0.95, 19)
BAND, LINE, PARTICLE = "#2a6f97", "#014f86", "#e07a5f"


def draw(model: Model, held_out: Iterable[TaskBatch], folder: Path) -> list[Path]:
    """Write the plots of a version into a folder and return their paths.

    `tasks.png` needs a model with one input, `history.png` a version whose training was recorded.
    """
    batches = list(held_out)
    drawn = [_reliability(model, batches, folder / "reliability.png")]
    if len(model.manifest.inputs) == 1:
        drawn.append(_tasks(model, batches[0], folder / "tasks.png"))
    if model.manifest.history:
        drawn.append(history(model, folder / "history.png"))
    return drawn


def _tasks(model: Model, batch: TaskBatch, path: Path) -> Path:
    rows, columns = PANELS
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), sharex=True)
    column = model.manifest.inputs[0]
    grid = _grid(column)
    x = torch.from_numpy(model.standardised_inputs(grid)).expand(len(batch), -1, -1)
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, batch.support)
        belief = model.in_callers_units(model.predict(posterior, x, batch.support))
    for task, axis in enumerate(axes.flat):
        if task >= len(batch):
            axis.set_visible(False)
            continue
        _panel(axis, grid[:, 0], belief.part(slice(task, task + 1)))
        for examples, style in (
            (batch.query, {"marker": ".", "color": "0.35", "s": 9, "label": "the truth"}),
            (batch.support, {"marker": "o", "color": "black", "s": 34, "label": "support", "zorder": 5}),
        ):
            mask = examples.mask[task].numpy()
            points = [values[task].double().numpy()[mask] for values in (examples.x, examples.y)]
            inputs = restored(model.manifest.inputs, points[0])[:, 0]
            axis.scatter(inputs, restored(model.manifest.outputs, points[1])[:, 0], **style)
        axis.axvspan(grid[0, 0], column.lower, color="0.93", zorder=-5)
        axis.axvspan(column.upper, grid[-1, 0], color="0.93", zorder=-5)
        if column.transform != "none":
            axis.set_xscale("log", base=2 if column.transform == "log2" else 10)
        axis.set_xlim(grid[0, 0], grid[-1, 0])
        if task % columns == 0:
            axis.set_ylabel(model.manifest.outputs[0].name)
        if task >= (rows - 1) * columns:
            axis.set_xlabel(column.name)
    axes.flat[0].legend(fontsize=8, frameon=False, loc="best")
    figure.suptitle(f"{model.manifest.name} version {model.manifest.version}: held-out tasks")
    return saved(figure, path)


def _panel(axis: Any, x: NDArray[np.float64], belief: Predictive | Transformed) -> None:
    """The particles as lines as dark as their weight, the mean, and the 50 and 90 % intervals."""
    light = belief.pruned(1e-3)
    weights = light.log_weights[0].exp()
    for particle in range(min(MAX_PARTICLES, len(weights))):
        strength = float(weights[particle] / weights.max())
        axis.plot(
            x, light.means[0, particle, :, 0], color=PARTICLE, lw=0.8, alpha=0.15 + 0.6 * strength, zorder=1
        )
    for level, alpha in ((0.9, 0.15), (0.5, 0.28)):
        low, high = (bound[0, :, 0] for bound in light.interval(level))
        axis.fill_between(x, low, high, color=BAND, alpha=alpha, lw=0, label=f"{level:.0%} interval")
    mean = belief.mean()[0, :, 0]
    axis.plot(x, mean, color=LINE, lw=1.8, label="mean")
    reach = torch.cat([bound[0, :, 0] for bound in light.interval(0.9)])
    low, high = torch.quantile(reach, torch.tensor([0.02, 0.98], dtype=reach.dtype))
    if isinstance(belief, Transformed) and belief.links[0].scale == "log":
        axis.set_yscale("log")
        axis.set_ylim(float(low) / LOG_MARGIN, float(high) * LOG_MARGIN)
        return
    margin = 0.25 * float(high - low)
    axis.set_ylim(float(low) - margin, float(high) + margin)


def _reliability(model: Model, batches: list[TaskBatch], path: Path) -> Path:
    offsets = []
    for batch in batches:
        tasks = batch.tasks(slice(MAX_TASKS))
        with torch.no_grad():
            posterior = model.learner.adapt(model.learned, tasks.support)
            belief = model.predict(posterior, tasks.query.x, tasks.support)
            probability = belief.cdf(tasks.query.y)[tasks.query.mask]
        offsets.append((probability - 0.5).abs().flatten())
    found = [float((torch.cat(offsets) <= level / 2).double().mean()) for level in INTERVAL_LEVELS]
    figure, axis = plt.subplots(figsize=(4.6, 4.6))
    axis.plot([0, 1], [0, 1], color="0.6", ls="--", lw=1, label="honest")
    axis.plot(INTERVAL_LEVELS, found, color=LINE, marker="o", ms=4, label=model.manifest.name)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="central interval", ylabel="truths inside")
    axis.set_aspect("equal")
    axis.legend(frameon=False, loc="upper left")
    return saved(figure, path)


def history(model: Model, path: Path, validation: str = "validation NLL") -> Path:
    """The meta-objective and the validation loss of every evaluation."""
    points = model.manifest.history
    steps = [evaluation.step for evaluation in points]
    figure, axes = plt.subplots(2, 1, figsize=(6, 5), sharex=True)
    for axis, name in zip(axes, ("loss", "nll"), strict=True):
        axis.plot(steps, [getattr(evaluation, name) for evaluation in points], color=LINE, lw=1.5)
    axes[0].set_ylabel("meta-objective")
    axes[1].set(ylabel=validation, xlabel="meta-step")
    return saved(figure, path)


def _grid(column: Column) -> NDArray[np.float64]:
    ends = standardised([column], np.array([[column.lower], [column.upper]]))[:, 0]
    margin = MARGIN * (ends[1] - ends[0])
    return restored([column], np.linspace(ends[0] - margin, ends[1] + margin, GRID_POINTS)[:, None])


def saved(figure: Any, path: Path) -> Path:
    """Write a figure, close it and return its path."""
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path
