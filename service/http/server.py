"""The server process: it listens, drains on SIGTERM, and ends where the engine has failed."""

import asyncio
import contextlib
import ipaddress
import logging
import math
import resource
import signal
import socket
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
OPEN_WARNING = (
    "no keys are configured and BMAML_HOST=%s listens beyond the loopback interface: everyone who reaches "
    "the port can use the service. Set BMAML_KEYS or BMAML_KEYS_FILE, or BMAML_HOST=127.0.0.1"
)
"""The line of the log at the start of a service that anyone may use."""


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

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        super().__init__(
            uvicorn.Config(
                create_probe_app(runtime),
                host=settings.probe_host or settings.host,
                port=settings.probe_port or 0,
                lifespan="off",
                access_log=False,
                server_header=False,
                log_config=None,
                timeout_graceful_shutdown=1,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signal."""
        yield


def serve(app: FastAPI, settings: Settings) -> int:
    """Serve until a signal or a failure; return the exit status of the process."""
    raise_file_limit(settings.max_connections)
    if not app.state.runtime.keys.configured and not is_loopback(settings.host):
        log.warning(OPEN_WARNING, settings.host)
    config = uvicorn_config(app, settings)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(config, app.state.runtime))


async def _serve(config: uvicorn.Config, runtime: Runtime) -> int:
    settings = runtime.settings
    server = Server(config, runtime, settings.linger_s)
    probe_host = settings.probe_host or settings.host
    try:
        sockets = dual_stack_socket(settings.host, settings.port)
        probe_sockets = None
        if settings.probe_port is not None:
            probe_sockets = dual_stack_socket(probe_host, settings.probe_port)
    except OSError as error:
        log.critical("cannot listen: %s", error)
        return 1
    if settings.probe_port is None:
        await server.serve(sockets)
    else:
        probe_server = ProbeServer(runtime)
        task = asyncio.create_task(probe_server.serve(probe_sockets))
        try:
            await server.serve(sockets)
        finally:
            probe_server.should_exit = True
            await task
    return 1 if runtime.failed else 0


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for the app.

    Of the event loops, asyncio's own accepts every waiting connection in one round. uvloop accepts one, as
    libuv does since its pull request 3696: under load, when a round takes a tenth of a second, callers waited
    for seconds to be let in, and no queue saw them. In requests per second the two do not differ here.
    """
    return uvicorn.Config(
        app,
        loop="asyncio",
        host=settings.host,
        port=settings.port,
        http=protocol(app.state.runtime),
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # no reply depends on the caller's address or scheme
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
        log_config=None,
    )


def dual_stack_socket(host: str, port: int) -> list[socket.socket] | None:
    """A listening socket of both IP families where `host` is `::`; None leaves the socket to uvicorn.

    asyncio restricts an IPv6 socket to its own family, so that `::` would refuse IPv4.

    Raises:
        OSError: the port is taken, or the machine has no IPv6.
    """
    if host != str(ipaddress.IPv6Address(0)) or not socket.has_dualstack_ipv6():
        return None
    return [socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)]


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are this machine's loopback; False for a name that is not known."""
    try:
        addresses = {str(each[4][0]) for each in socket.getaddrinfo(host, None)} if host else set()
    except OSError:
        return False
    return bool(addresses) and all(ipaddress.ip_address(each).is_loopback for each in addresses)


def raise_file_limit(max_connections: int) -> None:
    """Raise the process's limit on open files to fit so many connections, within its hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
