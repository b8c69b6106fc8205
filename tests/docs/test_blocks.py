"""Outputs that a page shows are compared with those that its commands print."""

import pytest

from tests.docs.blocks import Block, check_output

PRINTED = '{"mean": [0.79994, 2], "std": 1e-3}'


def shown(text: str, note: str) -> Block:
    return Block("json", text, 1, note)


@pytest.mark.parametrize("text", ['{"mean": [0.80, 2]}', '{"mean": [0.7999, 2], "std": 0.001}'])
def test_numbers_that_round_to_the_ones_shown_are_accepted(text):
    check_output(shown(text, "output, in part, to the digit"), PRINTED)


@pytest.mark.parametrize(
    "text", ['{"mean": [0.81, 2]}', '{"mean": [0.79, 2]}', '{"mean": [0.80, 3]}', '{"std": 0.002}']
)
def test_numbers_with_another_digit_are_refused_to_the_digit_alone(text):
    check_output(shown(text, "output, in part"), PRINTED)
    with pytest.raises(AssertionError):
        check_output(shown(text, "output, in part, to the digit"), PRINTED)


@pytest.mark.parametrize("text", ['{"mean": [0.8]}', '{"mean": 0.8}', '{"max": [0.8, 2]}', '{"std": true}'])
def test_another_shape_is_refused(text):
    with pytest.raises(AssertionError):
        check_output(shown(text, "output, in part"), PRINTED)
