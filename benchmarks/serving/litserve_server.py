"""The shipped models behind LitServe with its dynamic batching, as a user of both would write it."""

from typing import Any

import litserve as ls
import torch

from benchmarks.serving.reference_models import answer, shipped_models, standardised_rows
from bmaml.task import Examples

MAX_BATCH, BATCH_TIMEOUT_S = 64, 0.005


class ShippedModels(ls.LitAPI):
    """Batches of up to `MAX_BATCH` requests; tasks differ in size and are computed one by one."""

    def setup(self, device: str) -> None:
        """Load the models in the worker."""
        torch.set_num_threads(1)
        self.models = shipped_models()

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """The body, as it is."""
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A list of bodies: tasks of different sizes do not stack."""
        return inputs

    def predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers, each computed with all particles at once."""
        answers = []
        with torch.no_grad():
            for body in inputs:
                model = self.models[body["model"]]
                x, y, query = standardised_rows(model, body)
                support = Examples.full(x[None], y[None])
                posterior = model.learner.adapt(model.learned, support)
                answers.append(answer(model, model.predict(posterior, query[None], support)))
        return answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer per request."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer, as it is."""
        return output


def serve(port: int) -> None:
    """Serve on this port until stopped, with one worker, which has a core of its own."""
    api = ShippedModels(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/adapt-predict")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
