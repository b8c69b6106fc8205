"""Whether our MAML is MAML: Omniglot, five classes, as Finn et al. 2017 measure it.

    python -m benchmarks.accuracy.maml_check omniglot28.npz --shots 1 --meta-steps 5000 --results FOLDER \\
        [--split alphabets] [--page docs/paper-images.md]

Characters are split at random, whatever their alphabet, as published; `--split alphabets` tests on characters
of alphabets that are not trained on (Vinyals et al. 2016), which is harder.
All layers adapt by one second-order step; four strided convolutions with batch normalisation, Adam with
cosine annealing, rotated characters as further classes, query images normalised by their own moments. Every
look scores validation characters twice: in that way (transductive, as published), and by the moments of the
support set, as the service answers. Test characters are scored at the end, in both ways.
Stop whenever you like and repeat the command: it goes on from the last look. With `--minutes` it ends after
so many CPU-minutes and scores what it has; a higher number goes on from there.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import command_line, pages
from bmaml.conv_classifier import ConvClassifier
from bmaml.learners import learner_from
from model_store import Model
from training.checkpoint import TrainingState
from training.config import ImagesConfig, Optimisation, Shots
from training.evaluate_classes import ClassMetrics, class_metrics
from training.families import Images
from training.families.image_collection import ImageCollection
from training.families.image_files import read_images
from training.loop import meta_step
from training.publish import unpublished

WAYS, META_BATCH, STEP_SIZE = 5, 4, 0.4
LEARNING_RATE = 2e-3
VALIDATION_TASKS, TEST_TASKS = 40, 200
MAX_LOOKS = 12
"""Looks on the page; of more, evenly spaced ones and the last."""
SEED_OF_VALIDATION, SEED_OF_TASKS = 76, 77
TRAINING_CHARACTERS, VALIDATION_CHARACTERS = 1100, 100
"""Of 1,623, as in the published code, which takes them from all alphabets and tests on the rest."""
SEED_OF_CHARACTERS = 1


class RandomCharacters(Images):
    """Omniglot with its characters split at random, whatever their alphabet."""

    def __init__(self, config: ImagesConfig, seed: int) -> None:
        found = read_images(config, seed)
        roles = np.full(len(found.names), "test", dtype="<U10")
        drawn = np.random.default_rng(SEED_OF_CHARACTERS).permutation(len(roles))
        roles[drawn[:TRAINING_CHARACTERS]] = "train"
        roles[drawn[TRAINING_CHARACTERS:][:VALIDATION_CHARACTERS]] = "validation"
        ImageCollection.__init__(self, config, seed, replace(found, roles=roles))


class Check:
    """One run: the tasks, the learner, and the state between two looks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        family = ImagesConfig(
            path=str(options.images),
            size=28,
            channels=1,
            split="class_split_vinyals" if options.split == "alphabets" else None,
            ways=WAYS,
            shots=Shots(options.shots, options.shots),
            queries=options.queries,
            rotations=True,
            augment=0.0,
        )
        read = Images if options.split == "alphabets" else RandomCharacters
        self.images = read(family, options.seed)
        network = ConvClassifier(1, 28, WAYS, options.width, strided=True, normalisation="query")
        self.settings = {
            "network": asdict(network),
            "particles": 1,
            "likelihood": "categorical",
            "steps": 1,
            "mean_gradient": True,
            "step_size": STEP_SIZE,
            "learn_step_size": options.learn_step_size,
        }
        self.learner = learner_from("maml", self.settings)
        self.plan = Optimisation(
            meta_steps=options.meta_steps,
            meta_batch=META_BATCH,
            learning_rate=LEARNING_RATE,
            final_rate=0.01,
            decay="cosine",
            warmup=20,
            clip=0.0,
        )
        learned = self.learner.initialise(torch.Generator().manual_seed(options.seed))
        learned = {name: tensor.requires_grad_() for name, tensor in learned.items()}
        self.state = TrainingState(learned, torch.optim.Adam(learned.values()), torch.device("cpu"))
        self.minutes = 0.0
        self.curve: list[Any] = []
        self.path = options.results / f"{block(options)}-{options.width}-{options.meta_steps}.pt"
        if self.path.exists():
            self._read()

    def run(self) -> None:
        """The steps that are left, with a look after every `--look`."""
        while self.state.step < self.plan.meta_steps and self.minutes < self.options.minutes:
            started = time.process_time()
            seed = int(np.random.SeedSequence([self.options.seed, self.state.step]).generate_state(1)[0])
            batch = self.images.batch(META_BATCH, torch.Generator().manual_seed(seed))
            meta_step(self.state, self.learner.loss, batch, self.plan)
            self.state.step += 1
            self.minutes += (time.process_time() - started) / 60
            ended = self.state.step == self.plan.meta_steps or self.minutes >= self.options.minutes
            if ended or self.state.step % self.options.look == 0:
                self._look()

    def scores(self, role: str, shots: int, tasks: int, seed: int) -> tuple[ClassMetrics, ClassMetrics]:
        """The metrics of the present parameters: transductive, and by the support set's moments."""
        pixels, index = self.images.of_role(role)
        model, rows = self._model(), pixels.float() / 255
        return (
            class_metrics(model, rows, index, WAYS, shots, tasks, seed, transductive=True),
            class_metrics(model, rows, index, WAYS, shots, tasks, seed),
        )

    def _look(self) -> None:
        found = self.scores("validation", self.options.shots, VALIDATION_TASKS, SEED_OF_VALIDATION)
        self.curve.append((self.state.step, self.minutes, *(asdict(each) for each in found)))
        accuracies = [f"{100 * each.accuracy:.2f}" for each in found]
        print(
            f"step {self.state.step}  CPU-minutes {self.minutes:.2f}  %: {', '.join(accuracies)}", flush=True
        )
        kept = {
            "learned": {name: tensor.detach() for name, tensor in self.state.learned.items()},
            "optimiser": self.state.optimiser.state_dict(),
            "step": self.state.step,
            "minutes": self.minutes,
            "curve": self.curve,
        }
        draft = self.path.with_suffix(".new")
        torch.save(kept, draft)
        draft.replace(self.path)

    def _read(self) -> None:
        kept: Mapping[str, Any] = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            for name, tensor in self.state.learned.items():
                tensor.copy_(kept["learned"][name])
        self.state.optimiser.load_state_dict(kept["optimiser"])
        self.state.step, self.minutes, self.curve = kept["step"], kept["minutes"], list(kept["curve"])

    def _model(self) -> Model:
        described = {
            "name": "maml-check",
            "learner": "maml",
            "settings": self.settings,
            "training": {},
            "seed": self.options.seed,
            "code_version": "benchmark",
            "kind": "classification",
            "image": self.images.image,
            "classes": WAYS,
        }
        learned = {name: tensor.detach() for name, tensor in self.state.learned.items()}
        return unpublished(described, self.learner, learned)


