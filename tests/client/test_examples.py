"""The examples of the client do what they say."""

import re
import subprocess
import sys
from pathlib import Path

from service.settings import Settings
from tests.published import publish_policy
from tests.service.conftest import serve

LOOP = "examples/active_learning.py"


def test_ten_rounds_fit_on_a_page_and_the_error_falls():
    assert len(Path(LOOP).read_text().splitlines()) < 25
    done = subprocess.run([sys.executable, LOOP], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    errors = [float(each) for each in re.findall(r"error (\d+\.\d+)", done.stdout)]
    assert len(errors) == 10
    assert errors[-1] < errors[0] / 100


def test_navigate_acts_round_by_round_over_http_and_draws_the_paths(tmp_path):
    publish_policy(tmp_path / "store")
    picture = tmp_path / "paths.png"
    command = [sys.executable, "examples/navigate.py", "walker", "--picture", str(picture)]
    for served in serve(Settings(store=tmp_path / "store", device="cpu")):
        options = ["--rounds", "2", "--episodes", "2"]
        done = subprocess.run(
            [*command, "--url", served.url, *options], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert len(re.findall(r"round \d: mean return -?\d+\.\d\d, best particle [0-3]", done.stdout)) == 2
    assert re.search(r"chosen: particle [0-3], mean return -?\d+\.\d\d on fresh episodes", done.stdout)
    assert picture.read_bytes().startswith(b"\x89PNG")
