"""The usable rows of a table, task by task, in the caller's units."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.class_target import Label
from model_store.columns import Array, Column, Transform
from training.config import TRANSFORMS, TableConfig, UpTo
from training.errors import UnusableTable
from training.families.cells import Cells, Mask, days_since_first
from training.families.class_labels import TargetKind, class_column, class_notes, fixed_labels, target_kind
from training.families.splits import (
    ROLES,
    Indices,
    group_of_tasks,
    roles_from_column,
    seeded_roles,
    with_validation,
)
from training.families.table_inputs import encoded, find_values, inputs_of
from training.families.targets import AUTO, domain_of
from training.reading import Columns, Names, read
from training.reading.dates import parsed_date
from training.reading.numbers import parsed_number

MAX_VALUES_SHOWN = 5


@dataclass(frozen=True)
class Rows:
    """The usable rows of a table, sorted by task and, within a task, by the `order` column.

    Attributes:
        inputs: the names of the columns of x.
        transforms: the transform of each.
        categories: the inputs that stand for one column of names, for each such column.
        x, y: `[row, column]` in the caller's units; y is one-hot where the target has fixed classes, and has
            no column where classes are new.
        target: what the target is.
        labels: the classes of fixed meaning, in the order of the columns of y.
        starts, counts: the first row and the number of rows of each task; of each class where these are new.
        roles: "train", "validation" or "test" of each task.
        groups: the group of each task that the roles keep together; its own where nothing groups them.
        early: the rows up to `support_until`, `[row]`; None without it.
        notes: sentences that say how the file was read and count what was left out.
    """

    inputs: tuple[str, ...]
    transforms: tuple[Transform, ...]
    categories: tuple[slice, ...]
    x: Array
    y: Array
    target: TargetKind
    labels: tuple[Label, ...]
    starts: Indices
    counts: Indices
    roles: NDArray[np.str_]
    groups: Indices
    early: Mask | None
    notes: tuple[str, ...]

    def of_role(self, role: str) -> Mask:
        """The rows of the tasks of a role, `[row]`."""
        taken = self.roles == role
        steps = np.zeros(len(self.x) + 1, dtype=np.int8)
        steps[self.starts[taken]] += 1
        steps[(self.starts + self.counts)[taken]] -= 1
        return np.asarray(steps[:-1].cumsum(dtype=np.int8), dtype=bool)


def read_rows(
    config: TableConfig,
    seed: int,
    model_inputs: Sequence[Column] | None,
    all_held_out: bool = False,
    model_labels: tuple[Label, ...] | None = None,
) -> Rows:
    """The clean rows of the table that `config` describes.

    Args:
        model_inputs: the input columns of a published model, whose categories are used; None finds them.
        all_held_out: give every task the role "test", whatever the split.
        model_labels: the classes of a published model; None finds them.

    Raises:
        UnusableTable: the file cannot be read, a column holds something else than it is used for, or nothing
            is left to use.
    """
    until = config.support_until
    split = None if all_held_out else config.split
    task_column = config.y[0] if config.new_classes or config.task is None else config.task
    wanted = [task_column, *(name for name, _ in config.x), *config.y]
    wanted += [name for name in (split, config.order, config.group) if name is not None]
    wanted += [until.source[0]] if until else []
    as_names = frozenset(filter(None, (task_column, split, config.group, *config.categorical)))
    columns, read_notes = read(Path(config.path), wanted, config.missing, as_names)
    notes = list(read_notes)
    cells = Cells(columns)

    target = target_kind(config, columns)
    by_itself = config.target == "auto" and not config.levels
    config = replace(config, target=target)
    task = cells.names(task_column)
    inputs = [
        each for name, word in config.x for each in inputs_of(cells, name, word, config, model_inputs, task)
    ]
    targets: list[Array] = []
    classes = None
    if target != "numbers" and set(config.kinds) - {"real", AUTO}:
        columns.refuse(config.y[0], f"holds classes, and {', '.join(config.kinds)} is of numbers")
    if target == "numbers":
        targets = [_labels(cells, name, word) for name, word in config.outputs]
    elif not config.new_classes:
        classes = class_column(columns, config.y[0], target == "ordered")
        if by_itself and classes.found == (0, 1) and columns.kind(config.y[0]) == "numbers":
            notes.append(
                f"{config.y[0]!r} holds 0 and 1 alone, taken as two classes; --target numbers takes numbers"
            )
        cells.without(config.y[0], classes.missing)
    roles_named = None if split is None else cells.names(split)
    rank: Indices | None = None
    if config.order is not None:
        rank, unordered = columns.order(config.order)
        cells.without(config.order, unordered)
        notes += columns.notes(config.order)
    group = None if config.group is None else cells.names(config.group)
    early_values, bound = _up_to(cells, until, task) if until else (None, 0.0)
    for name, word in config.x:
        if word not in TRANSFORMS.values() and name != config.order:
            notes += columns.notes(name)

    rows = _complete_rows(cells, wanted, notes)
    task = task.taken(rows).ordered()
    order = np.argsort(task.codes, kind="stable") if rank is None else np.lexsort((rank[rows], task.codes))
    rows, task = rows[order], task.taken(order)
    del order, rank
    starts = np.flatnonzero(np.r_[True, task.codes[1:] != task.codes[:-1]])
    counts = np.diff(np.r_[starts, len(task.codes)])

    groups = np.arange(len(starts))
    if group is not None:
        what = f"values of the group column {config.group!r}"
        _check_constant(columns, task, group.taken(rows), rows, starts, what)
        groups = group_of_tasks(_by_appearance(group.codes[rows]), starts, counts, config.group)
    if all_held_out:
        roles = np.full(len(starts), "test", dtype="<U10")
    elif split is None or roles_named is None:
        roles = seeded_roles(groups, seed, least=2 if config.new_classes else 1)
    else:
        words = roles_named.taken(rows)
        _check_constant(columns, task, words, rows, starts, "splits")
        _check_roles(columns, split, words, rows)
        roles = roles_from_column([words.at(row) for row in range(len(rows))], starts, counts, groups, seed)

    early = None
    if until is not None and early_values is not None:
        early = np.asarray(early_values[rows] <= bound, dtype=bool)
    enough = _enough(config, early, starts, counts)
    trained = np.repeat((roles == "train") & enough, counts)
    unknown = np.zeros(len(rows), dtype=bool)
    for each in inputs:
        if each.names is not None:
            new = find_values(columns, each, rows, trained, model_inputs)
            notes += _unknown_names(each.name, each.names, rows[new], len(rows), config.hide > 0)
            unknown |= new & (not config.hide)
    labels: tuple[Label, ...] = ()
    places = np.zeros(len(columns), dtype=np.int64)
    if classes is not None:
        labels = model_labels or fixed_labels(columns, classes, config, target == "ordered", rows[trained])
        places = classes.places(labels)
        notes += class_notes(classes, labels, places, rows, trained)
        unknown |= places[rows] < 0
    tasks_before = len(starts)
    if unknown.any():
        left = np.add.reduceat(~unknown, starts, dtype=np.int64)
        rows, early = rows[~unknown], None if early is None else early[~unknown]
        there = left > 0
        roles, groups, counts = roles[there], groups[there], left[there]
        starts = np.r_[0, np.cumsum(counts)[:-1]]
        if not len(rows):
            raise UnusableTable(f"{config.path}: no row is left; " + "; ".join(notes))
        enough = _enough(config, early, starts, counts)
    if lost := tasks_before - int(enough.sum()):
        what = "classes" if config.new_classes else "tasks"
        notes.append(f"left out {lost} of {tasks_before} {what} {_too_few(config)}")
    if not enough.any():
        raise UnusableTable(f"{config.path}: no task has enough rows; " + "; ".join(notes))
    roles = roles[enough]
    if model_inputs is None:
        roles = with_validation(roles, groups[enough], seed)
    names, transforms, categories, x = encoded(inputs, rows, model_inputs)
    y = np.zeros((len(rows), len(labels)))
    if targets:
        y = np.column_stack([each[rows] for each in targets])
    elif labels:
        y[np.arange(len(rows)), places[rows]] = 1
    return Rows(
        names,
        transforms,
        categories,
        x,
        y,
        target,
        labels,
        starts[enough],
        counts[enough],
        roles,
        groups[enough],
        early,
        tuple(notes),
    )


def _complete_rows(cells: Cells, wanted: Sequence[str], notes: list[str]) -> Indices:
    """The rows with a value in every column; notes count the others.

    Raises:
        UnusableTable: there are none.
    """
    columns = cells.columns
    keep = np.ones(len(columns), dtype=bool)
    for name in dict.fromkeys(wanted):
        missing = cells.missing[name]
        if missing.any():
            written = ", ".join(map(repr, columns.missing_texts(name)))
            notes.append(
                f"left out {int(missing.sum())} of {len(columns)} rows with no value in {name!r}"
                + (f" (written {written})" if written else "")
            )
        keep &= ~missing
    if not keep.any():
        found = "; ".join(notes) or "there are no rows"
        raise UnusableTable(f"{columns.file.path}: no row has a value in every column; {found}")
    return np.flatnonzero(keep)


def _unknown_names(name: str, names: Names, rows: Indices, among: int, hidden: bool) -> list[str]:
    """The note about rows whose names no training task has; none where there are no such rows."""
    if not len(rows):
        return []
    texts = sorted({names.at(row) for row in rows})
    shown = ", ".join(map(repr, texts[:MAX_VALUES_SHOWN])) + (", …" if len(texts) > MAX_VALUES_SHOWN else "")
    use = "takes as unknown" if hidden else "left out"
    return [f"{use} {len(rows)} of {among} rows: {name!r} of no training task, {shown}"]


def _labels(cells: Cells, name: str, word: str) -> Array:
    """The labels of a target, all in the domain that its word names."""
    numbers, domain = cells.numbers(name, "a target"), domain_of(word)
    if domain is not None and (bad := np.flatnonzero(domain.outside(numbers) & ~cells.missing[name])).size:
        place = cells.columns.place(int(bad[0]))
        cells.columns.refuse(name, f"has {numbers[bad[0]]:g} in {place}, and {word} takes {domain.values}")
    return numbers


def _up_to(cells: Cells, until: UpTo, task: Names) -> tuple[Array, float]:
    """The values of the column that ends support sets, and their bound.

    Raises:
        UnusableTable: the bound cannot be compared with the column.
    """
    name, elapsed = until.source
    columns = cells.columns
    number, date = parsed_number(until.value), parsed_date(until.value)
    if not elapsed and columns.kind(name) == "numbers":
        if number is None:
            columns.refuse(name, f"holds numbers, and {until} needs one")
        return cells.numbers(name), number
    instants = columns.instants(name, f"compared ({until})")
    cells.without(name, instants.missing)
    bound = number if elapsed else date
    if bound is None:
        columns.refuse(name, f"holds dates, and {until} needs {'days' if elapsed else 'a date'}")
    values = instants.microseconds.astype(np.float64)
    if elapsed:
        values = days_since_first(values, task, instants.missing)
    return values, float(bound)


def _by_appearance(codes: Indices) -> Indices:
    values, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    place = np.empty(len(values), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(values))
    return np.asarray(place[inverse], dtype=np.int64)


def _check_constant(
    columns: Columns, task: Names, names: Names, rows: Indices, starts: Indices, what: str
) -> None:
    """Refuse a task whose rows have several names."""
    first = np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    if (bad := np.flatnonzero(names.codes != names.codes[first])).size:
        row, other = int(bad[0]), int(first[bad[0]])
        raise UnusableTable(
            f"{columns.file.path}: task {task.at(row)!r} has several {what}: {names.at(other)!r} in "
            f"{columns.place(int(rows[other]))}, {names.at(row)!r} in {columns.place(int(rows[row]))}"
        )


def _check_roles(columns: Columns, split: str, labels: Names, rows: Indices) -> None:
    for row in range(len(rows)):
        if (label := labels.at(row)).strip().lower() not in ROLES:
            columns.refuse(
                split,
                f"says {label!r} in {columns.place(int(rows[row]))}; it may say train, validation or test",
            )


def _enough(config: TableConfig, early: Mask | None, starts: Indices, counts: Indices) -> Mask:
    if early is None:
        return np.asarray(counts > max(config.support_rows.lowest, 1), dtype=bool)
    before = np.add.reduceat(early.astype(np.int64), starts)
    return np.asarray((before > 0) & (before < counts), dtype=bool)


def _too_few(config: TableConfig) -> str:
    if config.support_until is not None:
        return f"without rows on both sides of {config.support_until}"
    return f"with fewer than {max(config.support_rows.lowest, 1) + 1} rows"
