"""The service as an application of Ray Serve: `serve run service.ray:app`, with the extra `ray`.

A replica is the whole service behind Ray's proxy: a runtime that is warm before Ray calls the replica
RUNNING, and the same routes. It computes in a thread, because a process of Ray must not fork.
"""

import asyncio
import errno
import logging
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.http.server import ProbeServer
from service.ops.cpus import SWITCH_INTERVAL_S
from service.ops.logs import log_json_lines
from service.ops.memory import freeze_imported_objects
from service.runtime import Runtime
from service.settings import Settings

log = logging.getLogger("service.ray")

ROUTING = {"request_router_class": "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"}
"""Ray's Python proxy sends requests with the same `X-Session-ID` to the same replica."""
HAPROXY_MODE = "RAY_SERVE_ENABLE_HA_PROXY"
"""The variable of Ray that puts HAProxy in the proxy's place; HAProxy balances by a setting of its own."""
MAX_ONGOING_REQUESTS = 256
"""Requests at one replica. The replica's own bounds answer 429 first: Ray's queue knows no deadlines."""
FIRST_VERSION_S = 120.0
"""Seconds that a new replica waits for a version that can be served."""
PAUSE_S = 0.1
"""Seconds between two looks at a runtime that waits for a version."""
STOP_MARGIN_S = 10.0
"""Seconds beyond `drain_s` after which Ray kills a replica that ends."""
PROBE_PORTS = 100
"""Ports from the probe port on, of which each replica of a machine takes the first free one."""
WITHOUT_EFFECT = {"host", "port", "max_header_bytes", "max_connections", "keep_alive_s", "linger_s"}
"""Settings of a server that Ray's proxy takes the place of."""


class NotForRay(ValueError):
    """A setting that replicas of Ray cannot have."""


class Options(BaseModel):
    """Options of the application: `serve run service.ray:app NAME=VALUE`, or `args` in a config file.

    Attributes:
        min_replicas, max_replicas: replicas; Ray adds and ends them with the load.
        target_requests: requests at once that one replica should have.
        cpus, gpus: of each replica, as Ray counts them; it starts no replica without them.
    """

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    target_requests: float = Field(default=8, gt=0)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)


def app(options: Options) -> serve.Application:
    """The application, with the settings of the environment in which this function is called.

    Raises:
        NotForRay: the settings ask for worker processes.
    """
    settings = Settings()
    if settings.engine == "process" or settings.workers:
        raise NotForRay("BMAML_ENGINE, BMAML_WORKERS: a replica computes in a thread; take more replicas")
    for name in sorted(settings.model_fields_set & WITHOUT_EFFECT):
        log.warning("BMAML_%s has no effect behind Ray's proxy", name.upper())
    if not settings.keys.get_secret_value() and settings.keys_file is None:
        log.warning("no keys are configured: everyone who reaches Ray's proxy can use the service")
    paths = {each: path for each, path in settings if isinstance(path, Path)}
    shared = {"secret": settings.secret.get_secret_value() or secrets.token_urlsafe(32)}
    settings = Settings.model_validate(
        settings.model_dump() | {each: path.absolute() for each, path in paths.items()} | shared
    )
    deployment = Replica.options(  # type: ignore[attr-defined]
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": max(options.min_replicas, options.max_replicas),
            "target_ongoing_requests": options.target_requests,
        },
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        graceful_shutdown_timeout_s=settings.drain_s + STOP_MARGIN_S,
        **({} if os.environ.get(HAPROXY_MODE) == "1" else {"request_router_config": ROUTING}),
    )
    return deployment.bind(settings)


@serve.deployment(
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    max_queued_requests=MAX_ONGOING_REQUESTS,
    backpressure_config={"status_code": 503, "retry_after_s": 1},
    health_check_period_s=2,
    health_check_timeout_s=10,
    max_surge_percent=100,  # a new replica is warm before an old one ends
)
@serve.ingress()
class Replica:
    """One replica: its runtime, the application around it, and its probe port where the settings name one."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        self._probes: ProbeServer | None = None
        log_json_lines(settings.log_level)
        freeze_imported_objects()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._fastapi = create_app(settings)
        self._fastapi.add_middleware(WithoutRequestId)
        self._runtime: Runtime = self._fastapi.state.runtime
        await asyncio.to_thread(self._runtime.start)
        await _warm(self._runtime)
        if settings.probe_port is not None:
            self._probes = ProbeServer(self._runtime)
            self._serving_probes = asyncio.create_task(self._probes.serve([_probe_socket(settings)]))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; Ray asks for it after the constructor, and runs its lifespan."""
        return self._fastapi

    def check_health(self) -> None:
        """Refuse where only another process helps; Ray then replaces the replica.

        Raises:
            RuntimeError: the engine died.
        """
        if self._runtime.failed:
            raise RuntimeError(self._runtime.why_not_serving)

    async def __del__(self) -> None:
        if self._probes is not None:
            self._probes.should_exit = True
            await self._serving_probes


@dataclass
class WithoutRequestId:
    """The outermost layer: Ray adds the request id to replies, and a reply has it once."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def without(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [each for each in message["headers"] if each[0] != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self.app(scope, receive, without)


async def _warm(runtime: Runtime) -> None:
    """Wait until models are loaded and warm.

    Raises:
        RuntimeError: the runtime could not start, or found no version; Ray tells the reason.
    """
    give_up = time.monotonic() + FIRST_VERSION_S
    while (why := runtime.why_not_ready) is not None:
        if runtime.failed or time.monotonic() > give_up:
            await asyncio.to_thread(runtime.stop)
            raise RuntimeError(why)
        await asyncio.sleep(PAUSE_S)


def _probe_socket(settings: Settings) -> socket.socket:
    """A listening socket on the first free one of the probe ports.

    Raises:
        OSError: none is free, or the host is not one of this machine.
    """
    host, first = settings.probe_host or settings.host, settings.probe_port or 0
    for port in range(first, first + PROBE_PORTS):
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            log.info("probes and metrics on %s:%d", *listener.getsockname()[:2])
            return listener
    raise OSError(errno.EADDRINUSE, f"BMAML_PROBE_PORT: no free port from {first} to {port}")
