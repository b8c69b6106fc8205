"""The tasks of a table, whose columns `training.reading` reads from a file.

Rows with missing values and tasks with too few rows are left out and counted. A table that cannot be used
is refused with the reason. Columns are standardised, and the values of names found, by the training tasks
alone.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from bmaml.task import Examples, TaskBatch
from model_store.class_target import Label
from model_store.columns import (
    Array,
    Column,
    OutputTransform,
    OutsideDomain,
    Target,
    standardised,
)
from training.config import Shots, TableConfig
from training.errors import UnusableTable
from training.families import samples
from training.families.family import VALIDATION_SEED_OFFSET
from training.families.rows import Rows, read_rows
from training.families.splits import Indices
from training.families.targets import candidates, dequantised, described, half_step, repeated_share, target_of

FEW_LEVELS = 15
"""Different values of a target, up to which a hint names ordered classes."""
MAX_STD = 1e15
"""The largest standard deviation of an output, in its units; its inverse is the smallest."""
MAX_OFFSET = 1e4
"""The largest mean of an output in standard deviations: an answer is rounded to a thousandth of one."""
TASKS_PER_BATCH = 200
"""Tasks in one batch of validation or evaluation."""
MIN_VALIDATION_SETS = 200
"""Support sets in validation: few tasks are drawn several times, since five say little about a width."""
MAX_HELD_OUT_QUERIES = 1000


class Table:
    """The tasks of a table.

    Args:
        columns: input and output columns of a published model; None fits them to the training tasks.
        labels: classes of fixed meaning of a published model; None finds them.
        fixed_shots: support rows of each task; None takes the configuration's.
        all_held_out: take every task for a test, whatever the split.

    Raises:
        UnusableTable: as `read_rows`; fewer than two training tasks, no task for validation or test.
    """

    def __init__(
        self,
        config: TableConfig,
        seed: int,
        columns: tuple[tuple[Column, ...], tuple[Column, ...]] | None = None,
        fixed_shots: int | None = None,
        all_held_out: bool = False,
        labels: tuple[Label, ...] | None = None,
    ) -> None:
        if fixed_shots is not None:
            config = replace(config, shots=Shots(fixed_shots, fixed_shots), support_until=None)
        self._seed = seed
        self.rows = read_rows(config, seed, columns[0] if columns else None, all_held_out, labels)
        self.config = config = replace(config, target=self.rows.target)
        self.shots = config.support_rows
        """The smallest and the largest number of support rows."""
        self._early = None if self.rows.early is None else torch.from_numpy(self.rows.early)
        if self.rows.early is not None:
            self.shots = Shots(1, int(np.add.reduceat(self.rows.early, self.rows.starts).max()))
        if config.hide and not self.rows.categories:
            raise UnusableTable("there is no column of texts to hide")
        needed = ("test",) if columns else ("validation", "test")
        if absent := [role for role in needed if role not in self.rows.roles]:
            raise UnusableTable(f"no task is left for {' and '.join(absent)}: {self.summary}")
        if columns is None:
            if (trained := len(self._of_role("train"))) < 2:
                raise UnusableTable(f"{trained} training tasks are left; at least 2 are needed")
            taken = self.rows.of_role("train")
            self.inputs = fitted_inputs(self.rows, taken)
            self.outputs = () if self.labels else _fitted_outputs(config, self.rows, taken)
        else:
            self.inputs, self.outputs = columns
        try:
            self._x = torch.from_numpy(standardised(self.inputs, self.rows.x)).float()
        except OutsideDomain as error:
            raise UnusableTable(str(error)) from None
        y = self.rows.y if self.labels else self._standardised_labels()
        self._y = torch.from_numpy(y).float()
        self._given = torch.from_numpy(self.rows.y)
        self._trained = torch.from_numpy(self._of_role("train"))
        there = self._of_role("validation")
        self._validation = samples.even_sample(
            there, self.rows.groups[there], samples.MAX_VALIDATION_TASKS, seed
        )

    def _standardised_labels(self) -> Array:
        try:
            return standardised(self.outputs, self.rows.y)
        except OutsideDomain as error:
            raise UnusableTable(str(error)) from None

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes of fixed meaning, in the order of the columns of y; none where y is numbers."""
        return self.rows.labels

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that count what was left out of the table, and say what its targets are."""
        return self.rows.notes + tuple(filter(None, [*map(described, self.outputs), self.sampling]))

    @property
    def sampling(self) -> str:
        """A sentence on the tasks that figures rest on; empty where these are all."""
        parts = []
        if self.validation_tasks < (there := len(self._of_role("validation"))):
            parts.append(
                f"looks, widths and intervals rest on {self.validation_tasks} of {there} validation tasks"
            )
        if (tested := len(self.held_out_tasks())) < (there := len(self._of_role("test"))):
            parts.append(f"published figures rest on {tested} of {there} test tasks")
        return f"{' and '.join(parts)}, drawn at random" if parts else ""

    @property
    def hints(self) -> tuple[str, ...]:
        """A sentence for each target of real numbers whose labels fit another kind, too."""
        if self.labels:
            return ()
        found = []
        for place, (name, word) in enumerate(self.config.outputs):
            others = [kind for kind in candidates(self.rows.y[:, place]) if kind != "real"]
            if word == "real" and others:
                found.append(f"{name!r} also fits {' and '.join(others)}: see --y {name}:auto")
            levels = np.unique(self.rows.y[:, place])
            if word == "real" and len(self.config.outputs) == 1 and len(levels) <= FEW_LEVELS:
                found.append(
                    f"{name!r} takes {len(levels)} different values: --target ordered answers with a "
                    "probability of each"
                )
        return tuple(found)

    @property
    def resolution(self) -> float:
        """Half the distance of labels in standardised units, the smallest of all outputs; 0 without one."""
        labels = self.rows.y[self.rows.of_role("train")]
        steps = (half_step(column, labels[:, place]) for place, column in enumerate(self.outputs))
        return min(steps, default=0.0)

    @property
    def has_repeating_labels(self) -> bool:
        """Whether most labels of an output without a step occur several times."""
        return any(
            column.link.step is None and repeated_share(self.rows.y[:, place]) > 0.5
            for place, column in enumerate(self.outputs)
        )

    @property
    def summary(self) -> str:
        """The number of tasks and rows of each role."""
        parts = []
        for role, use in (("train", "training"), ("validation", "validation"), ("test", "the test")):
            there = self.rows.roles == role
            tasks, rows = int(there.sum()), int(self.rows.counts[there].sum())
            parts.append(f"{tasks} tasks with {rows} rows for {use}")
        return ", ".join(parts)

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks; shots are drawn for each, and at most `queries` of its other rows."""
        chosen = self._trained[torch.randint(len(self._trained), (tasks,), generator=generator)]
        batch = self._draw(chosen, self.config.queries, generator, self.shots, self._early, self.config.drop)
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

    def training_rows(self, max_tasks: int, max_rows: int) -> Examples:
        """All rows of the training tasks; a random part of tasks or rows where there are more."""
        generator = torch.Generator().manual_seed(self._seed)
        tasks = self._of_role("train")
        tasks = tasks[torch.randperm(len(tasks), generator=generator)[:max_tasks].numpy()]
        counts, parts = self.rows.counts[tasks], []
        for start, count in zip(self.rows.starts[tasks], counts, strict=True):
            places = start + torch.randperm(int(count), generator=generator)[:max_rows]
            parts.append((self._x[places], self._y[places]))
        return Examples.padded(parts)

    def validation(self, spread: bool = True) -> Iterator[TaskBatch]:
        """The validation tasks, or a sample of them where they are many (`samples.MAX_VALIDATION_TASKS`).

        They are drawn the same way every time, and several times where they are few.

        Args:
            spread: spread query labels over their cells, where labels have a step.
        """
        draws = max(1, MIN_VALIDATION_SETS // max(1, self.validation_tasks))
        return self._drawn(self._validation, self.config.queries, draws, self.shots, spread)

    @property
    def training_tasks(self) -> int:
        """The number of training tasks."""
        return len(self._trained)

    @property
    def validation_tasks(self) -> int:
        """The number of different tasks in `validation`."""
        return len(self._validation)

    @property
    def validation_groups(self) -> Indices:
        """The group of each validation task: those that `group` keeps together have one."""
        return self.rows.groups[self._validation]

    def held_out_tasks(self, shots: int = 0) -> Indices:
        """The test tasks of more than `shots` rows; where they are many, a sample of them (`samples`)."""
        tested = self._of_role("test")
        tested = tested[self.rows.counts[tested] > shots]
        return samples.proportional_sample(
            tested, self.rows.groups[tested], samples.MAX_TEST_TASKS, self._seed
        )

    def held_out(self) -> Iterator[TaskBatch]:
        """The tasks of `held_out_tasks`, each with up to 1,000 query rows."""
        return self._drawn(self.held_out_tasks(), MAX_HELD_OUT_QUERIES, 1, self.shots)

    def held_out_at(self, shots: int, draws: int = 1) -> Iterator[TaskBatch]:
        """The test tasks of more than `shots` rows with so many support rows each, several times over."""
        return self._drawn(self.held_out_tasks(shots), MAX_HELD_OUT_QUERIES, draws, Shots(shots, shots))

    def _of_role(self, role: str) -> Indices:
        """The tasks of a role, in order."""
        return np.flatnonzero(self.rows.roles == role)

    def _drawn(
        self, tasks: Indices, queries: int, draws: int, shots: Shots, spread: bool = False
    ) -> Iterator[TaskBatch]:
        """Tasks drawn by the family's seed; `spread` as in `validation`."""
        generator = torch.Generator().manual_seed(self._seed + VALIDATION_SEED_OFFSET)
        chosen = torch.from_numpy(tasks).repeat(draws)
        early = self._early if shots == self.shots else None
        for part in chosen.split(TASKS_PER_BATCH) if len(chosen) else ():
            yield self._draw(part, queries, generator, shots, early, spread=spread)

    def _draw(
        self,
        tasks: torch.Tensor,
        queries: int,
        generator: torch.Generator,
        wanted: Shots,
        early_rows: torch.Tensor | None,
        drop: float = 0.0,
        spread: bool = True,
    ) -> TaskBatch:
        """Random rows of each task, sorted by a key: support first, then queries, then rows left out.

        Args:
            wanted: support rows of a task.
            early_rows: the rows of support sets that end at a value, `[row]`; None takes `wanted`.
            spread: spread query labels over their cells, where labels have a step.
        """
        counts = torch.from_numpy(self.rows.counts)[tasks]
        starts = torch.from_numpy(self.rows.starts)[tasks]
        low, high = wanted.lowest, wanted.highest
        real = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        kept = real & (torch.rand(real.shape, generator=generator) >= drop)
        kept = torch.where(kept.sum(1, keepdim=True) > max(low, 1), kept, real)
        left = kept.sum(1)
        most = left.clamp_max(high + 1) - 1  # at least one row is left to ask
        draw = torch.rand(len(tasks), generator=generator)
        shots = (low + (draw * (most - low + 1)).long()).unsqueeze(1)
        key = torch.rand(real.shape, generator=generator)
        if self.config.order is not None and early_rows is None:
            rank = kept.cumsum(1) - 1
            key = torch.where(rank < shots, rank - real.shape[1], key)
        if early_rows is not None:
            places = (starts.unsqueeze(1) + torch.arange(real.shape[1])).clamp_max(len(early_rows) - 1)
            early = early_rows[places]
            both = (kept & early).any(1) & (kept & ~early).any(1)
            kept = torch.where(both.unsqueeze(1), kept, real)
            left, shots = kept.sum(1), (kept & early).sum(1, keepdim=True)
            key = torch.where(early, key - real.shape[1], key)
        order = torch.where(kept, key, 2.0).argsort(1)[:, : high + queries]
        places = (starts.unsqueeze(1) + order).clamp_max(len(self._x) - 1)
        x, y = self._x[places], self._y[places]
        position = torch.arange(order.shape[1])
        present = position < left.unsqueeze(1)
        shown = position < shots
        support = Examples(x[:, :high], y[:, :high], (present & shown)[:, :high])
        asked = self._dequantised(places[:, low:], generator) if spread else y[:, low:]
        return TaskBatch(support, Examples(x[:, low:], asked, (present & ~shown)[:, low:]))

    def _dequantised(self, places: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The labels of rows `[task, row]`, those with a step spread over their cells."""
        y = self._y[places]
        for output, column in enumerate(self.outputs):
            if column.link.step is not None:
                uniform = torch.rand(places.shape, generator=generator, dtype=torch.float64)
                y[..., output] = dequantised(column, self._given[places][..., output], uniform).float()
        return y


def fitted_inputs(rows: Rows, taken: NDArray[np.bool_]) -> tuple[Column, ...]:
    """The input columns, standardised over the taken rows; columns of zeros and ones stay as they are.

    Raises:
        UnusableTable: a column is constant.
    """
    one_hot = {place for each in rows.categories for place in range(each.start, each.stop)}
    return tuple(
        Column(name=name, lower=0.0, upper=1.0)
        if place in one_hot
        else _fitted(name, rows.transforms[place], rows.x[taken, place])
        for place, name in enumerate(rows.inputs)
    )


def _fitted(name: str, transform: OutputTransform, values: Array, target: Target | None = None) -> Column:
    try:
        return Column.fitted(name, transform, values, target)
    except ValueError as error:
        raise UnusableTable(f"{error} over the training tasks: leave it out") from None


def _fitted_outputs(config: TableConfig, rows: Rows, taken: NDArray[np.bool_]) -> tuple[Column, ...]:
    outputs = []
    for place, (name, word) in enumerate(config.outputs):
        labels = rows.y[taken, place]
        transform, target = target_of(word, labels, config.resolution)
        outputs.append(_fitted(name, transform, labels, target))
    for place, column in enumerate(outputs):
        varies = column.std if column.transform == "none" else float(rows.y[taken, place].std())
        if not 1 / MAX_STD < varies < MAX_STD:
            raise UnusableTable(
                f"column {column.name!r} varies by {varies:.1g}, and the squares of such numbers have no "
                "place in single precision: give it in another unit"
            )
        if abs(column.mean) > MAX_OFFSET * column.std:
            raise UnusableTable(
                f"column {column.name!r} lies around {column.mean:.7g} and varies by {column.std:.2g}; "
                "answers in single precision cannot tell such values apart: subtract an offset from it"
            )
    return tuple(outputs)
