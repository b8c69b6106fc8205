"""The server process: it listens, drains on SIGTERM, and ends where the engine has failed."""

import asyncio
import contextlib
import logging
import math
import resource
import signal
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.http.health import create_probe_app
from service.http.protocol import protocol
from service.runtime import Runtime
from service.settings import Settings

log = logging.getLogger("service.server")

RESERVED_FILES = 256
"""Open files that the process needs beside its connections."""


class Server(uvicorn.Server):
    """uvicorn's server, which turns readiness off before it stops listening and ends where the engine failed.

    Args:
        linger_s: seconds between SIGTERM and the end of listening.
    """

    def __init__(self, config: uvicorn.Config, runtime: Runtime, linger_s: float) -> None:
        super().__init__(config)
        self._runtime, self._linger_s = runtime, linger_s
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain: after the time to linger on SIGTERM, at once on SIGINT or a second SIGTERM.

        SIGINT while draining ends the process without waiting for accepted requests.
        """
        if sig == signal.SIGINT or self._runtime.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT and self._runtime.draining
        else:
            self._stop_at = time.monotonic() + self._linger_s
        self._runtime.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return True to end the process; uvicorn calls this every tenth of a second."""
        if self._runtime.failed:
            log.critical("the service cannot go on: %s", self._runtime.why_not_ready)
            return True
        self.should_exit |= time.monotonic() >= self._stop_at
        return await super().on_tick(counter)


class ProbeServer(uvicorn.Server):
    """The server of the probe port; it leaves signals to the process's other server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signal."""
        yield


def serve(app: FastAPI, settings: Settings) -> int:
    """Serve until a signal or a failure; return the exit status of the process."""
    raise_file_limit(settings.max_connections)
    with asyncio.Runner(loop_factory=uvicorn_config(app, settings).get_loop_factory()) as runner:
        return runner.run(_serve(app, settings))


async def _serve(app: FastAPI, settings: Settings) -> int:
    runtime: Runtime = app.state.runtime
    server = Server(uvicorn_config(app, settings), runtime, settings.linger_s)
    if settings.probe_port is None:
        await server.serve()
    else:
        probes = uvicorn.Config(
            create_probe_app(runtime),
            host=settings.probe_host or settings.host,
            port=settings.probe_port,
            lifespan="off",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        probe_server = ProbeServer(probes)
        task = asyncio.create_task(probe_server.serve())
        try:
            await server.serve()
        finally:
            probe_server.should_exit = True
            await task
    return 1 if runtime.failed else 0


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for the app."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings, app.state.runtime.metrics),
        ws="none",
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
        log_config=None,
    )


def raise_file_limit(max_connections: int) -> None:
    """Raise the process's limit on open files to fit so many connections, within its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
