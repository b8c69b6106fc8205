"""The benchmark of policies: every learner at equal environment steps, tables of what was measured."""

import json
import sys
from functools import partial

import pytest

from benchmarks.accuracy import policies
from benchmarks.accuracy.policies import (
    CONTENDERS,
    EPISODES,
    PROBLEMS,
    contenders,
    learner_of,
    reference,
    runs,
    table,
)
from training.families.worlds import WORLDS, Navigation, Ring

COLUMNS = ("mean", "chosen", "served", "found")


def results_of(seeds, crossed=False):
    """A made-up result of every run: returns that name their run."""
    made = {}
    for place, (name, *_) in enumerate(runs(seeds, crossed)):
        made[name] = {column: [place + after / 10 for after in range(4)] for column in COLUMNS}
        made[name]["seconds"] = [float(place)]
    return made


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_all_learners_act_the_same_number_of_episodes(problem):
    for contender in [*contenders(problem), *contenders(problem, crossed=True)]:
        policy = learner_of(problem, contender)
        assert policy.particles * (EPISODES // policy.particles) == EPISODES
        assert policy.objective == contender.objective
        assert policy.steps == 1


def test_a_table_has_means_and_deviations_over_seeds():
    found = results_of(2)
    lines = table(PROBLEMS[0], found, 2)
    assert lines[2].startswith("| learner | mean 1 |")
    first = CONTENDERS[0].name
    one, two = (found[f"dense/{first}/{seed}"]["mean"][1] for seed in (1, 2))
    row = next(line for line in lines if line.startswith(f"| {first} |"))
    assert row.split("|")[2].strip() == f"{(one + two) / 2:.2f} ± {abs(one - two) / 2**0.5:.2f}"
    assert len(lines) == 4 + len(contenders(PROBLEMS[0])) + 2 + 1


def test_both_tables_together_have_each_step_with_each_objective():
    for problem in PROBLEMS:
        first, others = ({each.name for each in contenders(problem, crossed)} for crossed in (False, True))
        assert not first & others
        expected = {CONTENDERS[-1].name} if problem.name == "long" else {each.name for each in CONTENDERS}
        assert first | others == expected
    lines = table(PROBLEMS[0], results_of(1, crossed=True), 1, crossed=True)
    assert [line.split("|")[1].strip() for line in lines[4:-1]] == list(PROBLEMS[0].crossed)


def test_an_oracle_is_paid_in_every_task_and_standing_still_in_none():
    (dense, _), (ring, found) = (reference(problem, 1.0) for problem in PROBLEMS[:2])
    assert -1 < dense < 0
    assert 12.5 < ring < 13.5
    assert found == 1.0
    assert reference(PROBLEMS[1], 0.0) == (0.0, 0.0)
    assert reference(PROBLEMS[0], 0.0)[0] < -30


def test_it_goes_on_where_it_was_and_writes_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(WORLDS, "navigation", partial(Navigation, horizon=5))
    monkeypatch.setitem(WORLDS, "ring", partial(Ring, horizon=5))
    monkeypatch.setattr("training.families.world_tasks.HELD_OUT_TASKS", 2)
    monkeypatch.setattr("training.families.world_tasks.VALIDATION_TASKS", 2)
    results = results_of(1)
    missing = next(iter(results))
    del results[missing]
    file, page = tmp_path / "runs" / "results.json", tmp_path / "page.md"
    file.parent.mkdir()
    file.write_text(json.dumps(results))
    page.write_text("<!-- measured: policies: begin -->\n<!-- measured: policies: end -->\n")
    arguments = ["--results", str(file), "--seeds", "1", "--share", "0.01", "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["policies", *arguments])
    policies.main()
    assert capsys.readouterr().out.startswith(missing)
    after = json.loads(file.read_text())
    assert {name: each for name, each in after.items() if name != missing} == results
    assert len(after[missing]["chosen"]) == 4
    assert page.read_text().count("| EMAML |") == 3
