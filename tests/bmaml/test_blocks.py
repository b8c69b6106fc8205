"""Blocks cover an axis once, in order, and hold no more than they may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmaml.blocks import blocks


@given(count=st.integers(0, 60), most=st.none() | st.integers(1, 200), each=st.integers(0, 30))
def test_blocks_cover_every_item_once_in_order_and_stay_within_their_bound(count, most, each):
    found = list(blocks(count, most, each))
    assert [item for part in found for item in range(count)[part]] == list(range(count))
    for part in found:
        length = part.stop - part.start
        assert length == 1 or most is None or length * each <= most
    assert len({part.stop - part.start for part in found[:-1]}) <= 1


@pytest.mark.parametrize(("most", "expected"), [(None, 1), (7, 10), (20, 5), (1000, 1), (99, 2)])
def test_blocks_are_as_long_as_they_may_be(most, expected):
    assert len(list(blocks(10, most, 10))) == expected
