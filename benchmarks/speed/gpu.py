"""Tasks a second on a GPU against the number of tasks: kernel by kernel (singly), and launched whole.

    python -m benchmarks.speed.gpu [--repeats 30] [--page docs/performance.md]

The networks, rows and steps of `adaptation.py`. Whole is a recorded computation
(`service/compute/cuda_graphs.py`), from arrays on the host to arrays on the host; busy is the share of that
time in which the device computes, found by launching it again and again without a copy; the rest are gaps
that the host leaves. The floor is the same as there, with both rates measured on this device. Ends with 2
where there is no GPU.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import pages
from benchmarks.speed.adaptation import BASE, NETWORK, floor, milliseconds, ours, problem
from bmaml.learners import BFA, Collapsed, Learner
from bmaml.task import Examples
from service.compute.cuda_graphs import Arrays, GpuRecorder

TASKS = (1, 4, 16, 64, 256, 1024, 4096)


def waited(run: Callable[[], object]) -> Callable[[], object]:
    """The same, done when the device is."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    return whole


def answered(
    learner: Learner[Any], learned: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor, query: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of every query row."""
    return ours(learner, learned, Examples(x, y, mask), query)


def rates(particles: int, repeats: int) -> tuple[float, float]:
    """Floating-point operations and bytes a second, of a batch of small products and of a copy."""
    left = torch.randn(4096 * particles, 10, 40, device="cuda")
    right = torch.randn(4096 * particles, 40, 40, device="cuda")
    product = milliseconds(waited(lambda: torch.bmm(left, right)), repeats)
    block = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(block)
    copy = milliseconds(waited(lambda: target.copy_(block)), repeats)
    return 2 * left.numel() * 40 / product * 1e3, 2 * 4 * block.numel() / copy * 1e3


def row(
    learner: Learner[Any], tasks: int, recorder: GpuRecorder, lowest: float, repeats: int
) -> tuple[float, float, float, float]:
    """Of one batch: milliseconds kernel by kernel, whole and busy; and the floor's share of the second."""
    learned = {
        name: each.cuda() for name, each in learner.initialise(torch.Generator().manual_seed(0)).items()
    }
    support, query = problem(tasks, BASE["support"], BASE["query"])
    arrays: Arrays = [each.numpy() for each in (support.x, support.y, support.mask, query)]
    there = [torch.from_numpy(each).cuda() for each in arrays]
    function = partial(answered, learner, learned)
    recording = recorder(function, arrays)
    expected = torch.cat([each.double().flatten() for each in function(*there)]).cpu()
    found = torch.cat([torch.from_numpy(each).flatten() for each in recording.launch(arrays).wait()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    singly = milliseconds(waited(lambda: function(*there)), repeats)
    whole = milliseconds(lambda: recording.launch(arrays).wait(), repeats)
    busy = milliseconds(waited(lambda: [recording.replay() for _ in range(10)]), repeats) / 10
    return singly, whole, busy, lowest * tasks / whole


def main() -> int:
    """Print the table; write it into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--page", type=Path, help="docs/performance.md; else nothing is written")
    options = parser.parse_args()
    if options.page:
        pages.check(options.page, "gpu")
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 2
    learners: dict[str, Learner[Any]] = {
        "bfa": BFA(NETWORK, particles=BASE["particles"], steps=BASE["steps"], step_size=1e-4),
        "collapsed": Collapsed(NETWORK, particles=BASE["particles"], steps=0),
    }
    recorder = GpuRecorder()
    with torch.no_grad():
        flops, bandwidth = rates(BASE["particles"], options.repeats)
        lines = [
            f"Measured on one {torch.cuda.get_device_name()}: {flops / 1e12:.1f} TFLOP/s in small products, "
            f"{bandwidth / 1e9:.0f} GB/s in a copy.",
            "",
            "| learner | tasks | singly, ms | whole, ms | tasks a second | busy | share of the floor |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, learner in learners.items():
            lowest = floor({**BASE, "steps": learner.steps}, flops, bandwidth)
            for tasks in TASKS:
                singly, whole, busy, share = row(learner, tasks, recorder, lowest, options.repeats)
                lines.append(
                    f"| `{name}` | {tasks} | {singly:.2f} | {whole:.2f} | {1000 * tasks / whole:,.0f} | "
                    f"{100 * busy / whole:.0f} % | {100 * share:.0f} % |"
                )
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "gpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
