"""The usable rows of a table, task by task, in the caller's units."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.class_target import Label
from model_store.columns import Array, Column, Transform
from training.config import ELAPSED, TRANSFORMS, InvalidConfig, TableConfig, UpTo, origin_of
from training.errors import UnusableTable
from training.families.class_labels import TargetKind, class_column, class_notes, fixed_labels, target_kind
from training.families.splits import (
    ROLES,
    Indices,
    group_of_tasks,
    roles_from_column,
    seeded_roles,
    with_validation,
)
from training.families.targets import AUTO, domain_of, is_target_word
from training.reading import Columns, Names, column_names, read
from training.reading.dates import MICROSECONDS_PER_DAY, parsed_date
from training.reading.numbers import parsed_number

MAX_CATEGORIES = 64
MAX_VALUES_SHOWN = 5
Mask = NDArray[np.bool_]


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


@dataclass
class _Input:
    """One column of `--x`: numbers or names, `[row]`."""

    name: str
    transform: Transform
    numbers: Array | None = None
    names: Names | None = None
    found: list[str] = field(default_factory=list)


def resolved(config: TableConfig) -> TableConfig:
    """The configuration with `--x` and `--y` as columns of the file, which may have colons in their names.

    Raises:
        InvalidConfig: a column with a colon is not in the file, and the word after the colon is no transform.
    """
    try:
        header = column_names(Path(config.path))
    except UnusableTable:
        header = ()
    chosen = []
    for name, word in config.x:
        if (whole := f"{name}:{word}") in header:
            chosen.append((whole, "none"))
            continue
        if ":" in name and name not in header:
            first, _, unknown = name.partition(":")
            raise InvalidConfig(
                f"unknown transform {unknown!r} of {first!r}: {', '.join(TRANSFORMS)}, elapsed, days(DATE); "
                f"and no column of {config.path} is called {name!r}"
            )
        chosen.append((name, word))
    labels = [(each, "real") if each in header else _named_target(each) for each in config.y]
    return TableConfig(
        **{
            **vars(config),
            "x": tuple(chosen),
            "y": tuple(name for name, _ in labels),
            "kinds": tuple(word for _, word in labels),
        }
    )


def _named_target(text: str) -> tuple[str, str]:
    """A target's column and its kind, from what `--y` says of it."""
    name, colon, word = text.rpartition(":")
    if colon and is_target_word(word) and not name.endswith("\\"):
        return name.replace("\\:", ":"), word
    return text.replace("\\:", ":"), "real"


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
    gone: dict[str, Mask] = {}

    target = target_kind(config, columns)
    config = replace(config, target=target)
    task = _names(columns, task_column, gone)
    inputs = [
        each
        for name, word in config.x
        for each in _inputs(columns, name, word, config, model_inputs, task, gone)
    ]
    targets: list[Array] = []
    classes = None
    if target != "numbers" and set(config.kinds) - {"real", AUTO}:
        columns.refuse(config.y[0], f"holds classes, and {', '.join(config.kinds)} is of numbers")
    if target == "numbers":
        targets = [_labels(columns, name, word, gone) for name, word in config.outputs]
    elif not config.new_classes:
        classes = class_column(columns, config.y[0], target == "ordered")
        gone[config.y[0]] = gone.get(config.y[0], np.zeros(len(columns), dtype=bool)) | classes.missing
    roles_named = None if split is None else _names(columns, split, gone)
    rank = np.zeros(len(columns), dtype=np.int64)
    if config.order is not None:
        rank, gone[config.order] = columns.order(config.order)
        notes += columns.notes(config.order)
    group = None if config.group is None else _names(columns, config.group, gone)
    early_values, bound = _up_to(columns, until, task, gone) if until else (None, 0.0)
    for name, word in config.x:
        if word not in TRANSFORMS.values() and name != config.order:
            notes += columns.notes(name)

    keep = np.ones(len(columns), dtype=bool)
    for name in dict.fromkeys(wanted):
        if gone[name].any():
            written = ", ".join(map(repr, columns.missing_texts(name)))
            notes.append(
                f"left out {int(gone[name].sum())} of {len(columns)} rows with no value in {name!r}"
                + (f" (written {written})" if written else "")
            )
        keep &= ~gone[name]
    if not keep.any():
        raise UnusableTable(
            f"{config.path}: no row has a value in every column; " + ("; ".join(notes) or "there are no rows")
        )
    rows = np.flatnonzero(keep)
    codes = task.taken(rows).ordered().codes
    rows = rows[np.lexsort((rank[rows], codes))]
    task = task.taken(rows).ordered()
    starts = np.flatnonzero(np.r_[True, task.codes[1:] != task.codes[:-1]])
    counts = np.diff(np.r_[starts, len(task.codes)])

    groups = np.arange(len(starts))
    if group is not None:
        _check_constant(
            columns, task, group.taken(rows), rows, starts, f"values of the group column {config.group!r}"
        )
        groups = group_of_tasks(_by_appearance(group.codes[rows]), starts, counts, config.group)
    if all_held_out:
        roles = np.full(len(starts), "test", dtype="<U10")
    elif roles_named is None:
        roles = seeded_roles(groups, seed, least=2 if config.new_classes else 1)
    else:
        words = roles_named.taken(rows)
        _check_constant(columns, task, words, rows, starts, "splits")
        _check_roles(columns, split or "", words, rows)
        roles = roles_from_column([words.at(row) for row in range(len(rows))], starts, counts, groups, seed)

    owner = np.repeat(np.arange(len(starts)), counts)
    early = None
    if until is not None and early_values is not None:
        early = np.asarray(early_values[rows] <= bound, dtype=bool)
    enough = _enough(config, early, starts, counts)
    trained = ((roles == "train") & enough)[owner]
    unknown = np.zeros(len(rows), dtype=bool)
    for each in inputs:
        if each.names is None:
            continue
        new = _find_values(columns, each, rows, trained, model_inputs)
        if new.any():
            texts = sorted({each.names.at(row) for row in rows[new]})
            shown = ", ".join(map(repr, texts[:MAX_VALUES_SHOWN])) + (", …" if len(texts) > 5 else "")
            use = "takes as unknown" if config.hide else "left out"
            notes.append(
                f"{use} {int(new.sum())} of {len(rows)} rows: {each.name!r} of no training task, {shown}"
            )
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
        left = np.bincount(owner[~unknown], minlength=len(starts))
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
    names, transforms, categories, x = _encoded(inputs, rows, model_inputs)
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


