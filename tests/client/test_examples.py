"""The active-learning loop that fits on a page does what it says."""

import re
import subprocess
import sys
from pathlib import Path

LOOP = "examples/active_learning.py"


def test_ten_rounds_fit_on_a_page_and_the_error_falls():
    assert len(Path(LOOP).read_text().splitlines()) < 25
    done = subprocess.run([sys.executable, LOOP], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    errors = [float(each) for each in re.findall(r"error (\d+\.\d+)", done.stdout)]
    assert len(errors) == 10
    assert errors[-1] < errors[0] / 100
