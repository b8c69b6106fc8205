"""The target column of a table as classes: which labels there are, and the label of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.class_target import MAX_FIXED_CLASSES, Label, places_of
from training.config import InvalidConfig, TableConfig
from training.families.splits import Indices
from training.reading import Columns
from training.reading.numbers import parsed_number

TargetKind = Literal["numbers", "classes", "ordered"]
FEW_ROWS = 10
"""Training rows of a class, below which a note says so."""
MAX_LABELS_SHOWN = 8
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassColumn:
    """A target column of classes.

    Attributes:
        name: of the column.
        found: the labels of the file, sorted.
        codes: the place of each row's label in `found`, `[row]`; −1 where it is missing.
    """

    name: str
    found: tuple[Label, ...]
    codes: Indices

    @property
    def missing(self) -> Mask:
        """The rows without a label, `[row]`."""
        return np.asarray(self.codes < 0, dtype=bool)

    def places(self, labels: Sequence[Label]) -> Indices:
        """The place of each row's label in `labels`, `[row]`; −1 where it is not among them."""
        known = places_of(labels)
        each = [known.get(key, -1) for key in places_of(self.found)]
        return np.array([*each, -1], dtype=np.int64)[self.codes]


def target_kind(config: TableConfig, columns: Columns) -> TargetKind:
    """The kind of the target: the configured one, or what its column holds.

    Raises:
        UnusableTable: the column cannot be read.
    """
    if config.new_classes:
        return "classes"
    if config.target != "auto":
        return config.target
    if config.levels:
        return "classes"
    if len(config.y) > 1:
        return "numbers"
    named = columns.kind(config.y[0]) in ("names", "truth values")
    told = set(config.kinds) - {"real"}  # a kind of numbers
    return "classes" if named or (not told and is_yes_or_no(columns, config.y[0])) else "numbers"


def is_yes_or_no(columns: Columns, name: str) -> bool:
    """Whether a column of numbers holds 0 and 1, both of them and nothing else."""
    if columns.kind(name) != "numbers":
        return False
    numbers = columns.numbers(name, "a target")
    no, yes = numbers == 0, numbers == 1
    return bool(no.any() and yes.any() and not (np.isfinite(numbers) & ~(no | yes)).any())


def class_column(columns: Columns, name: str, ordered: bool) -> ClassColumn:
    """The labels of a target column.

    Raises:
        UnusableTable: it holds neither texts, nor whole numbers, nor truth values; ordered classes may be
            any numbers.
    """
    kind = columns.kind(name)
    if kind in ("names", "truth values"):
        names = columns.names(name).ordered()
        labels = [value == "True" for value in names.values] if kind == "truth values" else names.values
        return ClassColumn(name, tuple(labels), names.codes)
    if kind != "numbers":
        columns.refuse(name, f"holds {kind}; classes are texts, whole numbers or truth values")
    numbers = columns.numbers(name, "a target")
    present = np.isfinite(numbers)
    whole = present & (numbers == np.round(numbers))
    if not ordered and (present & ~whole).any():
        row = int(np.argmax(present & ~whole))
        columns.refuse(
            name,
            f"has {numbers[row]:g} in {columns.place(row)}; classes are texts, whole numbers or truth values "
            "(--target numbers, or ordered)",
        )
    values, codes = np.unique(numbers[present], return_inverse=True)
    all_codes = np.full(len(numbers), -1, dtype=np.int64)
    all_codes[present] = codes
    return ClassColumn(
        name, tuple(int(each) if each == int(each) else float(each) for each in values.tolist()), all_codes
    )


def fixed_labels(
    columns: Columns, classes: ClassColumn, config: TableConfig, ordered: bool, trained: Indices
) -> tuple[Label, ...]:
    """The classes of fixed meaning: those of `levels`, else those of the training rows, in order.

    Args:
        trained: the training rows.

    Raises:
        UnusableTable: fewer than two, or more than 50; an order that nothing tells.
        InvalidConfig: levels that are no labels of the column's type.
    """
    texts = bool(classes.found) and isinstance(classes.found[0], str)
    if config.levels:
        labels = tuple(_level(each, classes) for each in config.levels)
    else:
        if ordered and texts:
            columns.refuse(classes.name, "holds texts: name them from lowest to highest with --levels")
        used = np.unique(classes.codes[trained])
        labels = tuple(classes.found[code] for code in used if code >= 0)
    if not 2 <= len(labels) <= MAX_FIXED_CLASSES:
        columns.refuse(
            classes.name,
            f"has {len(labels)} different labels in the training tasks; classes that mean the same in every "
            f"task are 2 to {MAX_FIXED_CLASSES} (--new-classes takes any number)",
        )
    return labels


def _level(text: str, classes: ClassColumn) -> Label:
    """The label that a word of `--levels` names, of the type of the column's own."""
    first = classes.found[0] if classes.found else text
    if isinstance(first, str):
        return text
    if isinstance(first, bool):
        if text.strip().lower() not in ("true", "false"):
            raise InvalidConfig(f"--levels says {text!r}, and {classes.name!r} holds truth values")
        return text.strip().lower() == "true"
    if (number := parsed_number(text)) is None:
        raise InvalidConfig(f"--levels says {text!r}, and {classes.name!r} holds numbers")
    return int(number) if number == int(number) else number


def class_notes(
    classes: ClassColumn, labels: Sequence[Label], places: Indices, rows: Indices, trained: Mask
) -> list[str]:
    """Sentences about the classes: their training rows, those with few, and labels that are left out.

    Args:
        places: the place of each row's label in `labels`, `[row of the file]`.
        rows: the rows of the file that are used.
        trained: which of them are training rows.
    """
    counts = np.bincount(places[rows[trained & (places[rows] >= 0)]], minlength=len(labels))
    shown = ", ".join(f"{label!r} {count}" for label, count in zip(labels, counts, strict=True))
    notes = [f"classes of {classes.name!r} and their training rows: {shown}"]
    if few := [label for label, count in zip(labels, counts, strict=True) if count < FEW_ROWS]:
        notes.append(
            f"{len(few)} of {len(labels)} classes have fewer than {FEW_ROWS} training rows: {_shown(few)}; "
            "little is known of them"
        )
    gone = places[rows] < 0
    if gone.any():
        names = [classes.found[code] for code in np.unique(classes.codes[rows[gone]])]
        notes.append(
            f"left out {int(gone.sum())} of {len(rows)} rows whose {classes.name!r} is no known class: "
            f"{_shown(names)}"
        )
    return notes


def _shown(labels: Sequence[Label]) -> str:
    more = ", …" if len(labels) > MAX_LABELS_SHOWN else ""
    return ", ".join(map(repr, labels[:MAX_LABELS_SHOWN])) + more
