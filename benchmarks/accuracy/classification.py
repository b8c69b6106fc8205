"""Few-shot classification: every learner on the same features, baselines, foreign images, request times.

    python -m benchmarks.accuracy.classification omniglot omniglot28.npz --foreign grocery32.zip
    python -m benchmarks.accuracy.classification grocery grocery32.zip --foreign omniglot28.npz

The features are the shipped version's. On them `bmaml`, `bfa`, `emaml` and `maml` meta-train linear softmax
heads on the same training classes: five classes, five inner steps, the inner rate of each searched on the
validation classes. A prototypical head takes the nearest class mean. The last baseline is a nearest neighbour
in pixels. All classify the same tasks of test classes. With `--shipped-only` the other methods keep the rows
of `--page`, which hold for all versions on the same features.
"""

import base64
import io
import math
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
from bmaml.learners import Learner, learner_from
from bmaml.task import Examples, TaskBatch
from model_store import SHIPPED, Model, Store
from training.checkpoint import TrainingState
from training.config import ImagesConfig, Shots
from training.evaluate_classes import WAYS_AND_SHOTS, ClassMetrics, class_metrics
from training.families import ImageFeatures, Images
from training.families.class_index import ClassIndex
from training.families.class_tasks import task_batch
from training.families.image_features import embed
from training.loop import meta_step, validation_nll
from training.recipes import recipe_for

INNER_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Candidates of the search."""
HEADS = ("bmaml", "bfa", "emaml", "maml")
HEAD_WAYS, HEAD_STEPS, SEARCH_STEPS = 5, 5, 200


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


def trained(
    name: str, rate: float, family: ImageFeatures, features: int, steps: int, seed: int = 0
) -> Classifier:
    """A softmax head of a registered learner on the features, after `steps` meta-steps."""
    recipe = recipe_for(name, "images")
    network = {"inputs": features, "hidden": (), "outputs": HEAD_WAYS, "activation": "relu"}
    settings = {"network": network, **recipe.settings, "step_size": rate, "steps": HEAD_STEPS}
    learner: Learner[Any] = learner_from(name, settings)
    plan = replace(recipe.optimisation, meta_steps=steps, meta_batch=4, learning_rate=1e-3)
    learned = {
        n: t.requires_grad_() for n, t in learner.initialise(torch.Generator().manual_seed(seed)).items()
    }
    state = TrainingState(learned, torch.optim.Adam(learned.values()), torch.device("cpu"))
    for step in range(steps):
        batch = family.batch(plan.meta_batch, torch.Generator().manual_seed(1000 * seed + step))
        loss, _ = meta_step(state, learner.loss, batch, plan)
        state.step += 1
        if not math.isfinite(float(loss)):
            break
    return Classifier(learner, {n: t.detach() for n, t in learned.items()})


def tuned(name: str, family: ImageFeatures, features: int, steps: int) -> tuple[Classifier, float]:
    """A head trained in full at the inner rate with the lowest validation NLL of short trainings, and it."""
    found = []
    for rate in INNER_RATES:
        head = trained(name, rate, family, features, min(steps, SEARCH_STEPS))
        nll = validation_nll(head.learner, head.learned, family)
        found.append((nll if math.isfinite(nll) else math.inf, rate))
    rate = min(found)[1]
    return trained(name, rate, family, features, steps), rate


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


def row(name: str, scores: dict[tuple[int, int], ClassMetrics | None]) -> str:
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


def rows_of_others(page: Path, name: str) -> list[str]:
    """The rows of a page's table beside that of the shipped version."""
    (text,) = (block.text for block in pages.blocks(page.read_text()) if block.name == name)
    table = text[text.index("|---") :].partition("\n\n")[0]
    return [line for line in table.splitlines()[1:] if not line.startswith("| **")]


def main() -> None:
    """Train the heads, score all methods, and write the page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("model", help="name of a shipped version")
    arguments.add_argument("images", type=Path, help="the collection that the model was trained on")
    arguments.add_argument("--foreign", type=Path, help="another collection of images")
    arguments.add_argument("--meta-steps", type=int, default=500, help="of each head")
    arguments.add_argument("--episodes", type=int, default=1000)
    arguments.add_argument("--url", help="of a running service, to time a request")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    arguments.add_argument(
        "--shipped-only", action="store_true", help="keep the page's rows of other methods"
    )
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.shipped_only and not options.page:
        raise SystemExit("--shipped-only keeps rows of a --page")
    torch.set_num_threads(1)
    model = Store(options.store).load(options.model)
    assert isinstance(model.embedding, ConvNet)
    assert model.embedding is not None
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(options.images))
    images = Images(replace(config, ways=HEAD_WAYS, shots=Shots(1, 5), queries=5), model.manifest.seed)
    pixels, index = images.of_role("test")
    features = embed(model.embedding, model.learned, pixels)
    settings = [(w, s) for w, s in WAYS_AND_SHOTS if len(index) >= w and int(index.counts.min()) > s]

    def scores(
        classifier: Any, x: Tensor, most: int | None = None
    ) -> dict[tuple[int, int], ClassMetrics | None]:
        possible = [each for each in settings if most is None or each[0] <= most]
        return {each: class_metrics(classifier, x, index, *each, options.episodes, 77) for each in possible}

    rows = [row(f"**{model.learner.name}** (shipped)", scores(model, features))]
    if options.shipped_only:
        rows += rows_of_others(options.page, options.model)
    else:
        family = ImageFeatures(images, model.embedding, model.learned)
        rows.append(row("prototypical head", scores(nearest_mean(family), features)))
        for name in HEADS:
            head, rate = tuned(name, family, features.shape[1], options.meta_steps)
            rows.append(row(f"{name}, rate {rate:g}", scores(head, features, HEAD_WAYS)))
            print(rows[-1], flush=True)
        rows.append(
            row("nearest neighbour in pixels", scores(Classifier(NearestImage(), {}), pixels.float() / 255))
        )
    heads = " | ".join(
        f"{each}, % | {each}: calibration error, %"
        for each in (f"{ways}-way {shots}-shot" for ways, shots in WAYS_AND_SHOTS)
    )
    lines = [
        f"Measured on {options.machine}, one thread: {options.episodes} tasks of {len(index)} test classes, "
        f"± half a 95 % interval; heads with {options.meta_steps} meta-steps.",
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
