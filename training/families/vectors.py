"""Few-shot classification of vectors: classes drawn at random, a few rows of a table in each."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bmaml.task import TaskBatch
from model_store.columns import Column, OutsideDomain, standardised
from training.config import TableConfig
from training.errors import UnusableTable
from training.families.class_index import ClassIndex
from training.families.class_tasks import (
    VALIDATION_TASKS,
    TaskSize,
    training_draw,
    training_tasks,
    validation_tasks,
)
from training.families.family import VALIDATION_SEED_OFFSET
from training.families.rows import Rows, read_rows
from training.families.splits import ROLES, Indices
from training.families.table import fitted_inputs

MAX_WAYS = 60
"""Classes of a training task where none are configured, at most."""
MIN_CLASSES = 2
"""Classes of every role, at least: a task has two."""


class Vectors:
    """The tasks of the classes of a table.

    Args:
        inputs: input columns of a published model; None fits them to the rows of the training classes.
        all_held_out: take every class for a test, whatever the split.

    Raises:
        UnusableTable: as `read_rows`; too few classes of a role, or with too few rows.
    """

    def __init__(
        self,
        config: TableConfig,
        seed: int,
        inputs: tuple[Column, ...] | None = None,
        all_held_out: bool = False,
    ) -> None:
        self._seed = seed
        self.rows = read_rows(config, seed, inputs, all_held_out)
        for role in dict.fromkeys(ROLES.values()) if inputs is None else ("test",):
            there = int((self.rows.roles == role).sum())
            if there < MIN_CLASSES:
                raise UnusableTable(
                    f"{there} classes are left for {role}, and a task needs two: give more classes, or name "
                    f"roles with --split. {self.summary}"
                )
        self._owner = _class_of_rows(self.rows)
        self.inputs = fitted_inputs(self.rows, self.rows.of_role("train")) if inputs is None else inputs
        try:
            self._x = torch.from_numpy(standardised(self.inputs, self.rows.x)).float()
        except OutsideDomain as error:
            raise UnusableTable(str(error)) from None
        self.config = replace(config, target=self.rows.target)
        if inputs is None:
            self.size = self._size()
            self.config = replace(self.config, ways=self.size.ways)
            self._training = self.of_role("train")

    @property
    def target(self) -> str:
        """The column that names the class."""
        return self.config.y[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that count what was left out of the table."""
        return self.rows.notes

    @property
    def summary(self) -> str:
        """The number of classes and rows of each role."""
        parts = []
        for role, use in (("train", "training"), ("validation", "validation"), ("test", "the test")):
            there = self.rows.roles == role
            classes, rows = int(there.sum()), int(self.rows.counts[there].sum())
            parts.append(f"{classes} classes with {rows} rows for {use}")
        return ", ".join(parts)

    def of_role(self, role: str) -> tuple[Tensor, ClassIndex]:
        """Standardised rows `[row, input]` of a role's classes, and their classes."""
        chosen = np.flatnonzero(self.rows.roles == role)
        mine = np.isin(self._owner, chosen)
        labels = np.searchsorted(chosen, self._owner[mine])
        return self._x[torch.from_numpy(mine)], ClassIndex(torch.from_numpy(labels))

    def batch(self, tasks: int, generator: torch.Generator) -> TaskBatch:
        """Training tasks of `ways` classes (`training_tasks`)."""
        x, index = self._training
        draw = training_draw(self.size, index, tasks, generator)
        return training_tasks(draw, x[draw.images], generator)

    def validation(self) -> Iterator[TaskBatch]:
        """Tasks of validation classes, few and many; the same every time (`validation_tasks`)."""
        x, index = self.of_role("validation")
        return validation_tasks(x, index, self.size, self._seed + VALIDATION_SEED_OFFSET)

    @property
    def validation_tasks(self) -> int:
        """The number of validation tasks, all different."""
        return VALIDATION_TASKS

    def _size(self) -> TaskSize:
        """The size of training tasks, in which every class with a row more than its shots takes part."""
        shots = self.config.support_rows
        counts = self.rows.counts[self.rows.roles == "train"]
        counts = counts[counts > shots.highest]
        ways = self.config.ways or min(MAX_WAYS, len(counts))
        if len(counts) < max(ways, MIN_CLASSES):
            raise UnusableTable(
                f"{len(counts)} training classes have {shots.highest + 1} rows; tasks have "
                f"{max(ways, MIN_CLASSES)} classes: see --classes and --shots"
            )
        queries = max(1, min(self.config.queries // ways, int(counts.min()) - shots.highest))
        return TaskSize(ways, shots, queries)


def _class_of_rows(rows: Rows) -> Indices:
    """The class of every row of x; −1 in classes that were left out."""
    owner = np.full(len(rows.x), -1, dtype=np.int64)
    classes = np.repeat(np.arange(len(rows.starts)), rows.counts)
    before = np.cumsum(rows.counts) - rows.counts
    owner[(rows.starts - before)[classes] + np.arange(len(classes))] = classes
    return owner
