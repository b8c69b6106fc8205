"""Published versions on the paper's sine curves: a Markdown table of error, likelihood and coverage.

    python benchmarks/sinusoid.py [--shots 5 10 20] [--models sinusoid-bmaml sinusoid]

500 held-out curves × 200 noiseless points per number of shots, the same curves for every model.
"""

import argparse
from pathlib import Path

from model_store import SHIPPED, Store
from training.config import Shots, SinusoidConfig
from training.evaluate import evaluate
from training.families import Sinusoid

COLUMNS = ("mse", "median_mse", "nll", "coverage_50", "coverage_80", "coverage_90", "coverage_95")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--models", nargs="+", default=["sinusoid-bmaml", "sinusoid"])
    parser.add_argument("--store", type=Path, default=SHIPPED)
    options = parser.parse_args()
    print("| model | shots | MSE | median task | NLL | in 50 % | in 80 % | in 90 % | in 95 % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.models:
        model = Store(options.store).load(name)
        for shots in options.shots:
            family = Sinusoid(SinusoidConfig(Shots(shots, shots)), seed=0)
            metrics = evaluate(model, family.held_out()).metrics
            figures = " | ".join(f"{metrics[column]:.4f}" for column in COLUMNS)
            print(f"| `{name}` | {shots} | {figures} |")


if __name__ == "__main__":
    main()
