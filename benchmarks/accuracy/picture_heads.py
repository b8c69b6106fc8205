"""Heads on one pretrained backbone, on the same tasks of classes that nobody trained on.

    bmaml-train images grocery96.zip --name grocery-lite0 --backbone efficientnet-lite0 --size 192 --crop 1 \\
        --split folder --classes 20 --shots 1:5 --queries 3 --least 20 --own-scatter
    bmaml-train images grocery96.zip --name grocery-lite0-plain … --no-own-scatter
    python -m benchmarks.accuracy.picture_heads grocery96.zip --store STORE \\
        grocery-lite0 grocery-lite0-plain [--page docs/classification.md]

With `--without-rivals` the versions alone are scored, on the same tasks. With `--half-precision` they are
scored a second time, on images embedded in bfloat16. The first version says which backbone embeds the images,
and how classes are split: `--split benchmarks/accuracy/grocery-twenty.csv` keeps twenty for the test, the
twelve under `validation` and eight others of which the data have one kind only.
Scaling, C and sharpness of the rivals are chosen by NLL (of the support vector machine by accuracy) on some
training classes, which probabilistic linear discriminant analysis does not see at that time. Test classes are
scored once, with nothing chosen on them.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from benchmarks import command_line, pages
from benchmarks.accuracy.baselines import Array
from bmaml.categorical import Categorical
from bmaml.plda import Discriminants, discriminants
from bmaml.task import Examples
from model_store import Model, Store
from model_store.backbone import IMAGES_PER_BLOCK, Backbone
from model_store.images import ImageInput, Pixels
from training.backbones import MissingBackbone, backbone_for
from training.calibration_error import expected_calibration_error
from training.config import ImagesConfig
from training.families.backbone_images import KeptFeatures
from training.families.image_files import LabelledImages, read_images

Indices = NDArray[np.int64]
Single = NDArray[np.float32]
Scorer = Callable[[Array, Indices, Array, int], Array]
"""Log probabilities `[query, class]` from support rows, their classes, query rows, the number of classes."""

HELD_APART = 12
"""Training classes on which settings are chosen."""
QUERIES = 15
UNEVEN = (1, 9)
"""The fewest and the most rows of a class in an uneven support set."""
CHOICE_SEED, TEST_SEED = 11, 77
INVERSE_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
SHARPNESS = (0.03, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
COSINE_SHARPNESS = (5.0, 10.0, 15.0, 20.0, 30.0, 50.0)
SCALINGS = ("as they are", "standardised", "unit length", "centred, unit length")


@dataclass(frozen=True)
class Episode:
    """Rows of a task: positions in the collection, and the class of each within the task."""

    support: Indices
    support_y: Indices
    query: Indices
    query_y: Indices
    ways: int


@dataclass(frozen=True)
class Score:
    """Means over episodes, and the standard error of the accuracy."""

    accuracy: float
    error: float
    nll: float
    ece: float


def episodes(
    labels: Indices, classes: Sequence[int], ways: int, shots: int | None, count: int, seed: int
) -> Iterator[Episode]:
    """Random tasks; None shots is an uneven support set. Classes with too few images take no part."""
    rng = np.random.default_rng(seed)
    most = UNEVEN[1] if shots is None else shots
    rows = [np.flatnonzero(labels == each) for each in classes]
    rows = [each for each in rows if len(each) >= most + QUERIES]
    if len(rows) < ways:
        raise ValueError(f"{len(rows)} classes have {most + QUERIES} images, and {ways} are wanted")
    for _ in range(count):
        support, query, sizes = [], [], []
        for each in rng.choice(len(rows), ways, replace=False):
            size = int(rng.integers(UNEVEN[0], UNEVEN[1] + 1)) if shots is None else shots
            drawn = rng.permutation(rows[each])
            support.append(drawn[:size])
            query.append(drawn[size : size + QUERIES])
            sizes.append(size)
        yield Episode(
            np.concatenate(support),
            np.repeat(np.arange(ways), sizes),
            np.concatenate(query),
            np.repeat(np.arange(ways), QUERIES),
            ways,
        )


def score(scorer: Scorer, features: Array, tasks: Sequence[Episode]) -> Score:
    """The scores of a head on tasks."""
    accuracies, nlls, right, confidence = [], [], [], []
    for task in tasks:
        found = scorer(features[task.support], task.support_y, features[task.query], task.ways)
        good = found.argmax(1) == task.query_y
        accuracies.append(good.mean())
        nlls.append(-found[np.arange(len(found)), task.query_y].mean())
        right.append(good)
        confidence.append(np.exp(found.max(1)))
    ece = expected_calibration_error(
        torch.from_numpy(np.concatenate(right)), torch.from_numpy(np.concatenate(confidence))
    )
    error = float(np.std(accuracies, ddof=1)) / math.sqrt(len(accuracies))
    return Score(float(np.mean(accuracies)), error, float(np.mean(nlls)), ece)


def log_softmax(values: Array) -> Array:
    """Rows of log probabilities."""
    values = values - values.max(1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(1, keepdims=True)))


def scaled(features: Array, known: Array, how: str) -> Array:
    """The features under a scaling; means and deviations are those of the known rows."""
    if how == "standardised":
        return np.asarray((features - known.mean(0)) / (known.std(0) + 1e-6))
    if how == "centred, unit length":
        features = features - known.mean(0)
    if how.endswith("unit length"):
        length = np.linalg.norm(features, axis=1, keepdims=True)
        return np.asarray(features / length * math.sqrt(features.shape[1]))
    return features


def logistic(penalty: float) -> Scorer:
    """Logistic regression on the support set, in the span of its rows, where the weights lie."""

    def scorer(x: Array, y: Indices, query: Array, ways: int) -> Array:
        penalised = penalty / x.shape[1]
        span = np.linalg.qr(x.T)[0]
        x, query = x @ span, query @ span
        fitted = LogisticRegression(C=penalised, max_iter=1000).fit(x, y)
        values = fitted.decision_function(query)
        return log_softmax(values if values.ndim == 2 else np.stack([-values / 2, values / 2], 1))

    return scorer


def support_vectors(penalty: float) -> Scorer:
    """A linear support vector machine, one against the rest; its scores are no probabilities."""

    def scorer(x: Array, y: Indices, query: Array, ways: int) -> Array:
        gram, other = x @ x.T / x.shape[1], query @ x.T / x.shape[1]
        values = [
            SVC(C=penalty, kernel="precomputed").fit(gram, y == each).decision_function(other)
            for each in range(ways)
        ]
        return log_softmax(np.stack(values, 1))

    return scorer


def cosines(sharpness: float) -> Scorer:
    """Cosines to the centroids of the classes, times a sharpness."""

    def scorer(x: Array, y: Indices, query: Array, ways: int) -> Array:
        means = np.stack([x[y == each].mean(0) for each in range(ways)])
        means = means / np.linalg.norm(means, axis=1, keepdims=True)
        return log_softmax(sharpness * (query / np.linalg.norm(query, axis=1, keepdims=True)) @ means.T)

    return scorer


def plda(found: Discriminants, sharpness: float) -> Scorer:
    """Exact Bayesian classes on the axes of probabilistic linear discriminant analysis, with a sharpness."""
    axes, middle, between = (each.numpy() for each in (found.axes, found.middle, found.between))

    def scorer(x: Array, y: Indices, query: Array, ways: int) -> Array:
        z, asked = (x - middle) @ axes, (query - middle) @ axes
        counts = np.bincount(y, minlength=ways)[:, None]
        sums = np.stack([z[y == each].sum(0) for each in range(ways)])
        variance = 1 / (1 / between + counts)
        means, spread = variance * sums, variance + 1
        distance = asked**2 @ (1 / spread).T - 2 * asked @ (means / spread).T + (means**2 / spread).sum(1)
        return log_softmax(-0.5 * sharpness * (distance + np.log(spread).sum(1)))

    return scorer


def version(model: Model) -> Scorer:
    """A published version's head."""

    def scorer(x: Array, y: Indices, query: Array, ways: int) -> Array:
        hot = torch.nn.functional.one_hot(torch.from_numpy(y), ways).float()
        support = Examples.full(torch.from_numpy(x).float().unsqueeze(0), hot.unsqueeze(0))
        with torch.no_grad():
            posterior = model.learner.adapt(model.learned, support)
            belief = model.learner.predict(posterior, torch.from_numpy(query).float().unsqueeze(0))
        assert isinstance(belief, Categorical)
        return np.log(belief.probabilities()[0].double().clamp_min(1e-12).numpy())

    return scorer


