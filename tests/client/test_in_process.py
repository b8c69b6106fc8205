"""The service in this process: nobody else can ask it, and it ends when all have been answered."""

import threading

import httpx
import pytest

from bmaml_client import Client
from bmaml_client.connections import connection, disconnect
from bmaml_client.in_process import CannotServe, InProcess

BODY = {"model": "of-1", "support": {"x": [[0.0], [1.0]], "y": [1.0, 2.0]}, "query": {"x": [[0.5]]}}


def test_keys_rates_and_ports_of_the_environment_are_for_others(small_store, monkeypatch):
    monkeypatch.setenv("BMAML_KEYS", f"ada:{'0' * 64}")
    monkeypatch.setenv("BMAML_RATE_PER_S", "0.001")
    monkeypatch.setenv("BMAML_PROBE_PORT", "9")
    transport = InProcess(small_store)
    with Client("http://in-process", transport=transport) as client:
        assert client.ready()
        assert client.models()
    transport.stop()


def test_what_was_asked_is_answered_before_it_ends(small_store):
    transport, statuses = InProcess(small_store), []
    with httpx.Client(transport=transport, base_url="http://in-process", timeout=30) as client:
        body = BODY | {"model": client.get("/models").json()["models"][0]["name"]}

        def ask():
            try:
                statuses.append(client.post("/adapt-predict", json=body).status_code)
            except httpx.ConnectError:
                statuses.append(0)  # it had been closed before this was asked

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        transport.stop()
        for thread in threads:
            thread.join()
        with pytest.raises(httpx.ConnectError):
            client.get("/readyz")
    assert len(statuses) == 20
    assert set(statuses) <= {200, 422, 0}


def test_a_store_without_a_model_leaves_no_thread_behind(tmp_path):
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(CannotServe, match="no version"):
            InProcess(tmp_path)
    assert threading.active_count() <= before


def test_a_service_that_is_stopped_leaves_no_client_of_it_behind(small_store):
    first, second = (connection(None, small_store, None, timeout) for timeout in (30.0, 60.0))
    assert first.ready()
    assert second.ready()
    disconnect(None, small_store, None, 30.0)
    again = connection(None, small_store, None, 60.0)
    assert again is not second
    assert again.ready()
    disconnect(None, small_store, None, 60.0)
