"""The mirroring thread: it follows a store elsewhere, which may take long to answer, or never does."""

import logging
import threading
import time
from pathlib import Path

from model_store import Mirror, RemoteStore

log = logging.getLogger("service.mirroring")

STOP_S = 1.0
"""Seconds that the end of the service waits for a round; its downloads are hidden, and can be left."""


class Mirroring:
    """A thread that refreshes a mirror.

    Args:
        address: of the store elsewhere.
        folder: that follows it.
        interval_s: seconds between two rounds.

    Attributes:
        failure: the reason why the last round failed; None where it did not.

    Raises:
        BadAddress: no installed file system can read the address.
        NotAMirror: the folder has versions of another store.
    """

    def __init__(self, address: str, folder: Path, interval_s: float) -> None:
        self._mirror, self._interval_s = Mirror(RemoteStore(address), folder), interval_s
        self.failure: str | None = None
        self._looked = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirroring", daemon=True)

    @property
    def age_s(self) -> float:
        """Seconds since the store elsewhere last answered a round; before the first, since the start."""
        return time.monotonic() - self._looked

    def start(self) -> None:
        """Start the thread; the first round begins at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, or leave it behind where a round takes longer than `STOP_S`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        """Run one round after another; a failure of one does not end the thread."""
        while True:
            try:
                self._mirror.refresh()
            except Exception as error:
                self._failed(str(error))
            else:
                if self.failure is not None:
                    log.info("the store elsewhere answers again")
                self.failure, self._looked = None, time.monotonic()
            if self._stopping.wait(self._interval_s):
                return

    def _failed(self, why: str) -> None:
        """Log a failure once; the rounds after it fail alike."""
        if self.failure is None:
            log.warning(
                "%s. The versions that are here are served; the next try is in %g s", why, self._interval_s
            )
        self.failure = why