@dataclass(frozen=True)
class Rival:
    """A head with its chosen settings, in words, and the features that it takes."""

    name: str
    chosen: str
    scorer: Scorer
    features: Array
    probabilities: bool = True


def rivals(features: Array, labels: Indices, training: Sequence[int], tasks: int) -> list[Rival]:
    """The rivals, with settings chosen on some of the training classes."""
    order = np.random.default_rng(CHOICE_SEED).permutation(np.asarray(training))
    apart, fitted = order[:HELD_APART].tolist(), order[HELD_APART:]
    known = features[np.isin(labels, training)]
    draws = [list(episodes(labels, apart, 5, shots, tasks, CHOICE_SEED)) for shots in (1, 5)]

    def best(candidates: Sequence[tuple[str, Scorer, Array]], by: str = "nll") -> tuple[str, Scorer, Array]:
        def loss(one: tuple[str, Scorer, Array]) -> float:
            found = [score(one[1], one[2], draw) for draw in draws]
            return sum(each.nll if by == "nll" else -each.accuracy for each in found)

        return min(candidates, key=loss)

    scalings = {how: scaled(features, known, how) for how in SCALINGS}
    grid = [(how, penalty) for how in SCALINGS for penalty in INVERSE_PENALTIES]
    found = []
    for name, by, make in (
        ("logistic regression, by NLL", "nll", logistic),
        ("logistic regression, by accuracy", "accuracy", logistic),
        ("linear support vector machine", "accuracy", support_vectors),
    ):
        chosen, scorer, rows = best(
            [(f"{how}, C = {c:g} / features", make(c), scalings[how]) for how, c in grid], by
        )
        found.append(Rival(name, chosen, scorer, rows, make is logistic))
    centred = scalings["standardised"]
    chosen, scorer, rows = best(
        [
            (f"{how}, sharpness {s:g}", cosines(s), values)
            for how, values in (("as they are", features), ("standardised", centred))
            for s in COSINE_SHARPNESS
        ]
    )
    found.append(Rival("cosine centroids", chosen, scorer, rows))
    trial = analysed(features, labels, fitted)
    chosen, _, _ = best([(f"{s:g}", plda(trial, s), features) for s in SHARPNESS])
    final = plda(analysed(features, labels, np.asarray(training)), float(chosen))
    found.append(Rival("PLDA", f"sharpness {chosen}", final, features))
    return found