def main() -> None:
    """Train what is left, score test characters, and print or write the tables."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("images", type=Path)
    arguments.add_argument("--split", default="characters", choices=("characters", "alphabets"))
    arguments.add_argument("--shots", type=int, default=1)
    arguments.add_argument("--queries", type=int, default=2, help="query images of a class in training")
    arguments.add_argument("--width", type=int, default=64, help="channels of the last three blocks")
    arguments.add_argument("--learn-step-size", default="parameter", choices=("none", "scalar", "parameter"))
    arguments.add_argument("--meta-steps", type=int, default=5000)
    arguments.add_argument("--look", type=int, default=500, help="meta-steps between two looks")
    arguments.add_argument("--minutes", type=float, default=math.inf, help="CPU-minutes after which it ends")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--results", type=Path, required=True, help="keeps the run and its scores")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.page:
        pages.check(options.page, block(options))
    options.results.mkdir(parents=True, exist_ok=True)
    check = Check(options)
    check.run()
    kept = check.path.with_name(f"{check.path.stem}-{check.state.step}.json")
    if not kept.exists():
        scores = {
            shots: [asdict(each) for each in check.scores("test", shots, TEST_TASKS, SEED_OF_TASKS)]
            for shots in (1, 5)
        }
        kept.write_text(json.dumps({"scores": scores, "curve": check.curve}))
    lines = table(options, json.loads(kept.read_text()))
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, block(options))


def block(options: argparse.Namespace) -> str:
    """The name of a run's block on the page, and of its files."""
    return f"maml-{options.split}-{options.shots}"


def table(options: argparse.Namespace, found: Any) -> list[str]:
    """Both tables: test characters, and validation characters after so many CPU-minutes."""
    lines = [
        f"Measured on {options.machine}, one thread: {TEST_TASKS} tasks of test characters, ± half a 95 % "
        f"interval; trained 5-way {options.shots}-shot for {found['curve'][-1][0]} of {options.meta_steps} "
        f"meta-steps of {META_BATCH} tasks, {found['curve'][-1][1]:.1f} CPU-minutes.",
        "",
        "| query images are normalised by | 5-way 1-shot, % | 1-shot: NLL | 1-shot: calibration error, % "
        "| 5-way 5-shot, % | 5-shot: NLL |",
        "|---|---|---|---|---|---|",
    ]
    for row, name in enumerate(("themselves (as published)", "the support set (as served)")):
        one, five = found["scores"]["1"][row], found["scores"]["5"][row]
        cells = [name, _accuracy(one), f"{one['nll']:.3f}", f"{100 * one['ece']:.1f}"]
        cells += [_accuracy(five), f"{five['nll']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"| meta-steps | CPU-minutes | validation, {options.shots}-shot: as published, % | as served, % |",
        "|---|---|---|---|",
    ]
    every = -(-len(found["curve"]) // MAX_LOOKS)
    for step, minutes, published, served in found["curve"][::-1][::every][::-1]:
        lines.append(
            f"| {step} | {minutes:.1f} | {100 * published['accuracy']:.1f} | {100 * served['accuracy']:.1f} |"
        )
    return lines


def _accuracy(each: Mapping[str, float]) -> str:
    return f"{100 * each['accuracy']:.1f} ± {100 * each['half_width']:.1f}"


if __name__ == "__main__":
    main()
