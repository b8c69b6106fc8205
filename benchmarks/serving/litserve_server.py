"""The shipped models behind LitServe with its dynamic batching, as a user of both would write it.

Requests come in batches, and each is answered with all particles at once.
"""

from typing import Any

import litserve as ls
import torch

from benchmarks.serving.reference_models import models, rows_of, said
from bmaml.task import Examples


class Few(ls.LitAPI):
    """Requests come in batches of up to 64, after at most five milliseconds."""

    def setup(self, device: str) -> None:
        """Load the models in the worker."""
        torch.set_num_threads(1)
        self.models = models()

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """The body."""
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tasks differ in size: a list of them."""
        return inputs

    def predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each task with all particles at once."""
        answers = []
        with torch.no_grad():
            for body in inputs:
                model = self.models[body["model"]]
                x, y, query = rows_of(model, body)
                posterior = model.learner.adapt(model.learned, Examples.full(x[None], y[None]))
                answers.append(said(model, model.predict(posterior, query[None])))
        return answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


def serve(port: int) -> None:
    """LitServe with one worker, which has a core of its own."""
    api = Few(max_batch_size=64, batch_timeout=0.005, api_path="/adapt-predict")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
