"""Runs recorded on MLflow's server over HTTP, which takes them, dies, or comes back.

`BMAML_MLFLOW_PYTHON` names a Python that has the whole package `mlflow`; its small client is enough here.
"""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from model_store import Store
from tests.faults.conftest import free_port
from tests.service.conftest import PAUSE_S
from tests.training.sine_run import arguments
from training.__main__ import main

tracking = pytest.importorskip("mlflow.tracking")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("few_held_out_tasks"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of MLflow's own
]
LOOKS = [5, 10, 15, 20]


@dataclass(frozen=True)
class Server:
    """A server on a port of its own, whose runs and artifacts lie in one folder."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self):
        return tracking.MlflowClient(self.url)

    def start(self) -> "subprocess.Popen[bytes]":
        """The process, once it answers."""
        python = os.environ.get("BMAML_MLFLOW_PYTHON")
        if python is None:
            pytest.skip("BMAML_MLFLOW_PYTHON names no Python")
        command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'runs.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while process.poll() is None:
                with suppress(httpx.TransportError):
                    if client.get("/health").status_code == 200:
                        return process
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PAUSE_S)
        raise AssertionError((self.folder / "log").read_text())

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        process = self.start()
        try:
            yield process
        finally:
            kill(process)

    def runs(self):
        experiment = self.client.get_experiment_by_name("curves")
        return self.client.search_runs([experiment.experiment_id])

    def recorded_looks(self) -> list[int]:
        """Steps whose validation NLL is in the database, which a dead server leaves behind."""
        with sqlite3.connect(self.folder / "runs.db") as database:
            rows = database.execute("select step from metrics where key = 'validation_nll' order by step")
            return [step for (step,) in rows]


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End the server at once, with the processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    """A server that is not started."""
    found = Server(tmp_path / "mlflow", free_port())
    found.folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "curves")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # its first answer takes long on a busy machine
    monkeypatch.chdir(tmp_path)
    return found


def after_looks(monkeypatch, actions) -> None:
    """Do something after a look: `actions` has it by the look's step."""
    ours = pytest.importorskip("training.tracking").Tracking
    look = ours.look

    def looked(self, step, loss, nll):
        look(self, step, loss, nll)
        actions.get(step, lambda: None)()

    monkeypatch.setattr(ours, "look", looked)


def test_a_run_on_a_server_has_parameters_looks_the_versions_folder_and_its_digest(server, tmp_path):
    with server.running():
        assert main(arguments(tmp_path)) == 0
        (found,) = server.runs()
        steps = [each.step for each in server.client.get_metric_history(found.info.run_id, "validation_nll")]
        kept = Path(server.client.download_artifacts(found.info.run_id, "s/1", str(tmp_path)))
    model = Store(tmp_path / "store").load("s")
    assert (found.info.run_name, found.info.status, steps) == ("s", "FINISHED", LOOKS)
    assert found.data.params["optimisation.meta_steps"] == "20"
    assert found.data.metrics["held_out/nll"] == model.manifest.metrics["nll"]
    assert found.data.tags["bmaml.sha256"] == model.sha256
    published = tmp_path / "store" / "s" / "1"
    assert {each.name: each.read_bytes() for each in kept.iterdir()} == {
        each.name: each.read_bytes() for each in published.iterdir()
    }


def test_a_server_that_dies_in_a_training_costs_one_warning(server, tmp_path, monkeypatch, capsys):
    with server.running() as process:
        after_looks(monkeypatch, {LOOKS[0]: lambda: kill(process)})
        assert main(arguments(tmp_path)) == 0
    assert Store(tmp_path / "store").versions("s") == [1]
    assert server.recorded_looks() == LOOKS[:1]
    assert capsys.readouterr().err.count("training goes on without it") == 1


def test_a_server_that_comes_back_has_the_whole_run(server, tmp_path, monkeypatch, capsys):
    with server.running() as process:
        again = []
        actions = {LOOKS[0]: lambda: kill(process), LOOKS[2]: lambda: again.append(server.start())}
        after_looks(monkeypatch, actions)
        try:
            assert main(arguments(tmp_path)) == 0
            (found,) = server.runs()
        finally:
            for each in again:
                kill(each)
    assert server.recorded_looks() == LOOKS
    assert found.info.status == "FINISHED"
    assert found.data.tags["bmaml.sha256"] == Store(tmp_path / "store").load("s").sha256
    assert capsys.readouterr().err.count("training goes on without it") == 1
