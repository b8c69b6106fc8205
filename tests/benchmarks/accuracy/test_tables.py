"""The accuracy benchmarks train, score and print their tables; the figures are another matter."""

import pytest

from tests.benchmarks.running import run


@pytest.mark.slow
def test_a_quick_look_trains_scores_and_prints_a_table(tmp_path):
    options = ("--quick", "--jobs", "1", "--results", str(tmp_path), "--only", "llama", "GP, kernel")
    done = run("accuracy.comparison", *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in ("llama", "GP, kernel learned on the training tasks"):
        assert {f"| {shots} | {name}" for shots in (5, 10, 20)} <= set(map(_first_cells, lines))
    assert "inner rate of llama on sine: 0.0001" in lines


def test_the_shipped_versions_are_scored_from_no_row_on():
    done = run("accuracy.shipped_versions", "--held-out", "10")
    assert done.returncode == 0, done.stderr
    expected = {
        f"| {shots} | `{name}`" for shots in (0, 1, 2, 5, 10, 20) for name in ("sinusoid", "sinusoid-bmaml")
    }
    assert expected == {_first_cells(line) for line in done.stdout.splitlines() if line.count("`") == 2}


def _first_cells(line):
    return "|".join(line.split("|")[:3]).rstrip()