def _names(columns: Columns, name: str, gone: dict[str, Mask]) -> Names:
    names = columns.names(name)
    gone[name] = gone.get(name, np.zeros(len(columns), dtype=bool)) | names.missing
    return names


def _numbers(columns: Columns, name: str, use: str, gone: dict[str, Mask]) -> Array:
    numbers = columns.numbers(name, use)
    gone[name] = gone.get(name, np.zeros(len(columns), dtype=bool)) | ~np.isfinite(numbers)
    return numbers


def _inputs(
    columns: Columns,
    name: str,
    word: str,
    config: TableConfig,
    model_inputs: Sequence[Column] | None,
    task: Names,
    gone: dict[str, Mask],
) -> list[_Input]:
    """The columns of one name in `--x`: one, or one for each dimension of a column of lists."""
    if columns.is_of_vectors(name) and name not in config.categorical:
        if word != "none":
            columns.refuse(name, f"holds lists, which are standardised; {word} has no place there")
        vectors = columns.vectors(name)
        gone[name] = gone.get(name, np.zeros(len(columns), dtype=bool)) | ~np.isfinite(vectors).all(1)
        return [_Input(f"{name}[{place}]", "none", vectors[:, place]) for place in range(vectors.shape[1])]
    return [_input(columns, name, word, config, model_inputs, task, gone)]


