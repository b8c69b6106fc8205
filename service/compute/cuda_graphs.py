"""The cache of CUDA graphs: GPU computations that are recorded for a shape of input, and launched as a whole.

A batch of small tasks is hundreds of kernels of a few microseconds each; to launch them one by one takes
longer than to run them. A CUDA graph is launched in one call. It repeats the same kernels on any numbers in
its input, so that the recorded operations must depend on shapes alone.

All recordings share one memory pool: they run one after the other on one stream, and the results of one are
copied to the host before the next begins. The least recently used recordings are dropped, and those of models
that no longer exist.
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
"""A computation: from tensors on the model's device to its results."""
Arrays = Sequence[NDArray[Any]]
"""Input of a computation, or its results, on the host."""

MAX_RECORDINGS = 128
"""Recordings that are kept."""
SHAPES_PER_RECORDING = 16
"""Shapes whose uses are counted, for each recording that may be kept."""
MIN_USES = 3
"""Uses of a shape before it is recorded: to record takes longer than to compute once."""
RELATIVE_TOLERANCE = 1e-4
"""Difference allowed between recording and computation, relative to the task's largest number."""
BATCH_SCALE_SHARE = 1e-3
"""Share of the batch's largest absolute result that is added to each task's scale.

Results near zero would otherwise be compared too strictly.
"""


class Launched(Protocol):
    """A launched computation."""

    def wait(self) -> list[NDArray[np.float64]]:
        """Wait for the results, and return them."""


class Recording(Protocol):
    """A recorded computation for input of one shape."""

    def launch(self, arrays: Arrays) -> Launched:
        """Launch the computation; the caller may change the arrays afterwards."""


Recorder = Callable[[Function, Arrays], Recording]
"""Records a computation for the shapes of these arrays."""


@dataclass
class _Entry:
    """A computation on one shape.

    Attributes:
        owner: the model whose tensors the recording reads.
        uses: how often the shape has come.
        recording: None until it has come often enough.
    """

    owner: "weakref.ref[Model]"
    uses: int = 0
    recording: Recording | None = None


