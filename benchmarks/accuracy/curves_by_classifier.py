"""What it is worth to be told the classifier: real learning curves with its name among the inputs, or not.

    python -m benchmarks.accuracy.curves_by_classifier learning_curves.parquet [--page docs/accuracy.md]

Both shipped versions, the one that takes names also without any, and two rivals trained here on the same
curves with the same columns. Scored as in `comparison.py`, and a second time on all curves with an anchor
left to ask for.
"""

import argparse
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import pages
from benchmarks.accuracy.baselines import Method, Schedule, neural_process
from benchmarks.accuracy.gradient_boosting import gradient_boosting
from benchmarks.accuracy.problems import CURVE_SHOTS, FEWEST_ANCHORS, Problem, learning_curves
from benchmarks.accuracy.report import COLUMNS
from benchmarks.accuracy.scoring import as_served, score
from benchmarks.accuracy.training_run import BOOSTED_TASKS
from bmaml.task import Examples
from model_store import SHIPPED, Store

PLAIN, NAMED = "learning-curves", "learning-curves-by-classifier"
CNP_STEPS = 3000


def contestants(problems: dict[bool, Problem], store: Path) -> Iterator[tuple[str, bool, Method]]:
    """What it is called, whether it is told the classifier, and the method."""
    for name, told in ((PLAIN, False), (NAMED, True)):
        model = Store(store).load(name)
        yield f"`{name}`", told, as_served(model)
    yield f"`{NAMED}`, told none", True, without_names(as_served(model))
    for told, problem in problems.items():
        how = "told" if told else "not told"
        family = problem.family
        training, validation = problem.training_tasks(BOOSTED_TASKS, 0), problem.validation_tasks()
        yield f"gradient boosting, {how}", told, gradient_boosting(training, validation, 0)
        look = partial(lambda family: next(iter(family.validation())), family)
        yield f"neural process, {how}", told, neural_process(family.batch, look, Schedule(CNP_STEPS), 0)


def without_names(method: Method) -> Method:
    """The same with zeros after the first input."""

    def nameless(x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], torch.zeros_like(x[..., 1:])], -1)

    return lambda support, x: method(Examples(nameless(support.x), support.y, support.mask), nameless(x))


def main() -> None:
    """Train, score, print or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--page", type=Path, help="where to write the tables; else they are printed")
    parser.add_argument("--machine", default=platform.machine(), help="its name on the page")
    parser.add_argument("--store", type=Path, default=SHIPPED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = {
        f"Curves of at least {FEWEST_ANCHORS} anchors": FEWEST_ANCHORS,
        "All curves with an anchor to ask for": 0,
    }
    problems = {
        head: {told: learning_curves(options.file, 0, told=told, fewest=fewest) for told in (False, True)}
        for head, fewest in sets.items()
    }
    columns = [("RMSE", "rmse", "{:.4f}"), *COLUMNS[1:-1]]
    found: dict[str, list[tuple[int, float, str]]] = {head: [] for head in sets}
    for name, told, method in contestants(next(iter(problems.values())), options.store):
        for head, own in problems.items():
            for shots, metrics in score(own[told], method).items():
                cells = [form.format(metrics[key]).replace("%", " %") for _, key, form in columns]
                line = f"| {shots} | {name} | {' | '.join(cells)} |"
                found[head].append((int(shots), metrics["nll"], line))
                print(line, flush=True)
    lines = [f"Measured on {options.machine}, one thread.", ""]
    for head, rows in found.items():
        counts = ", ".join(f"{len(problems[head][False].held_out[shots])}" for shots in CURVE_SHOTS)
        heads = " | ".join(column for column, _, _ in columns)
        lines += [f"{head} ({counts} of them):", ""]
        lines += [f"| given | | {heads} |", "|---" * (len(columns) + 2) + "|"]
        lines += [line for *_, line in sorted(rows)] + [""]
    if options.page:
        pages.write(options.page, lines, "told")


if __name__ == "__main__":
    main()
