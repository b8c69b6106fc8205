"""Tables with a task column, from Parquet or CSV.

Rows with missing values and tasks with too few rows are left out and counted. A table that cannot be used
is refused with the reason. Columns are standardised by the training tasks alone.
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
from training.families.splits import Indices, UnusableTable, group_of_tasks, roles_from_column, seeded_roles

MAX_STD = 1e15
"""The largest standard deviation of an output, in its units; its inverse is the smallest."""
MAX_CATEGORIES = 64
TASKS_PER_BATCH = 200
"""Tasks in one batch of validation or evaluation."""
MIN_VALIDATION_SETS = 200
"""Support sets in validation: few tasks are drawn several times, since five say little about a width."""
MAX_HELD_OUT_QUERIES = 1000


@dataclass(frozen=True)
class Rows:
    """The usable rows of a table, sorted by task and, within a task, by the `order` column.

    Attributes:
        inputs: the names of the columns of x.
        categories: the inputs that stand for one text column, for each such column.
        x, y: `[row, column]` in the caller's units.
        starts, counts: the first row and the number of rows of each task.
        roles: "train", "validation" or "test" of each task.
        notes: sentences that count what was left out.
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
        columns: input and output columns of a published model; None fits them to the training tasks.
        fixed_shots: support rows of each task; None takes the configuration's.

    Raises:
        UnusableTable: as `read_rows`; fewer than two training tasks, a value outside a transform's domain.
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
            taken = np.isin(_task_of_rows(self.rows), trained)
            self.inputs, self.outputs = _fitted_columns(config, self.rows, taken)
        else:
            self.inputs, self.outputs = columns
        try:
            self._x = torch.from_numpy(standardised(self.inputs, self.rows.x)).float()
        except OutsideDomain as error:
            raise UnusableTable(str(error)) from None
        self._y = torch.from_numpy(standardised(self.outputs, self.rows.y)).float()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that count what was left out of the table."""
        return self.rows.notes

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks; shots are drawn for each, and at most `queries` of its other rows."""
        trained = torch.from_numpy(np.flatnonzero(self.rows.roles == "train"))
        chosen = trained[torch.randint(len(trained), (tasks,), generator=generator)]
        batch = self._draw(chosen, self.config.queries, generator, self.config.drop)
        return self._hide_texts(batch, generator) if self.config.hide else batch

    def _hide_texts(self, batch: TaskBatch, generator: torch.Generator) -> TaskBatch:
        """The batch with the columns of random text columns set to zero, task by task."""
        visible = torch.ones(len(batch), 1, len(self.inputs))
        for columns in self.rows.categories:
            visible[:, :, columns] = (
                torch.rand(len(batch), 1, 1, generator=generator) >= self.config.hide
            ).float()
        support, query = (replace(each, x=each.x * visible) for each in (batch.support, batch.query))
        return TaskBatch(support, query)

    def validation(self) -> Iterator[TaskBatch]:
        """The validation tasks, drawn the same way every time, and several times where they are few."""
        draws = max(1, MIN_VALIDATION_SETS // max(1, self.validation_tasks))
        return self._seeded("validation", self.config.queries, draws)

    @property
    def validation_tasks(self) -> int:
        """The number of different validation tasks."""
        return int((self.rows.roles == "validation").sum())

    def held_out(self) -> Iterator[TaskBatch]:
        """The test tasks, each with up to 1,000 query rows."""
        return self._seeded("test", MAX_HELD_OUT_QUERIES)

    def _seeded(self, role: str, queries: int, draws: int = 1) -> Iterator[TaskBatch]:
        generator = torch.Generator().manual_seed(self._seed + 1_000_003)
        chosen = torch.from_numpy(np.flatnonzero(self.rows.roles == role)).repeat(draws)
        for part in chosen.split(TASKS_PER_BATCH):
            yield self._draw(part, queries, generator)

    def _draw(
        self, tasks: torch.Tensor, queries: int, generator: torch.Generator, drop: float = 0.0
    ) -> TaskBatch:
        """Random rows of each task, sorted by a key: support first, then queries, then rows left out."""
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
        model_inputs: the input columns of a published model, whose categories are used; None finds them.
        least_shots: every task has one more row than this, and at least two.

    Raises:
        UnusableTable: unknown columns, a target that is not numeric, nothing left to use.
    """
    table = _read(Path(config.path))
    names = [name for name, _ in config.x]
    wanted = [config.task, *names, *config.y, *filter(None, (config.split, config.order, config.group))]
    if missing := sorted(set(wanted) - set(table.column_names)):
        raise UnusableTable(f"no column {', '.join(missing)}; there are {', '.join(table.column_names)}")
    table, notes = _drop_missing(table.select(list(dict.fromkeys(wanted))))

    order = [(config.task, "ascending")]
    if config.order is not None:
        order.append((config.order, "ascending"))
    table = table.take(pc.sort_indices(table, sort_keys=order))
    y = np.column_stack([_numeric(table, name, "target") for name in config.y])
    x_names, categories, x = _input_columns(table, config.x, model_inputs)
    task = _category_codes(table[config.task])
    starts = np.flatnonzero(np.r_[True, task[1:] != task[:-1]])
    counts = np.diff(np.r_[starts, len(task)])
    groups = group_of_tasks(_category_codes(table[config.group or config.task]), starts, counts, config.group)
    if config.split is None:
        roles = seeded_roles(groups, seed)
    else:
        roles = roles_from_column(table[config.split].to_pylist(), starts, counts, groups, seed)
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


def _drop_missing(table: pa.Table) -> tuple[pa.Table, list[str]]:
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


def _input_columns(
    table: pa.Table, columns: Sequence[tuple[str, Transform]], model_inputs: Sequence[Column] | None
) -> tuple[tuple[str, ...], tuple[slice, ...], Array]:
    """Numeric columns unchanged, and a column `name=value` of zeros and ones for each category.

    Returns:
        The names of the columns, those of each text column, and their values `[row, column]`.
    """
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


def _fitted_columns(
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
        if not 1 / MAX_STD < column.std < MAX_STD:
            raise UnusableTable(
                f"column {column.name!r} varies by {column.std:.1g}, and the squares of such numbers have no "
                "place in single precision: give it in another unit"
            )
    return inputs, outputs


def _category_codes(column: pa.ChunkedArray) -> Indices:
    codes = pc.dictionary_encode(column).combine_chunks()
    chunk = codes.chunk(0) if isinstance(codes, pa.ChunkedArray) else codes
    return np.asarray(chunk.indices.to_numpy(), dtype=np.int64)


def _task_of_rows(rows: Rows) -> Indices:
    """The task of every row of x; −1 in tasks that were left out."""
    owner = np.full(len(rows.x), -1, dtype=np.int64)
    for task, (start, count) in enumerate(zip(rows.starts, rows.counts, strict=True)):
        owner[start : start + count] = task
    return owner
