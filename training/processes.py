"""Training in several processes: each takes its share of every meta-batch, and gradients are averaged.

`torchrun` starts the processes and sets the environment that is read here. Meta-parameters and optimiser
are the same in all of them, since they start from one seed and see one averaged gradient.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bmaml.errors import BmamlError
from training.config import InvalidConfig


class Batch(Protocol):
    """The tasks of one meta-step."""

    def __len__(self) -> int:
        """The number of tasks."""

    def tasks(self, chosen: slice) -> Any:
        """The chosen tasks alone."""


BatchT = TypeVar("BatchT", bound=Batch)


class LostProcess(BmamlError):
    """Another process of the run has ended."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: the number of this process, 0 …
        count: the number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """True for the one process that validates, logs, saves and publishes."""
        return self.rank == 0

    def share(self, batch: BatchT) -> BatchT:
        """This process's tasks of a meta-batch.

        Raises:
            InvalidConfig: the number of tasks is no multiple of the number of processes.
        """
        if self.count == 1:
            return batch
        if len(batch) % self.count:
            raise InvalidConfig(
                f"a meta-batch of {len(batch)} tasks cannot be dealt out evenly to {self.count} processes"
            )
        share: BatchT = batch.tasks(slice(self.rank, None, self.count))
        return share

    def average(self, values: Iterable[Tensor]) -> None:
        """Replace values by their mean over all processes, in one exchange.

        Raises:
            LostProcess: another process ended.
        """
        if self.count == 1:
            return
        values = list(values)
        flat = torch.cat([value.flatten() for value in values])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise _lost_process(error) from error
        for value, mean in zip(values, (flat / self.count).split([v.numel() for v in values]), strict=True):
            value.copy_(mean.view_as(value))

    def broadcast(self, value: float) -> float:
        """The value that the leading process passes; the others' are ignored.

        Raises:
            LostProcess: another process ended.
        """
        if self.count == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        message = torch.tensor([value], dtype=torch.float64, device=device)
        try:
            dist.broadcast(message, 0)
        except RuntimeError as error:
            raise _lost_process(error) from error
        return float(message)


def _lost_process(error: RuntimeError) -> LostProcess:
    first = str(error).splitlines()[0]
    return LostProcess(f"a process of this run was lost ({first}); start it again with --resume")


@contextmanager
def process_group(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that `torchrun` started together, and the device of this one.

    Without `torchrun` there is one process.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), count), device
    finally:
        dist.destroy_process_group()
