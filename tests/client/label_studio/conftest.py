"""The backend over a real service, and a Label Studio that holds some images, tasks and annotations."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bmaml_client.label_studio.app import create_app
from bmaml_client.label_studio.settings import Settings
from service.settings import Settings as ServiceSettings
from tests.images import png, publish_classifier, random_images
from tests.published import SIZE, X, Y, Z, publish
from tests.service.conftest import Served, listening, serve

IMAGES = random_images(2, 4)
TOKEN = "0123456789abcdef"


class LabelStudio:
    """Answers as Label Studio does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.path = ""  # under which it is published
        self.lost: set[str] = set()
        self.seen: list[httpx.Request] = []
        self.tasks: dict[int, dict] = {}
        self.export: list[dict] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        given, path = request.headers.get("authorization"), request.url.path
        if not path.startswith(f"{self.path}/") or path in self.lost:
            return httpx.Response(404)
        path = path.removeprefix(self.path)
        if path == "/api/token/refresh":
            assert json.loads(request.content) == {"refresh": "a.b.c"}
            return httpx.Response(200, json={"access": f"short-{len(self.seen)}"})
        if given != f"Token {TOKEN}" and not str(given).startswith("Bearer short-"):
            return httpx.Response(401)
        if path.startswith("/data/upload/"):
            _, _, _, label, number = path.removesuffix(".png").split("/")
            if int(number) < len(IMAGES[0]):
                return httpx.Response(200, content=base64.b64decode(png(IMAGES[int(label), int(number)])))
        if path.startswith("/api/tasks/"):
            return httpx.Response(200, json=self.tasks[int(path.rpartition("/")[2])])
        if path == "/api/projects/2/export" and request.url.params["exportType"] == "JSON":
            return httpx.Response(200, json=self.export)
        return httpx.Response(404)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("label-studio-store")
    publish(root, "tiny", seed=1)
    publish(root, "sized", inputs=(X, SIZE))
    publish(root, "wide", inputs=(X, SIZE), outputs=(Y, Z))
    publish_classifier(root, "shapes")
    yield from serve(ServiceSettings(store=root, device="cpu", max_support_rows=6))


@pytest.fixture
def studio() -> LabelStudio:
    return LabelStudio()


@pytest.fixture
def backend(service: Served, studio: LabelStudio, tmp_path: Path):
    """A backend for a model, open until the test ends."""
    stack = contextlib.ExitStack()

    def start(model: str, **settings) -> httpx.Client:
        given = {"token": TOKEN, "database": tmp_path / "labels.sqlite", "batch": 2, **settings}
        app = create_app(
            Settings(service=service.url, model=model, **given), studio_transport=httpx.MockTransport(studio)
        )
        return stack.enter_context(contextlib.contextmanager(listening)(app)).client

    with stack:
        yield start
