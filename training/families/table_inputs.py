"""Columns of `--x`: numbers with their transforms, days, names as columns of zeros and ones, lists."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from model_store.columns import Array, Column, Transform
from training.config import ELAPSED, TRANSFORMS, TableConfig, origin_of
from training.errors import UnusableTable
from training.families.cells import Cells, Mask, days_since_first
from training.families.splits import Indices
from training.reading import Columns, Names
from training.reading.dates import MICROSECONDS_PER_DAY

MAX_CATEGORIES = 64


@dataclass
class TableInput:
    """One column of `--x`: numbers or names, `[row]`.

    Attributes:
        found: the values of a column of names that have a column of zeros and ones each.
    """

    name: str
    transform: Transform
    numbers: Array | None = None
    names: Names | None = None
    found: list[str] = field(default_factory=list)


def inputs_of(
    cells: Cells,
    name: str,
    word: str,
    config: TableConfig,
    model_inputs: Sequence[Column] | None,
    task: Names,
) -> list[TableInput]:
    """The columns of one name in `--x`: one, or one for each dimension of a column of lists.

    Raises:
        UnusableTable: the column holds something else than it is used for.
    """
    columns = cells.columns
    if columns.is_of_vectors(name) and name not in config.categorical:
        if word != "none":
            columns.refuse(name, f"holds lists, which are standardised; {word} has no place there")
        vectors = columns.vectors(name)
        cells.without(name, np.asarray(~np.isfinite(vectors).all(1), dtype=bool))
        return [
            TableInput(f"{name}[{place}]", "none", vectors[:, place]) for place in range(vectors.shape[1])
        ]
    return [_input(cells, name, word, config, model_inputs, task)]


def _input(
    cells: Cells,
    name: str,
    word: str,
    config: TableConfig,
    model_inputs: Sequence[Column] | None,
    task: Names,
) -> TableInput:
    columns = cells.columns
    if word not in TRANSFORMS.values():
        instants = columns.instants(name, f"taken as {word}")
        if instants.of_day:
            columns.refuse(name, f"holds times of day, which are no dates: {word} needs dates")
        cells.without(name, instants.missing)
        values = (instants.microseconds - (origin_of(word) or 0)).astype(np.float64)
        if word == ELAPSED:
            return TableInput(f"{name}:{word}", "none", days_since_first(values, task, instants.missing))
        return TableInput(f"{name}:{word}", "none", values / MICROSECONDS_PER_DAY)
    transform: Transform = "log" if word == "log" else "log2" if word == "log2" else "none"
    named = name in config.categorical or _is_category(name, model_inputs)
    kind = "names" if named else columns.kind(name)
    if kind in ("dates", "times of day"):
        columns.refuse(
            name,
            f"holds {kind}: say {name}:elapsed for days since a task's first row, {name}:days(2020-01-31) "
            "for days since a date, or --categorical",
        )
    if kind == "numbers":
        numbers = cells.numbers(name)
        if transform != "none" and (bad := np.flatnonzero(numbers <= 0)).size:
            place = columns.place(int(bad[0]))
            columns.refuse(
                name, f"has {numbers[bad[0]]:g} in {place}, which is not positive, and {transform} needs that"
            )
        return TableInput(name, transform, numbers)
    if transform != "none":
        columns.refuse(name, f"holds {kind}, and {transform} needs numbers")
    return TableInput(name, transform, names=cells.names(name))


def _is_category(name: str, model_inputs: Sequence[Column] | None) -> bool:
    known = [column.name for column in model_inputs or ()]
    return name not in known and any(each.startswith(f"{name}=") for each in known)


def find_values(
    columns: Columns,
    column: TableInput,
    rows: Indices,
    trained: Mask,
    model_inputs: Sequence[Column] | None,
) -> Mask:
    """Find the values of a column of names in the training tasks; a mask of the rows with other values.

    Raises:
        UnusableTable: there are too few values, or too many.
    """
    assert column.names is not None
    names = column.names.taken(rows)
    if model_inputs is not None:
        start = f"{column.name}="
        column.found = [each.name.removeprefix(start) for each in model_inputs if each.name.startswith(start)]
    else:
        there = len(np.unique(names.codes))
        used = np.unique(names.codes[trained])
        column.found = sorted(names.values[code] for code in used)
        if there > MAX_CATEGORIES or len(used) < 2:
            counted = there if there > MAX_CATEGORIES else len(used)
            where = "" if there > MAX_CATEGORIES else " in the training tasks"
            columns.refuse(
                column.name,
                f"has {counted} different values{where}; 2 to {MAX_CATEGORIES} can be one-hot: leave it out",
            )
    known = np.array([value in column.found for value in names.values], dtype=bool)
    return np.asarray(~known[names.codes], dtype=bool)


def encoded(
    inputs: Sequence[TableInput], rows: Indices, model_inputs: Sequence[Column] | None
) -> tuple[tuple[str, ...], tuple[Transform, ...], tuple[slice, ...], Array]:
    """Numbers unchanged, and a column `name=value` of zeros and ones for each value of names.

    Raises:
        UnusableTable: the names are not those of the published model.
    """
    names: list[str] = []
    transforms: list[Transform] = []
    categories: list[slice] = []
    values: list[Array] = []
    for each in inputs:
        if each.numbers is not None:
            names.append(each.name)
            transforms.append(each.transform)
            values.append(each.numbers[rows])
            continue
        assert each.names is not None
        categories.append(slice(len(names), len(names) + len(each.found)))
        names += [f"{each.name}={value}" for value in each.found]
        transforms += ["none"] * len(each.found)
        place = {value: code for code, value in enumerate(each.names.values)}
        codes = each.names.codes[rows]
        values += [(codes == place.get(value, -2)).astype(np.float64) for value in each.found]
    known = [column.name for column in model_inputs] if model_inputs is not None else names
    if names != known:
        raise UnusableTable(
            f"the model was trained on {', '.join(known)}; this table gives {', '.join(names)}"
        )
    return tuple(names), tuple(transforms), tuple(categories), np.column_stack(values)
