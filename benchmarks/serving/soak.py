"""An hour of mixed traffic: does the service hold its memory, and does it ever fail?

    python -m benchmarks.serving.soak [--minutes 60] [--rate 40] [--publish-every 1]

A service process on a store of its own: predictions of every kind of model, choices, posteriors kept, asked
and dropped, tensors as safetensors, requests that are wrong, metrics, and every minute a new version of one
model (`--publish-every 0`: none). Memory is looked at every five seconds, without the posteriors that callers
keep; within a minute it falls, because what was freed is handed back. After the first five minutes the
highest of every minute is to stay within two per cent of their median, the median of the last minute is to
be at most two per cent above that of the second thousand requests, nothing but what was asked for wrongly
may be refused, and no batch may fail as a whole. Exit status 1 otherwise.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from PIL import Image
from safetensors.numpy import save

from model_store import SHIPPED, Store

WORKERS = 8
WARM_MINUTES = 5
TOLERANCE = 0.02


class Traffic:
    """One worker's requests, drawn at random; `expected` is the status that each should have."""

    def __init__(self, client: httpx.AsyncClient, seed: int, statuses: Counter[str]) -> None:
        self.client, self.rng, self.statuses = client, np.random.default_rng(seed), statuses
        self.kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.4, self.curve),
            (0.15, self.learning_curve),
            (0.05, self.published_method),
            (0.1, self.choice),
            (0.1, self.posterior),
            (0.05, self.pictures),
            (0.05, self.tensors),
            (0.08, self.wrong),
            (0.02, self.looked_at),
        ]

    async def one(self) -> None:
        """Some request."""
        weights = [weight for weight, _ in self.kinds]
        await self.kinds[self.rng.choice(len(weights), p=weights)][1]()

    async def ask(self, path: str, body: object, expected: int = 200) -> httpx.Response:
        """Post, and note whether it went as expected."""
        reply = await self.client.post(path, json=body)
        self.note(path, reply, expected)
        return reply

    def note(self, path: str, reply: httpx.Response, expected: int) -> None:
        """Count it."""
        self.statuses["as expected" if reply.status_code == expected else f"{path} {reply.status_code}"] += 1

    def sine(self) -> dict[str, object]:
        """A few points of a sine curve."""
        x = self.rng.uniform(-5, 5, (int(self.rng.integers(1, 21)), 1))
        return {"x": x.tolist(), "y": (2 * np.sin(x[:, 0])).tolist()}

    def grid(self, most: int) -> dict[str, object]:
        """Some rows."""
        return {"x": self.rng.uniform(-5, 5, (int(self.rng.integers(1, most)), 1)).tolist()}

    async def curve(self) -> None:
        await self.ask(
            "/adapt-predict", {"model": "sinusoid", "support": self.sine(), "query": self.grid(200)}
        )

    async def published_method(self) -> None:
        body = {"model": "sinusoid-bmaml", "support": self.sine(), "query": self.grid(50), "particles": True}
        await self.ask("/adapt-predict", body)

    async def learning_curve(self) -> None:
        x = 2.0 ** (4 + np.arange(5)[:, None] / 2)
        y = 0.9 - self.rng.uniform(0.3, 0.6) * x[:, 0] ** -0.4
        body = {"model": "learning-curves", "support": {"x": x.tolist(), "y": y.tolist()}}
        await self.ask("/adapt-predict", body | {"query": {"x": [[256], [1024]]}, "quantiles": [0.1, 0.9]})

    async def choice(self) -> None:
        body = {"model": "sinusoid", "support": self.sine(), "pool": self.grid(300), "batch": {"size": 5}}
        await self.ask("/uncertainty", body | {"target": self.grid(20)})

    async def posterior(self) -> None:
        kept = await self.ask(
            "/posteriors", {"model": "sinusoid", "support": self.sine(), "keep": {"ttl_s": 60.0}}
        )
        name = kept.json()["posterior"]["id"]
        await self.ask("/adapt-predict", {"model": "sinusoid", "posterior": name, "query": self.grid(50)})
        if self.rng.random() < 0.5:
            self.note("DELETE", await self.client.delete(f"/posteriors/{name}"), 204)

    async def pictures(self) -> None:
        drawn = [self.picture() for _ in range(6)]
        body = {"model": "omniglot", "support": {"x": {"images": drawn[:4]}, "y": ["a", "a", "b", "b"]}}
        await self.ask("/adapt-predict", body | {"query": {"x": {"images": drawn[4:]}}})

    def picture(self) -> str:
        """A PNG of random ink."""
        ink = (self.rng.random((28, 28)) < 0.1).astype(np.uint8) * 255
        file = io.BytesIO()
        Image.fromarray(ink).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    async def tensors(self) -> None:
        x = self.rng.uniform(-5, 5, (10, 1)).astype(np.float32)
        named = {"support.x": x, "support.y": np.sin(x[:, 0]), "query.x": x}
        headers = {"content-type": "application/vnd.safetensors", "accept": "application/vnd.safetensors"}
        body = save(named, metadata={"request": json.dumps({"model": "sinusoid"})})
        self.note("tensors", await self.client.post("/adapt-predict", content=body, headers=headers), 200)

    async def wrong(self) -> None:
        bad = [
            ({"model": "nobody", "support": self.sine(), "query": self.grid(5)}, 404),
            ({"model": "sinusoid", "support": {"x": [[1.0, 2.0]], "y": [1.0]}, "query": self.grid(5)}, 422),
            ({"model": "sinusoid", "posterior": "post_" + "0" * 56, "query": self.grid(5)}, 404),
            ([[[[]]]], 422),
        ]
        body, expected = bad[int(self.rng.integers(len(bad)))]
        await self.ask("/adapt-predict", body, expected)

    async def looked_at(self) -> None:
        for path in ("/metrics", "/models", "/readyz"):
            self.note(path, await self.client.get(path), 200)


