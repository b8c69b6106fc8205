"""Few-shot classification: a shipped version, baselines on its features, foreign images, request times.

    python -m benchmarks.accuracy.classification omniglot omniglot28.npz --foreign grocery32.zip
    python -m benchmarks.accuracy.classification grocery grocery32.zip --foreign omniglot28.npz

The features are the shipped version's. A prototypical head takes the nearest class mean on them. The last
baseline is a nearest neighbour in pixels. All classify the same tasks of test classes. Learners of the
literature have features of their own (`paper_images.py`).
"""

import base64
import io
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks import command_line, pages
from bmaml.categorical import Categorical
from bmaml.embedding import ConvNet
from bmaml.task import Examples, TaskBatch
from model_store import SHIPPED, Model, Store
from training.config import ImagesConfig, Shots
from training.evaluate_classes import WAYS_AND_SHOTS, ClassMetrics, class_metrics
from training.families import ImageFeatures, Images
from training.families.class_index import ClassIndex
from training.families.class_tasks import task_batch
from training.families.image_features import embed
from training.loop import validation_nll

VALIDATION_WAYS = 5
"""Classes of the tasks that select the temperature of the prototypical head."""


@dataclass(frozen=True)
class Classifier:
    """A method with the two attributes of a `Model` that scoring needs; `learner` adapts and predicts."""

    learner: Any
    learned: dict[str, Tensor]


