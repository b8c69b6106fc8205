"""Native functions, compiled once for all sessions and processes of tests."""

import fcntl

import pytest

from service.compute import native_path


@pytest.fixture(scope="session")
def compiled():
    """The native functions; a process that comes second waits for the first, and loads what it compiled."""
    folder = native_path.cache_folder().parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "compiling").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        native_path.begin("require")
    native_path.begin("off")


@pytest.fixture
def native(compiled):
    """Native functions answer."""
    native_path.begin("require")
    yield
    native_path.begin("off")
