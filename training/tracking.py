"""Runs recorded in MLflow, where the environment names a tracking server; a training never depends on it."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmaml.errors import BmamlError
from model_store import Model
from training.config import TrainingConfig

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

ADDRESS = "MLFLOW_TRACKING_URI"
EXPERIMENT, EXPERIMENT_ID = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
DEFAULT_EXPERIMENT = "bmaml"
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""How long a server that does not answer may hold up a training, unless the environment says otherwise."""
MAX_VALUES = 100
"""Parameters of one request, and metrics."""
MAX_LENGTH = 500
"""Characters of a parameter's value that every server takes."""
UNTAKEN = re.compile(r"[^\w\-. /]")
"""Characters that a metric's name may not have."""


class TrackingUnavailable(BmamlError):
    """The environment names a tracking server, and MLflow is not installed."""


class Tracking:
    """One run in MLflow: parameters, metrics of every look, and the published version.

    Looks are kept until they are sent. After a failure nothing is sent until the run ends; then all of it is
    tried once more.
    """

    def __init__(self, name: str, config: TrainingConfig) -> None:
        """
        Raises:
            TrackingUnavailable: MLflow is not installed.
        """
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise TrackingUnavailable(
                f"{ADDRESS} is set, but MLflow is missing: pip install 'bmaml-service[mlflow]', or unset it "
                f"({error})"
            ) from None
        self._name, self._config, self._connect = name, config, MlflowClient
        self._client: MlflowClient | None = None
        self._run = ""
        self._unsent: list[Metric] = []
        self._silent = False

    def look(self, step: int, loss: float, nll: float) -> None:
        """Record one evaluation of the validation tasks."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        at = get_current_time_millis()
        values = {"loss": loss, "validation_nll": nll}
        self._unsent += [Metric(name, value, at, step) for name, value in values.items()]
        if not self._silent:
            self._attempt(self._send)

    def published(self, model: Model, folder: Path) -> None:
        """Record a published version: its held-out figures, its folder as artifacts, its digest as a tag."""
        manifest = model.manifest

        def send() -> None:
            client = self._send()
            for figure, value in manifest.metrics.items():
                client.log_metric(self._run, UNTAKEN.sub("_", f"held_out/{figure}"), value)
            for tag, text in (
                ("model", manifest.name),
                ("version", manifest.version),
                ("sha256", model.sha256),
            ):
                client.set_tag(self._run, f"bmaml.{tag}", str(text))
            client.log_artifacts(self._run, str(folder), f"{manifest.name}/{manifest.version}")

        self._attempt(send)

    def end(self, status: str) -> None:
        """Send what is unsent, and close the run as FINISHED, FAILED or KILLED."""
        self._attempt(lambda: self._send().set_terminated(self._run, status))

    def _send(self) -> "MlflowClient":
        """The client, after all looks so far are sent."""
        if self._client is None:
            self._client = self._begun()
        while self._unsent:
            part = self._unsent[:MAX_VALUES]
            self._client.log_batch(self._run, metrics=part)
            self._unsent = self._unsent[len(part) :]
        return self._client

    def _begun(self) -> "MlflowClient":
        from mlflow.entities import Param

        client = self._connect()
        self._run = self._run or client.create_run(_experiment(client), run_name=self._name).info.run_id
        flat = self._config.as_flat_data().items()
        values = [Param(UNTAKEN.sub("_", name), str(value)[:MAX_LENGTH]) for name, value in flat]
        for first in range(0, len(values), MAX_VALUES):
            client.log_batch(self._run, params=values[first : first + MAX_VALUES])
        return client

    def _attempt(self, send: Callable[[], Any]) -> None:
        """Send, and warn once where that fails: a training is worth more than its record."""
        try:
            send()
        except Exception as error:
            if not self._silent:
                line = (str(error).splitlines() or [type(error).__name__])[0]
                told = f"{ADDRESS} does not take this run; training goes on without it"
                print(f"warning: {told}: {line[:MAX_LENGTH]}", file=sys.stderr)
            self._silent = True


@contextmanager
def tracked(name: str, config: TrainingConfig) -> Iterator[Tracking | None]:
    """The record of a run where the environment asks for one; it ends with the context.

    Of several processes that `torchrun` started together the first records.

    Raises:
        TrackingUnavailable: MLflow is not installed.
    """
    if not os.environ.get(ADDRESS) or int(os.environ.get("RANK", "0")):
        yield None
        return
    tracking = Tracking(name, config)
    status = "KILLED"
    try:
        yield tracking
        status = "FINISHED"
    except BmamlError:
        status = "FAILED"
        raise
    finally:
        tracking.end(status)


def _experiment(client: "MlflowClient") -> str:
    """The experiment that the environment names, made where there is none."""
    if given := os.environ.get(EXPERIMENT_ID):
        return given
    name = os.environ.get(EXPERIMENT, DEFAULT_EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))
