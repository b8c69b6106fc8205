"""Clients that a process shares: one for each service, store, key and timeout."""

import atexit
import os
import threading
from pathlib import Path

from bmaml_client.clients import Client
from bmaml_client.in_process import URL, shared, stop_shared

Key = tuple[int, str | None, Path | None, str | None, float]

_clients: dict[Key, Client] = {}
_lock = threading.Lock()


def connection(service: str | None, store: str | Path | None, key: str | None, timeout_s: float) -> Client:
    """The shared client of a service, or of a store's models in this process.

    The first call creates the client; it is closed at exit.

    Args:
        service: the service's address; None stands for this process.
        store: the folder of published versions for this process; None is the default store.

    Raises:
        CannotServe: the store's models cannot be served.
        InvalidInput: the address is not valid.
    """
    settings = _key(service, store, key, timeout_s)
    with _lock:
        if settings not in _clients:
            _clients[settings] = (
                Client(service, key, timeout=timeout_s)
                if service is not None
                else Client(URL, key, timeout=timeout_s, transport=shared(store))
            )
        return _clients[settings]


def disconnect(service: str | None, store: str | Path | None, key: str | None, timeout_s: float) -> None:
    """Close the shared client; `connection` creates it again.

    For this process, stop the service of the store, and close every client of it.
    """
    settings = _key(service, store, key, timeout_s)
    with _lock:
        same = (each for each in _clients if service is None and each[:3] == settings[:3])
        clients = [_clients.pop(each) for each in {settings, *same} & _clients.keys()]
    for client in clients:
        client.close()
    if service is None:
        stop_shared(store)


def _key(service: str | None, store: str | Path | None, key: str | None, timeout_s: float) -> Key:
    # Threads and sockets do not survive a fork: the child creates its own.
    folder = None if store is None or service is not None else Path(store).resolve()
    return os.getpid(), service, folder, key, timeout_s


@atexit.register
def _close_all() -> None:
    with _lock:
        own = [_clients.pop(found) for found in list(_clients) if found[0] == os.getpid()]
    for each in own:
        each.close()
