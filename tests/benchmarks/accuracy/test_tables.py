"""The accuracy benchmarks train, score and print their tables; the figures are another matter."""

import pytest

from benchmarks.pages import blocks
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


def test_the_shift_suite_writes_its_tables_into_a_page_and_says_what_it_leaves_out(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- measured: trust: begin -->\n<!-- measured: trust: end -->\n")
    models = ("sinusoid", "sinusoid-bmaml", "learning-curves", "omniglot")
    done = run("accuracy.shifts", "--tasks", "2", "--page", str(page), "--model", *models)
    assert done.returncode == 0, done.stderr
    assert "learning-curves is left out: learning_curves.parquet is not given" in done.stdout
    assert "omniglot is left out: omniglot28.npz is not given" in done.stdout
    (block,) = blocks(page.read_text())
    assert block.sealed
    for name in models:
        assert (f"### {name}\n" in block.text) is name.startswith("sinusoid")
    assert block.text.count("| 10 | noise × 10 |") == 2
