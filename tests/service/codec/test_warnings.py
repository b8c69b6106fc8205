"""Warnings about the number of support rows, and about rows that are given twice."""

from functools import partial

import pytest

from service.settings import Settings
from tests.published import POINTS, UNITS, Y, publish
from tests.service.conftest import serve


def of_copies(reply):
    return [warning for warning in reply["diagnostics"]["warnings"] if "again" in warning]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """The warnings about copies among such rows, by a model of the named output; and the service's client."""
    root = tmp_path_factory.mktemp("repeated")
    for column in (Y, POINTS, UNITS):
        publish(root, column.name, outputs=(column,))

    def ask(client, name, x, y, **more):
        body = {"model": name, "support": {"x": x, "y": y}, "query": {"x": [[0.0]]}, **more}
        return client.post("/adapt-predict", json=body).json()

    for served in serve(Settings(store=root, device="cpu")):
        yield partial(ask, served.client)


@pytest.fixture(scope="module")
def warned(tmp_path_factory):
    """The warnings of so many support rows: `some` was trained with 4 to 8, of `any` that is unknown."""
    root = tmp_path_factory.mktemp("warned")
    publish(root, "some", training={"family": {"shots": {"lowest": 4, "highest": 8}}})
    publish(root, "any")

    def ask(client, name, rows):
        x = [[-2.0 + 0.1 * row] for row in range(rows)]
        support = {"x": x, "y": [8.0 + 0.1 * row for row in range(rows)]}
        body = {"model": name, "support": support, "query": {"x": [[0.0]]}}
        warnings = client.post("/adapt-predict", json=body).json()["diagnostics"]["warnings"]
        return [warning for warning in warnings if "training had" in warning]

    for served in serve(Settings(store=root, device="cpu")):
        yield partial(ask, served.client)


@pytest.mark.parametrize("rows", [4, 8, 9])
def test_as_many_rows_as_in_training_and_a_quarter_of_the_range_more_are_no_matter(warned, rows):
    assert warned("some", rows) == []


@pytest.mark.parametrize(("rows", "advice"), [(1, "less certain"), (3, "less certain"), (10, "too narrow")])
def test_fewer_and_more_rows_are_warned_of(warned, rows, advice):
    (warning,) = warned("some", rows)
    assert f"has {rows} rows, and training had 4 to 8" in warning
    assert advice in warning


@pytest.mark.parametrize("rows", [0, 1, 40])
def test_where_nobody_knows_or_no_row_is_shown_nothing_is_said(warned, rows):
    assert warned("any", rows) == []
    assert warned("some", 0) == []


def test_a_row_that_is_given_twice_is_warned_of(repeated):
    assert of_copies(repeated("y", [[0.0], [1.0], [0.0]], [1.0, 2.0, 1.0])) == [
        "1 of 3 support rows repeat an earlier one, input and label: row 2 is row 0 again; each counts as a "
        "new measurement, and a copy makes the answer too sure: leave copies out"
    ]


def test_two_measurements_at_one_place_are_no_copies(repeated):
    assert of_copies(repeated("y", [[0.0], [1.0], [0.0]], [1.0, 2.0, 1.1])) == []


def test_rows_posted_again_to_their_kept_posterior_are_copies(repeated):
    rows = [[0.0], [1.0]], [1.0, 2.0]
    kept = repeated("y", *rows, keep={"ttl_s": 60})["posterior"]["id"]
    (warning,) = of_copies(repeated("y", *rows, posterior=kept))
    assert "2 of 4 support rows" in warning
    assert "row 2 is row 0 again" in warning


@pytest.mark.parametrize(("copies", "said"), [(1, 0), (2, 1)])
def test_labels_in_steps_agree_by_chance_so_half_of_the_rows_must_be_copies(repeated, copies, said):
    x = [[float(row)] for row in range(4 - copies)]
    y = [0.5 * row for row in range(4 - copies)]
    assert len(of_copies(repeated("points", x + x[:copies], y + y[:copies]))) == said


def test_whole_numbers_repeat_by_themselves(repeated):
    assert of_copies(repeated("units", [[0.0]] * 4, [3, 3, 3, 3])) == []
