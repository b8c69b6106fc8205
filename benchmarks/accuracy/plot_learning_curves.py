"""The plot docs/learning-curves.png: real validation curves, forecast from five points each.

python -m benchmarks.accuracy.plot_learning_curves learning_curves.parquet
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from benchmarks import command_line
from benchmarks.accuracy.problems import MIN_ANCHORS, Curve, validation_curves
from bmaml.task import Examples
from model_store import SHIPPED, Model, Store

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SHOTS = 5


def draw(axis: Axes, curve: Curve, model: Model) -> None:
    """Draw the given and the later points, and the mean with 50 and 90 % intervals."""
    sizes, values = curve.sizes, curve.accuracies
    grid = np.geomspace(sizes[0] / 1.4, 1.4 * max(sizes[-1], 4096), 200)
    seen, values_seen = sizes[:SHOTS], values[:SHOTS]
    x, y = model.standardised_inputs(seen[:, None]), model.standardised_targets(values_seen[:, None])
    support = Examples.padded([(torch.from_numpy(x), torch.from_numpy(y))])
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, support)
        query = torch.from_numpy(model.standardised_inputs(grid[:, None])).unsqueeze(0)
        belief = model.in_callers_units(model.predict(posterior, query, support))
        mean = belief.mean()[0, :, 0].numpy()
        for level, shade in ((0.9, 0.18), (0.5, 0.3)):
            lower, upper = (bound[0, :, 0].numpy() for bound in belief.interval(level))
            axis.fill_between(
                grid, lower, upper, color="#2a6f97", alpha=shade, lw=0, label=f"{level:.0%} interval"
            )
    axis.plot(grid, mean, color="#014f86", lw=2, label="mean")
    axis.plot(sizes[SHOTS:], values[SHOTS:], "o", ms=5, mfc="white", mec="#c9184a", label="came later")
    axis.plot(seen, values_seen, "o", ms=6, color="#c9184a", label="given")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("training rows")
    axis.grid(alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the chosen curves side by side."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--model", default="learning-curves")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    arguments.add_argument("--curves", type=int, nargs="+", default=[300, 120])
    arguments.add_argument("--output", type=Path, default=Path("docs/learning-curves.png"))
    options = arguments.parse_args()
    curves = [curve for curve in validation_curves(options.file) if len(curve.sizes) >= MIN_ANCHORS]
    model = Store(options.store).load(options.model)
    figure, axes = plt.subplots(1, len(options.curves), figsize=(9, 3.2), layout="constrained")
    for axis, index in zip(np.atleast_1d(axes), options.curves, strict=True):
        draw(axis, curves[index], model)
    np.atleast_1d(axes)[0].set_ylabel("accuracy")
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(options.output, dpi=120)


if __name__ == "__main__":
    main()
