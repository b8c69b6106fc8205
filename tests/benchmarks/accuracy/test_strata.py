"""Coverage by stratum."""

import numpy as np

from benchmarks.accuracy.number_scores import NumberScore, Panel
from benchmarks.accuracy.number_tasks import FAMILY
from benchmarks.accuracy.strata import MIN_GROUP, strata_table, worst_groups


def score(inside: list[bool], particles: float = 1.0, distance: float = 0.1, group: str = "a") -> NumberScore:
    rows = np.array(inside)
    return NumberScore(
        rows, np.full(len(rows), distance), *[0.0] * 6, particles, False, True, {"kind": group}
    )


def cells(lines: list[str]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)}


def test_a_stratum_counts_its_own_tasks_and_rows():
    family = [score([True, True], 1.2), score([True, False], 1.4), score([False, False], 2.0, 0.5)]
    panels = [Panel(5, FAMILY, family), Panel(5, "noise", [score([False], 9.0, np.inf), None])]
    found = cells(strata_table(panels))
    assert found["in 90 % (tasks)"] == ["5", "5, shifted"]
    assert found["effective particles below 1.5"] == ["75 % (2)", ""]
    assert found["effective particles 1.5 to 3"] == ["0 % (1)", ""]
    assert found["effective particles 3 and more"] == ["", "0 % (1)"]
    assert found["distance below 0.3"] == ["75 % (2)", ""]
    assert found["distance 0.3 to 1"] == ["0 % (1)", ""]
    assert found["tasks with under half inside"] == ["33 % (3)", "100 % (1)"]


def test_the_worst_groups_are_named_and_small_ones_left_out():
    scores = [score([True], group="good")] * MIN_GROUP + [score([False], group="small")]
    scores += [score([True, False], group="bad")] * (MIN_GROUP + 1)
    assert worst_groups(scores, "kind") == ["50 % (bad, 6)", "100 % (good, 5)"]
    found = cells(strata_table([Panel(5, FAMILY, scores)]))
    assert found["worst kind"] == ["50 % (bad, 6)"]
    assert found["third worst kind"] == [""]
