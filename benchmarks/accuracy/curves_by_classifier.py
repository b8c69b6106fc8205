"""Real learning curves with and without the classifier among the inputs.

    python -m benchmarks.accuracy.curves_by_classifier learning_curves.parquet [--page docs/accuracy.md]

Both shipped versions, the one with classifiers also without them, and two alternatives trained on the same
curves and columns. They are scored as in `comparison.py`, and again on all curves with a query anchor left.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.accuracy.baselines import Forecaster, Schedule, neural_process
from benchmarks.accuracy.gradient_boosting import gradient_boosting
from benchmarks.accuracy.problems import CURVE_SHOTS, MIN_ANCHORS, Problem, learning_curves
from benchmarks.accuracy.report import COLUMNS
from benchmarks.accuracy.scoring import score, served_forecaster
from benchmarks.accuracy.training_run import BOOSTING_TASKS
from bmaml.task import Examples
from model_store import SHIPPED, Store

PLAIN, NAMED = "learning-curves", "learning-curves-by-classifier"
CNP_STEPS = 3000


def forecasters(problems: dict[bool, Problem], store: Path) -> Iterator[tuple[str, bool, Forecaster]]:
    """Names, whether inputs include the classifier, and forecasters.

    Args:
        problems: without (False) and with (True) the classifier among the inputs.
    """
    for name, named in ((PLAIN, False), (NAMED, True)):
        model = Store(store).load(name)
        yield f"`{name}`", named, served_forecaster(model, problems[named].output)
    yield f"`{NAMED}`, told none", True, without_classifier(served_forecaster(model, problems[True].output))
    for named, problem in problems.items():
        how = "told" if named else "not told"
        family = problem.family
        training, validation = problem.training_tasks(BOOSTING_TASKS, 0), problem.validation_tasks()
        yield f"gradient boosting, {how}", named, gradient_boosting(training, validation, 0)
        validation_batch = partial(lambda family: next(iter(family.validation())), family)
        yield (
            f"neural process, {how}",
            named,
            neural_process(family.batch, validation_batch, Schedule(CNP_STEPS), 0),
        )


def without_classifier(forecast: Forecaster) -> Forecaster:
    """The same forecaster, with zeros for all inputs after the first."""

    def blanked(x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], torch.zeros_like(x[..., 1:])], -1)

    return lambda support, x: forecast(Examples(blanked(support.x), support.y, support.mask), blanked(x))


def main() -> None:
    """Train and score; print the tables or write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("file", type=Path)
    command_line.add_page(arguments)
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    sets = {
        f"Curves of at least {MIN_ANCHORS} anchors": MIN_ANCHORS,
        "All curves with an anchor to ask for": 0,
    }
    problems = {
        head: {
            named: learning_curves(options.file, 0, with_classifier=named, min_anchors=fewest)
            for named in (False, True)
        }
        for head, fewest in sets.items()
    }
    columns = [("RMSE", "rmse", "{:.4f}"), *COLUMNS[1:-1]]
    found: dict[str, list[tuple[int, float, str]]] = {head: [] for head in sets}
    for name, named, forecast in forecasters(next(iter(problems.values())), options.store):
        for head, own in problems.items():
            for shots, metrics in score(own[named], forecast).items():
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
