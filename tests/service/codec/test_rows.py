"""A list of rows is one array once it is parsed, and what is wrong with it is told where it stands."""

import json

import numpy as np
import pytest

from service.codec.bodies import JSON, parsed
from service.errors import RequestError
from service.schemas.requests import AdaptPredictRequest


def request(rows):
    body = {"model": "tiny", "support": {"x": rows, "y": [1.0] * len(rows)}, "query": {"x": rows}}
    return parsed(json.dumps(body).encode(), JSON, AdaptPredictRequest)


@pytest.mark.parametrize("rows", [[[1.5, 2], [-3, 4e300]], [[0]] * 100, [[]]])
def test_rows_of_one_length_are_an_array_of_doubles(rows):
    for part in (request(rows).support, request(rows).query):
        assert part.x.dtype == np.float64
        np.testing.assert_array_equal(part.x, np.array(rows, np.float64))


@pytest.mark.parametrize("rows", [[], [[1.0], [2.0, 3.0]], [[[0.5]], [[0.25]]]])
def test_other_lists_stay_lists(rows):
    assert request(rows).query.x == rows


@pytest.mark.parametrize("wrong", [True, "2", None, [2.0], {}, float("nan"), -float("inf"), 10**400])
def test_what_is_no_finite_number_is_told_where_it_stands(wrong):
    with pytest.raises(RequestError) as found:
        request([[1.0], [wrong]])
    assert found.value.kind == "invalid-request"
    assert {each.pointer for each in found.value.errors} == {"/support/x/1/0", "/query/x/1/0"}