class GraphCache:
    """The recordings of models' computations, for several threads; none waits while another records.

    Args:
        recorder: makes a recording.
        device_type: type of the device whose computations are recorded.
        max_recordings: recordings that are kept.
        min_uses: uses of a shape before it is recorded.
        on_event: called with "recorded", "launched", "dropped" or "failed". A computation has failed if it
            cannot be recorded, or if its recording gives other results.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        device_type: str = "cuda",
        max_recordings: int = MAX_RECORDINGS,
        min_uses: int = MIN_USES,
        on_event: Callable[[str], object] = lambda event: None,
    ) -> None:
        self.device_type, self._on_event = device_type, on_event
        self._recorder: Recorder = GpuRecorder() if recorder is None else recorder
        self._max_recordings, self._min_uses = max_recordings, min_uses
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._unrecordable: dict[Hashable, weakref.ref[Model]] = {}
        self._lock, self._recording = threading.Lock(), threading.Lock()

    def unrecordable(self, model: Model, key: Hashable) -> bool:
        """Whether the computation could not be recorded for some shape, and is not tried for others."""
        owner = self._unrecordable.get((id(model), key))
        return owner is not None and owner() is model

    def launch(self, model: Model, key: Hashable, function: Function, arrays: Arrays) -> Launched | None:
        """Launch the recording of `function` for these arrays; None where there is none.

        The function is recorded first, if the shape has come often enough.

        Args:
            model: the model whose tensors the function reads.
            key: identifies the function among those of the model.
            function: takes a tensor for each array, on the model's device.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        if self.unrecordable(model, key):
            return None
        entry_key = (id(model), key, *((array.shape, array.dtype.str) for array in arrays))
        with self._lock:
            self._drop_collected()
            entry = self._entries.setdefault(entry_key, _Entry(weakref.ref(model)))
            self._entries.move_to_end(entry_key)
            entry.uses += 1
            due = entry.recording is None and entry.uses >= self._min_uses
        if due and self._recording.acquire(blocking=False):
            try:
                self._record(entry, key, function, arrays, model)
            finally:
                self._recording.release()
        with self._lock:
            self._evict()
            if entry.recording is None:
                return None
            try:
                launched = entry.recording.launch(arrays)
            except Exception as error:
                if out_of_memory(error):
                    raise
                entry.recording = None
                self._mark_unrecordable(model, key, error)
                return None
        self._on_event("launched")
        return launched

    def clear(self) -> None:
        """Drop all recordings, and release their memory."""
        with self._lock:
            for entry_key in list(self._entries):
                self._drop(entry_key)

    def _record(self, entry: _Entry, key: Hashable, function: Function, arrays: Arrays, model: Model) -> None:
        """Record on zeros; keep the recording if its results for the arrays are those of the function."""
        try:
            recording = self._recorder(function, [np.zeros_like(array) for array in arrays])
            tensors = [torch.from_numpy(array).to(model.device) for array in arrays]
            expected = [each.double().cpu().numpy() for each in function(*tensors)]
            with self._lock:
                launched = recording.launch(arrays)
            if fault := _difference(launched.wait(), expected):
                raise _DifferentResults(fault)
        except Exception as error:
            if not out_of_memory(error):
                self._mark_unrecordable(model, key, error)
                return
            error.__traceback__ = None  # its frames hold the tensors that filled the memory
            entry.uses = 0
            self.clear()
            free_memory(model.device)
            self._on_event("failed")
            log.warning("there was no memory to record a computation of %s", model.manifest.name)
        else:
            entry.recording = recording
            self._on_event("recorded")

    def _mark_unrecordable(self, model: Model, key: Hashable, error: Exception) -> None:
        """Record this computation no more, for any shape: a failed recording may never release its memory.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        check(model.device)
        self._unrecordable[id(model), key] = weakref.ref(model)
        self._on_event("failed")
        fault = f"{type(error).__name__}: {error}"
        log.warning("computations of %s stay unrecorded: %s", model.manifest.name, fault)

    def _drop_collected(self) -> None:
        """Drop everything about models that have been collected."""
        for entry_key in [entry_key for entry_key, entry in self._entries.items() if entry.owner() is None]:
            self._drop(entry_key)
        for entry_key in [
            entry_key for entry_key, owner in list(self._unrecordable.items()) if owner() is None
        ]:
            del self._unrecordable[entry_key]

    def _evict(self) -> None:
        """Drop the least recently used recordings and shapes beyond the bounds."""
        recorded = [entry_key for entry_key, entry in self._entries.items() if entry.recording is not None]
        for entry_key in recorded[: -self._max_recordings]:
            self._drop(entry_key)
        while len(self._entries) > SHAPES_PER_RECORDING * self._max_recordings:
            self._drop(next(iter(self._entries)))

    def _drop(self, entry_key: Hashable) -> None:
        if self._entries.pop(entry_key).recording is not None:
            self._on_event("dropped")


class _DifferentResults(Exception):
    """A recording gives other results than the computation."""


def _difference(found: Arrays, expected: Arrays) -> str | None:
    """The first difference beyond the tolerance, in words; None without one.

    Each result has a leading `task` axis.
    """
    for index, (own, other) in enumerate(zip(found, expected, strict=True)):
        finite = np.isfinite(other)
        if own.shape != other.shape or not np.array_equal(np.isfinite(own), finite):
            return f"result {index} has another shape, or is not finite elsewhere"
        tasks = len(other)
        scale = np.where(finite, np.abs(other), 0).reshape(tasks, -1).max(1)
        error = np.abs(np.where(finite, own - np.where(finite, other, 0), 0)).reshape(tasks, -1).max(1)
        if (error > RELATIVE_TOLERANCE * (scale + BATCH_SCALE_SHARE * scale.max())).any():
            return f"result {index} differs by {error.max():.2g} of {scale.max():.2g}"
    return None


class GpuRecorder:
    """Records computations on the current GPU, all of them with one memory pool.

    Recordings are launched on a stream of their own, so that they need not wait while another is recorded.
    """

    def __init__(self) -> None:
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        self._pool: Any = None
        self._alive: weakref.WeakSet[GpuRecording] = weakref.WeakSet()

    def __call__(self, function: Function, arrays: Arrays) -> "GpuRecording":
        """Record the function for the shapes of these arrays."""
        if self._streams is None:
            self._streams = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if not self._alive:  # torch releases a pool without users, and it cannot be used again
            self._pool = torch.cuda.graph_pool_handle()
        recording = GpuRecording(function, arrays, *self._streams, self._pool)
        self._alive.add(recording)
        return recording


class GpuRecording:
    """A CUDA graph with its input on the device; its results are packed into one tensor.

    Args:
        recording: stream on which the graph is recorded.
        launching: stream on which it is launched.
        pool: memory pool of the intermediate tensors.
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
        # A failed recording leaves its stream the current one; this context restores the former.
        with torch.cuda.stream(recording):
            function(*self._inputs)  # libraries allocate their workspaces at the first use
            recording.synchronize()
            # Other threads may allocate meanwhile: only this thread's calls have to be recordable.
            mode = "thread_local"
            with torch.cuda.graph(self._graph, pool=pool, stream=recording, capture_error_mode=mode):
                results = function(*self._inputs)
                self._packed = torch.cat([result.double().flatten() for result in results])
        self._shapes = [tuple(result.shape) for result in results]

    def replay(self) -> None:
        """Launch the graph on its present input, without copies."""
        with torch.cuda.stream(self._stream):
            self._graph.replay()

    def launch(self, arrays: Arrays) -> "GpuLaunched":
        """Copy the arrays in, launch the graph, and copy the results out, without host synchronisation.

        All of it runs after the earlier launches. Pinned memory comes from torch's cache, which reuses it
        only when the copy is done.
        """
        with torch.cuda.stream(self._stream):
            for tensor, array in zip(self._inputs, arrays, strict=True):
                tensor.copy_(torch.from_numpy(array).pin_memory(), non_blocking=True)
            self._graph.replay()
            results = torch.empty(self._packed.shape, dtype=self._packed.dtype, pin_memory=True)
            results.copy_(self._packed, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        return GpuLaunched(results, self._shapes, done)


@dataclass(frozen=True)
class GpuLaunched:
    """A launched CUDA graph, whose results are being copied to the host.

    Attributes:
        results: all results, flattened, in pinned memory.
        shapes: of each result.
        done: occurs when the copy is done.
    """

    results: Tensor
    shapes: list[tuple[int, ...]]
    done: torch.cuda.Event

    def wait(self) -> list[NDArray[np.float64]]:
        """Wait for the results, and return them."""
        self.done.synchronize()
        sizes = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        pieces = np.split(self.results.numpy(), sizes)
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
