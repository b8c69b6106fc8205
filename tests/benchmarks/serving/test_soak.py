"""The soak test tells memory that grows from memory that does not."""

import pytest

from benchmarks.serving.soak import Sample, steady


def _samples(minutes, size):
    """One every five seconds, 300 requests each."""
    return [Sample(5 * n, size(5 * n / 60), 0.0, 300 * n) for n in range(12 * minutes)]


@pytest.mark.parametrize(
    ("size", "fine"),
    [
        (lambda minute: 250.0, True),
        (lambda minute: 250.0 + minute % 1, True),
        (lambda minute: 200.0 if minute < 0.2 else 250.0, True),
        (lambda minute: 250.0 + 2 * minute, False),
        (lambda minute: 280.0 if 7 < minute < 7.2 else 250.0, False),
    ],
    ids=["constant", "varies within a minute", "warms up", "grows", "one peak"],
)
def test_memory_is_steady_within_two_per_cent(size, fine):
    assert steady(_samples(10, size), 10) is fine
