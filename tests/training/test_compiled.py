"""Compiling changes how fast training is, and its result by rounding alone.

In processes of their own: the shape checks of the other tests do not go through a compiler.
"""

import os
import subprocess
import sys

import pytest
import torch

from model_store import Store


def train(tmp_path, name, *more, **environment):
    command = [
        sys.executable,
        "-m",
        "training",
        "sinusoid",
        "--name",
        name,
        "--learner",
        "bmaml",
        "--hidden",
        "4",
    ]
    command += [
        "--particles",
        "2",
        "--meta-steps",
        "5",
        "--meta-batch",
        "2",
        "--shots",
        "3",
        "--queries",
        "3",
    ]
    command += ["--evaluate-every", "5", "--device", "cpu", "--patience", "0"]
    command += ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs"), *more]
    variables = {**os.environ, "PYTHONPATH": os.getcwd(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        command, env={**variables, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return Store(tmp_path / "store").load(name).learned["initial"], done.stderr


@pytest.mark.slow
def test_compiled_training_gives_the_same_weights(tmp_path):
    plain, _ = train(tmp_path, "plain")
    compiled, printed = train(tmp_path, "compiled", "--compile")
    assert "not compiled" not in printed
    torch.testing.assert_close(compiled, plain)


def test_without_a_compiler_training_goes_on_and_says_so(tmp_path):
    plain, _ = train(tmp_path, "plain")
    without, printed = train(
        tmp_path, "without", "--compile", CXX="/nowhere/c++", TORCHINDUCTOR_CACHE_DIR=str(tmp_path)
    )
    assert "not compiled, going on without (" in printed
    assert torch.equal(without, plain)
