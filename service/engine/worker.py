"""A worker process, which computes batches beside the process that speaks HTTP.

Python runs one thread of a process at a time. A thread that makes a thousand small tensors beside a busy
event loop waits for the interpreter lock after each of them, half of its time. In a process of its own it
does not wait. The engine's thread sends a batch over a socket, and receives the answers.
"""

import contextlib
import multiprocessing
import pickle
import signal
import socket
import struct
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from bmaml.learners import Diverged
from model_store import Model
from service.compute.batch import compute
from service.compute.device import DeviceFailed, check
from service.engine.ipc import ModelTable
from service.job import Answer, Job
from service.ops.memory import trim_heap

TRIM_WAIT_S = 1.0
"""Seconds that trimming the heap may wait for a running batch."""
CPU = torch.device("cpu")
"""The device of every worker."""
HEADER = struct.Struct("!Q")
"""Header of a message: the length of its content in bytes."""


class Worker:
    """A process that adapts and predicts on the CPU. It ends with the process that started it.

    Args:
        method: start method (see `multiprocessing`). A fork costs neither time nor memory, and has to be
            made before other threads start.
        others: workers that run already.
    """

    def __init__(self, method: str = "fork", others: Sequence["Worker"] = ()) -> None:
        context = multiprocessing.get_context(method)
        self._socket, child_end = socket.socketpair()
        # A fork inherits these ends, too. Unless it closes them, no worker sees the end of its connection.
        our_ends = [self._socket, *(other._socket for other in others)] if method == "fork" else []
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(child_end, our_ends), name="bmaml-worker"
        )
        self._process.start()
        child_end.close()
        self._lock, self._stopped = threading.Lock(), False  # the lock is held from request to reply
        self._models = ModelTable()
        self._released: deque[int] = deque()  # numbers of collected models, which the process still holds

    @property
    def pid(self) -> int:
        """The process's id."""
        return int(self._process.pid)

    @property
    def failed(self) -> bool:
        """Whether the process has ended unasked."""
        return not self._stopped and not self._process.is_alive()

    def begin(self, jobs: Sequence[Job], threads: int) -> None:
        """Send the batch to the process, which computes it (`service.compute.batch.compute`) until `finish`.

        Raises:
            DeviceFailed: the process has ended; it is not busy then.
        """
        self._lock.acquire()
        try:
            for model in {id(job.model): job.model for job in jobs}.values():
                if self._models.number(model) is None:
                    self._send_model(model)
            self._remove_released()
            self._send(_compute_batch, list(jobs), threads)
        except BaseException:
            self._lock.release()
            raise

    def finish(self, jobs: Sequence[Job]) -> list[Answer | Diverged]:
        """Receive the answers to the batch that `begin` has sent.

        Raises:
            DeviceFailed: the process has ended.
            Exception: any error of the computation.
        """
        try:
            answers: list[Answer | Diverged] = self._receive()
        finally:
            self._lock.release()
        return [
            replace(answer, kept=job.kept) if isinstance(answer, Answer) and job.kept else answer
            for job, answer in zip(jobs, answers, strict=True)
        ]

    def check(self) -> None:
        """Check that the process computes.

        Raises:
            DeviceFailed: it does not, or its result is wrong.
        """
        with self._lock:
            self._call(check, CPU)

    def trim_heap(self) -> bool:
        """Return the process's freed memory to the system; False where the process was busy.

        Raises:
            DeviceFailed: the process has ended.
        """
        if not self._lock.acquire(timeout=TRIM_WAIT_S):
            return False
        try:
            return bool(self._call(trim_heap))
        finally:
            self._lock.release()

    def close(self, deadline: float) -> None:
        """Close the connection once the process has answered; the process ends then.

        Args:
            deadline: until when to wait for the answer, in seconds of the monotonic clock.
        """
        self._stopped = True
        if self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._socket.close()
            self._lock.release()

    def join(self, deadline: float) -> None:
        """Wait for the process to end, and kill it at the deadline."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send_model(self, model: Model) -> None:
        """Send a model to the process, which holds it until it is collected here."""
        content = pickle.dumps(model, pickle.HIGHEST_PROTOCOL)
        number = self._models.register(model)
        try:
            self._call(ModelTable.store, number, content)
        except BaseException:
            self._models.remove(number)
            raise
        # A finalizer may run in the middle of any operation, so it only notes the number.
        weakref.finalize(model, self._released.append, number).atexit = False

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function in the process, after it has removed the released models."""
        self._remove_released()
        return self._send_and_receive(function, *arguments)

    def _remove_released(self) -> None:
        """Remove the models that have been collected, here and in the process."""
        while self._released:
            number = self._released.popleft()
            self._models.remove(number)
            self._send_and_receive(ModelTable.remove, number)

    def _send_and_receive(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function in the process."""
        self._send(function, *arguments)
        return self._receive()

    def _send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Send the process a function to call."""
        message = self._models.dumps((function, arguments))
        with self._closed_on_failure():
            _send_message(self._socket, message)

    def _receive(self) -> Any:
        """The result of the function that was sent last.

        Raises:
            Exception: the error that it raised.
        """
        with self._closed_on_failure():
            reply = _receive_message(self._socket)
        succeeded, result = self._models.loads(reply)
        if not succeeded:
            raise result
        return result

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """Closes the connection after a partial transfer, whose rest must not be read as the next message.

        Raises:
            DeviceFailed: the process has ended.
        """
        try:
            yield
        except (OSError, EOFError) as error:
            raise DeviceFailed("the process that computes has ended") from error
        except BaseException:
            self._socket.close()
            raise


def _send_message(connection: socket.socket, content: memoryview) -> None:
    connection.sendall(HEADER.pack(len(content)))
    connection.sendall(content)


def _receive_message(connection: socket.socket) -> bytearray:
    """The content of one message.

    Raises:
        EOFError: the other side has closed the connection.
    """
    return _receive_bytes(HEADER.unpack(_receive_bytes(HEADER.size, connection))[0], connection)


def _receive_bytes(count: int, connection: socket.socket) -> bytearray:
    """The next `count` bytes, in one call unless a signal interrupts it.

    A thread that woke for every piece would wait for the interpreter lock each time.
    """
    content = bytearray(count)
    rest = memoryview(content)
    while rest:
        received = connection.recv_into(rest, flags=socket.MSG_WAITALL)
        if not received:
            raise EOFError
        rest = rest[received:]
    return content


def _serve(connection: socket.socket, inherited: Sequence[socket.socket]) -> None:
    """The process's main function: answers messages until the connection is closed."""
    for each in (signal.SIGINT, signal.SIGTERM):  # accepted requests are finished first: see `Server`
        signal.signal(each, signal.SIG_IGN)
    for each_socket in inherited:
        each_socket.close()
    models = ModelTable()
    with contextlib.suppress(EOFError, OSError):
        while True:
            _send_message(connection, _reply(models, _receive_message(connection)))


def _reply(models: ModelTable, message: bytearray) -> memoryview:
    """The reply to a message: the result, or the error with its traceback.

    An error that cannot be pickled is replaced by a `RuntimeError` with its text.
    """
    try:
        function, arguments = models.loads(message)
        return models.dumps((True, _execute(models, function, arguments)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            return models.dumps((False, error))
        except Exception:
            return models.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _compute_batch(jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
    """The answers of `compute`, without the kept posteriors that the other side sent."""
    return [
        replace(answer, kept=None) if isinstance(answer, Answer) and job.kept else answer
        for job, answer in zip(jobs, compute(jobs, threads), strict=True)
    ]


def _execute(models: ModelTable, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """The result of the function; methods of `ModelTable` act on this side's table."""
    if function is ModelTable.store:
        number, content = arguments
        return models.store(number, pickle.loads(content))
    if function is ModelTable.remove:
        return models.remove(*arguments)
    return function(*arguments)
