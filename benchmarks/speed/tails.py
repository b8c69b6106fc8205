"""Nanoseconds per number of exp, logsumexp and the normal CDF: torch's, and ours for tails (`bmaml.tails`).

python -m benchmarks.speed.tails
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import command_line
from benchmarks.timing import timed
from bmaml import tails

SHAPE = 16, 640, 10
"""Tasks, hypotheses and rows of a batch of `sinusoid`."""
FURTHEST = {"near": 20.0, "far": 20_000.0}
"""Logarithms are drawn between minus this and zero."""
PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exp": (torch.exp, tails.exp),
    "logsumexp": (lambda logs: torch.logsumexp(logs, 1), lambda logs: tails.logsumexp(logs, 1)),
    "Φ": (lambda logs: 0.5 * torch.erfc((-logs).sqrt()), lambda logs: tails.ndtr(-(-2 * logs).sqrt())),
}


def main() -> None:
    """Print a line for each function, near and far."""
    command_line.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    uniform = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    for where, furthest in FURTHEST.items():
        logs = -furthest * uniform
        for name, (theirs, ours) in PAIRS.items():
            one, other = (1e6 * min(timed(partial(f, logs), 100)) / logs.numel() for f in (theirs, ours))
            print(f"{name:>9}, {where}: torch {one:5.2f} ns, ours {other:5.2f} ns, {one / other:4.1f} ×")


if __name__ == "__main__":
    main()
