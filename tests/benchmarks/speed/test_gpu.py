"""The GPU benchmark measures one where there is one, and claims nothing where there is none."""

import pytest
import torch

from tests.benchmarks.running import run


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_there_are_no_figures_of_one():
    done = run("speed.gpu")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "there is no GPU here\n")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_kernel_by_kernel_and_whole():
    done = run("speed.gpu", "--repeats", "3", timeout=600)
    assert done.returncode == 0, done.stderr
    for learner in ("bfa", "collapsed"):
        assert sum(line.startswith(f"| `{learner}` |") for line in done.stdout.splitlines()) == 7
