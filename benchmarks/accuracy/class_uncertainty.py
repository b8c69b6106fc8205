"""The parts of the uncertainty about classes: by numbers of shots, for foreign images, beside other versions.

    python -m benchmarks.accuracy.class_uncertainty --omniglot omniglot28.npz --grocery grocery32.zip \\
        [--before FOLDER] [--tasks 400] [--page docs/classification.md]

All tasks are of classes that nothing was trained on. A foreign image is one of the other collection.
`--before` names a store with earlier versions on the same features, which answer the same tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.accuracy.classification import foreign_features
from benchmarks.timing import timed
from bmaml.blocks import blocks
from bmaml.categorical import Categorical
from bmaml.learners.conjugate_belief import ConjugateBelief
from bmaml.task import TaskBatch
from model_store import SHIPPED, Model, Store
from training.calibration_error import expected_calibration_error
from training.config import ImagesConfig
from training.families import Images
from training.families.class_index import ClassIndex
from training.families.class_tasks import task_batch, with_uneven_shots
from training.families.image_features import embed

WAYS = 5
SHOTS = (1, 5, 20)
"""Support images of each class; a class of 20 images has 19 and one in question."""
MAX_QUERIES = 5
"""Images in question of each class."""
TASKS_PER_BLOCK = 20
DRAWS, REFERENCE_DRAWS = (16, 32, 64, 128), 4096
COMPARED = (
    (5, 1, False),
    (5, 5, False),
    (5, 20, False),
    (20, 1, False),
    (20, 5, False),
    (5, 5, True),
    (20, 5, True),
)
"""Ways, shots, and whether each class has one to all of the shots, for the comparison of versions."""


@dataclass(frozen=True)
class Scores:
    """The scores of answers, `[task, row]`.

    Attributes:
        right: whether the most probable class is the true one.
        confidence: probability of the most probable class.
        nll: of the true class, nats.
        total, epistemic: entropy and mutual information, nats.
    """

    right: Tensor
    confidence: Tensor
    nll: Tensor
    total: Tensor
    epistemic: Tensor

    @property
    def ece(self) -> float:
        """The calibration error over all rows."""
        return expected_calibration_error(self.right.flatten(), self.confidence.flatten())


def main() -> None:
    """Measure each model whose images are given; print the tables, or write the page."""
    arguments = command_line.parser(__doc__)
    for name in ("omniglot", "grocery"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument("--tasks", type=int, default=400)
    arguments.add_argument("--before", type=Path, help="a store of earlier versions on the same features")
    arguments.add_argument("--store", type=Path, default=SHIPPED)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    paths = {"omniglot": options.omniglot, "grocery": options.grocery}
    for name, path in paths.items():
        model = Store(options.store).load(name)
        own, index = test_features(model, path)
        assert model.embedding is not None
        (other,) = (each for each in paths.values() if each != path)
        foreign = foreign_features(model, other, model.embedding.size)

        def report(block: str, tasks: int, lines: list[str], count: int = len(index)) -> None:
            found = [
                f"Measured on {options.machine}: {tasks} tasks of {count} test classes a line.",
                "",
                *lines,
            ]
            print("\n".join(found), flush=True)
            if options.page:
                pages.write(options.page, found, block)

        report(f"{name}-uncertainty", options.tasks, by_shots(model, own, index, foreign, options.tasks))
        report(f"{name}-draws", TASKS_PER_BLOCK, noise_of_draws(model, own, index))
        if options.before:
            before = Store(options.before).load(name)
            report(f"{name}-versions", options.tasks, beside(before, model, own, index, options.tasks))


def test_features(model: Model, path: Path) -> tuple[Tensor, ClassIndex]:
    """The features of the test classes of a collection."""
    assert model.embedding is not None
    config = ImagesConfig.from_manifest(model.manifest.training["family"], str(path))
    images, index = Images(config, model.manifest.seed).of_role("test")
    return embed(model.embedding, model.learned, images), index


def by_shots(model: Model, own: Tensor, index: ClassIndex, foreign: Tensor, tasks: int) -> list[str]:
    """The parts of the entropy of own and of foreign images, and how well each part detects the latter."""
    lines = [
        "| shots | accuracy, % | calibration error, % | entropy | mutual information | of foreign images | "
        "AUROC of it | AUROC of the entropy |",
        "|---" * 8 + "|",
    ]
    for wanted in SHOTS:
        shots = min(wanted, int(index.counts.min()) - 1)
        batches = list(drawn(own, index, WAYS, shots, False, tasks))
        known = scored(model, batches)
        generator = torch.Generator().manual_seed(9)
        strange = [
            replace(batch, query=replace(batch.query, x=foreign[positions]))
            for batch in batches
            for positions in [torch.randint(len(foreign), batch.query.mask.shape, generator=generator)]
        ]
        unknown = scored(model, strange)
        lines.append(
            f"| {shots} | {100 * float(known.right.mean()):.2f} | {100 * known.ece:.1f} "
            f"| {float(known.total.mean()):.4f} | {float(known.epistemic.mean()):.4f} "
            f"| {float(unknown.epistemic.mean()):.4f} | {auroc(known.epistemic, unknown.epistemic):.3f} "
            f"| {auroc(known.total, unknown.total):.3f} |"
        )
    return [*lines, ""]


def beside(before: Model, model: Model, own: Tensor, index: ClassIndex, tasks: int) -> list[str]:
    """Accuracy, NLL and calibration error of an earlier version and of this one, on the same tasks."""
    lines = [
        "| ways, shots | accuracy before, % | accuracy, % | NLL before | NLL | calibration error before, % | "
        "calibration error, % |",
        "|---" * 7 + "|",
    ]
    fewest = int(index.counts.min())
    for ways, wanted, uneven in COMPARED:
        if ways > len(index):
            continue
        shots = min(wanted, fewest - 1)
        batches = list(drawn(own, index, ways, shots, uneven, tasks))
        old, new = scored(before, batches), scored(model, batches)
        gain = 100 * (new.right.mean(-1) - old.right.mean(-1))
        width = 1.96 * float(gain.std()) / np.sqrt(len(gain))
        lines.append(
            f"| {ways} ways, {f'1 to {shots}' if uneven else shots} | {100 * float(old.right.mean()):.2f} "
            f"| {100 * float(new.right.mean()):.2f} ({float(gain.mean()):+.2f} ± {width:.2f}) "
            f"| {float(old.nll.mean()):.4f} | {float(new.nll.mean()):.4f} "
            f"| {100 * old.ece:.1f} | {100 * new.ece:.1f} |"
        )
    return [*lines, ""]


def noise_of_draws(model: Model, own: Tensor, index: ClassIndex) -> list[str]:
    """The error of the epistemic part and its cost, by the number of draws."""
    lines = ["| draws | shots | mean error, % of the mean | rank correlation | ms |", "|---" * 5 + "|"]
    for draws in DRAWS:
        for shots in SHOTS[:2]:
            (batch,) = drawn(own, index, WAYS, shots, False, TASKS_PER_BLOCK)
            with torch.no_grad():
                belief = model.classify(
                    model.learner.adapt(model.learned, batch.support), batch.query.x, batch.support
                )
                assert isinstance(belief, ConjugateBelief)
                many = replace(belief, pairs=REFERENCE_DRAWS // 2).hypotheses.mutual_information().double()
                few = replace(belief, pairs=draws // 2)
                found = few.hypotheses.mutual_information().double()
                one = few.part(slice(0, 1))
                took = min(timed(lambda one=one: replace(one).mutual_information(), 100))  # type: ignore[misc]
            error = 100 * float((found - many).abs().mean() / many.mean())
            ranks = float(spearmanr(found.flatten().numpy(), many.flatten().numpy()).statistic)
            lines.append(f"| {draws} | {shots} | {error:.0f} | {ranks:.2f} | {took:.2f} |")
    return [*lines, ""]


def drawn(
    features: Tensor, index: ClassIndex, ways: int, shots: int, uneven: bool, tasks: int
) -> Iterator[TaskBatch]:
    """Random tasks; the same every time."""
    generator = torch.Generator().manual_seed(77)
    queries = min(MAX_QUERIES, int(index.counts.min()) - shots)
    for some in blocks(tasks, TASKS_PER_BLOCK):
        draw = index.draw(some.stop - some.start, ways, shots, queries, generator)
        batch = task_batch(draw, features[draw.images])
        yield with_uneven_shots(batch, draw, generator) if uneven else batch


def scored(model: Model, batches: list[TaskBatch]) -> Scores:
    """The scores of the model's beliefs about the query rows."""
    parts: list[list[Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            belief = model.classify(
                model.learner.adapt(model.learned, batch.support), batch.query.x, batch.support
            )
            parts.append(_scores(belief, batch.query.y))
    return Scores(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _scores(belief: Categorical, y: Tensor) -> list[Tensor]:
    best = belief.probabilities().max(-1)
    return [
        each.double()
        for each in (
            best.indices == y.argmax(-1),
            best.values,
            -belief.log_density(y)[..., 0],
            belief.entropy(),
            belief.mutual_information(),
        )
    ]


def auroc(known: Tensor, unknown: Tensor) -> float:
    """The area under the ROC curve of a score that should be higher for unknown rows."""
    labels = np.r_[np.zeros(known.numel()), np.ones(unknown.numel())]
    return float(roc_auc_score(labels, torch.cat([known.flatten(), unknown.flatten()]).numpy()))


if __name__ == "__main__":
    main()
