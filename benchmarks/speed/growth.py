"""Milliseconds of a request's computation as its tasks, rows and particles grow to a thousand.

    python -m benchmarks.speed.growth [--page docs/performance.md]

One size grows, the others stay: one task, five support rows, twenty query rows, and the particles of the
version. A smaller number of particles is the first of them; a larger one repeats them, so that the repeated
ones keep weight, too. Times are CPU times of one thread on the path of the service, medians over turns in
which every size has its own. The last column is the exponent of the size over the last step, where fixed
costs hide it least: 1 where time is proportional to the size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks import command_line, pages
from benchmarks.speed.native import in_turn, job
from bmaml.learners.collapsed import Collapsed
from model_store import SHIPPED, Model, Store
from service.compute import native_path
from service.job import Job

MODELS = ("sinusoid", "learning-curves", "pass-rates")
SUPPORT, QUERY = 5, 20
SIZES = (8, 32, 128, 512, 1000)


def with_particles(model: Model, particles: int) -> Model:
    """The model with the first of its particles, or with all of them over and over."""
    learner = model.learner
    assert isinstance(learner, Collapsed)
    rows = torch.arange(particles) % learner.particles
    learned = {
        name: tensor[rows] if tensor.ndim and len(tensor) == learner.particles else tensor
        for name, tensor in model.learned.items()
    }
    return replace(model, learner=replace(learner, particles=particles), learned=learned)


def requests(model: Model, axis: str, size: int) -> list[Job]:
    """The requests of a batch in which one size has been set."""
    if axis == "tasks":
        return [job(model, SUPPORT, QUERY, seed) for seed in range(size)]
    if axis == "support rows":
        return [job(model, size, QUERY, 0)]
    if axis == "query rows":
        return [job(model, SUPPORT, size, 0)]
    return [job(with_particles(model, size), SUPPORT, QUERY, 0)]


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=7)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    native_path.begin("require")
    lines = [
        f"Measured on {options.machine}, one thread.",
        "",
        f"| model | what grows | {' | '.join(f'{size:,}' for size in SIZES)} | exponent |",
        f"|---|---|{'---|' * len(SIZES)}---|",
    ]
    with torch.inference_mode():
        for name in MODELS:
            model = Store(SHIPPED).load(name, None)
            for axis in ("tasks", "support rows", "query rows", "particles"):
                times = in_turn([answering(requests(model, axis, size)) for size in SIZES], options.repeats)
                exponent = math.log(times[-1] / times[-2]) / math.log(SIZES[-1] / SIZES[-2])
                cells = " | ".join(f"{each:.2f}" for each in times)
                lines.append(f"| `{name}` | {axis} | {cells} | {exponent:.2f} |")
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "growth")


def answering(jobs: Sequence[Job]) -> Callable[[], object]:
    """The call that answers the requests."""
    return lambda: native_path.predict_numbers(list(jobs))


if __name__ == "__main__":
    main()
