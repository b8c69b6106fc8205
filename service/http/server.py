"""The process: listens, drains when it is told to, and ends by itself when only a restart helps."""

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


class Server(uvicorn.Server):
    """uvicorn's, which turns readiness off before it stops listening, and ends with an engine that failed."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime, linger_s: float) -> None:
        super().__init__(config)
        self._runtime, self._linger_s = runtime, linger_s
        self._leave_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM lets the others learn that we are leaving; SIGINT, or a second SIGTERM, does not."""
        if sig == signal.SIGINT or self._runtime.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT and self._runtime.draining
        else:
            self._leave_at = time.monotonic() + self._linger_s
        self._runtime.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second: whether to end."""
        if self._runtime.failed:
            log.critical("the service cannot go on: %s", self._runtime.why_not_ready)
            return True
        self.should_exit |= time.monotonic() >= self._leave_at
        return await super().on_tick(counter)


class _Beside(uvicorn.Server):
    """A second server of the process: signals are the first one's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


def serve(app: FastAPI, settings: Settings) -> int:
    """Serve until told to stop; the process' exit status."""
    allow_connections(settings.max_connections)
    with asyncio.Runner(loop_factory=config_of(app, settings).get_loop_factory()) as runner:
        return runner.run(_serve(app, settings))


async def _serve(app: FastAPI, settings: Settings) -> int:
    runtime: Runtime = app.state.runtime
    server = Server(config_of(app, settings), runtime, settings.linger_s)
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
        beside = _Beside(probes)
        task = asyncio.create_task(beside.serve())
        try:
            await server.serve()
        finally:
            beside.should_exit = True
            await task
    return 1 if runtime.failed else 0


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the app."""
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


def allow_connections(wanted: int) -> None:
    """Raise this process' bound on open files as far as it goes, where connections need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 256
    if soft != resource.RLIM_INFINITY and soft < needed:
        highest = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
