"""Tasks per second on a GPU, by the number of tasks: kernel by kernel, and as one CUDA graph.

    python -m benchmarks.speed.gpu [--repeats 30] [--page docs/performance.md]

The networks, rows and steps are those of `adaptation.py`. *Singly* launches kernel by kernel. *Whole*
launches a recorded CUDA graph (`service/compute/cuda_graphs.py`), from arrays on the host to arrays on the
host. *Busy* is the share of that time in which the device computes, measured by launches without a copy.
*Gap* is what launching kernel by kernel adds to the device's own time. *Recording* is the memory that it
holds. The floor is that of `adaptation.py`, with both rates measured on this device. The exit status is 2
without a GPU.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import command_line, pages
from benchmarks.speed.adaptation import BASE, NETWORK, Moments, floor, milliseconds, moments, random_tasks
from bmaml.learners import Learned, Learner
from bmaml.learners.bfa import BFA
from bmaml.learners.collapsed import Collapsed
from bmaml.task import Examples
from service.compute.cuda_graphs import Arrays, GpuRecorder

TASKS = (1, 4, 16, 64, 256, 1024, 4096)


def synchronised(run: Callable[[], object]) -> Callable[[], object]:
    """The same function, which returns once the device has finished."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    return whole


def moments_of_arrays(
    learner: Learner[Any], learned: Learned, x: Tensor, y: Tensor, mask: Tensor, query: Tensor
) -> Moments:
    """`adaptation.moments` as a function of tensors alone, which a CUDA graph can record."""
    return moments(learner, learned, Examples(x, y, mask), query)


def rates(particles: int, repeats: int) -> tuple[float, float]:
    """Floating-point operations per second in small products, and bytes per second in a copy."""
    left = torch.randn(4096 * particles, 10, 40, device="cuda")
    right = torch.randn(4096 * particles, 40, 40, device="cuda")
    product = milliseconds(synchronised(lambda: torch.bmm(left, right)), repeats)
    block = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(block)
    copy = milliseconds(synchronised(lambda: target.copy_(block)), repeats)
    return 2 * left.numel() * 40 / product * 1e3, 2 * 4 * block.numel() / copy * 1e3


def row(
    learner: Learner[Any], tasks: int, recorder: GpuRecorder, lowest: float, repeats: int
) -> tuple[float, float, float, float, float]:
    """Milliseconds of one batch kernel by kernel, whole and busy, and the floor as a share of the second.

    The last number is the memory that the recording holds, in bytes.
    """
    learned = {
        name: each.cuda() for name, each in learner.initialise(torch.Generator().manual_seed(0)).items()
    }
    support, query = random_tasks(tasks, BASE["support"], BASE["query"])
    arrays: Arrays = [each.numpy() for each in (support.x, support.y, support.mask, query)]
    there = [torch.from_numpy(each).cuda() for each in arrays]
    function = partial(moments_of_arrays, learner, learned)
    before = torch.cuda.memory_reserved()
    recording = recorder(function, arrays)
    held = float(max(0, torch.cuda.memory_reserved() - before))
    expected = torch.cat([each.double().flatten() for each in function(*there)]).cpu()
    found = torch.cat([torch.from_numpy(each).flatten() for each in recording.launch(arrays).wait()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    singly = milliseconds(synchronised(lambda: function(*there)), repeats)
    whole = milliseconds(lambda: recording.launch(arrays).wait(), repeats)

    def replay_ten() -> None:
        for _ in range(10):
            recording.replay()

    busy = milliseconds(synchronised(replay_ten), repeats) / 10
    return singly, whole, busy, lowest * tasks / whole, held


def main() -> int:
    """Print the table and write it into a page; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=30)
    command_line.add_page(arguments)
    options = arguments.parse_args()
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
            "| learner | tasks | singly, ms | gap, ms | whole, ms | tasks a second | busy "
            "| share of the floor | recording, MB |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, learner in learners.items():
            lowest = floor({**BASE, "steps": learner.steps}, flops, bandwidth)
            for tasks in TASKS:
                singly, whole, busy, share, held = row(learner, tasks, recorder, lowest, options.repeats)
                lines.append(
                    f"| `{name}` | {tasks} | {singly:.2f} | {max(0.0, singly - busy):.2f} | "
                    f"{whole:.2f} | "
                    f"{1000 * tasks / whole:,.0f} | {100 * busy / whole:.0f} % | {100 * share:.0f} % | "
                    f"{held / 1e6:.0f} |"
                )
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "gpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
