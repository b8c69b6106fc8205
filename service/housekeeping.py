"""The housekeeping thread: it expires posteriors, reloads the store and keys, and returns freed memory."""

import logging
import threading
import time
from collections.abc import Sequence

from service.compute.device import DeviceFailed
from service.engine.posterior_cache import PosteriorCache
from service.keys import KeyRing
from service.ops.memory import HeapTrimmer
from service.registry.registry import Registry

log = logging.getLogger("service.housekeeping")


class Housekeeping:
    """A thread that runs rounds of housekeeping.

    Args:
        interval_s: seconds between two rounds.
        heap_trimmers: one for every process of the service.
    """

    def __init__(
        self,
        interval_s: float,
        posteriors: PosteriorCache,
        registry: Registry,
        keys: KeyRing,
        heap_trimmers: Sequence[HeapTrimmer],
    ) -> None:
        self._interval_s, self._posteriors = interval_s, posteriors
        self._registry, self._keys = registry, keys
        self.heap_trimmers = tuple(heap_trimmers)
        self._fault: str | None = None  # of the last round
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
        except DeviceFailed:
            log.warning("a worker process has ended and answers no more")

    def _run(self) -> None:
        """Run one round after another; a failure of one does not end the thread."""
        while not self._stopping.wait(self._interval_s):
            try:
                self._run_once()
            except Exception as error:
                if repr(error) != self._fault:  # once, and not every round
                    log.exception("cannot look at the store")
                self._fault = repr(error)
            else:
                self._fault = None

    def _run_once(self) -> None:
        self._keys.refresh()
        self._posteriors.drop_expired()
        # A batch under way may keep a posterior after its version was dropped.
        for sha256 in self._posteriors.models() - set(self._registry.catalogue.served()):
            self._posteriors.drop_model(sha256)
        self.refresh()
