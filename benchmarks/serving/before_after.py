"""Before and after a change: the service of another checkout and that of this one, loaded in turns.

    git worktree add ../before main
    python -m benchmarks.serving.before_after ../before [--seconds 5] [--rounds 5]

Every round starts both services and puts the closed loops of `throughput.py` on one after the other, so that
a drift of the machine meets both. Answers per second depend on what else the machine does; processor time
per answer hardly does. Settings of the environment (BMAML_…) apply to both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import command_line
from benchmarks.processes import cpu_seconds
from benchmarks.serving.load_generator import LoadResult, closed_loop
from benchmarks.serving.throughput import CLOSED_LOOPS, OURS, Load, row, serving
from benchmarks.serving.workload import requests

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Turn:
    """One closed loop of a comparison: the load's result, and processor seconds of the server."""

    result: LoadResult
    cpu_s: float

    @property
    def cpu_ms(self) -> float:
        """Processor milliseconds per good answer."""
        return 1000 * self.cpu_s / len(self.result.latencies)


def comparison(checkout: Path, seconds: float, rounds: int) -> list[str]:
    """Tables of the two services, loaded in turns.

    Ratios are taken within a round, and the order alternates from round to round.
    """
    turns: dict[tuple[Load, str], list[Turn]] = {}
    for number in range(rounds):
        with serving(OURS, checkout) as theirs, serving(OURS) as ours:
            order = [(BEFORE, theirs), (AFTER, ours)][:: -1 if number % 2 else 1]
            for load in CLOSED_LOOPS:
                for kind, server in order:
                    closed_loop(server.port, requests(load.model), load.clients, seconds / 5)
                    used = cpu_seconds(server.pid)
                    result = closed_loop(server.port, requests(load.model), load.clients, seconds)
                    turn = Turn(result, cpu_seconds(server.pid) - used)
                    turns.setdefault((load, kind), []).append(turn)
                    print(row(f"{load.model}, {kind}", load.clients, result), flush=True)
    columns: dict[str, Callable[[Turn], float]] = {
        "answers a second": lambda turn: turn.result.rate,
        "p50, ms": lambda turn: turn.result.median,
        "processor ms an answer": lambda turn: turn.cpu_ms,
    }
    lines = [f"Medians of {rounds} rounds; every load {seconds:g} s a round."]
    for name, figure in columns.items():
        lines += ["", f"| model | clients | {name}: before | after | after / before | lowest | highest |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for load in CLOSED_LOOPS:
            before, after = ([figure(turn) for turn in turns[load, kind]] for kind in (BEFORE, AFTER))
            ratios = [new / old for old, new in zip(before, after, strict=True)]
            lines.append(
                f"| {load.model} | {load.clients} | {median(before):.4g} | {median(after):.4g} "
                f"| {median(ratios):.3f} | {min(ratios):.3f} | {max(ratios):.3f} |"
            )
    return lines


def main() -> None:
    """Print the tables."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("checkout", type=Path, help="folder of the repository before the change")
    arguments.add_argument("--seconds", type=float, default=5, help="of every closed loop")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    if not (options.checkout / "service").is_dir():
        arguments.error(f"{options.checkout} has no folder service/: it is no checkout of this repository")
    print("\n".join(comparison(options.checkout.resolve(), options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
