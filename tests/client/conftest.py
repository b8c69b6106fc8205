"""A real server with small untrained models, and clients of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmaml_client import Client
from service.settings import Settings
from tests.images import publish_classifier
from tests.published import SIZE, X, Y, Z, publish
from tests.service.conftest import Served, serve


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("client-store")
    publish(root, "tiny", seed=1)
    publish(root, "tiny", seed=2)
    publish(root, "wide", inputs=(X, SIZE), outputs=(Y, Z))
    publish(root, "sized", inputs=(X, SIZE))
    publish_classifier(root, "shapes")
    publish_classifier(root, "colours", channels=3)
    return root


@pytest.fixture(scope="session")
def small(small_store: Path) -> Iterator[Served]:
    yield from serve(Settings(store=small_store, device="cpu", max_query_rows=6000))


@pytest.fixture
def client(small: Served) -> Iterator[Client]:
    with Client(small.url) as client:
        yield client
