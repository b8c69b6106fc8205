"""Before and after a change: the service of another checkout and that of this one, loaded in turns.

    git worktree add ../before main
    python -m benchmarks.serving.before_after ../before [--seconds 5] [--rounds 5]

Every round starts both services and puts the closed loops of `throughput.py` on them, in short slices that
alternate, so that a drift of the machine meets both. Answers per second depend on what else the machine does;
processor time per answer depends on it less. Settings of the environment (BMAML_…) apply to both.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import command_line
from benchmarks.serving.measurement import Load, Measurement, in_turns
from benchmarks.serving.throughput import CLOSED_LOOPS, OURS, row, serving

BEFORE, AFTER = "before", "after"


def comparison(checkout: Path, seconds: float, rounds: int) -> list[str]:
    """Tables of the two services, with ratios taken within a round."""
    measured: dict[tuple[Load, str], list[Measurement]] = {}
    for _ in range(rounds):
        with serving(OURS, checkout) as theirs, serving(OURS) as ours:
            for load in CLOSED_LOOPS:
                for kind, measurement in in_turns({BEFORE: theirs, AFTER: ours}, load, seconds).items():
                    measured.setdefault((load, kind), []).append(measurement)
                    print(row(f"{load.model}, {kind}", load.clients, measurement.result), flush=True)
    columns: dict[str, Callable[[Measurement], float]] = {
        "answers a second": lambda each: each.result.rate,
        "p50, ms": lambda each: each.result.median,
        "processor ms an answer": lambda each: each.cpu_ms,
    }
    lines = [f"Medians of {rounds} rounds; every load {seconds:g} s a round."]
    for name, figure in columns.items():
        lines += ["", f"| model | clients | {name}: before | after | after / before | lowest | highest |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for load in CLOSED_LOOPS:
            before, after = ([figure(each) for each in measured[load, kind]] for kind in (BEFORE, AFTER))
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
    arguments.add_argument("--seconds", type=float, default=5, help="of every closed loop in a round")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    if not (options.checkout / "service").is_dir():
        arguments.error(f"{options.checkout} has no folder service/: it is no checkout of this repository")
    print("\n".join(comparison(options.checkout.resolve(), options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
