"""The shipped versions on tasks like those of training and on tasks unlike them, as the service answers.

python -m benchmarks.accuracy.shifts [--model NAME ...] [--tasks 200] [--page docs/accuracy.md]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import command_line, pages
from benchmarks.accuracy.number_scores import Panel, score_shifts
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.sine_shifts import FEW_POINTS, POINTS, SINE_SHIFTS, sine_tasks
from model_store import SHIPPED, Model, Store

COLUMNS = (
    ("in 90 %", "coverage", "{:.0%}"),
    ("RMSE", "rmse", "{:.3g}"),
    ("normal NLL", "normal_nll", "{:.2f}"),
    ("worst normal", "worst_normal_nll", "{:.4g}"),
    ("answered NLL", "answered_nll", "{:.2f}"),
    ("worst answered", "worst_answered_nll", "{:.4g}"),
    ("full NLL", "mixture_nll", "{:.2f}"),
    ("worst full", "worst_mixture_nll", "{:.4g}"),
    ("width", "width", "{:.3g}"),
    ("of the family's", "relative_width", "{:.3g}"),
    ("warned", "warned", "{:.0%}"),
    ("answered", "answered", "{:.0%}"),
)


def sine_panels(model: Model, tasks: int) -> Iterator[Panel]:
    """The family from no point on, and every shift at all `POINTS`."""
    for points in FEW_POINTS:
        yield from score_shifts(model, {FAMILY: SINE_SHIFTS[FAMILY]}, sine_tasks(tasks, points), points)
    for points in POINTS:
        yield from score_shifts(model, SINE_SHIFTS, sine_tasks(tasks, points), points)


def number_table(panels: Sequence[Panel]) -> list[str]:
    """The Markdown table of a model's panels."""
    family = {panel.points: panel.width for panel in panels if panel.shift == FAMILY}
    heads = ["points", "shift", *(head for head, _, _ in COLUMNS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for panel in panels:
        metrics = panel.metrics(family[panel.points])
        cells = [form.format(metrics[key]).replace("%", " %") for _, key, form in COLUMNS]
        lines.append(f"| {panel.points} | {panel.shift} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Score; print the tables or write them into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--model", nargs="+", default=["sinusoid"])
    arguments.add_argument("--tasks", type=int, default=200)
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "trust")
    torch.set_num_threads(1)
    lines = [f"Measured on {options.machine}, one thread.", ""]
    for name in options.model:
        model = Store(options.store).load(name)
        lines += [f"### {name}", "", *number_table(list(sine_panels(model, options.tasks))), ""]
    if options.page:
        pages.write(options.page, lines, "trust")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
