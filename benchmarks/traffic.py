"""Mixed traffic: requests of every kind, right and wrong, against a running service."""

import asyncio
import base64
import io
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import numpy as np
from PIL import Image
from safetensors.numpy import save

WORKERS = 8
AS_EXPECTED = "as expected"


async def mixed_traffic(
    client: httpx.AsyncClient, outcomes: Counter[str], seconds: float, rate: float
) -> None:
    """Requests of random kinds from `WORKERS` concurrent workers, together about `rate` per second.

    Args:
        client: of the service.
        outcomes: counts, filled in as replies come: `AS_EXPECTED`, and the path and status of any other.
    """
    end = time.monotonic() + seconds

    async def worker(number: int) -> None:
        traffic, rng = Traffic(client, number, outcomes), np.random.default_rng(1000 + number)
        while time.monotonic() < end:
            await asyncio.sleep(rng.exponential(WORKERS / rate))
            await traffic.request()

    await asyncio.gather(*(worker(number) for number in range(WORKERS)))


class Traffic:
    """One worker's requests, drawn at random; `outcomes` counts those that got the status they should."""

    def __init__(self, client: httpx.AsyncClient, seed: int, outcomes: Counter[str]) -> None:
        self.client, self.rng, self.outcomes = client, np.random.default_rng(seed), outcomes
        self.kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.4, self.sinusoid),
            (0.15, self.learning_curves),
            (0.05, self.sinusoid_bmaml),
            (0.1, self.uncertainty),
            (0.1, self.posterior),
            (0.05, self.images),
            (0.05, self.safetensors),
            (0.08, self.invalid),
            (0.02, self.monitoring),
        ]

    async def request(self) -> None:
        """One request of a random kind."""
        weights = [weight for weight, _ in self.kinds]
        await self.kinds[self.rng.choice(len(weights), p=weights)][1]()

    async def post(self, path: str, body: object, expected: int = 200) -> httpx.Response:
        """The reply to a JSON body, after counting it."""
        reply = await self.client.post(path, json=body)
        self.count(path, reply, expected)
        return reply

    def count(self, path: str, reply: httpx.Response, expected: int) -> None:
        """Count a reply as expected, or under its path and status."""
        self.outcomes[AS_EXPECTED if reply.status_code == expected else f"{path} {reply.status_code}"] += 1

    def sine_curve(self) -> dict[str, object]:
        """A support set of 1 to 20 points of a sine curve."""
        x = self.rng.uniform(-5, 5, (int(self.rng.integers(1, 21)), 1))
        return {"x": x.tolist(), "y": (2 * np.sin(x[:, 0])).tolist()}

    def inputs(self, most: int) -> dict[str, object]:
        """Fewer than `most` rows of one input."""
        return {"x": self.rng.uniform(-5, 5, (int(self.rng.integers(1, most)), 1)).tolist()}

    async def sinusoid(self) -> None:
        """A prediction of up to 199 rows of a sine curve."""
        await self.post(
            "/adapt-predict", {"model": "sinusoid", "support": self.sine_curve(), "query": self.inputs(200)}
        )

    async def sinusoid_bmaml(self) -> None:
        """A prediction with the particles of the published method."""
        body = {
            "model": "sinusoid-bmaml",
            "support": self.sine_curve(),
            "query": self.inputs(50),
            "particles": True,
        }
        await self.post("/adapt-predict", body)

    async def learning_curves(self) -> None:
        """A prediction of two later anchors of a learning curve, with quantiles."""
        x = 2.0 ** (4 + np.arange(5)[:, None] / 2)
        y = 0.9 - self.rng.uniform(0.3, 0.6) * x[:, 0] ** -0.4
        body = {"model": "learning-curves", "support": {"x": x.tolist(), "y": y.tolist()}}
        await self.post("/adapt-predict", body | {"query": {"x": [[256], [1024]]}, "quantiles": [0.1, 0.9]})

    async def uncertainty(self) -> None:
        """A choice of five rows to label."""
        body = {
            "model": "sinusoid",
            "support": self.sine_curve(),
            "pool": self.inputs(300),
            "batch": {"size": 5},
        }
        await self.post("/uncertainty", body | {"target": self.inputs(20)})

    async def posterior(self) -> None:
        """A posterior that is kept and used for a prediction; every other one is deleted."""
        kept = await self.post(
            "/posteriors", {"model": "sinusoid", "support": self.sine_curve(), "keep": {"ttl_s": 60.0}}
        )
        if kept.status_code != 200:
            return
        name = kept.json()["posterior"]["id"]
        await self.post("/adapt-predict", {"model": "sinusoid", "posterior": name, "query": self.inputs(50)})
        if self.rng.random() < 0.5:
            self.count("DELETE", await self.client.delete(f"/posteriors/{name}"), 204)

    async def images(self) -> None:
        """Two drawings to classify from four."""
        drawn = [self.image() for _ in range(6)]
        body = {"model": "omniglot", "support": {"x": {"images": drawn[:4]}, "y": ["a", "a", "b", "b"]}}
        await self.post("/adapt-predict", body | {"query": {"x": {"images": drawn[4:]}}})

    def image(self) -> str:
        """A PNG of random ink, 28 × 28, in base64."""
        ink = (self.rng.random((28, 28)) < 0.1).astype(np.uint8) * 255
        file = io.BytesIO()
        Image.fromarray(ink).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    async def safetensors(self) -> None:
        """A prediction in safetensors, both ways."""
        x = self.rng.uniform(-5, 5, (10, 1)).astype(np.float32)
        named = {"support.x": x, "support.y": np.sin(x[:, 0]), "query.x": x}
        headers = {"content-type": "application/vnd.safetensors", "accept": "application/vnd.safetensors"}
        body = save(named, metadata={"request": json.dumps({"model": "sinusoid"})})
        self.count("tensors", await self.client.post("/adapt-predict", content=body, headers=headers), 200)

    async def invalid(self) -> None:
        """A request with an unknown name, a wrong shape or no object."""
        bad = [
            ({"model": "nobody", "support": self.sine_curve(), "query": self.inputs(5)}, 404),
            ({"model": "sinusoid", "support": {"x": [[1.0, 2.0]], "y": [1.0]}, "query": self.inputs(5)}, 422),
            ({"model": "sinusoid", "posterior": "post_" + "0" * 56, "query": self.inputs(5)}, 404),
            ([[[[]]]], 422),
        ]
        body, expected = bad[int(self.rng.integers(len(bad)))]
        await self.post("/adapt-predict", body, expected)

    async def monitoring(self) -> None:
        """The metrics, the list of models and the readiness probe."""
        for path in ("/metrics", "/models", "/readyz"):
            self.count(path, await self.client.get(path), 200)
