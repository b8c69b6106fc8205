"""A real server on a loopback port, with small untrained models behind it."""

import multiprocessing
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.http.server import uvicorn_config
from service.settings import Settings
from tests.published import SIZE, X, Y, Z, publish

# Workers in tests are forked, as the service's own are, but by a process with one thread that has imported
# what they need: a fork of this process, which has many threads, would have only one of them.
multiprocessing.set_forkserver_preload(["service.engine.worker"])

PAUSE_S = 0.01
"""Between two looks at a service that is starting, and needs the processor more than who waits for it."""


@dataclass(frozen=True)
class Served:
    app: FastAPI
    client: httpx.Client
    url: str
    server: uvicorn.Server


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    publish(root, "tiny", seed=1)
    publish(root, "tiny", seed=2)
    publish(root, "bare", learner="bmaml", step_size=1e-3)
    publish(root, "wide", inputs=(X, SIZE), outputs=(Y, Z), steps=1, step_size=1e-3)
    return root


def loaded(client: httpx.Client) -> bool:
    """Whether the service has looked at its models."""
    return client.get("/readyz").json().get("detail") != "loading models"


def serve(
    settings: Settings, ready: Callable[[httpx.Client], bool] = loaded, port: int = 0
) -> Iterator[Served]:
    """The service on a port (0: a free one), ready, for as long as the generator is open.

    No batch may have failed as a whole meanwhile: task by task, nobody would notice.
    """
    app = create_app(settings)
    yield from listening(app, settings, ready, port)
    assert app.state.runtime.metrics.retried.labels("error")._value.get() == 0


def listening(
    app: FastAPI,
    settings: Settings | None = None,
    ready: Callable[[httpx.Client], bool] = loaded,
    port: int = 0,
) -> Iterator[Served]:
    """An app on a port of its own, for as long as the generator is open."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # a reply not taken stays with us
    config = uvicorn.Config(app, log_config=None) if settings is None else uvicorn_config(app, settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not ready(client):
                thread.join(PAUSE_S)
            yield Served(app, client, url, server)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def access_fields(caplog: pytest.LogCaptureFixture, request_id: str) -> dict[str, object]:
    """What the log says about a request; the line is written after its reply."""
    while True:
        for record in list(caplog.records):
            if record.name == "service.access" and record.fields["request_id"] == request_id:
                return dict(record.fields)


@pytest.fixture(scope="session")
def served(store: Path) -> Iterator[Served]:
    yield from serve(
        Settings(
            store=store,
            device="cpu",
            max_body_bytes=100_000,
            max_support_rows=50,
            max_query_rows=200,
            max_pool_rows=300,
        )
    )


@pytest.fixture
def client(served: Served) -> httpx.Client:
    return served.client
