"""The prior's share by distance from the training range and the support rows, and the ceiling of noise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmaml.extrapolation import FAR_DISTANCE, all_inside, distance, prior_share
from bmaml.predictive import Predictive
from bmaml.task import Examples

RANGE = torch.tensor([[-1.0, 0.0], [1.0, 4.0]], dtype=torch.float64)
UNIT = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
places = st.lists(st.floats(-5, 5), max_size=6)


def rows(*values):
    return torch.tensor([values], dtype=torch.float64)


def column(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def shown(x):
    return Examples.full(x, x[..., :0])


def far_from(x, *support):
    """The distance of rows of one input, trained on [0, 1], from it and the support rows."""
    return distance(column(*x), UNIT, shown(column(*support)))[0]


NOTHING = shown(rows([0.0, 0.0])[:, :0])


def test_the_prior_has_no_share_inside_and_at_the_ends_of_the_range():
    x = rows([0.0, 2.0], [-1.0, 0.0], [1.0, 4.0], [1.0 + 1e-7, 2.0])
    for support in (NOTHING, shown(rows([3.0, 9.0]))):
        assert prior_share(x, RANGE, support).tolist() == [[0.0, 0.0, 0.0, 0.0]]
    assert all_inside(x[:, :3], RANGE)
    assert not all_inside(x, RANGE)


def test_without_support_rows_outside_one_input_is_measured_in_widths_of_the_range():
    x = [1.0 + FAR_DISTANCE, -FAR_DISTANCE, 2.0]
    expected = torch.tensor([FAR_DISTANCE, FAR_DISTANCE, 1.0]).double()
    torch.testing.assert_close(far_from(x), expected)
    torch.testing.assert_close(far_from(x, 0.0, 0.3, 1.0), expected)
    far, whole = 1 - math.exp(-0.5), 1 - math.exp(-0.5 / FAR_DISTANCE**2)
    share = prior_share(column(*x), UNIT, shown(column()))
    torch.testing.assert_close(share[0], torch.tensor([far, far, whole]).double())


@pytest.mark.parametrize("inputs", [1, 2, 19])
def test_one_odd_input_among_many_counts_by_the_root_of_their_number(inputs):
    trained = torch.tensor([[0.0], [1.0]]).double().expand(-1, inputs)
    x = torch.full((1, 1, inputs), 0.5).double()
    x[..., 0] = 1.5
    alone = distance(x, trained, shown(x[:, :0]))
    torch.testing.assert_close(alone, torch.full((1, 1), 0.5 / inputs**0.5).double())
    assert distance(x.flip(-1), trained, shown(x[:, :0])) == alone


def test_all_inputs_outside_alike_count_as_one():
    x = rows([1.5, 5.0], [-1.5, -1.0])  # a quarter of both widths
    torch.testing.assert_close(distance(x, RANGE, NOTHING), torch.tensor([[0.25, 0.25]]).double())


def test_there_is_no_distance_at_support_rows_nor_between_near_ones():
    """Ages of 36 where training saw 49 to 85, in widths of that range."""
    ages = (36 - 49) / 36
    assert far_from([ages], ages).tolist() == [0.0]
    assert far_from([1.6, 1.75, 1.8], 1.6, 1.8).tolist() == [0.0, 0.0, 0.0]
    assert far_from([1.1], 1.2).tolist() == [0.0]  # between the range and a near row


def test_beyond_all_support_rows_it_is_the_distance_to_the_nearest():
    torch.testing.assert_close(far_from([1.9, 7.5], 1.5, 1.6), torch.tensor([0.3, 5.9]).double())


def test_a_support_row_in_wrong_units_covers_hardly_more_than_itself():
    x = [1.3, 2.0, -0.7]
    torch.testing.assert_close(far_from(x, 1000.0), far_from(x), rtol=3e-4, atol=0)
    assert far_from([1000.0], 1000.0).tolist() == [0.0]


@given(support=places, far=st.floats(1, 5))
def test_beyond_range_and_support_rows_the_share_grows_with_distance(support, far):
    end = max([1.0, *support])
    found = prior_share(column(*(end + far * step / 8 for step in range(9))), UNIT, shown(column(*support)))
    assert (found.diff() >= 0).all()
    assert found[0, -1] > 0.99


@given(support=places, more=places, x=st.floats(-5, 5))
def test_further_support_rows_never_take_a_row_farther_away(support, more, x):
    assert far_from([x], *support, *more) <= far_from([x], *support) + 1e-12


@given(support=places, x=st.floats(-5, 5))
def test_no_row_is_farther_than_from_the_range_or_from_its_nearest_support_row(support, x):
    found = float(far_from([x], *support))
    assert 0 <= found <= float(far_from([x])) + 1e-12
    assert found <= min((abs(x - each) for each in support), default=math.inf) + 1e-12


@given(support=places, x=st.floats(-5, 5))
def test_the_distance_does_not_know_left_from_right(support, x):
    mirrored = far_from([1 - x], *(1 - each for each in support))
    torch.testing.assert_close(far_from([x], *support), mirrored, rtol=1e-6, atol=2e-6)


def test_neither_padding_nor_other_tasks_change_a_distance():
    draw = torch.Generator().manual_seed(0)
    x = 6 * torch.randn(3, 7, 2, generator=draw, dtype=torch.float64)
    sets = [4 * torch.randn(rows, 2, generator=draw, dtype=torch.float64) for rows in (0, 2, 5)]
    batch = Examples.padded([(each, each[:, :0]) for each in sets])
    garbage = torch.where(batch.mask.unsqueeze(-1), batch.x, 3.0)
    together = distance(x, RANGE, Examples(garbage, batch.y, batch.mask))
    for task, own in enumerate(sets):
        alone = distance(x[task : task + 1], RANGE, shown(own.unsqueeze(0)))
        assert torch.equal(together[task : task + 1], alone)


def test_a_support_set_that_all_tasks_share_serves_each():
    x = 6 * torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    support = rows([2.0, 3.0], [-3.0, 9.0])
    each = distance(x, RANGE, shown(support.expand(3, -1, -1)))
    assert torch.equal(distance(x, RANGE, shown(support)), each)


def test_the_ceiling_of_noise_is_one_per_output_and_moves_nothing_else():
    shape = (1, 2, 3, 2)
    belief = Predictive(
        means=torch.zeros(shape, dtype=torch.float64),
        noise=torch.arange(12.0, dtype=torch.float64).view(shape),
        within=torch.ones(shape, dtype=torch.float64),
        log_weights=torch.full((1, 2), math.log(0.5), dtype=torch.float64),
    )
    capped = belief.with_noise_at_most(torch.tensor([math.inf, 4.0]))
    assert torch.equal(capped.noise[..., 0], belief.noise[..., 0])
    assert torch.equal(capped.noise[..., 1], belief.noise[..., 1].clamp_max(4.0))
    assert torch.equal(capped.epistemic(), belief.epistemic())