def _labels(columns: Columns, name: str, word: str, gone: dict[str, Mask]) -> Array:
    """The labels of a target, all in the domain that its word names."""
    numbers, domain = _numbers(columns, name, "a target", gone), domain_of(word)
    if domain is not None and (bad := np.flatnonzero(domain.outside(numbers) & ~gone[name])).size:
        place = columns.place(int(bad[0]))
        columns.refuse(name, f"has {numbers[bad[0]]:g} in {place}, and {word} takes {domain.values}")
    return numbers


def _input(
    columns: Columns,
    name: str,
    word: str,
    config: TableConfig,
    model_inputs: Sequence[Column] | None,
    task: Names,
    gone: dict[str, Mask],
) -> _Input:
    if word not in TRANSFORMS.values():
        instants = columns.instants(name, f"taken as {word}")
        if instants.of_day:
            columns.refuse(name, f"holds times of day, which are no dates: {word} needs dates")
        gone[name] = gone.get(name, np.zeros(len(columns), dtype=bool)) | instants.missing
        values = (instants.microseconds - (origin_of(word) or 0)).astype(np.float64)
        if word == ELAPSED:
            return _Input(f"{name}:{word}", "none", _days_since_first(values, task, instants.missing))
        return _Input(f"{name}:{word}", "none", values / MICROSECONDS_PER_DAY)
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
        numbers = _numbers(columns, name, "", gone)
        if transform != "none" and (bad := np.flatnonzero(numbers <= 0)).size:
            place = columns.place(int(bad[0]))
            columns.refuse(
                name, f"has {numbers[bad[0]]:g} in {place}, which is not positive, and {transform} needs that"
            )
        return _Input(name, transform, numbers)
    if transform != "none":
        columns.refuse(name, f"holds {kind}, and {transform} needs numbers")
    return _Input(name, transform, names=_names(columns, name, gone))


def _is_category(name: str, model_inputs: Sequence[Column] | None) -> bool:
    known = [column.name for column in model_inputs or ()]
    return name not in known and any(each.startswith(f"{name}=") for each in known)


def _up_to(columns: Columns, until: UpTo, task: Names, gone: dict[str, Mask]) -> tuple[Array, float]:
    """The values of the column that ends support sets, and their bound.

    Raises:
        UnusableTable: the bound cannot be compared with the column.
    """
    name, elapsed = until.source
    number, date = parsed_number(until.value), parsed_date(until.value)
    if not elapsed and columns.kind(name) == "numbers":
        if number is None:
            columns.refuse(name, f"holds numbers, and {until} needs one")
        return _numbers(columns, name, "", gone), number
    instants = columns.instants(name, f"compared ({until})")
    gone[name] = gone.get(name, np.zeros(len(columns), dtype=bool)) | instants.missing
    bound = number if elapsed else date
    if bound is None:
        columns.refuse(name, f"holds dates, and {until} needs {'days' if elapsed else 'a date'}")
    values = instants.microseconds.astype(np.float64)
    if elapsed:
        values = _days_since_first(values, task, instants.missing)
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


def _days_since_first(microseconds: Array, task: Names, missing: Mask) -> Array:
    """The days since the first moment of the same task, `[row]`, whatever other cells of that row lack."""
    first = np.full(len(task.values) + 1, np.inf)
    np.minimum.at(first, task.codes[~missing], microseconds[~missing])
    return np.asarray(np.where(missing, 0.0, microseconds - first[task.codes]) / MICROSECONDS_PER_DAY)


def _enough(config: TableConfig, early: Mask | None, starts: Indices, counts: Indices) -> Mask:
    if early is None:
        return np.asarray(counts > max(config.support_rows.lowest, 1), dtype=bool)
    before = np.add.reduceat(early.astype(np.int64), starts)
    return np.asarray((before > 0) & (before < counts), dtype=bool)


def _too_few(config: TableConfig) -> str:
    if config.support_until is not None:
        return f"without rows on both sides of {config.support_until}"
    return f"with fewer than {max(config.support_rows.lowest, 1) + 1} rows"


def _find_values(
    columns: Columns,
    column: _Input,
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


def _encoded(
    inputs: Sequence[_Input], rows: Indices, model_inputs: Sequence[Column] | None
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
