"""Tables with a task column, from Parquet or CSV: every user's own data.

Rows with missing values and tasks with too few rows are left out and counted; what cannot be
used at all is refused with a sentence that says why. Columns are standardised by the training
tasks alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pyarrow import csv, parquet

from bmaml.task import Examples, TaskBatch
from model_store.columns import Array, Column, OutsideDomain, Transform, standardised
from training.config import Shots, TableConfig
from training.families.splits import Indices, UnusableTable, constant_codes, roles_from, seeded_roles

MOST_SPREAD = 1e15
"""Standard deviation of an output, in its units, and one over the least."""
MAX_CATEGORIES = 64
EVALUATED_AT_ONCE = 200
VALIDATION_DEALS = 200
"""How many support sets validation wants at least: five tasks, dealt once, say little about a width."""
HELD_OUT_QUERIES = 1000


@dataclass(frozen=True)
class Rows:
    """A clean table: tasks lie in one piece, in the wanted order within each.

    Attributes:
        categories: which of the inputs are the values of one column of texts.
        x, y: `[row, column]` in the caller's units.
        starts, counts: where each task lies.
        roles: "train", "validation" or "test" of each task.
        notes: what was left out, in sentences with counts.
    """

    inputs: tuple[str, ...]
    categories: tuple[slice, ...]
    x: Array
    y: Array
    starts: Indices
    counts: Indices
    roles: NDArray[np.str_]
    notes: tuple[str, ...]


class Table:
    """The tasks of a table.

    Args:
        columns: the units of a published model to score; by default they are fitted here.

    Raises:
        UnusableTable: see the module.
    """

    def __init__(
        self,
        config: TableConfig,
        seed: int,
        columns: tuple[tuple[Column, ...], tuple[Column, ...]] | None = None,
        fixed_shots: int | None = None,
    ) -> None:
        self.config = config
        self._seed = seed
        self._shots = config.shots if fixed_shots is None else Shots(fixed_shots, fixed_shots)
        self.rows = read_rows(config, seed, columns[0] if columns else None, self._shots.lowest)
        if config.hide and not self.rows.categories:
            raise UnusableTable("there is no column of texts to hide")
        if columns is None:
            trained = np.flatnonzero(self.rows.roles == "train")
            if len(trained) < 2:
                raise UnusableTable(f"{len(trained)} training tasks are left; at least 2 are needed")
            taken = np.isin(_task_of(self.rows), trained)
            self.inputs, self.outputs = _fitted(config, self.rows, taken)
        else:
            self.inputs, self.outputs = columns
        try:
            self._x = torch.from_numpy(standardised(self.inputs, self.rows.x)).float()
        except OutsideDomain as error:
            raise UnusableTable(str(error)) from None
        self._y = torch.from_numpy(standardised(self.outputs, self.rows.y)).float()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the table, in sentences with counts."""
        return self.rows.notes

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks with shots drawn per task, and at most `queries` of the other rows."""
        trained = torch.from_numpy(np.flatnonzero(self.rows.roles == "train"))
        chosen = trained[torch.randint(len(trained), (tasks,), generator=generator)]
        batch = self._deal(chosen, self.config.queries, generator, self.config.drop)
        return self._hidden(batch, generator) if self.config.hide else batch

    def _hidden(self, batch: TaskBatch, generator: torch.Generator) -> TaskBatch:
        """Without some tasks' texts: zeros in place of the column of each value."""
        told = torch.ones(len(batch), 1, len(self.inputs))
        for columns in self.rows.categories:
            told[:, :, columns] = (
                torch.rand(len(batch), 1, 1, generator=generator) >= self.config.hide
            ).float()
        support, query = (replace(each, x=each.x * told) for each in (batch.support, batch.query))
        return TaskBatch(support, query)

    def validation(self) -> Iterator[TaskBatch]:
        """The validation tasks, dealt the same way every time; few of them are dealt several times."""
        deals = max(1, VALIDATION_DEALS // max(1, self.validation_tasks))
        return self._fixed("validation", self.config.queries, deals)

    @property
    def validation_tasks(self) -> int:
        """How many different ones there are."""
        return int((self.rows.roles == "validation").sum())

    def held_out(self) -> Iterator[TaskBatch]:
        """The test tasks, each with (nearly) all rows asked."""
        return self._fixed("test", HELD_OUT_QUERIES)

    def _fixed(self, role: str, queries: int, deals: int = 1) -> Iterator[TaskBatch]:
        generator = torch.Generator().manual_seed(self._seed + 1_000_003)
        chosen = torch.from_numpy(np.flatnonzero(self.rows.roles == role)).repeat(deals)
        for part in chosen.split(EVALUATED_AT_ONCE):
            yield self._deal(part, queries, generator)

    def _deal(
        self, tasks: torch.Tensor, queries: int, generator: torch.Generator, drop: float = 0.0
    ) -> TaskBatch:
        """Rows of each task, sorted by a key: support first, then queries, then what is left out."""
        counts = torch.from_numpy(self.rows.counts)[tasks]
        starts = torch.from_numpy(self.rows.starts)[tasks]
        low, high = self._shots.lowest, self._shots.highest
        real = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        kept = real & (torch.rand(real.shape, generator=generator) >= drop)
        kept = torch.where(kept.sum(1, keepdim=True) > max(low, 1), kept, real)
        left = kept.sum(1)
        most = left.clamp_max(high + 1) - 1  # at least one row is left to ask
        draw = torch.rand(len(tasks), generator=generator)
        shots = (low + (draw * (most - low + 1)).long()).unsqueeze(1)
        key = torch.rand(real.shape, generator=generator)
        if self.config.order is not None:
            rank = kept.cumsum(1) - 1
            key = torch.where(rank < shots, rank - real.shape[1], key)
        order = torch.where(kept, key, 2.0).argsort(1)[:, : high + queries]
        x, y = (
            values[(starts.unsqueeze(1) + order).clamp_max(len(values) - 1)] for values in (self._x, self._y)
        )
        position = torch.arange(order.shape[1])
        present = position < left.unsqueeze(1)
        shown = position < shots
        support = Examples(x[:, :high], y[:, :high], (present & shown)[:, :high])
        return TaskBatch(support, Examples(x[:, low:], y[:, low:], (present & ~shown)[:, low:]))


def read_rows(
    config: TableConfig, seed: int, model_inputs: Sequence[Column] | None, least_shots: int
) -> Rows:
    """The clean rows of the table that `config` describes.

    Args:
        model_inputs: a published model's input columns, whose categories then count.

    Raises:
        UnusableTable: unknown columns, a target that is not numeric, nothing left to use.
    """
    table = _read(Path(config.path))
    names = [name for name, _ in config.x]
    wanted = [config.task, *names, *config.y, *filter(None, (config.split, config.order, config.group))]
    if missing := sorted(set(wanted) - set(table.column_names)):
        raise UnusableTable(f"no column {', '.join(missing)}; there are {', '.join(table.column_names)}")
    table, notes = _without_missing(table.select(list(dict.fromkeys(wanted))))

    order = [(config.task, "ascending")]
    if config.order is not None:
        order.append((config.order, "ascending"))
    table = table.take(pc.sort_indices(table, sort_keys=order))
    y = np.column_stack([_numeric(table, name, "target") for name in config.y])
    x_names, categories, x = _inputs(table, config.x, model_inputs)
    task = _codes(table[config.task])
    starts = np.flatnonzero(np.r_[True, task[1:] != task[:-1]])
    counts = np.diff(np.r_[starts, len(task)])
    groups = constant_codes(_codes(table[config.group or config.task]), starts, counts, config.group)
    if config.split is None:
        roles = seeded_roles(groups, seed)
    else:
        roles = roles_from(table[config.split].to_pylist(), starts, counts, groups, seed)
    enough = counts > max(least_shots, 1)
    if not enough.all():
        need = max(least_shots, 1) + 1
        notes.append(f"left out {int((~enough).sum())} of {len(starts)} tasks with fewer than {need} rows")
    if not enough.any():
        raise UnusableTable("no task has enough rows; " + "; ".join(notes))
    return Rows(x_names, categories, x, y, starts[enough], counts[enough], roles[enough], tuple(notes))


def _read(path: Path) -> pa.Table:
    if not path.exists():
        raise UnusableTable(f"there is no file {path}")
    try:
        if path.suffix in (".parquet", ".pq"):
            return parquet.read_table(path)
        if path.suffix in (".csv", ".tsv", ".txt"):
            options = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
            return csv.read_csv(path, parse_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnusableTable(f"{path} cannot be read: {error}") from None
    raise UnusableTable(f"{path}: tables are .parquet, .csv or .tsv files")


def _without_missing(table: pa.Table) -> tuple[pa.Table, list[str]]:
    keep = np.ones(len(table), dtype=bool)
    notes = []
    for name in table.column_names:
        column = table[name]
        gone = np.asarray(column.is_null(nan_is_null=True))
        if pa.types.is_floating(column.type):
            gone |= np.isinf(column.to_numpy())
        if gone.any():
            notes.append(f"left out {int(gone.sum())} of {len(table)} rows with no value in {name!r}")
        keep &= ~gone
    if not keep.any():
        raise UnusableTable("no row has a value in every column; " + "; ".join(notes))
    return table.filter(pa.array(keep)), notes


def _numeric(table: pa.Table, name: str, use: str) -> Array:
    kind = table[name].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise UnusableTable(f"{use} column {name!r} holds {kind}, not numbers")
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _inputs(
    table: pa.Table, columns: Sequence[tuple[str, Transform]], model_inputs: Sequence[Column] | None
) -> tuple[tuple[str, ...], tuple[slice, ...], Array]:
    """Numbers as they are, and one column `name=value` of zeros and ones for each category."""
    known = [column.name for column in model_inputs] if model_inputs is not None else None
    names: list[str] = []
    categories: list[slice] = []
    values: list[Array] = []
    for name, transform in columns:
        kind = table[name].type
        if not (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_dictionary(kind)
        ):
            names.append(name)
            values.append(_numeric(table, name, "input"))
            continue
        if transform != "none":
            raise UnusableTable(f"column {name!r} holds {kind}; {transform} needs numbers")
        texts = np.array([str(value) for value in table[name].to_pylist()])
        found = sorted(set(texts.tolist()))
        if known is not None:
            found = [each.removeprefix(f"{name}=") for each in known if each.startswith(f"{name}=")]
        if not 2 <= len(found) <= MAX_CATEGORIES:
            raise UnusableTable(
                f"column {name!r} has {len(found)} different values; 2 to {MAX_CATEGORIES} can be one-hot"
            )
        categories.append(slice(len(names), len(names) + len(found)))
        names += [f"{name}={value}" for value in found]
        values += [(texts == value).astype(np.float64) for value in found]
    if known is not None and names != known:
        raise UnusableTable(
            f"the model was trained on {', '.join(known)}; this table gives {', '.join(names)}"
        )
    return tuple(names), tuple(categories), np.column_stack(values)


def _fitted(
    config: TableConfig, rows: Rows, taken: NDArray[np.bool_]
) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    transforms = dict(config.x)

    def fit(name: str, values: Array) -> Column:
        if name not in transforms and "=" in name and name not in config.y:
            return Column(name=name, lower=0.0, upper=1.0)
        try:
            return Column.fitted(name, transforms.get(name, "none"), values[taken])
        except ValueError as error:
            raise UnusableTable(f"{error} over the training tasks") from None

    inputs = tuple(fit(name, rows.x[:, i]) for i, name in enumerate(rows.inputs))
    outputs = tuple(fit(name, rows.y[:, i]) for i, name in enumerate(config.y))
    for column in outputs:
        if not 1 / MOST_SPREAD < column.std < MOST_SPREAD:
            raise UnusableTable(
                f"column {column.name!r} varies by {column.std:.1g}, and the squares of such numbers have no "
                "place in single precision: give it in another unit"
            )
    return inputs, outputs


def _codes(column: pa.ChunkedArray) -> Indices:
    codes = pc.dictionary_encode(column).combine_chunks()
    chunk = codes.chunk(0) if isinstance(codes, pa.ChunkedArray) else codes
    return np.asarray(chunk.indices.to_numpy(), dtype=np.int64)


def _task_of(rows: Rows) -> Indices:
    """The task of every row of x; −1 for rows of tasks that were left out."""
    owner = np.full(len(rows.x), -1, dtype=np.int64)
    for task, (start, count) in enumerate(zip(rows.starts, rows.counts, strict=True)):
        owner[start : start + count] = task
    return owner
