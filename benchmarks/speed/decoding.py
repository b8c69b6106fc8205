"""Milliseconds from the bytes of a large body to checked arrays: JSON, base64 in JSON, safetensors.

python -m benchmarks.speed.decoding [--rows 1000] [--columns 64]
"""

import argparse
import base64
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from benchmarks.timing import timed
from bmaml.learners import Collapsed, settings_of
from bmaml.networks import MLP
from model_store import Column, Model, Store
from service.codec import bodies
from service.runtime import Runtime
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings


def published(root: Path, columns: int) -> Model:
    """An untrained model of so many columns."""
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
    """Print one line per form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=64)
    options = parser.parse_args()
    x = np.random.default_rng(0).normal(size=(options.rows, options.columns))
    y, query = x[:, 0].copy(), x[:1].copy()

    def encoded(values: np.ndarray) -> dict[str, object]:  # type: ignore[type-arg]
        content = base64.b64encode(values.astype("<f4").tobytes()).decode()
        return {"dtype": "float32", "shape": list(values.shape), "base64": content}

    plain = {"model": "wide", "support": {"x": x.tolist(), "y": y.tolist()}, "query": {"x": query.tolist()}}
    tight = {"model": "wide", "support": {"x": encoded(x), "y": encoded(y)}, "query": {"x": query.tolist()}}
    tensors = {"support.x": x, "support.y": y, "query.x": query}
    forms = {
        "JSON": (json.dumps(plain).encode(), bodies.JSON),
        "base64 in JSON": (json.dumps(tight).encode(), bodies.JSON),
        "safetensors": (save(tensors, metadata={"request": '{"model": "wide"}'}), bodies.BINARY),
    }
    with tempfile.TemporaryDirectory() as folder:
        model = published(Path(folder), options.columns)
        runtime = Runtime(Settings(store=Path(folder), max_support_rows=options.rows))
        for name, (body, kind) in forms.items():

            def decode(body: bytes = body, kind: str = kind) -> None:
                runtime.decoder.predict(bodies.parsed(body, kind, AdaptPredictRequest), model, "")

            print(f"{name}: {statistics.median(timed(decode, 15)):.1f} ms ({len(body) / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