def analysed(features: Array, labels: Indices, classes: Indices) -> Discriminants:
    """The discriminants of some classes."""
    some = np.isin(labels, classes)
    places = np.searchsorted(np.sort(classes), labels[some])
    return discriminants(torch.from_numpy(features[some]), torch.from_numpy(places), features.shape[1])


def heads(
    collection: LabelledImages, models: Sequence[Model], tasks: int, coarse: LabelledImages | None
) -> tuple[list[Rival], Indices]:
    """All heads, and the label of every image; no rivals where there are no tasks to choose them on.

    Args:
        coarse: the same images, embedded in bfloat16.
    """
    features, labels = collection.pixels.astype(np.float64), collection.labels.astype(np.int64)
    training = np.flatnonzero(collection.roles != "test").tolist()
    ours = [Rival(model.manifest.name, "", version(model), features) for model in models]
    if coarse is not None:
        rounded = coarse.pixels.astype(np.float64)
        ours += [Rival(f"{one.name}, in bfloat16", "", one.scorer, rounded) for one in ours]
    return ours + (rivals(features, labels, training, tasks) if tasks else []), labels


def table(
    every: Sequence[Rival], labels: Indices, classes: Sequence[int], tasks: int
) -> Iterator[tuple[str, list[str]]]:
    """Each setting, in words, with the rows of its table."""
    ways_of = sorted({5, len(classes)})
    for ways in ways_of:
        for shots in (1, 5, 20, None):
            drawn = list(episodes(labels, classes, ways, shots, tasks, TEST_SEED))
            lines = []
            for one in every:
                got = score(one.scorer, one.features, drawn)
                rest = [f"{got.nll:.3f}", f"{100 * got.ece:.1f}"] if one.probabilities else ["none", "none"]
                cells = [one.name, f"{100 * got.accuracy:.1f} ± {100 * got.error:.1f}", *rest]
                lines.append(f"| {' | '.join(cells)} |")
            uneven = f"{UNEVEN[0]} to {UNEVEN[1]} shots"
            yield f"{ways}-way, {uneven if shots is None else f'{shots}-shot'}", lines


