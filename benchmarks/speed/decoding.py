"""Milliseconds from the bytes of a large body to checked arrays: JSON, base64 in JSON, safetensors.

python -m benchmarks.speed.decoding [--rows 1000] [--columns 64]
"""

import base64
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from benchmarks import command_line
from benchmarks.timing import timed
from bmaml.learners import settings_of
from bmaml.learners.collapsed import Collapsed
from bmaml.networks import MLP
from model_store import Column, Model, Store
from service.codec import bodies
from service.runtime import Runtime
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings


def published(root: Path, columns: int) -> Model:
    """An untrained model of so many input columns, published under `root`."""
    learner = Collapsed(MLP(columns, (8,), 1, "tanh"), particles=2, steps=0)
    return Store(root).publish(
        "wide",
        "",
        learner.initialise(torch.Generator()),
        inputs=tuple(Column(name=f"x{i}", lower=-9.0, upper=9.0) for i in range(columns)),
        outputs=(Column(name="y", lower=-9.0, upper=9.0),),
        learner=learner.name,
        settings=settings_of(learner),
        training={},
        seed=0,
        code_version="0",
        metrics={},
    )


def main() -> None:
    """Print one line per format."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1000)
    arguments.add_argument("--columns", type=int, default=64)
    options = arguments.parse_args()
    x = np.random.default_rng(0).normal(size=(options.rows, options.columns))
    y, query = x[:, 0].copy(), x[:1].copy()

    def encoded(values: NDArray[np.float64]) -> dict[str, object]:
        content = base64.b64encode(values.astype("<f4").tobytes()).decode()
        return {"dtype": "float32", "shape": list(values.shape), "base64": content}

    as_json = {"model": "wide", "support": {"x": x.tolist(), "y": y.tolist()}, "query": {"x": query.tolist()}}
    as_base64 = {
        "model": "wide",
        "support": {"x": encoded(x), "y": encoded(y)},
        "query": {"x": query.tolist()},
    }
    tensors = {"support.x": x, "support.y": y, "query.x": query}
    formats = {
        "JSON": (json.dumps(as_json).encode(), bodies.JSON),
        "base64 in JSON": (json.dumps(as_base64).encode(), bodies.JSON),
        "safetensors": (save(tensors, metadata={"request": '{"model": "wide"}'}), bodies.SAFETENSORS),
    }
    with tempfile.TemporaryDirectory() as folder:
        model = published(Path(folder), options.columns)
        runtime = Runtime(Settings(store=Path(folder), max_support_rows=options.rows))
        for name, (body, kind) in formats.items():

            def decode(body: bytes = body, kind: str = kind) -> None:
                request = bodies.parsed(body, kind, AdaptPredictRequest)
                runtime.decoder.prediction_job(request, model, "", time.monotonic())

            print(f"{name}: {statistics.median(timed(decode, 15)):.1f} ms ({len(body) / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
