"""A process that computes, beside the one that speaks HTTP.

Python runs one thread of a process at a time. A thread that makes a thousand small tensors beside a busy
event loop waits for its turn after each of them, half of its time; in a process of its own it waits for
none. The engine's thread hands a batch over a socket, and has its answers back.
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
from service.engine.ipc import Models
from service.job import Answer, Job
from service.ops.memory import trim_heap

PATIENCE_S = 1.0
"""How long something of no hurry waits for a batch to end."""
CPU = torch.device("cpu")
LENGTH = struct.Struct("!Q")
"""Of a message, before it."""


class Worker:
    """A process that adapts and predicts on the CPU. It ends with the one that started it.

    Args:
        method: how to start it (see `multiprocessing`). A fork costs neither time nor memory, and must be
            made before there are threads.
        others: that have been started before.
    """

    def __init__(self, method: str = "fork", others: Sequence["Worker"] = ()) -> None:
        context = multiprocessing.get_context(method)
        self._line, theirs = socket.socketpair()
        # A fork has a copy of these ends, too: unless they are closed, the end never comes.
        ours = [self._line, *(other._line for other in others)] if method == "fork" else []
        self._process = context.Process(target=_serve, args=(theirs, ours), name="bmaml-worker")  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()
        self._speaking, self._stopped = threading.Lock(), False
        self._models = Models()
        self._forgotten: deque[int] = deque()

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid)

    @property
    def failed(self) -> bool:
        """Whether the process has ended without being told to."""
        return not self._stopped and not self._process.is_alive()

    def answer(self, jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
        """As `compute`.

        Raises:
            DeviceFailed: the process has ended.
            Exception: whatever was raised there.
        """
        self.begin(jobs, threads)
        return self.finish(jobs)

    def begin(self, jobs: Sequence[Job], threads: int) -> None:
        """Let the process begin to answer. Nothing else is asked of it until `finish`.

        Raises:
            As `answer`; then there is nothing to finish.
        """
        self._speaking.acquire()
        try:
            for model in {id(job.model): job.model for job in jobs}.values():
                if self._models.number(model) is None:
                    self._hand_over(model)
            self._forget()
            self._say(_computed, list(jobs), threads)
        except BaseException:
            self._speaking.release()
            raise

    def finish(self, jobs: Sequence[Job]) -> list[Answer | Diverged]:
        """The answers to what it has begun.

        Raises:
            As `answer`.
        """
        try:
            answers: list[Answer | Diverged] = self._heard()
        finally:
            self._speaking.release()
        return [
            replace(answer, kept=job.known) if isinstance(answer, Answer) and job.known else answer
            for job, answer in zip(jobs, answers, strict=True)
        ]

    def check(self) -> None:
        """Let the process compute something.

        Raises:
            DeviceFailed: it does not, or computes nonsense.
        """
        with self._speaking:
            self._asked(check, CPU)

    def trim_heap(self) -> bool:
        """Let the process hand its freed memory back; whether it had a moment for it.

        Raises:
            DeviceFailed: it has ended.
        """
        if not self._speaking.acquire(timeout=PATIENCE_S):
            return False
        try:
            return bool(self._asked(trim_heap))
        finally:
            self._speaking.release()

    def dismiss(self, until: float) -> None:
        """Ask nothing more of the process, once it has answered; it ends by itself then.

        Args:
            until: how long to wait for that, in seconds of the monotonic clock.
        """
        self._stopped = True
        if self._speaking.acquire(timeout=max(0.0, until - time.monotonic())):
            self._line.close()
            self._speaking.release()

    def end(self, until: float) -> None:
        """Wait until then for the process to end, and no longer."""
        self._process.join(max(0.0, until - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _hand_over(self, model: Model) -> None:
        content = pickle.dumps(model, pickle.HIGHEST_PROTOCOL)
        number = self._models.refer(model)
        try:
            self._asked(Models.keep, number, content)
        except BaseException:
            self._models.drop(number)
            raise
        # Whoever lets go of it may do so in the middle of anything: it leaves a note.
        weakref.finalize(model, self._forgotten.append, number).atexit = False

    def _asked(self, job: Callable[..., Any], *arguments: Any) -> Any:
        self._forget()
        return self._said(job, *arguments)

    def _forget(self) -> None:
        while self._forgotten:
            number = self._forgotten.popleft()
            self._models.drop(number)
            self._said(Models.drop, number)

    def _said(self, job: Callable[..., Any], *arguments: Any) -> Any:
        self._say(job, *arguments)
        return self._heard()

    def _say(self, job: Callable[..., Any], *arguments: Any) -> None:
        message = self._models.dumped((job, arguments))
        with self._whole():
            _send(self._line, message)

    def _heard(self) -> Any:
        with self._whole():
            reply = _received(self._line)
        fine, result = self._models.loaded(reply)
        if not fine:
            raise result
        return result

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """A message passes; what is left of one that stuck, for want of memory, is not the next one's."""
        try:
            yield
        except (OSError, EOFError) as error:
            raise DeviceFailed("the process that computes has ended") from error
        except BaseException:
            self._line.close()
            raise


def _send(line: socket.socket, message: memoryview) -> None:
    line.sendall(LENGTH.pack(len(message)))
    line.sendall(message)


def _received(line: socket.socket) -> bytearray:
    """One message.

    Raises:
        EOFError: nobody is at the other end.
    """
    return _exactly(LENGTH.unpack(_exactly(LENGTH.size, line))[0], line)


def _exactly(count: int, line: socket.socket) -> bytearray:
    """So many bytes, in one call where no signal comes between.

    A thread that wakes for every piece that has come would wait for its turn each time.
    """
    content = bytearray(count)
    rest = memoryview(content)
    while rest:
        came = line.recv_into(rest, flags=socket.MSG_WAITALL)
        if not came:
            raise EOFError
        rest = rest[came:]
    return content


def _serve(line: socket.socket, other_ends: Sequence[socket.socket]) -> None:
    """Do what is asked, until nobody can ask any more."""
    for each in (signal.SIGINT, signal.SIGTERM):  # what has been accepted is finished: see `Server`
        signal.signal(each, signal.SIG_IGN)
    for end in other_ends:
        end.close()
    models = Models()
    with contextlib.suppress(EOFError, OSError):
        while True:
            _send(line, _reply(models, _received(line)))


def _reply(models: Models, message: bytearray) -> memoryview:
    """What came of it; or the error, with where it happened, or in words where it cannot be sent."""
    try:
        job, arguments = models.loaded(message)
        return models.dumped((True, _done(models, job, arguments)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            return models.dumped((False, error))
        except Exception:
            return models.dumped((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _computed(jobs: Sequence[Job], threads: int) -> list[Answer | Diverged]:
    """What `compute` gives, without the posteriors that the other side knows."""
    return [
        replace(answer, kept=None) if isinstance(answer, Answer) and job.known else answer
        for job, answer in zip(jobs, compute(jobs, threads), strict=True)
    ]


def _done(models: Models, job: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    if job is Models.keep:
        number, content = arguments
        return models.keep(number, pickle.loads(content))
    if job is Models.drop:
        return models.drop(*arguments)
    return job(*arguments)
