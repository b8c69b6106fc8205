"""One process whose threads compute beside one with worker processes, loaded in turns.

    python -m benchmarks.serving.engines [--seconds 3] [--rounds 3] [--page docs/performance.md]

Both are this service, with `BMAML_ENGINE=thread` and `process`. Every round starts both and puts closed loops
of 1, 8 and 64 clients on them, in short slices that alternate, so that a drift of the machine meets both.
Native functions are required, so that none of the answers is from before they are compiled. Other settings
of the environment (BMAML_…) apply to both.
"""

import base64
import json
from collections.abc import Sequence
from statistics import median

import httpx
import numpy as np

from benchmarks import command_line, pages
from benchmarks.processes import free_port, service
from benchmarks.serving.load_generator import post
from benchmarks.serving.measurement import Load, Measurement, Server, in_turns
from benchmarks.serving.throughput import CLIENTS, row
from benchmarks.serving.workload import bodies, requests

ENGINES = ("process", "thread")
MODELS = ("sinusoid", "learning-curves", "sinusoid-bmaml", "omniglot")
CLASSES = 5


def messages(model: str, count: int = 50) -> list[bytes]:
    """Requests to a model: those of `workload`, curves for `sinusoid-bmaml`, and one shot of five classes."""
    if model == "sinusoid-bmaml":
        curves = [json.loads(body) | {"model": model} for body in bodies("sinusoid", count)]
        return [post("/adapt-predict", json.dumps(each).encode()) for each in curves]
    if model != "omniglot":
        return requests(model, count)
    random = np.random.default_rng(0)

    def images() -> dict[str, object]:
        pixels = random.integers(0, 256, (CLASSES, 28, 28), np.uint8)
        return {
            "dtype": "uint8",
            "shape": pixels.shape,
            "base64": base64.b64encode(pixels.tobytes()).decode(),
        }

    found = []
    for _ in range(count):
        support = {"x": images(), "y": [str(each) for each in range(CLASSES)]}
        body = {"model": model, "support": support, "query": {"x": images()}}
        found.append(post("/adapt-predict", json.dumps(body).encode()))
    return found


def comparison(models: Sequence[str], seconds: float, rounds: int) -> list[str]:
    """The table, with ratios taken within a round."""
    loads = [Load(model, clients) for model in models for clients in CLIENTS]
    sent = {model: messages(model) for model in models}
    measured: dict[tuple[Load, str], list[Measurement]] = {}
    for _ in range(rounds):
        ports = {engine: free_port() for engine in ENGINES}
        processes, threads = (
            service(ports[each], ENGINE=each, DEVICE="cpu", NATIVE="require", LOG_LEVEL="warning")
            for each in ENGINES
        )
        with processes as process, threads as thread:
            servers = {
                each: Server(ports[each], own.pid)
                for each, own in zip(ENGINES, (process, thread), strict=True)
            }
            for server in servers.values():
                assert httpx.get(f"http://127.0.0.1:{server.port}/readyz").status_code == 200
            for load in loads:
                for engine, measurement in in_turns(servers, load, seconds, sent[load.model]).items():
                    measured.setdefault((load, engine), []).append(measurement)
                    print(row(f"{load.model}, {engine}", load.clients, measurement.result), flush=True)
    lines = [
        f"Medians of {rounds} rounds of {seconds:g} s a load.",
        "",
        "| model | clients | answers a second: processes | threads | answers: threads / processes "
        "| p50, ms: processes | threads | p50: threads / processes "
        "| processor ms an answer: processes | threads |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for load in loads:
        cells = []
        for figure in ("rate", "median"):
            pairs = [[getattr(each.result, figure) for each in measured[load, engine]] for engine in ENGINES]
            ratio = median(new / old for old, new in zip(*pairs, strict=True))
            cells += [f"{median(each):.3g}" for each in pairs] + [f"{ratio:.2f}"]
        cells += [f"{median(each.cpu_ms for each in measured[load, engine]):.2f}" for engine in ENGINES]
        lines.append(f"| `{load.model}` | {load.clients} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=3, help="of every closed loop in a round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--models", default=",".join(MODELS))
    command_line.add_page(arguments)
    options = arguments.parse_args()
    lines = comparison(options.models.split(","), options.seconds, options.rounds)
    lines = [f"Measured on {options.machine}, load generator included.", "", *lines]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "engines")


if __name__ == "__main__":
    main()
