"""The active learning of Yoon et al. 2018: learners trained end to end, and the shipped heads, buy labels.

    python -m benchmarks.accuracy.paper_labelling grocery grocery32.zip --results FOLDER --classes 39 \\
        [--tasks 50] [--rounds 20] [--page docs/active-learning.md]

FOLDER is that of `paper_images`, whose versions take part, with the shipped version of the same data beside
them. A task shows one image of each of five test classes; the pool has 20 more of each, without labels
(`omniglot`: 14, for a character has 20 drawings). Each round buys the label of the image with the highest
predictive entropy, or epistemic part (`bald`), or of any image, and the learner adapts again to all labels.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import command_line, pages
from benchmarks.accuracy.active_learning import run
from benchmarks.accuracy.labelling_problems import PoolProblem, image_problem
from benchmarks.accuracy.labelling_report import difference, over_rounds
from benchmarks.accuracy.paper_images import LEARNERS
from model_store import SHIPPED

ACQUISITIONS = ("random", "entropy", "bald")
POOLS = {"omniglot": 14}
POOL = 20
"""Images of each class to choose from; `POOLS` has the exceptions."""


@dataclass(frozen=True)
class Contestant:
    """A published version that takes part."""

    title: str
    store: Path
    name: str
    images: Path


def rows_of(title: str, problem: PoolProblem, shown: tuple[int, ...]) -> list[str]:
    """A row for each acquisition: accuracy after some labels, and the gain over random choice."""
    found: dict[str, NDArray[np.float64]] = {}
    with torch.no_grad():
        for name in ACQUISITIONS:
            if name == "bald" and not problem.model.learner.has_epistemic:
                continue
            found[name] = 100 * run(problem, name, zlib.crc32(b"draws"))["error rate"]
    rows = []
    for name, errors in found.items():
        gain = (
            ""
            if name == "random"
            else str(difference(over_rounds(found["random"]), over_rounds(errors), problem.groups))
        )
        cells = [f"{100 - errors[:, at].mean():.1f}" for at in shown]
        rows.append(f"| {title} | {name} | {' | '.join(cells)} | {gain} |")
    return rows


def main() -> None:
    """Play all rounds with every version, and print or write the table."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("name", help="of the data set, and of the shipped version")
    arguments.add_argument("images", type=Path)
    arguments.add_argument("--results", type=Path, required=True, help="the folder of paper_images")
    arguments.add_argument("--classes", type=int, required=True, help="training classes of the versions")
    arguments.add_argument("--seed", type=int, default=0, help="of the versions")
    arguments.add_argument("--tasks", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--store", type=Path, default=SHIPPED, help="of the shipped version")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    block = f"paper-labelling-{options.name}"
    if options.page:
        pages.check(options.page, block)
    contestants = [
        Contestant(
            f"{learner}, M = {particles}",
            options.results / "store",
            f"{options.name}-{learner}-{particles}-{options.classes}-{options.seed}",
            options.results / "data" / f"{options.name}-{options.classes}-{options.seed}.npz",
        )
        for learner, particles in LEARNERS
    ]
    contestants.append(Contestant(f"`{options.name}` (shipped)", options.store, options.name, options.images))
    shown = tuple(sorted({0, options.rounds // 4, options.rounds // 2, options.rounds}))
    pool = POOLS.get(options.name, POOL)
    rows = []
    for each in contestants:
        problem = image_problem(each.name, each.images, options.tasks, each.store, pool, options.rounds)
        rows += rows_of(each.title, problem, shown)
        print("\n".join(rows[-len(ACQUISITIONS) :]), flush=True)
    lines = [
        f"Measured on {options.machine}, one thread: {options.tasks} tasks of five test classes, one image "
        f"shown, a pool of {pool} each; {options.classes} training classes. The gain is the accuracy "
        "averaged over all rounds less that of random choice, ± its standard error.",
        "",
        f"| {options.name} | label bought by | {' | '.join(f'{at} bought, %' for at in shown)} "
        "| gain over random, points |",
        "|---" * (3 + len(shown)) + "|",
        *rows,
    ]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, block)


if __name__ == "__main__":
    main()
