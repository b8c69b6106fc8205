"""Computations on a GPU that are recorded once for each shape of their input, and then launched whole.

A batch of small tasks is hundreds of kernels of a few microseconds each; to launch them one by one takes
longer than to run them. A recorded computation (a CUDA graph) is launched in one go. It does the same to
whatever lies in its input, so that what is recorded must not depend on what the numbers are.

All recordings share one pool of memory: they run one after the other on one stream, and what one has
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
from service.compute.device import check, free_memory, out_of_memory

log = logging.getLogger("service.graphs")

Function = Callable[..., Sequence[Tensor]]
Arrays = Sequence[NDArray[Any]]

MOST = 128
"""Recordings that are kept."""
SEEN = 3
"""How often a shape must come before it is recorded, which takes longer than to compute it once."""
TOLERANCE = 1e-4
"""By how much a recording may differ from the computation, relative to a task's largest number."""
SMALL = 1e-3
"""What counts beside that of the largest number of all tasks: a result may happen to be next to nothing."""


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
    """

    owner: "weakref.ref[Model]"
    seen: int = 0
    recording: Recording | None = None


class Graphs:
    """Recordings of models' computations; several threads may ask, and do not wait for one that records.

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
        self._most, self._seen = most, seen
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._hopeless: dict[Hashable, weakref.ref[Model]] = {}
        self._lock, self._recording = threading.Lock(), threading.Lock()

    def hopeless(self, model: Model, key: Hashable) -> bool:
        """Whether a computation could not be recorded on some shape, and will not be tried on others."""
        owner = self._hopeless.get((id(model), key))
        return owner is not None and owner() is model

    def launch(self, model: Model, key: Hashable, function: Function, arrays: Arrays) -> Launched | None:
        """Compute `function` of the arrays; None where it is not recorded, and has to be computed as it is.

        Args:
            model: whose tensors the function reads.
            key: which function of the model it is.
            function: of as many tensors as there are arrays, on the model's device.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        if self.hopeless(model, key):
            return None
        place = (id(model), key, *((array.shape, array.dtype.str) for array in arrays))
        with self._lock:
            self._forget_the_gone()
            entry = self._entries.setdefault(place, _Entry(weakref.ref(model)))
            self._entries.move_to_end(place)
            entry.seen += 1
            wanted = entry.recording is None and entry.seen >= self._seen
        if wanted and self._recording.acquire(blocking=False):
            try:
                self._make(entry, key, function, arrays, model)
            finally:
                self._recording.release()
        with self._lock:
            self._let_go()
            if entry.recording is None:
                return None
            try:
                launched = entry.recording.launch(arrays)
            except Exception as error:
                if out_of_memory(error):
                    raise
                entry.recording = None
                self._give_up(model, key, error)
                return None
        self._tell("launched")
        return launched

    def clear(self) -> None:
        """Drop all recordings, and what they hold of the device's memory."""
        with self._lock:
            for place in list(self._entries):
                self._drop(place)

    def _make(self, entry: _Entry, key: Hashable, function: Function, arrays: Arrays, model: Model) -> None:
        """Record on zeros, and believe the recording once it says of the arrays what the computation says."""
        try:
            recording = self._record(function, [np.zeros_like(array) for array in arrays])
            tensors = [torch.from_numpy(array).to(model.device) for array in arrays]
            expected = [each.double().cpu().numpy() for each in function(*tensors)]
            with self._lock:
                launched = recording.launch(arrays)
            if fault := _difference(launched.wait(), expected):
                raise _Unlike(fault)
        except Exception as error:
            if not out_of_memory(error):
                self._give_up(model, key, error)
                return
            error.__traceback__ = None  # its frames hold the tensors that there was no room for
            entry.seen = 0
            self.clear()
            free_memory(model.device)
            self._tell("failed")
            log.warning("there was no memory to record a computation of %s", model.manifest.name)
        else:
            entry.recording = recording
            self._tell("recorded")

    def _give_up(self, model: Model, key: Hashable, error: Exception) -> None:
        """On a computation, whatever its shape: what a failed recording holds may never be given back.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        check(model.device)
        self._hopeless[id(model), key] = weakref.ref(model)
        self._tell("failed")
        fault = f"{type(error).__name__}: {error}"
        log.warning("computations of %s stay unrecorded: %s", model.manifest.name, fault)

    def _forget_the_gone(self) -> None:
        for place in [place for place, entry in self._entries.items() if entry.owner() is None]:
            self._drop(place)
        for place in [place for place, owner in list(self._hopeless.items()) if owner() is None]:
            del self._hopeless[place]

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


class _Unlike(Exception):
    """A recording said something else than what was recorded."""


def _difference(found: Arrays, expected: Arrays) -> str | None:
    """What is wrong with the found results, if anything; each has a leading axis of tasks."""
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        finite = np.isfinite(other)
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), finite):
            return f"result {place} has another shape, or is not finite elsewhere"
        tasks = len(other)
        size = np.where(finite, np.abs(other), 0).reshape(tasks, -1).max(1)
        off = np.abs(np.where(finite, one - np.where(finite, other, 0), 0)).reshape(tasks, -1).max(1)
        if (off > TOLERANCE * (size + SMALL * size.max())).any():
            return f"result {place} differs by {off.max():.2g} of {size.max():.2g}"
    return None


class GpuRecorder:
    """Records on the current GPU; one recording after the other uses the same memory.

    What is launched has a stream of its own, so that it need not wait for what is being recorded.
    """

    def __init__(self) -> None:
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        self._pool: Any = None
        self._alive: weakref.WeakSet[GpuRecording] = weakref.WeakSet()

    def __call__(self, function: Function, arrays: Arrays) -> "GpuRecording":
        """A recording of the function of these arrays' shapes."""
        if self._streams is None:
            self._streams = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if not self._alive:  # a pool that nobody uses is given back, and not to be used again
            self._pool = torch.cuda.graph_pool_handle()
        recording = GpuRecording(function, arrays, *self._streams, self._pool)
        self._alive.add(recording)
        return recording


class GpuRecording:
    """A CUDA graph with its input on the device, its results packed into one tensor.

    Args:
        recording, launching: streams.
        pool: of the memory for what is between input and results.
    """

    def __init__(
        self,
        function: Function,
        arrays: Arrays,
        recording: torch.cuda.Stream,
        launching: torch.cuda.Stream,
        pool: Any,
    ) -> None:
        self._stream, self._graph = launching, torch.cuda.CUDAGraph()
        with torch.cuda.stream(launching):
            self._inputs = [torch.from_numpy(array).to("cuda") for array in arrays]
        launching.synchronize()
        # A failed recording would leave its stream the current one; this puts back what was before.
        with torch.cuda.stream(recording):
            function(*self._inputs)  # what is made at the first use is made now
            recording.synchronize()
            # Others may allocate while this thread records: only its own calls must be recordable.
            mode = "thread_local"
            with torch.cuda.graph(self._graph, pool=pool, stream=recording, capture_error_mode=mode):
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
