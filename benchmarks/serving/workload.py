"""The requests of the serving benchmarks: sine curves and learning curves, as whole HTTP messages."""

import json
from collections.abc import Sequence

import numpy as np

from benchmarks.serving.load_generator import post

MODELS = ("sinusoid", "learning-curves")


def bodies(model: str, count: int, ragged: bool = False, deadline_ms: int | None = None) -> list[bytes]:
    """Bodies for `/adapt-predict`, the same at every call.

    Args:
        model: `sinusoid` (10 support rows, 50 query rows) or `learning-curves` (5 and 10).
        ragged: 1 to 20 support rows and 1 to 80 query rows instead.
        deadline_ms: time that each may wait in the queue; None for no deadline.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        shots, queries = (10, 50) if model == "sinusoid" else (5, 10)
        if ragged:
            shots, queries = int(rng.integers(1, 21)), int(rng.integers(1, 81))
        if model == "sinusoid":
            x, query = rng.uniform(-5, 5, (shots, 1)), rng.uniform(-5, 5, (queries, 1))
            y = rng.uniform(0.1, 5) * np.sin(rng.uniform(0.5, 2) * x[:, 0] - rng.uniform(0, 2 * np.pi))
        else:
            x, query = 2.0 ** (4 + np.arange(shots)[:, None] / 2), 2.0 ** rng.uniform(6.5, 12, (queries, 1))
            y = 0.9 - 0.5 * rng.uniform(0.5, 1.5) * x[:, 0] ** -0.4
        body: dict[str, object] = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
        body |= {
            "model": model,
            "support": {"x": x.tolist(), "y": y.tolist()},
            "query": {"x": query.tolist()},
        }
        found.append(json.dumps(body).encode())
    return found


def requests(model: str, count: int = 200) -> list[bytes]:
    """Requests to one model, all of one size."""
    return [post("/adapt-predict", body) for body in bodies(model, count)]


def mixed_requests(
    count: int, ragged: bool = False, deadline_ms: int | None = None, models: Sequence[str] = MODELS
) -> list[bytes]:
    """`count` requests to each model, in an order that mixes the models; arguments as in `bodies`."""
    messages = [
        post("/adapt-predict", body) for model in models for body in bodies(model, count, ragged, deadline_ms)
    ]
    return [messages[place] for place in np.random.default_rng(1).permutation(len(messages))]
