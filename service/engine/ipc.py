"""What the engine's thread and the process that computes say to each other, as bytes.

Both hold the models; a message refers to a model by its number. Of a work that is said on which its answer
depends. Tensors of a posterior that are the model's own are referred to as well: all posteriors share them.
"""

import copyreg
import io
import itertools
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model_store import Model
from service.job import Job, SelectionSpec

View = tuple[torch.Size, tuple[int, ...], int]
Reference = tuple[int, str | None, View | None]
"""A model by its number; or a tensor of it by its name, and how it is looked at."""


class Models:
    """The models that a process holds, by their numbers, which the other one knows them by, too."""

    def __init__(self) -> None:
        self._models: dict[int, Callable[[], Model | None]] = {}
        self._numbers: dict[int, int] = {}  # by the model's identity
        self._owners: dict[int, tuple[int, str]] = {}  # of learned tensors, by where their memory begins
        self._count = itertools.count()

    def number(self, model: Model) -> int | None:
        """Of a model; None where it has none."""
        number = self._numbers.get(id(model))  # perhaps that of one that was there before
        return number if number is not None and self._models[number]() is model else None

    def refer(self, model: Model) -> int:
        """Give it the next number, and refer to it without keeping it."""
        number = next(self._count)
        self._put(number, model, weakref.ref(model))
        return number

    def keep(self, number: int, model: Model) -> None:
        """Keep it under the number that the other side has given it."""
        self._put(number, model, lambda: model)

    def drop(self, number: int) -> None:
        """Forget it: the number has no meaning any more."""
        del self._models[number]
        self._numbers = {of: each for of, each in self._numbers.items() if each != number}
        self._owners = {at: owner for at, owner in self._owners.items() if owner[0] != number}

    def dumped(self, message: object) -> memoryview:
        """The message as bytes."""
        content = io.BytesIO()
        _Pickler(content, self).dump(message)
        return content.getbuffer()

    def loaded(self, content: bytes | bytearray | memoryview) -> Any:
        """The message of these bytes."""
        return _Unpickler(io.BytesIO(content), self).load()

    def reference(self, thing: object) -> Reference | None:
        """How a model or a tensor of one is referred to; None for anything else."""
        kind = type(thing)
        if kind is Model:
            assert isinstance(thing, Model)
            return self._numbers[id(thing)], None, None
        if kind is Tensor:
            assert isinstance(thing, Tensor)
            owner = self._owners.get(thing.untyped_storage().data_ptr())
            if owner is not None:
                return (*owner, (thing.shape, thing.stride(), int(thing.storage_offset())))
        return None

    def referred(self, reference: Reference) -> Model | Tensor:
        """What such a reference means here."""
        number, name, view = reference
        model = self._models[number]()
        assert model is not None
        return model if name is None or view is None else model.learned[name].as_strided(*view)

    def _put(self, number: int, model: Model, recall: Callable[[], Model | None]) -> None:
        self._models[number], self._numbers[id(model)] = recall, number
        for name, tensor in model.learned.items():
            self._owners[tensor.untyped_storage().data_ptr()] = number, name


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, models: Models) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.persistent_id = models.reference  # type: ignore[method-assign]

    dispatch_table = copyreg.dispatch_table | {
        Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),)),
        Job: lambda job: (_work, _parts(job)),
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, models: Models) -> None:
        super().__init__(file)
        self.persistent_load = models.referred  # type: ignore[method-assign]


def _parts(job: Job) -> tuple[Any, ...]:
    """What the device looks at: of rows that are known, only a choice between others does."""
    support_x, support_y, known = job.support_x, job.support_y, job.known
    if known is not None and not isinstance(job.spec, SelectionSpec):
        support_x, support_y = support_x[:0], support_y[:0]
        known = replace(known, labelled=None)
    parts = job.model, support_x, support_y, job.query_x, job.steps, job.seed, job.spec, job.classes
    return *parts, job.key, known


def _work(*parts: Any) -> Job:
    """A work as the device sees it."""
    model, support_x, support_y, query_x, steps, seed, spec, classes, key, known = parts
    return Job(
        model=model,
        support_x=support_x,
        support_y=support_y,
        query_x=query_x,
        steps=steps,
        seed=seed,
        spec=spec,
        deadline=float("inf"),
        classes=classes,
        key=key,
        known=known,
    )
