"""Numbers that tell the tasks of one run from those of another."""

from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

import numpy as np
import torch

from bmaml.task import TaskBatch
from training.families import Family
from training.families.world_tasks import WorldTasks

TASKS = 64
"""Training tasks that a fingerprint looks at."""


def moments(batches: Iterable[TaskBatch]) -> list[float]:
    """Counts and moments that tell other tasks apart.

    The numbers of tasks, support rows and query rows; then mean and mean square of x and y of both.
    """
    tasks, rows, sums, values = 0, np.zeros(2), np.zeros((4, 2)), np.zeros((4, 1))
    for batch in batches:
        tasks += len(batch)
        for place, examples in enumerate((batch.support, batch.query)):
            rows[place] += int(examples.mask.sum())
            for column, tensor in enumerate((examples.x, examples.y)):
                shown = tensor[examples.mask].double()
                sums[2 * place + column] += [float(shown.sum()), float(shown.square().sum())]
                values[2 * place + column] += shown.numel()
    return [float(tasks), *rows.tolist(), *(sums / np.maximum(values, 1)).flatten().tolist()]


def fingerprint(family: Family | WorldTasks) -> list[float]:
    """Moments of the validation tasks and of some training tasks; none for worlds, whose options say all."""
    if isinstance(family, WorldTasks):
        return []
    return [*moments(family.validation()), *moments([family.batch(TASKS, torch.Generator().manual_seed(0))])]


def digest_of_file(path: Path) -> str | None:
    """The sha256 of a file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
