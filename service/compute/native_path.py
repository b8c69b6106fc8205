"""The choice between native functions and tensor code, for models of the exact learner on the CPU.

Tensor code is the reference and is always there. Native functions (`bmaml.native`) are compiled once, or
loaded from a cache on disk, in a thread of their own; tensor code answers meanwhile. From then on a model of
a `collapsed` learner is answered natively, but for two kinds of question: SVGD steps, which need gradients,
and selections by covariances between rows. The cache is in `NUMBA_CACHE_DIR`, else in the user's cache
directory; it may be read-only. Without any, code is compiled in memory at every start.

`python -m service.compute.native_path` fills the cache, as the image's build does.
"""

import hashlib
import importlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import bmaml.native
from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from bmaml.learners.collapsed import Collapsed
from service.compute.regression import predict_batch
from service.job import Answer, BatchTimes, Job

log = logging.getLogger("service.compute.native_path")

Mode = Literal["auto", "off", "require"]
State = Literal["off", "compiling", "ready", "failed"]

NOWHERE = Path("/nonexistent/bmaml")
"""The cache of a process without a home: nothing is read from it, nothing written."""
SWITCH_S = 1e-4
"""Seconds between switches of threads while the compiler runs: tensor code asks for Python's lock after each
operation, and would wait for the compiler five milliseconds each time."""

CONSTANTS = re.compile(r"^from (bmaml\.[\w.]+) import", re.MULTILINE)
PYTHON = {"tables.py", "example.py"}
"""Files of `bmaml.native` without compiled functions."""


class NativeUnavailable(BmamlError):
    """Native functions are required and cannot be compiled."""


class _Native:
    """The native functions of this process, once they are compiled.

    Attributes:
        state: see `State`.
        module: `service.compute.native_regression`; None until it is ready.
        fault: the error of a compilation that failed.
    """

    def __init__(self) -> None:
        self.state: State = "off"
        self.module: Any = None
        self.fault: BaseException | None = None
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None


_native = _Native()


def state() -> State:
    """The state of this process's native functions."""
    return _native.state


def begin(mode: Mode) -> None:
    """Compile or load native functions in a thread; wait for it where they are required.

    Raises:
        NativeUnavailable: they are required and cannot be compiled.
    """
    if mode == "off":
        _native.state = "off"
        return
    with _native.lock:
        if _native.module is not None:
            _native.state = "ready"
        elif _native.thread is None or not _native.thread.is_alive():
            _native.state = "compiling"
            log.info("tensor code answers while native functions are compiled")
            _native.thread = threading.Thread(target=_prepare, name="native-compiler", daemon=True)
            _native.thread.start()
    if mode == "require":
        assert _native.thread is not None or _native.module is not None
        if _native.thread is not None:
            _native.thread.join()
        if _native.state != "ready":
            raise NativeUnavailable(
                f"BMAML_NATIVE is require and native functions cannot be compiled: {_native.fault!r}"
            )


def serves(jobs: Sequence[Job]) -> bool:
    """Whether native functions of this process answer jobs of one group."""
    return _native.state == "ready" and jobs[0].model.manifest.kind == "regression" and is_native(jobs)


def predict_numbers(jobs: Sequence[Job]) -> tuple[list[Answer | Diverged], BatchTimes]:
    """The answers to regression jobs of one group, in order, by the path that serves them."""
    if serves(jobs):
        answers: tuple[list[Answer | Diverged], BatchTimes] = _native.module.predict_natively(jobs)
        return answers
    return predict_batch(jobs)


def is_native(jobs: Sequence[Job]) -> bool:
    """Whether native functions, once they are there, answer jobs of one group."""
    first = jobs[0]
    exact = isinstance(first.model.learner, Collapsed) and first.model.device.type == "cpu"
    return exact and not first.joint and (first.kept is not None or first.steps == 0)


def cache_folder() -> Path:
    """The folder of compiled code, for exactly these sources."""
    chosen, home = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("HOME")
    if chosen:
        base = Path(chosen)
    elif folder := os.environ.get("XDG_CACHE_HOME"):
        base = Path(folder) / "bmaml"
    else:
        base = Path(home) / ".cache" / "bmaml" if home else NOWHERE
    return base / f"native-{_sources_digest()}"


def _sources_digest() -> str:
    """Digest of the files that compiled code comes from: native functions, and modules of their constants.

    A function's code contains those that it calls, so that one folder holds the code of one state of all.
    """
    native = Path(bmaml.native.__path__[0])
    sources = {path: path.read_text() for path in native.glob("*.py")}
    for path, text in list(sources.items()):
        for module in CONSTANTS.findall(text) if path.name not in PYTHON else ():
            constants = native.parent.parent.joinpath(*module.split(".")).with_suffix(".py")
            sources[constants] = constants.read_text()
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(sources[path].encode())
    return digest.hexdigest()[:16]


def _prepare() -> None:
    """Compile or load every native function."""
    began, folder = time.monotonic(), cache_folder()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        _native.module = _compiled(folder)
    except Exception as error:
        _native.fault, _native.state = error, "failed"
        log.exception("native functions cannot be compiled; tensor code answers")
        return
    finally:
        sys.setswitchinterval(interval)
    _native.state = "ready"
    log.info("native functions ready after %.1f s", time.monotonic() - began)


def _compiled(folder: Path) -> Any:
    """`service.compute.native_regression`, with its functions compiled or loaded."""
    import numba
    from numba.core.caching import NullCache

    with_folder = {"CACHE_DIR": str(folder), "CACHE_LOCATOR_CLASSES": "service.compute.native_cache.Folder"}
    before = {name: getattr(numba.config, name) for name in with_folder}
    for name, value in with_folder.items():
        setattr(numba.config, name, value)
    try:
        example = importlib.import_module("bmaml.native.example")
    finally:
        for name, value in before.items():
            setattr(numba.config, name, value)
    try:
        for step in example.steps():
            _call_twice_if_not_saved(step)
    except OSError:  # the folder cannot be read
        for function in example.CALLED:
            function._cache = NullCache()
        for step in example.steps():
            step()
    for function in example.CALLED:
        function.disable_compile()  # a request never waits for the compiler
    return importlib.import_module("service.compute.native_regression")


def _call_twice_if_not_saved(step: Any) -> None:
    """Call a function; once more where its code could not be saved, since it then is compiled."""
    try:
        step()
    except OSError:
        step()


if __name__ == "__main__":
    # Under this name the module is not the one that the service imports.
    importlib.import_module("service.compute.native_path").begin("require")
