"""Tables of the shift suite."""

import math
from collections.abc import Mapping, Sequence

from benchmarks.accuracy.class_scores import ClassScore, class_metrics
from benchmarks.accuracy.number_scores import Panel
from benchmarks.accuracy.number_tasks import FAMILY

Columns = Sequence[tuple[str, str, str]]
"""Heading, name of the metric and format of each column."""
NUMBERS: Columns = (
    ("in 90 %", "coverage", "{:.0%}"),
    ("under half", "under_half", "{:.1%}"),
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
CURVES: Columns = (
    *NUMBERS[:9],
    ("cell NLL", "cell_nll", "{:.2f}"),
    ("worst cell", "worst_cell_nll", "{:.4g}"),
    *NUMBERS[9:],
)
CLASSES: Columns = (
    ("accuracy", "accuracy", "{:.1%}"),
    ("NLL", "nll", "{:.3f}"),
    ("worst NLL", "worst_nll", "{:.3g}"),
    ("ECE", "ece", "{:.3f}"),
    ("confidence", "confidence", "{:.2f}"),
    ("entropy", "entropy", "{:.2f}"),
    ("epistemic", "epistemic", "{:.2f}"),
    ("warned", "warned", "{:.0%}"),
    ("answered", "answered", "{:.0%}"),
)


def number_table(
    panels: Sequence[Panel], columns: Columns = NUMBERS, errors: Mapping[tuple[int, str], float] | None = None
) -> list[str]:
    """The table of a model whose labels are numbers.

    Args:
        errors: RMSE of forecasts without the model, by number of points and name.
    """
    family = {panel.points: panel.width for panel in panels if panel.shift == FAMILY}
    rows = [
        (panel.points, panel.shift, panel.metrics(family.get(panel.points, math.nan))) for panel in panels
    ]
    rows += [(points, name, {"rmse": rmse}) for (points, name), rmse in (errors or {}).items()]
    return _table("points", columns, sorted(rows, key=lambda row: row[0]))


def class_table(found: Mapping[tuple[int, str], Sequence[ClassScore | None]]) -> list[str]:
    """The table of a classifier, from scores by number of shots and shift."""
    rows = [(shots, shift, class_metrics(scores)) for (shots, shift), scores in found.items()]
    return _table("shots", CLASSES, rows)


def _table(first: str, columns: Columns, rows: Sequence[tuple[int, str, Mapping[str, float]]]) -> list[str]:
    """Markdown lines; a metric that is missing or NaN leaves its cell empty."""
    heads = [first, "shift", *(head for head, _, _ in columns)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for number, shift, metrics in rows:
        values = [(form, metrics.get(key, math.nan)) for _, key, form in columns]
        cells = ["" if math.isnan(value) else form.format(value).replace("%", " %") for form, value in values]
        lines.append(f"| {number} | {shift} | {' | '.join(cells)} |")
    return lines
