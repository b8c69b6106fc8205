"""The time of one request with photographs, stage by stage, beside the backbone's own batched time.

    python -m benchmarks.speed.photographs NAME --store STORE [--page docs/performance.md]

NAME is a published version on a backbone. The request has 25 support and 75 query pictures: JPEGs of
2048 × 1536 pixels, a random scene with the grain of a camera. They are sent as they are, and as
`bmaml_client.scaled_down` makes them, and once more so to a service with `BMAML_BFLOAT16`. Every stage is a
median over runs; in each run the backbone embeds the same pixels beside it, in single precision. Stages run
in this process, without HTTP and queue.
"""

import base64
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import command_line, pages
from bmaml.learners import Diverged
from bmaml_client import scaled_down
from bmaml_client.model_info import ImageInput as ClientImage
from model_store import Model, Store
from model_store.backbone import IMAGES_PER_BLOCK, Backbone
from model_store.images import DRAFT_SCALE, ImageInput, decoded_image
from service.codec import bodies
from service.codec.decode import Decoder
from service.codec.encode import AnsweredJob
from service.compute.batch import answer_batch
from service.engine.posterior_cache import PosteriorCache
from service.ops.metrics import Metrics
from service.schemas.requests import MAX_DEADLINE_MS, AdaptPredictRequest
from service.settings import Settings

WIDTH, HEIGHT = 2048, 1536
QUALITY = 90
GRAIN = 6.0
"""Standard deviation of the grain, of 255."""
WAYS, SHOTS, QUERIES = 5, 5, 75
STAGES = ("body", "decode", "resize", "embed", "head", "reply")
MIB = 1 << 20


def photographs(count: int) -> list[bytes]:
    """JPEG files of random scenes; the same every time."""
    draw = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        scene = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        pixels = scene + GRAIN * draw.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def body_of(files: Sequence[bytes], model: Model) -> bytes:
    """The JSON body of a request with these pictures, the support set first."""
    encoded = [base64.b64encode(each).decode() for each in files]
    shown = WAYS * SHOTS
    labels = [f"class {each % WAYS}" for each in range(shown)]
    body = {
        "model": model.manifest.name,
        "support": {"x": {"images": encoded[:shown]}, "y": labels},
        "query": {"x": {"images": encoded[shown:]}},
        "deadline_ms": MAX_DEADLINE_MS,
    }
    return json.dumps(body).encode()


def elapsed_ms(run: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def resizing_ms(files: Sequence[bytes], image: ImageInput) -> float:
    """Milliseconds of the resizing of pictures that are decoded, without their decoding."""
    total, least = 0.0, DRAFT_SCALE * image.resized
    for content in files:
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft(None, (least, least))
            opened.load()
            total += elapsed_ms(partial(image.resize, opened))
    return total


def request_ms(body: bytes, files: Sequence[bytes], model: Model) -> dict[str, float]:
    """Milliseconds of every stage of one request, from its bytes to those of the reply, and of the whole."""
    assert model.manifest.image is not None
    settings = Settings(max_body_bytes=1 << 30, max_request_pixels=1 << 30)
    decoder = Decoder(settings, PosteriorCache(0, b"", Metrics()))
    start = time.perf_counter()
    request = bodies.parsed(body, bodies.JSON, AdaptPredictRequest)
    read = time.perf_counter()
    job = decoder.prediction_job(request, model, "", time.monotonic())
    decoded = time.perf_counter()
    (answer,) = answer_batch([job])
    assert not isinstance(answer, Diverged)
    answered = time.perf_counter()
    response = AnsweredJob(job, answer, None, "", time.monotonic()).prediction_response()
    bodies.encoded(response, bodies.JSON)
    done = time.perf_counter()
    resize = resizing_ms(files, model.manifest.image)
    embed = response.timing_ms.embed
    return {
        "body": 1000 * (read - start),
        "decode": 1000 * (decoded - read) - resize,
        "resize": resize,
        "embed": embed,
        "head": 1000 * (answered - decoded) - embed,
        "reply": 1000 * (done - answered),
        "total": 1000 * (done - start),
    }


def main() -> None:
    """Print or write the table."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("version", help="a published version on a backbone")
    arguments.add_argument("--store", type=Path, required=True)
    arguments.add_argument("--repeats", type=int, default=5)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "photographs")
    torch.set_num_threads(1)
    model = Store(options.store).load(options.version)
    image, backbone = model.manifest.image, model.embedding
    if image is None or not isinstance(backbone, Backbone):
        raise SystemExit(f"{options.version} has no backbone: see `bmaml-train images --backbone`")
    large = photographs(WAYS * SHOTS + QUERIES)
    info = ClientImage(image.channels, image.size, image.drawing, image.crop)
    small = [scaled_down(each, info) for each in large]
    half = model.to("cpu", bfloat16=True)
    kinds = {
        "as they are": (large, model),
        "scaled down by the client": (small, model),
        "scaled down, embedded in bfloat16": (small, half),
    }
    sent = {name: body_of(files, model) for name, (files, _) in kinds.items()}
    pixels = np.stack([decoded_image(each, image).pixels for each in large])
    values = torch.from_numpy(image.from_pixels(pixels)).unsqueeze(0)
    backbone({}, values[:, :1])
    alone: list[float] = []
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(options.repeats):
        alone.append(elapsed_ms(lambda: backbone({}, values)))
        for name, (files, answering) in kinds.items():
            runs[name].append(request_ms(sent[name], files, answering))
    own = statistics.median(alone)
    lines = [
        f"Measured on {options.machine}, one thread, medians of {options.repeats} in ms: {len(large)} "
        f"pictures of {WIDTH} × {HEIGHT}, to `{options.version}` at {image.size} pixels. Its backbone "
        f"alone embeds them in batches of {IMAGES_PER_BLOCK} in {own:.0f} ms.",
        "",
        f"| pictures are sent | body, MiB | {' | '.join(STAGES)} | total | total / backbone |",
        f"|---|---|{'---|' * (len(STAGES) + 2)}",
    ]
    for name, found in runs.items():
        medians = [statistics.median(run[stage] for run in found) for stage in (*STAGES, "total")]
        ratio = statistics.median(run["total"] / base for run, base in zip(found, alone, strict=True))
        cells = [name, f"{len(sent[name]) / MIB:.1f}", *(f"{each:.0f}" for each in medians), f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "photographs")


if __name__ == "__main__":
    main()
