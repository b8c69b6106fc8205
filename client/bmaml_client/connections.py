"""One client for everybody in a process who asks the same service in the same way."""

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
    """The client of a service at an address, or of a store's models in this process where there is none.

    It is made when it is first asked for and closed at exit.

    Raises:
        CannotServe: the store's models cannot be served.
        InvalidInput: the address is none.
    """
    found = _key(service, store, key, timeout_s)
    with _lock:
        if found not in _clients:
            _clients[found] = (
                Client(service, key, timeout=timeout_s)
                if service is not None
                else Client(URL, key, timeout=timeout_s, transport=shared(store))
            )
        return _clients[found]


def disconnect(service: str | None, store: str | Path | None, key: str | None, timeout_s: float) -> None:
    """Close that client, and end the service in this process; a later `connection` makes them anew."""
    with _lock:
        client = _clients.pop(_key(service, store, key, timeout_s), None)
    if client is not None:
        client.close()
    if service is None:
        stop_shared(store)


def _key(service: str | None, store: str | Path | None, key: str | None, timeout_s: float) -> Key:
    # After a fork the threads and sockets are the parent's: the child makes its own.
    folder = None if store is None or service is not None else Path(store).resolve()
    return os.getpid(), service, folder, key, timeout_s


@atexit.register
def _close_all() -> None:
    with _lock:
        own = [_clients.pop(found) for found in list(_clients) if found[0] == os.getpid()]
    for each in own:
        each.close()
