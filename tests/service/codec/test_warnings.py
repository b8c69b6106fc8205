"""Warnings about the number of support rows."""

from functools import partial

import pytest

from service.settings import Settings
from tests.published import publish
from tests.service.conftest import serve


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