def in_bfloat16(backbone: Backbone, image: ImageInput) -> Callable[[Iterator[Pixels], int], Single]:
    """Features as `BMAML_BFLOAT16` has them; nothing of them is kept."""

    def embedded(images: Iterator[Pixels], count: int) -> Single:
        del count
        found = []
        while some := list(itertools.islice(images, IMAGES_PER_BLOCK)):
            values = torch.from_numpy(image.from_pixels(np.stack(some)))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                found.append(backbone.embed(values.view(-1, 3, backbone.size, backbone.size)).numpy())
        return np.concatenate(found)

    return embedded


def family(options: argparse.Namespace, model: Model) -> tuple[LabelledImages, LabelledImages | None]:
    """The collection, embedded by the backbone of a version; and in bfloat16, where that is wanted."""
    described = model.manifest.training["family"]
    config = ImagesConfig(
        str(options.images),
        size=described["size"],
        channels=3,
        split=described["split"],
        crop=described["crop"],
        least=described["least"],
        backbone=described["backbone"],
    )
    backbone = backbone_for(config)
    config = replace(config, size=backbone.size, crop=backbone.info.crop)
    seed = model.manifest.seed
    coarse = (
        read_images(config, seed, in_bfloat16(backbone, config.image)) if options.half_precision else None
    )
    return read_images(config, seed, KeptFeatures(backbone, config).of), coarse


def main() -> None:
    """Score all heads, and print or write the tables."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("images", type=Path)
    arguments.add_argument("versions", nargs="+", help="published heads on the same backbone")
    arguments.add_argument("--store", type=Path, required=True)
    arguments.add_argument("--episodes", type=int, default=150)
    arguments.add_argument("--choice", type=int, default=30, help="tasks that settings are chosen on")
    arguments.add_argument(
        "--half-precision", action="store_true", help="score the versions in bfloat16, too"
    )
    arguments.add_argument("--without-rivals", action="store_true", help="score the versions alone")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.page and options.without_rivals:
        arguments.error("the page has the whole table: leave out --page or --without-rivals")
    store = Store(options.store)
    models = [store.load(name) for name in options.versions]
    block = f"picture-heads-{Path(models[0].manifest.training['family']['split']).stem}"
    if options.page:
        pages.check(options.page, block)
    try:
        collection, coarse = family(options, models[0])
    except MissingBackbone as error:
        print(f"not measured: {error}")
        return
    every, labels = heads(collection, models, 0 if options.without_rivals else options.choice, coarse)
    classes = np.flatnonzero(collection.roles == "test").tolist()
    chosen = [f"{one.name}: {one.chosen}" for one in every if one.chosen]
    lines = [
        f"Measured on {options.machine}: {options.episodes} tasks of {len(classes)} test classes, "
        "± the standard error over tasks.",
    ]
    if chosen:
        lines += ["", f"Chosen on {HELD_APART} training classes: {'; '.join(chosen)}."]
    print("\n".join(lines), flush=True)
    for name, rows in table(every, labels, classes, options.episodes):
        lines += ["", f"| {name} | accuracy, % | NLL | calibration error, % |", "|---|---|---|---|", *rows]
        print("\n".join(lines[-len(rows) - 3 :]), flush=True)
    if options.page:
        pages.write(options.page, lines, block)


if __name__ == "__main__":
    main()