class NearestMean:
    """A prototypical head: softmax over −‖x − class mean‖² / temperature (Snell et al. 2017)."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def adapt(self, learned: Any, support: Examples) -> Tensor:
        """The class means, `[task, class, feature]`."""
        counts = support.y.sum(1).unsqueeze(-1).clamp_min(1)
        return (support.y.mT @ support.x) / counts

    def predict(self, means: Tensor, x: Tensor) -> Categorical:
        """The probabilities of every query, of one particle."""
        logits = -torch.cdist(x, means).square() / self.temperature
        return Categorical(logits.log_softmax(-1).unsqueeze(1), torch.zeros(len(x), 1))


class NearestImage:
    """A one-nearest-neighbour classifier: 0.999 on the class of the closest support image."""

    def adapt(self, learned: Any, support: Examples) -> Examples:
        """The support set itself."""
        return support

    def predict(self, support: Examples, x: Tensor) -> Categorical:
        """The probabilities of every query image."""
        nearest = torch.cdist(x, support.x).argmin(-1)
        chosen = support.y.gather(1, nearest.unsqueeze(-1).expand(-1, -1, support.y.shape[-1]))
        spread = 1e-3 / support.y.shape[-1]
        return Categorical((chosen * (1 - 1e-3) + spread).log().unsqueeze(1), torch.zeros(len(x), 1))


def nearest_mean(family: ImageFeatures) -> Classifier:
    """The prototypical head with the temperature of the lowest validation NLL."""
    heads = [Classifier(NearestMean(2.0**power), {}) for power in range(-8, 12)]
    return min(heads, key=lambda head: validation_nll(head.learner, head.learned, family))


def foreign_auroc(model: Model, own: tuple[Tensor, ClassIndex], foreign: Tensor, tasks: int = 200) -> float:
    """The AUROC of total entropy for telling foreign query images from own ones, in 5-way 1-shot tasks."""
    features, index = own
    generator = torch.Generator().manual_seed(9)
    draw = index.draw(tasks, 5, 1, 3, generator)
    batch: TaskBatch = task_batch(draw, features[draw.images])
    unfamiliar = foreign[torch.randint(len(foreign), (tasks, 15), generator=generator)]
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, batch.support)
        own_entropy = model.classify(posterior, batch.query.x, batch.support).entropy().flatten()
        foreign_entropy = model.classify(posterior, unfamiliar, batch.support).entropy().flatten()
    labels = np.r_[np.zeros(len(own_entropy)), np.ones(len(foreign_entropy))]
    return float(roc_auc_score(labels, torch.cat([own_entropy, foreign_entropy]).numpy()))


def foreign_features(model: Model, path: Path, size: int) -> Tensor:
    """Features of up to 1,000 images of another collection, scaled as this model takes them."""
    assert model.embedding is not None
    channels = model.embedding.channels
    split = "folder" if path.suffix == ".zip" else None
    drawing = model.manifest.image is not None and model.manifest.image.drawing
    config = ImagesConfig(str(path), size, channels, drawing, split, ways=5, shots=Shots(1, 1))
    images = Images(config, 0).of_role("test")[0]
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))[:1000]
    return embed(model.embedding, model.learned, images[chosen])


def request_times(url: str, name: str, images: NDArray[np.uint8], repeats: int = 30) -> dict[str, float]:
    """Median milliseconds of each part of a 5-way 5-shot request with 75 query images, all as PNGs."""

    def files(images: NDArray[np.uint8]) -> dict[str, list[str]]:
        result = []
        for pixels in images:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            result.append(base64.b64encode(file.getvalue()).decode())
        return {"images": result}

    body = {
        "model": name,
        "support": {"x": files(images[:25]), "y": [f"class {i // 5}" for i in range(25)]},
        "query": {"x": files(images[25:100])},
    }
    timings = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(repeats):
            started = time.perf_counter()
            reply = client.post("/adapt-predict", json=body)
            reply.raise_for_status()
            timings.append(
                {**reply.json()["timing_ms"], "round trip": 1000 * (time.perf_counter() - started)}
            )
    parts = ("decode", "queue", "embed", "adapt", "predict", "total", "round trip")
    return {part: statistics.median(each[part] for each in timings) for part in parts}


def row(name: str, scores: dict[tuple[int, int], ClassMetrics]) -> str:
    """A row of the table."""
    cells = []
    for ways_shots in WAYS_AND_SHOTS:
        each = scores.get(ways_shots)
        if each is None:
            cells += ["", ""]
            continue
        cells.append(f"{100 * each.accuracy:.2f} ± {100 * each.half_width:.2f}")
        cells.append(f"{100 * each.ece:.1f}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Score all methods, and write the page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("model", help="name of a shipped version")
    arguments.add_argument("images", type=Path, help="the collection that the model was trained on")
    arguments.add_argument("--foreign", type=Path, help="another collection of images")
    arguments.add_argument("--episodes", type=int, default=1000)
    arguments.add_argument("--url", help="of a running service, to time a request")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    model = Store(options.store).load(options.model)
    assert isinstance(model.embedding, ConvNet)
    assert model.embedding is not None
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(options.images))
    images = Images(replace(config, ways=VALIDATION_WAYS, shots=Shots(1, 5), queries=5), model.manifest.seed)
    pixels, index = images.of_role("test")
    features = embed(model.embedding, model.learned, pixels)
    settings = [(w, s) for w, s in WAYS_AND_SHOTS if len(index) >= w and int(index.counts.min()) > s]

    def scores(classifier: Any, x: Tensor) -> dict[tuple[int, int], ClassMetrics]:
        return {each: class_metrics(classifier, x, index, *each, options.episodes, 77) for each in settings}

    family = ImageFeatures(images, model.embedding, model.learned)
    nearest_image = Classifier(NearestImage(), {})
    rows = [
        row(f"**{model.learner.name}** (shipped)", scores(model, features)),
        row("prototypical head", scores(nearest_mean(family), features)),
        row("nearest neighbour in pixels", scores(nearest_image, pixels.float() / 255)),
    ]
    heads = " | ".join(
        f"{each}, % | {each}: calibration error, %"
        for each in (f"{ways}-way {shots}-shot" for ways, shots in WAYS_AND_SHOTS)
    )
    lines = [
        f"Measured on {options.machine}, one thread: {options.episodes} tasks of {len(index)} test classes, "
        "± half a 95 % interval.",
        "",
        f"| on the features of `{options.model}` | {heads} |",
        "|---" * (1 + 2 * len(WAYS_AND_SHOTS)) + "|",
        *rows,
        "",
    ]
    noise = torch.rand(1000, pixels.shape[1], generator=torch.Generator().manual_seed(2))
    noisy = embed(model.embedding, model.learned, (255 * noise).byte())
    lines += ["| total uncertainty of a query tells apart | AUROC |", "|---|---|"]
    if options.foreign:
        unfamiliar = foreign_features(model, options.foreign, model.embedding.size)
        auroc = foreign_auroc(model, (features, index), unfamiliar)
        lines.append(f"| test classes and the images of `{options.foreign.name}` | {auroc:.3f} |")
    lines.append(f"| test classes and random noise | {foreign_auroc(model, (features, index), noisy):.3f} |")
    if options.url:
        collection = images.collection
        some = collection.pixels[collection.roles[collection.labels] == "test"][:100]
        times = request_times(options.url, options.model, some)
        lines += ["", "A 5-way 5-shot request with 75 query images as PNGs, medians in ms:", ""]
        lines += [f"| {' | '.join(times)} |", "|---" * len(times) + "|"]
        lines.append(f"| {' | '.join(f'{value:.1f}' for value in times.values())} |")
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, options.model)


if __name__ == "__main__":
    main()
