"""Messages between the engine and its worker processes, as bytes.

Both sides hold the models, and a message refers to a model by its number. It refers to a model's own tensors,
too, which all posteriors share. Of a job, only the fields that affect its result are sent.
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

TensorView = tuple[torch.Size, tuple[int, ...], int]
"""Shape, stride and storage offset of a tensor."""
PersistentId = tuple[int, str | None, TensorView | None]
"""The number of a model; and, for one of its learned tensors, the tensor's name and view."""


class ModelTable:
    """The models that both sides of a connection hold, by number; pickles messages that refer to them."""

    def __init__(self) -> None:
        self._models: dict[int, Callable[[], Model | None]] = {}
        self._numbers: dict[int, int] = {}  # by the model's identity
        self._owners: dict[int, tuple[int, str]] = {}  # of learned tensors, by their storage's address
        self._count = itertools.count()

    def number(self, model: Model) -> int | None:
        """The model's number; None where it has none."""
        number = self._numbers.get(id(model))  # perhaps of a former model at this address
        return number if number is not None and self._models[number]() is model else None

    def register(self, model: Model) -> int:
        """Give the model the next number; the table holds it weakly."""
        number = next(self._count)
        self._add(number, model, weakref.ref(model))
        return number

    def store(self, number: int, model: Model) -> None:
        """Hold the model under the number that the other side has given it."""
        self._add(number, model, lambda: model)

    def remove(self, number: int) -> None:
        """Drop the model of this number."""
        del self._models[number]
        self._numbers = {of: each for of, each in self._numbers.items() if each != number}
        self._owners = {at: owner for at, owner in self._owners.items() if owner[0] != number}

    def dumps(self, message: object) -> memoryview:
        """Pickle a message."""
        content = io.BytesIO()
        _Pickler(content, self).dump(message)
        return content.getbuffer()

    def loads(self, content: bytes | bytearray | memoryview) -> Any:
        """Unpickle a message."""
        return _Unpickler(io.BytesIO(content), self).load()

    def persistent_id(self, value: object) -> PersistentId | None:
        """The reference to a model or to a learned tensor of one; None for any other value."""
        kind = type(value)
        if kind is Model:
            assert isinstance(value, Model)
            return self._numbers[id(value)], None, None
        if kind is Tensor:
            assert isinstance(value, Tensor)
            owner = self._owners.get(value.untyped_storage().data_ptr())
            if owner is not None:
                return (*owner, (value.shape, value.stride(), int(value.storage_offset())))
        return None

    def persistent_load(self, reference: PersistentId) -> Model | Tensor:
        """The model or tensor that the reference names on this side."""
        number, name, view = reference
        model = self._models[number]()
        assert model is not None
        return model if name is None or view is None else model.learned[name].as_strided(*view)

    def _add(self, number: int, model: Model, recall: Callable[[], Model | None]) -> None:
        self._models[number], self._numbers[id(model)] = recall, number
        for name, tensor in model.learned.items():
            self._owners[tensor.untyped_storage().data_ptr()] = number, name


class _Pickler(pickle.Pickler):
    """Replaces models and their tensors by references, and jobs by the fields that are sent."""

    def __init__(self, file: io.BytesIO, models: ModelTable) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.persistent_id = models.persistent_id  # type: ignore[method-assign]

    dispatch_table = copyreg.dispatch_table | {
        Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),)),
        Job: lambda job: (_job_from_fields, (_sent_fields(job),)),
    }


class _Unpickler(pickle.Unpickler):
    """Resolves the references of a `_Pickler`."""

    def __init__(self, file: io.BytesIO, models: ModelTable) -> None:
        super().__init__(file)
        self.persistent_load = models.persistent_load  # type: ignore[method-assign]


def _sent_fields(job: Job) -> dict[str, Any]:
    """The fields of a job that affect its result.

    Beside a kept posterior, support rows affect the distance of query rows (`bmaml.extrapolation`) and a
    selection. New classes have no such distance, and their rows may be images.
    """
    support_x, support_y, kept = job.support_x, job.support_y, job.kept
    model = job.model
    distant = model.manifest.kind != "classification" or model.returns_to_prior
    if kept is not None and not distant and not isinstance(job.spec, SelectionSpec):
        support_x, support_y = support_x[:0], support_y[:0]
        kept = replace(kept, support_features=None)
    names = "model", "query_x", "steps", "seed", "spec", "classes", "key", "query_y", "start", "start_rows"
    sent = {name: getattr(job, name) for name in names}
    return sent | {"support_x": support_x, "support_y": support_y, "kept": kept}


def _job_from_fields(fields: dict[str, Any]) -> Job:
    """The job of these sent fields, without a deadline."""
    return Job(**fields, deadline=float("inf"))
