"""Computations on a GPU that are recorded once for each shape of their input, and then launched whole.

A batch of small tasks is hundreds of kernels of a few microseconds each; to launch them one by one takes
longer than to run them. A recorded computation (a CUDA graph) is launched in one go. It does the same to
whatever lies in its input, so that what is recorded must not depend on what the numbers are.

All recordings share one stream and one pool of memory: they run one after the other, and what one has
computed is on its way to the host before the next begins. So many are kept at most, the least recently used
go, and those of a model that nobody holds any more.
"""

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store import Model
from service.device import check, free_memory, out_of_memory

log = logging.getLogger("service.graphs")

Function = Callable[..., Sequence[Tensor]]
Arrays = Sequence[NDArray[Any]]

MOST = 128
"""Recordings that are kept."""
SEEN = 3
"""How often a shape must come before it is recorded, which takes longer than to compute it once."""
TOLERANCE = 1e-4
"""By how much a recording may differ from the computation, relative to the largest number of each result."""


class Launched(Protocol):
    """A computation under way."""

    def wait(self) -> list[NDArray[np.float64]]:
        """Its results, once they are there."""


class Recording(Protocol):
    """A computation for input of one shape."""

    def launch(self, arrays: Arrays) -> Launched:
        """Begin to compute; the arrays are the caller's again."""


Record = Callable[[Function, Arrays], Recording]


@dataclass
class _Entry:
    """What is known of a computation on one shape.

    Attributes:
        owner: the model whose tensors the recording reads.
        recording: None where it has not been recorded yet, or cannot be.
    """

    owner: "weakref.ref[Model]"
    seen: int = 0
    recording: Recording | None = None
    impossible: bool = False


