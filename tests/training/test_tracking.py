"""Runs in MLflow: looks, the published version and its digest; a server that is down costs one warning."""

import socket
import sys

import pytest

from model_store import Store
from tests.training.sine_run import arguments
from training import run
from training.__main__ import main

pytestmark = [
    pytest.mark.usefixtures("few_held_out_tasks"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of MLflow's own mapping to SQLAlchemy
]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The client of a database that is the tracking server."""
    pytest.importorskip("sqlalchemy")
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "curves")
    monkeypatch.chdir(tmp_path)
    return tracking.MlflowClient()


def runs(client):
    return client.search_runs([client.get_experiment_by_name("curves").experiment_id])


def test_a_run_is_recorded_with_looks_figures_version_and_digest(tmp_path, client):
    assert main(arguments(tmp_path)) == 0
    model = Store(tmp_path / "store").load("s")
    (found,) = runs(client)
    assert (found.info.run_name, found.info.status) == ("s", "FINISHED")
    assert found.data.params["optimisation.meta_steps"] == "20"
    assert found.data.params["settings.network.hidden"] == "(6,)"
    history = client.get_metric_history(found.info.run_id, "validation_nll")
    assert [(each.step, each.value) for each in history] == [
        (point.step, point.nll) for point in model.manifest.history
    ]
    assert found.data.metrics["held_out/nll"] == model.manifest.metrics["nll"]
    assert found.data.tags["bmaml.sha256"] == model.sha256
    assert found.data.tags["bmaml.version"] == "1"
    kept = {each.path for each in client.list_artifacts(found.info.run_id, "s/1")}
    assert kept == {f"s/1/{each.name}" for each in (tmp_path / "store" / "s" / "1").iterdir()}


def test_a_run_that_fails_ends_as_failed(tmp_path, client):
    assert main(arguments(tmp_path, **{"learning-rate": 1e30, "step-size": 1e6, "meta-steps": 10})) == 1
    assert [each.info.status for each in runs(client)] == ["FAILED"]


def test_every_trial_of_a_search_is_a_run(tmp_path, client):
    pytest.importorskip("optuna")
    line = arguments(tmp_path, **{"meta-steps": 4, "evaluate-every": 2})
    assert main(["tune", "--trials", "2", "--vary", "learning-rate=0.001:0.1:log", *line]) == 0
    names = {each.info.run_name: "bmaml.sha256" in each.data.tags for each in runs(client)}
    assert names == {"s, trial 0": False, "s, trial 1": False, "s": True}


def test_a_server_that_is_down_costs_one_warning(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert main(arguments(tmp_path)) == 0
    assert Store(tmp_path / "store").versions("s") == [1]
    assert capsys.readouterr().err.count("training goes on without it") == 1


def test_looks_that_a_server_did_not_take_are_sent_when_the_run_ends(tmp_path, client, monkeypatch):
    tracking = pytest.importorskip("training.tracking")
    connect, calls = tracking.Tracking._begun, []

    def down_at_first(self):
        calls.append(self)
        if len(calls) == 1:
            raise ConnectionError("no server yet")
        return connect(self)

    monkeypatch.setattr(tracking.Tracking, "_begun", down_at_first)
    assert main(arguments(tmp_path)) == 0
    (found,) = runs(client)
    history = client.get_metric_history(found.info.run_id, "validation_nll")
    assert [each.step for each in history] == [5, 10, 15, 20]
    assert "bmaml.sha256" in found.data.tags


def test_without_mlflow_the_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    monkeypatch.setattr(run, "train_run", None)  # nothing is trained
    assert main(arguments(tmp_path)) == 1
    told = capsys.readouterr().err
    assert "MLFLOW_TRACKING_URI is set" in told
    assert "pip install 'bmaml-service[mlflow]'" in told


def test_of_several_processes_only_the_first_records(tmp_path, monkeypatch):
    tracking = pytest.importorskip("training.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("RANK", "1")
    with tracking.tracked("s", None) as found:
        assert found is None