def resident(pid: int) -> int:
    """Bytes of memory of a process and of those that it started; what they share counts once.

    Their own memory: how much of the libraries' files counts depends on who else has them open.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    rollups = (Path(f"/proc/{each}/smaps_rollup").read_text() for each in (pid, *children))
    return sum(
        1024 * int(line.split()[1])
        for text in rollups
        for line in text.splitlines()
        if line[:9] == "Pss_Anon:"
    )


def kept(metrics: str) -> int:
    """Bytes of the posteriors that callers keep."""
    return int(number("bmaml_posterior_bytes", metrics))


def number(name: str, metrics: str) -> float:
    """A metric."""
    line = next(line for line in metrics.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def republish(store: Path, name: str) -> None:
    """Another version of the same model."""
    model = Store(store).load(name)
    written = {"name", "version", "format", "tensors", "files"}
    said = {
        key: getattr(model.manifest, key) for key in type(model.manifest).model_fields if key not in written
    }
    Store(store).publish(name, "# Again\n", model.learned, **said)


async def soak(url: str, pid: int, store: Path, minutes: int, rate: float, every: float) -> bool:
    """Run the traffic; whether all was well."""
    statuses: Counter[str] = Counter()
    samples: list[tuple[float, int, int]] = []  # seconds, memory, what of it callers keep
    first: list[int] = []  # which samples are of the second thousand requests
    began = time.monotonic()
    ends = began + 60 * minutes

    async def worker(seed: int, client: httpx.AsyncClient) -> None:
        traffic, rng = Traffic(client, seed, statuses), np.random.default_rng(1000 + seed)
        while time.monotonic() < ends:
            await asyncio.sleep(rng.exponential(WORKERS / rate))
            await traffic.one()

    async def watcher() -> None:
        published = 0
        while time.monotonic() < ends:
            await asyncio.sleep(5)
            elapsed = time.monotonic() - began
            samples.append((elapsed, resident(pid), kept((await client.get("/metrics")).text)))
            if 1000 <= sum(statuses.values()) < 2000:
                first.append(len(samples) - 1)
            if every and elapsed > 60 * every * (published + 1):
                published += 1
                await asyncio.to_thread(republish, store, "learning-curves")
            if len(samples) % 12 == 0:
                own = [(size - held) / 2**20 for _, size, held in samples[-12:]]
                print(
                    f"{elapsed / 60:.0f} min: {min(own):.1f} to {max(own):.1f} MiB, and up to "
                    f"{max(held for *_, held in samples[-12:]) / 2**20:.1f} MiB of kept posteriors, "
                    f"{dict(statuses)}",
                    flush=True,
                )

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(watcher(), *(worker(each, client) for each in range(WORKERS)))
        failed = number('bmaml_retried_batches_total{reason="error"}', (await client.get("/metrics")).text)
    own = [(size - held) / 2**20 for _, size, held in samples]
    minutes_of = [int(elapsed / 60) for elapsed, *_ in samples]
    by_minute = [
        [size for size, of in zip(own, minutes_of, strict=True) if of == minute] for minute in range(minutes)
    ]
    highest = [max(sizes) for sizes in by_minute]
    early, late = [own[number] for number in first], by_minute[-1]
    growth = median(late) / median(early) - 1
    steady = np.array(highest[min(WARM_MINUTES, len(highest) // 2) :])
    middle = float(np.median(steady))
    down, up = steady.min() / middle - 1, steady.max() / middle - 1
    print(
        f"{minutes} minutes, {sum(statuses.values())} requests: {dict(statuses)}; the highest of a minute is "
        f"{middle:.1f} MiB, {100 * down:+.2f} % to {100 * up:+.2f} %\n"
        f"after the first thousand requests: {min(early):.1f} to {max(early):.1f} MiB; in the last "
        f"minute: {min(late):.1f} to {max(late):.1f} MiB; medians {100 * growth:+.2f} %\n"
        f"{failed:.0f} batches failed as a whole"
    )
    return max(up, -down, growth) <= TOLERANCE and set(statuses) == {"as expected"} and not failed


def main() -> int:
    """Start a service, soak it, stop it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--publish-every", type=float, default=1, help="minutes; 0 never")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        store, port = Path(folder) / "store", probe.getsockname()[1]
        shutil.copytree(SHIPPED, store)
        probe.close()
        settings = {"PORT": port, "STORE": store, "LOG_LEVEL": "info", "IDLE_S": 60}
        environment = os.environ | {f"BMAML_{name}": str(value) for name, value in settings.items()}
        server = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            fine = asyncio.run(
                soak(url, server.pid, store, options.minutes, options.rate, options.publish_every)
            )
        finally:
            server.terminate()
            ended = server.wait(60)
        return 0 if fine and ended == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
