"""A publisher that is killed, or has no room, never leaves half a version behind."""

import os
import random
import subprocess
import sys
from contextlib import suppress

import pytest

from model_store import Store
from model_store.__main__ import main as store_command
from tests.faults.conftest import ROOT
from tests.published import publish
from tests.scale import SCALE

PUBLISHES = """
import resource, signal, sys
from pathlib import Path
from tests.published import publish
root, most_bytes = Path(sys.argv[1]), int(sys.argv[2])
if most_bytes:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
print("ready", flush=True)
for seed in range(10_000):
    publish(root, "tiny", seed=seed)
"""


def publisher(root, most_bytes=0):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHES, str(root), str(most_bytes)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def hidden(root):
    return [entry.name for entry in (root / "tiny").iterdir() if entry.name.startswith(".")]


@pytest.mark.timeout(3600)
def test_killed_at_any_moment_it_leaves_whole_versions_only(tmp_path, capsys):
    chance = random.Random(0)
    publish(tmp_path, "tiny")
    for turn in range(3 * SCALE):
        known = Store(tmp_path).versions("tiny")
        process = publisher(tmp_path)
        while turn % 2 == 0 and Store(tmp_path).versions("tiny") == known:
            assert process.poll() is None
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, 0.1))
        process.kill()
        process.communicate()
        assert store_command(["--store", str(tmp_path), "verify"]) == 0, capsys.readouterr()
        versions = Store(tmp_path).versions("tiny")
        assert versions == list(range(1, len(versions) + 1))
    publish(tmp_path, "tiny")  # the next one clears away what they left
    assert hidden(tmp_path) == []
    assert len(versions) > 3 * SCALE / 2  # every other one has published


def test_without_room_it_fails_with_a_reason_and_the_store_is_as_it_was(tmp_path, capsys):
    publish(tmp_path, "tiny")
    process = publisher(tmp_path, most_bytes=600)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "File too large" in said
    assert Store(tmp_path).versions("tiny") == [1]
    assert store_command(["--store", str(tmp_path), "verify"]) == 0
    assert hidden(tmp_path) == []
