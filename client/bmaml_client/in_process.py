"""The service in this process: its app runs on an event loop in a thread, without a network.

This module needs the extra `local`: `InProcess` imports the package `service`, and thereby torch, when it
is created. Answers, limits and errors are those of the served app.
"""

import asyncio
import atexit
import os
import threading
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import httpx

from bmaml_client.errors import ClientError

URL = "http://in-process"


class CannotServe(ClientError):
    """The store has no version that can be served, or the service is not installed."""


class InProcess(httpx.BaseTransport):
    """A transport of httpx to a service in this process.

    Args:
        store: the folder of published versions; None is the one that `BMAML_STORE` names, or the shipped
            one. The service reads its other settings from the environment.

    Raises:
        CannotServe: the service is not installed or does not start.
    """

    def __init__(self, store: Path | None = None) -> None:
        try:
            from service.app import create_app
            from service.settings import Settings
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] != "service":
                raise
            raise CannotServe(
                "models in this process need bmaml-service: pip install 'bmaml-client[local]', and no other "
                "package named service on the path; or give the address of a service"
            ) from error

        # Keys, rate limits and probes are for callers from outside, which cannot reach this service.
        internal: dict[str, Any] = {"keys": "", "keys_file": None, "probe_port": None, "rate_per_s": 0.0}
        app = create_app(Settings(**internal) if store is None else Settings(store=store, **internal))
        self._runtime = app.state.runtime
        self._runtime.start()
        if (why := self._runtime.why_not_ready) is not None:
            self._runtime.stop()
            raise CannotServe(why)
        self._asgi = httpx.ASGITransport(app)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bmaml-service", daemon=True)
        self._thread.start()
        self._open = True
        self._closing = threading.Lock()
        self._pending: set[Future[httpx.Response]] = set()

    @property
    def running(self) -> bool:
        """Whether the service still answers."""
        return self._open

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request.

        Raises:
            httpx.ReadTimeout: no answer came in time.
            httpx.ConnectError: the service has been stopped.
        """
        # A body that is not read yet belongs to the synchronous client and cannot be read by the app.
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        with self._closing:
            if not self._open:
                raise httpx.ConnectError("the service in this process has been closed", request=request)
            answer = asyncio.run_coroutine_threadsafe(self._answer(whole), self._loop)
            self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        try:
            return answer.result(request.extensions.get("timeout", {}).get("read"))
        except TimeoutError:
            answer.cancel()
            raise httpx.ReadTimeout("no answer in time", request=request) from None

    def close(self) -> None:
        """Do nothing: several clients share the transport. `stop` ends it."""

    def stop(self) -> None:
        """Finish the accepted requests and end the threads; stopping again is no error."""
        with self._closing:
            if not self._open:
                return
            self._open = False
        wait(list(self._pending))
        self._runtime.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._asgi.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


_shared: dict[tuple[int, Path | None], InProcess] = {}
_lock = threading.Lock()


def shared(store: str | Path | None = None) -> InProcess:
    """The shared transport of a store; the first call starts its service, which stops at exit.

    Raises:
        CannotServe: the service is not installed or does not start.
    """
    # Threads do not survive a fork: the child starts its own.
    key = (os.getpid(), None if store is None else Path(store).resolve())
    with _lock:
        if key not in _shared or not _shared[key].running:
            _shared[key] = InProcess(key[1])
        return _shared[key]


def stop_shared(store: str | Path | None = None) -> None:
    """Stop the shared service of a store, if it runs; the next `shared` starts another."""
    with _lock:
        found = _shared.pop((os.getpid(), None if store is None else Path(store).resolve()), None)
    if found is not None:
        found.stop()


@atexit.register
def _stop_all() -> None:
    with _lock:
        own = [_shared.pop(key) for key in list(_shared) if key[0] == os.getpid()]
    for each in own:
        each.stop()
