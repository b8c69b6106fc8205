"""The tests of dashboard and alerts see what is wrong with an expression."""

import pytest

from tests.monitoring.promql import Unknown, labels_of

SERIES = {
    "up": frozenset({"job", "instance"}),
    "asked_total": frozenset({"job", "instance", "route"}),
    "took_bucket": frozenset({"job", "instance", "route", "le"}),
}


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("up", "job instance"),
        ("1 - up", "job instance"),
        ("rate(asked_total[5m])", "job instance route"),
        ("sum(asked_total)", ""),
        ("topk(3, asked_total)", "job instance route"),
        ("sum by (route) (rate(asked_total[5m])) / 60", "route"),
        ("sum without (route) (asked_total) > up", "job instance"),
        ("histogram_quantile(0.9, sum by (le, route) (rate(took_bucket[5m])))", "route"),
        ("asked_total * on (instance) up", "job instance route"),
        ("sum(asked_total) or vector(0)", ""),
        ("max_over_time(up[1h:5m] offset 1d)", "job instance"),
        ("absent(up)", "job instance"),
    ],
)
def test_the_labels_of_a_result_are_known(expression, labels):
    assert labels_of(expression, SERIES) == frozenset(labels.split())


@pytest.mark.parametrize(
    "expression",
    [
        "asked",
        'up{route="/"}',
        'rate(asked_total{status="200"}[5m])',
        "sum by (status) (asked_total)",
        "sum without (status) (asked_total)",
        "histogram_quantile(0.9, asked_total)",
        "histogram_quantile(0.9, sum by (route) (took_bucket))",
        "asked_total / on (route) up",
        "asked_total / up",
    ],
)
def test_what_would_be_empty_for_ever_is_seen(expression):
    with pytest.raises(Unknown):
        labels_of(expression, SERIES)


def test_what_is_no_expression_is_seen():
    with pytest.raises(ValueError, match="unclosed"):
        labels_of("sum(up", SERIES)
