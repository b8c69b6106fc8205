"""The GPU check hides nothing: every end of a step is written, and all but success is a failure."""

import os
import time

import pytest
import torch

from benchmarks.checks import gpu_check
from benchmarks.checks.gpu_check import (
    ROOT,
    Step,
    files_marked_gpu,
    is_importable,
    page,
    run,
    steps,
    unpacked,
)
from tests.benchmarks.running import run as run_benchmark

PATH = str(ROOT)


def outcome(code, limit_s=60.0, left_s=60.0, rehearsal=False, **options):
    return run(Step("A step", ("-c", code), limit_s, **options), left_s, PATH, rehearsal)


def test_a_step_that_succeeds_has_passed():
    found = outcome("print('there')", proof="there")
    assert (found.ending, found.good) == ("passed", True)
    rehearsed = outcome("print('there')", rehearsal=True)
    assert (rehearsed.ending, rehearsed.good) == ("rehearsed", True)


def test_tests_that_are_skipped_on_a_gpu_are_a_failure():
    found = outcome("print('3 passed, 1 skipped')", proof="passed", refuted="skipped")
    assert (found.ending, found.good) == ("FAILED", False)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('why'); sys.exit(3)", "why\n\nExit status 3."),
        ("raise ValueError('why')", "ValueError: why"),
        ("import os; os.abort()", "Exit status -6."),
        ("print('nothing')", "Its output does not say 'proof'."),
    ],
)
def test_a_step_that_fails_is_written_with_its_reason(code, told):
    found = outcome(code, proof="proof" if "nothing" in code else "")
    assert (found.ending, found.good) == ("FAILED", False)
    assert told in found.told
    assert told.splitlines()[0] in "\n".join(page([found], "cpu", "machine"))


@pytest.mark.parametrize("bounds", [{"limit_s": 2.0}, {"left_s": 2.0}])
def test_a_step_ends_within_its_time_and_so_does_all_that_it_started(bounds):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    start = time.monotonic()
    found = outcome(code, **bounds)
    assert time.monotonic() - start < 60
    assert (found.ending, found.good) == ("TIMED OUT", False)
    assert "ended after 2 s" in found.told


def test_steps_without_time_or_packages_do_not_run():
    assert outcome("", left_s=0.0).ending == "TIMED OUT"
    absent = outcome("", needs=("no_such_package",))
    assert (absent.ending, absent.good) == ("NOT RUN", False)
    assert "no_such_package" in absent.told
    assert outcome("", needs=("no_such_package",), optional=True).good
    assert outcome("", gpu_only=True, rehearsal=True).ending == "NOT RUN"


def test_a_check_is_bounded_and_names_every_test_of_a_gpu():
    marked = files_marked_gpu()
    assert "tests/service/compute/test_cuda_graphs.py" in marked
    for step in steps("cuda"):
        assert 0 < step.limit_s <= gpu_check.TOTAL_S < 480
    assert any(set(marked) <= set(step.command) for step in steps("cuda"))


def test_a_rehearsal_says_that_it_is_one():
    text = "\n".join(page([outcome("print('there')")], "cpu", "machine"))
    assert "a rehearsal, which says nothing of a GPU" in text
    assert f"torch {torch.__version__}" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_nothing_is_checked_unless_it_is_a_rehearsal():
    done = run_benchmark("checks.gpu_check")
    assert done.returncode == 2
    assert "--device cpu rehearses the check" in done.stderr


def test_packages_are_found_in_the_folders_of_a_path(tmp_path):
    (tmp_path / "beside").mkdir()
    assert is_importable("beside", os.pathsep.join([PATH, str(tmp_path)]))
    assert not is_importable("beside", PATH)
    with pytest.raises(SystemExit, match="has no wheels"):
        unpacked(tmp_path, tmp_path / "folder")
