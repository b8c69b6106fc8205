"""The classification experiment of Yoon et al. 2018: learners trained end to end from pixels, on few classes.

    python -m benchmarks.accuracy.paper_images omniglot28.npz --name omniglot --split class_split_vinyals \\
        --rotations --classes 20 1028 --results FOLDER [--page docs/paper-images.md]
    python -m benchmarks.accuracy.paper_images grocery32.zip --name grocery --split folder --rgb --size 32 \\
        --classes 10 39 --results FOLDER [--page docs/paper-images.md]

Features are shared, and the particles are softmax heads on them (§5.2 of the paper): features and heads are
trained together on the meta-objective of the learner, five classes and one shot a task, five inner steps
along the mean gradient of the rows.
`--classes` are the numbers of training classes; each seed draws its own. All are scored on the same tasks of
test classes. A run that is in FOLDER is not made again: stop whenever you like and repeat the command.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import command_line, pages
from bmaml.embedding import ConvNet
from bmaml.learners import learner_from
from model_store import Model, Store
from training.config import ImagesConfig, Optimisation, Shots, TrainingConfig
from training.evaluate_classes import class_metrics
from training.families import Images
from training.families.image_features import embed
from training.loop import train
from training.publish import unpublished

LEARNERS = (("maml", 1), ("emaml", 5), ("bfa", 5), ("bmaml", 5))
"""Learners with their numbers of particles."""
ENSEMBLES = ("emaml", "bfa", "bmaml")
"""Learners of several particles."""
WAYS, QUERIES, INNER_STEPS, META_BATCH = 5, 5, 5, 4
RATE = 0.05
"""The inner rate where it is not learned, for each particle, and its start where it is learned."""
SHOTS = (1, 5)
SEED_OF_TASKS = 77


def reduced(images: Images, classes: int, seed: int, path: Path) -> Path:
    """The collection with so many training classes, drawn at random, as an npz that names the roles."""
    found = images.collection
    training = np.flatnonzero(found.roles == "train")
    kept = np.random.default_rng(seed).permutation(training)[:classes]
    wanted = np.flatnonzero((found.roles != "train") | np.isin(np.arange(len(found.roles)), kept))
    some = np.isin(found.labels, wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=found.pixels[some], labels=found.labels[some], split=found.roles[wanted])
    return path


def settings_for(name: str, particles: int, features: int) -> dict[str, Any]:
    """The settings of a learner with linear heads; the inner rate of `bmaml` is fixed.

    The chaser loss is zero at a rate of zero, which is where it would learn to go. SVGD divides by the number
    of particles, and its rate is as many times higher.
    """
    network = {"inputs": features, "hidden": (), "outputs": WAYS, "activation": "relu"}
    chased = name == "bmaml"
    return {
        "network": network,
        "particles": particles,
        "likelihood": "categorical",
        "steps": INNER_STEPS,
        "mean_gradient": True,
        "step_size": RATE * (particles if name in ("bfa", "bmaml") else 1),
        "learn_step_size": "none" if chased else "scalar",
        **({"fixed_precisions": True} if name in ("bfa", "bmaml") else {}),
    }


def trained(config: TrainingConfig, folder: Path) -> tuple[Model, float]:
    """A model after its training, and the CPU-minutes that this took."""
    assert isinstance(config.family, ImagesConfig)
    images = Images(config.family, config.seed)
    learner = learner_from(config.learner, config.settings)
    started = time.process_time()
    result = train(config, images, learner, folder)
    minutes = (time.process_time() - started) / 60
    described = {
        "name": config.name,
        "learner": config.learner,
        "settings": config.settings,
        "training": config.as_data(),
        "seed": config.seed,
        "code_version": "benchmark",
        "kind": "classification",
        "image": images.image,
        "classes": WAYS,
        "embedding": config.embedding,
    }
    return unpublished(described, learner, result.learned), minutes


def measured(options: argparse.Namespace, classes: int, learner: str, particles: int, seed: int) -> Any:
    """The scores of one learner on so many training classes; from the results, or trained now."""
    name = f"{options.name}-{learner}-{particles}-{classes}-{seed}"
    kept = options.results / f"{name}-{options.meta_steps}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    family = ImagesConfig(
        path=str(options.images),
        size=options.size,
        channels=3 if options.rgb else 1,
        split=options.split,
        ways=WAYS,
        shots=Shots(1, 1),
        queries=QUERIES,
        rotations=options.rotations,
        augment=0.0,
    )
    everything = Images(family, 0)
    path = reduced(
        everything, classes, seed, options.results / "data" / f"{options.name}-{classes}-{seed}.npz"
    )
    embedding = ConvNet(family.channels, family.size, options.width)
    plan = Optimisation(
        meta_steps=options.meta_steps,
        meta_batch=META_BATCH,
        learning_rate=4e-3,
        final_rate=0.02,
        decay="cosine",
        warmup=20,
        clip=5.0,
        evaluate_every=max(1, options.meta_steps // 4),
        patience=0,
    )
    config = TrainingConfig(
        name,
        replace(family, path=str(path), split="split"),
        learner,
        settings_for(learner, particles, embedding.features),
        plan,
        seed,
        asdict(embedding),
    )
    model, minutes = trained(config, options.results / "runs" / name)
    Store(options.results / "store").publish(
        name, "# Trained by a benchmark\n", model.learned, **published_fields(model)
    )
    pixels, index = everything.of_role("test")
    assert model.embedding is not None
    features = embed(model.embedding, model.learned, pixels)
    scores = {
        str(shots): asdict(
            class_metrics(model, features, index, WAYS, shots, options.episodes, SEED_OF_TASKS)
        )
        for shots in SHOTS
    }
    found = {"minutes": minutes, "scores": scores}
    kept.write_text(json.dumps(found))
    print(name, json.dumps(found), flush=True)
    return found


def published_fields(model: Model) -> dict[str, Any]:
    """The fields of a manifest that the store does not write itself."""
    names = (
        "kind",
        "learner",
        "settings",
        "training",
        "seed",
        "code_version",
        "image",
        "classes",
        "embedding",
    )
    return {**{name: getattr(model.manifest, name) for name in names}, "metrics": {}}


def row(learner: str, particles: int, classes: int, runs: list[Any]) -> str:
    """A row of the table: means over seeds, and the range of the seeds; the interval is over tasks."""
    cells = [f"{learner}, M = {particles}", str(classes)]
    for shots in map(str, SHOTS):
        each = [run["scores"][shots] for run in runs]
        mean = {
            key: float(np.mean([one[key] for one in each]))
            for key in ("accuracy", "nll", "ece", "half_width")
        }
        cells += [
            f"{100 * mean['accuracy']:.1f} ± {100 * mean['half_width']:.1f}",
            f"{mean['nll']:.3f}",
            f"{100 * mean['ece']:.1f}",
        ]
    accuracies = [100 * run["scores"]["1"]["accuracy"] for run in runs]
    cells.append(f"{min(accuracies):.1f} to {max(accuracies):.1f}")
    cells.append(f"{np.mean([run['minutes'] for run in runs]):.2f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train what is missing, score it, and print or write the table."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("images", type=Path)
    arguments.add_argument("--name", required=True, help="of the data set, on the page")
    arguments.add_argument("--split", default="folder", help="as of bmaml-train images")
    arguments.add_argument("--rgb", action="store_true")
    arguments.add_argument("--size", type=int, default=28)
    arguments.add_argument("--rotations", action="store_true", help="turned classes are further classes")
    arguments.add_argument("--width", type=int, default=32, help="channels of the network")
    arguments.add_argument("--classes", type=int, nargs="+", required=True, help="training classes")
    arguments.add_argument(
        "--particles",
        type=int,
        nargs="*",
        default=[],
        help="further ones of ensembles, on the fewest classes",
    )
    arguments.add_argument("--meta-steps", type=int, default=400)
    arguments.add_argument("--episodes", type=int, default=400)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--results", type=Path, required=True, help="keeps what is trained and measured")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    block = f"paper-{options.name}"
    if options.page:
        pages.check(options.page, block)
    further = [(name, particles) for particles in options.particles for name in ENSEMBLES]
    rows = []
    for classes in options.classes:
        for learner, particles in [*LEARNERS, *(further if classes == min(options.classes) else ())]:
            runs = [measured(options, classes, learner, particles, seed) for seed in range(options.seeds)]
            rows.append(row(learner, particles, classes, runs))
            print(rows[-1], flush=True)
    heads = "".join(
        f" | 5-way {shots}-shot, % | {shots}-shot: NLL | {shots}-shot: calibration error, %"
        for shots in SHOTS
    )
    lines = [
        f"Measured on {options.machine}, one thread: {options.episodes} tasks of test classes, ± half a 95 % "
        f"interval over tasks; {options.meta_steps} meta-steps of {META_BATCH}; seeds: {options.seeds}.",
        "",
        f"| end to end on `{options.name}` | training classes{heads} | seeds, 1-shot, % | CPU-minutes |",
        "|---" * (4 + 3 * len(SHOTS)) + "|",
        *rows,
    ]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, block)


if __name__ == "__main__":
    main()
