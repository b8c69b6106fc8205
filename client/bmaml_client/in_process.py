"""The service without a server: its app on an event loop in a thread of this process.

Answers, bounds and errors are those of the service because it is the service; only the network is left
out. This is the one part of the client that needs torch and FastAPI, and it loads them when it is opened.
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
    """The store holds nothing that can be served, or there is no such store."""


class InProcess(httpx.BaseTransport):
    """Requests to a store's models, answered in this process.

    Args:
        store: the folder of published versions; None is the one that `BMAML_STORE` names, or the shipped
            one. Other settings of the service are read from the environment, as ever.

    Raises:
        CannotServe: the service does not start.
    """

    def __init__(self, store: Path | None = None) -> None:
        from service.app import create_app
        from service.settings import Settings

        # Who is in the process needs no key, and nobody else can ask.
        alone: dict[str, Any] = {"keys": "", "keys_file": None, "probe_port": None, "rate_per_s": 0.0}
        app = create_app(Settings(**alone) if store is None else Settings(store=store, **alone))
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
        self._asked: set[Future[httpx.Response]] = set()

    @property
    def running(self) -> bool:
        """Whether it still answers."""
        return self._open

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One request.

        Raises:
            httpx.ReadTimeout: no answer in time.
            httpx.ConnectError: it is closed.
        """
        # Only a body that is read already can go from one kind of client to the other.
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        with self._closing:
            if not self._open:
                raise httpx.ConnectError("the service in this process has been closed", request=request)
            answer = asyncio.run_coroutine_threadsafe(self._answer(whole), self._loop)
            self._asked.add(answer)
        answer.add_done_callback(self._asked.discard)
        try:
            return answer.result(request.extensions.get("timeout", {}).get("read"))
        except TimeoutError:
            answer.cancel()
            raise httpx.ReadTimeout("no answer in time", request=request) from None

    def close(self) -> None:
        """Nothing: clients come and go, and share it. `stop` ends it."""

    def stop(self) -> None:
        """Finish what was accepted and end the threads; twice is no failure."""
        with self._closing:
            if not self._open:
                return
            self._open = False
        wait(list(self._asked))
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
    """The one of this store in this process, opened when it is first asked for, ended at exit.

    Raises:
        CannotServe: the service does not start.
    """
    # After a fork the threads are gone: the child opens its own.
    key = (os.getpid(), None if store is None else Path(store).resolve())
    with _lock:
        if key not in _shared or not _shared[key].running:
            _shared[key] = InProcess(key[1])
        return _shared[key]


def stop_shared(store: str | Path | None = None) -> None:
    """End the one of this store, where there is one; the next `shared` opens it anew."""
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
