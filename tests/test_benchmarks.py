"""The accuracy benchmark is in working order; its figures are another matter."""

import os
import subprocess
import sys


def test_a_quick_look_trains_scores_and_prints_a_table(tmp_path):
    command = [sys.executable, "benchmarks/accuracy.py", "--quick", "--jobs", "1", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "llama", "GP, kernel"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in ("llama", "GP, kernel learned on the training tasks", "`sinusoid`"):
        assert {f"| {shots} | {name}" for shots in (5, 10, 20)} <= {
            "|".join(line.split("|")[:3]).rstrip() for line in lines
        }
    assert "inner rate of llama on sine: 0.0001" in lines
