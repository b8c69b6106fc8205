"""The posteriors of many tasks side by side, split into tasks and joined again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from bmaml.shapes import Verdicts

PosteriorT = TypeVar("PosteriorT", bound="Posterior")


@dataclass(frozen=True)
class Posterior:
    """The posterior of each task: tensors with a leading axis of tasks, and scalars.

    The axis has length one for tensors that all tasks share.

    Attributes:
        log_weights: of the hypotheses, normalised, `[task, hypothesis]`; −∞ for padding.
    """

    fill: ClassVar[Mapping[str, float]] = {"log_weights": -math.inf}
    """Padding of a tensor, by name, where tasks differ in size; zero where there is none."""

    per_task: ClassVar[frozenset[str]] = frozenset({"log_weights"})
    """Tensors that tasks never share, by name, even where they are equal."""

    log_weights: Tensor

    def finite(self) -> Verdicts:
        """True for each task whose adaptation stayed finite."""
        verdicts = ~self.log_weights.isnan().any(-1)
        for name, tensor in self.tensors().items():
            if name != "log_weights":
                verdicts = verdicts & tensor.isfinite().reshape(len(tensor), -1).all(-1)
        return verdicts

    def at(self: PosteriorT, tasks: Tensor) -> PosteriorT:
        """The posterior of some tasks, without hypotheses that have weight in none of them."""
        if len(self.log_weights) == 1:
            return self
        own = {name: tensor[tasks] for name, tensor in self.tensors().items() if len(tensor) > 1}
        return replace(self, **own)

    @classmethod
    def joined(cls: type[PosteriorT], parts: Sequence[PosteriorT]) -> PosteriorT:
        """The posteriors of single tasks side by side, padded where they differ in size."""
        first = parts[0]
        together = {}
        for name, tensor in first.tensors().items():
            every = [part.tensors()[name] for part in parts]
            if name not in cls.per_task and all(_same(tensor, other) for other in every):
                continue
            sizes = [max(each) for each in zip(*(other.shape for other in every), strict=True)]
            fill = cls.fill.get(name, 0.0)
            together[name] = torch.cat([_padded(other, sizes, fill) for other in every])
        return replace(first, **together)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors with an axis of tasks, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: each for name, each in found.items() if isinstance(each, Tensor) and each.ndim}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _padded(tensor: Tensor, sizes: Sequence[int], fill: float) -> Tensor:
    missing = [size - own for size, own in zip(sizes[1:], tensor.shape[1:], strict=True)]
    if not any(missing):
        return tensor
    return pad(tensor, [amount for each in reversed(missing) for amount in (0, each)], value=fill)