class Graphs:
    """Recordings of models' computations. May be used from several threads.

    Args:
        record: makes a recording.
        device_type: of the models whose computations are recorded.
        most: are kept.
        seen: how often a shape must come before it is recorded.
        tell: is told of every "recorded", "launched", "dropped" and "failed"; failed is what cannot be
            recorded, or said something else when it was launched.
    """

    def __init__(
        self,
        record: Record | None = None,
        device_type: str = "cuda",
        most: int = MOST,
        seen: int = SEEN,
        tell: Callable[[str], object] = lambda event: None,
    ) -> None:
        self.device_type, self._tell = device_type, tell
        self._record: Record = GpuRecorder() if record is None else record
        self._most, self.seen = most, seen
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def launch(self, model: Model, key: Hashable, function: Function, arrays: Arrays) -> Launched | None:
        """Compute `function` of the arrays; None where it is not recorded, and has to be computed as it is.

        Args:
            model: whose tensors the function reads.
            key: which function of the model it is.
            function: of as many tensors as there are arrays, on the model's device.
        """
        place = (id(model), key, *((array.shape, array.dtype.str) for array in arrays))
        with self._lock:
            self._forget_the_gone()
            entry = self._entries.setdefault(place, _Entry(weakref.ref(model)))
            self._entries.move_to_end(place)
            entry.seen += 1
            if entry.recording is None and not entry.impossible and entry.seen >= self.seen:
                self._make(entry, function, arrays, model)
            self._let_go()
            if entry.recording is None:
                return None
            self._tell("launched")
            return entry.recording.launch(arrays)

    def clear(self) -> None:
        """Drop all recordings, and what they hold of the device's memory."""
        with self._lock:
            for place in list(self._entries):
                self._drop(place)

    def _make(self, entry: _Entry, function: Function, arrays: Arrays, model: Model) -> None:
        """Record, and believe the recording once it says what the computation says.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        try:
            recording = self._record(function, arrays)
            tensors = [torch.from_numpy(array).to(model.device) for array in arrays]
            expected = [each.double().cpu().numpy() for each in function(*tensors)]
            fault = _difference(recording.launch(arrays).wait(), expected)
        except RuntimeError as error:
            if out_of_memory(error):
                error.__traceback__ = None  # its frames hold the tensors that there was no room for
                free_memory(model.device)
            check(model.device)
            fault = f"{type(error).__name__}: {error}"
        entry.impossible = fault is not None
        self._tell("failed" if fault else "recorded")
        if fault:
            log.warning("a computation of %s stays unrecorded: %s", model.manifest.name, fault)
        else:
            entry.recording = recording

    def _forget_the_gone(self) -> None:
        for place in [place for place, entry in self._entries.items() if entry.owner() is None]:
            self._drop(place)

    def _let_go(self) -> None:
        """Of recordings beyond the bound, and of shapes that came once and not again."""
        recorded = [place for place, entry in self._entries.items() if entry.recording is not None]
        for place in recorded[: -self._most]:
            self._drop(place)
        while len(self._entries) > 16 * self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, place: Hashable) -> None:
        if self._entries.pop(place).recording is not None:
            self._tell("dropped")


def _difference(found: Arrays, expected: Arrays) -> str | None:
    """What is wrong with the found results, if anything."""
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        finite = np.isfinite(other)
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), finite):
            return f"result {place} has another shape, or is not finite elsewhere"
        if not finite.any():
            continue
        largest = np.abs(other[finite]).max()
        if (off := np.abs(one[finite] - other[finite]).max()) > TOLERANCE * largest:
            return f"result {place} differs by {off:.2g} of {largest:.2g}"
    return None


class GpuRecorder:
    """Records on the current GPU; one recording after the other uses the same memory."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._alive: weakref.WeakSet[GpuRecording] = weakref.WeakSet()

    def __call__(self, function: Function, arrays: Arrays) -> "GpuRecording":
        """A recording of the function of these arrays' shapes."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if not self._alive:  # a pool that nobody uses is given back, and not to be used again
            self._pool = torch.cuda.graph_pool_handle()
        recording = GpuRecording(function, arrays, self._stream, self._pool)
        self._alive.add(recording)
        return recording


class GpuRecording:
    """A CUDA graph with its input on the device, its results packed into one tensor.

    Args:
        stream: that it is recorded and launched on.
        pool: of the memory for what is between input and results.
    """

    def __init__(self, function: Function, arrays: Arrays, stream: torch.cuda.Stream, pool: Any) -> None:
        self._stream, self._graph = stream, torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._inputs = [torch.from_numpy(array).to("cuda") for array in arrays]
            function(*self._inputs)  # what is made at the first use is made now
        stream.synchronize()
        # Others may allocate while this thread records: it is only its own calls that must be recordable.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            results = function(*self._inputs)
            self._packed = torch.cat([result.double().flatten() for result in results])
        self._shapes = [tuple(result.shape) for result in results]

    def replay(self) -> None:
        """Compute the same again."""
        with torch.cuda.stream(self._stream):
            self._graph.replay()

    def launch(self, arrays: Arrays) -> "GpuLaunched":
        """Copy in, compute, copy out, all of it behind what was launched before; nothing is waited for.

        The host's side of a copy is pinned memory of torch's own cache, which hands it out again once
        the copy is done.
        """
        with torch.cuda.stream(self._stream):
            for tensor, array in zip(self._inputs, arrays, strict=True):
                tensor.copy_(torch.from_numpy(array).pin_memory(), non_blocking=True)
            self._graph.replay()
            said = torch.empty(self._packed.shape, dtype=self._packed.dtype, pin_memory=True)
            said.copy_(self._packed, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        return GpuLaunched(said, self._shapes, done)


@dataclass(frozen=True)
class GpuLaunched:
    """Results on their way to the host."""

    said: Tensor
    shapes: list[tuple[int, ...]]
    done: torch.cuda.Event

    def wait(self) -> list[NDArray[np.float64]]:
        """Its results, once they are there."""
        self.done.synchronize()
        sizes = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        pieces = np.split(self.said.numpy(), sizes)
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
