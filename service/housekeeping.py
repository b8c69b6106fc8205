"""The housekeeping thread: it expires posteriors, reloads the store and keys, and returns freed memory."""

import logging
import threading
import time
from collections.abc import Sequence

from service.compute import native_path
from service.compute.device import DeviceFailed
from service.compute.native_path import State
from service.engine.posterior_cache import PosteriorCache
from service.keys import KeyRing
from service.ops.memory import HeapTrimmer
from service.registry.registry import Registry

PATHS: dict[State, str] = {
    "off": "tensors; native functions are off",
    "compiling": "tensors, while native functions are compiled",
    "ready": "native functions",
    "failed": "tensors; native functions cannot be compiled here",
}
"""The path that answers, by the state of native functions."""

log = logging.getLogger("service.housekeeping")


class NativeWatch:
    """The state of native functions, which is logged when it changes."""

    def __init__(self) -> None:
        self._state: State = "off"

    @property
    def serves(self) -> bool:
        """Whether native functions answer for the exact learner."""
        return self._state == "ready"

    def look(self) -> None:
        """Look at the present state."""
        before, self._state = self._state, native_path.state()
        if self._state != before:
            log.info("path of the exact learner on the CPU: %s", PATHS[self._state])


class Housekeeping:
    """A thread that runs rounds of housekeeping.

    Args:
        interval_s: seconds between two rounds.
        heap_trimmers: one for every process of the service.
        native: the state of native functions.
    """

    def __init__(
        self,
        interval_s: float,
        posteriors: PosteriorCache,
        registry: Registry,
        keys: KeyRing,
        heap_trimmers: Sequence[HeapTrimmer],
        native: NativeWatch | None = None,
    ) -> None:
        self._interval_s, self._posteriors, self._registry, self._keys = (
            interval_s,
            posteriors,
            registry,
            keys,
        )
        self.heap_trimmers, self._native = tuple(heap_trimmers), native
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopping.is_set()

    def stop(self, timeout_s: float) -> None:
        """End the thread, and wait up to `timeout_s` for a round that has begun."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def refresh(self) -> None:
        """Load new versions from the store, unload idle ones, and return freed memory to the system.

        Raises:
            Exception: any failure of the store or the device.
        """
        changed = self._registry.refresh()
        self._registry.shelve_idle()
        try:
            for trimmer in self.heap_trimmers:
                trimmer.trim_if_due(time.monotonic(), changed)
            if self._native is not None:
                self._native.look()
        except DeviceFailed:
            log.warning("a worker process has ended and answers no more")

    def _run(self) -> None:
        """Run one round after another; a failure of one does not end the thread."""
        while not self._stopping.wait(self._interval_s):
            self._posteriors.drop_expired()
            # A batch under way may keep a posterior after its version was dropped.
            for sha256 in self._posteriors.models() - set(self._registry.catalogue.served()):
                self._posteriors.drop_model(sha256)
            try:
                self.refresh()
            except Exception:
                log.exception("cannot look at the store")
            self._keys.refresh()
