"""A benchmark's command, run as the manual says."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(module: str, *options: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks.MODULE OPTIONS` from the repository's root, on one thread."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
