"""Links: transformed quantiles, moments against numeric integration, cells that add up to one."""

import math

import pytest
import torch

from bmaml.links import NARROW_CELL, Link, log_cell_probability
from bmaml.predictive import Predictive
from bmaml.transformed import Transformed

POSITIVE = Link("log", low=0.0)
BOUNDED = Link("logit", low=-1.0, high=3.0, margin=1e-3)
COUNT = Link("log1p", low=0.0, step=1.0, whole=True)
WHOLE = Link("none", low=2.0, step=1.0, whole=True)
LINKS = {"log": POSITIVE, "logit": BOUNDED, "log1p": COUNT, "whole": WHOLE}
"""A link of each kind."""


def _belief(seed: int = 0, spread: float = 1.0) -> Predictive:
    draw = torch.Generator().manual_seed(seed)
    shape = (1, 3, 4, 1)
    means = 1.5 + torch.randn(shape, generator=draw, dtype=torch.float64)
    noise, within = (spread * torch.rand(shape, generator=draw, dtype=torch.float64) + 0.05 for _ in "ab")
    logs = torch.randn(1, 3, generator=draw, dtype=torch.float64).log_softmax(-1)
    return Predictive(means, noise, within, logs)


def _grid(count: int = 4001, reach: float = 9.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of a standard normal variable, evenly spaced."""
    nodes = torch.linspace(-reach, reach, count, dtype=torch.float64)
    weights = (-0.5 * nodes.square()).exp()
    return nodes, weights / weights.sum()


def _dense_moments(link: Link, location: float, noise: float, within: float) -> tuple[float, float, float]:
    """Mean, aleatoric and epistemic variance by brute force over f and e."""
    nodes, weights = _grid(1201)
    f = location + within**0.5 * nodes
    z = f.unsqueeze(1) + noise**0.5 * nodes
    y = link.nearest(z) if link.whole else link.to_values(z)
    mean_given_f = y @ weights
    variance_given_f = y.square() @ weights - mean_given_f.square()
    mean = weights @ mean_given_f
    return float(mean), float(weights @ variance_given_f), float(weights @ (mean_given_f - mean).square())


@pytest.mark.parametrize("name", LINKS)
def test_the_scale_and_its_inverse_undo_each_other(name: str) -> None:
    link = LINKS[name]
    z = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
    torch.testing.assert_close(link.to_scale(link.to_values(z)), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LINKS)
def test_arrays_and_tensors_have_one_scale(name: str) -> None:
    link = LINKS[name]
    y = torch.tensor([-5.0, -1.0, -1e-3, 0.0, 1e-9, 0.5, 2.0, 2.9999, 3.0, 7.0, 1e9], dtype=torch.float64)
    found = torch.from_numpy(link.array_to_scale(y.numpy()))
    torch.testing.assert_close(found, link.to_scale(y), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ["log", "logit"])
def test_quantiles_are_transformed_quantiles(name: str) -> None:
    link, levels = LINKS[name], torch.tensor([[0.05, 0.5, 0.95]], dtype=torch.float64)
    belief = _belief()
    expected = link.to_values(belief.quantiles(levels))
    assert torch.equal(Transformed(belief, (link,)).quantiles(levels), expected)


@pytest.mark.parametrize("name", ["log1p", "whole"])
def test_quantiles_of_whole_numbers_are_the_smallest_that_hold_the_level(name: str) -> None:
    link, belief = LINKS[name], _belief()
    answered = Transformed(belief, (link,))
    for level in (0.05, 0.3, 0.5, 0.95):
        levels = torch.tensor([[level]], dtype=torch.float64)
        found = answered.quantiles(levels)[:, 0]
        assert torch.equal(found, found.round())
        assert bool((found >= link.low).all())
        up_to = belief.cdf(link.to_scale(found + 0.5))
        assert bool((up_to >= level - 1e-9).all())
        below = torch.where(found > link.low, belief.cdf(link.to_scale(found - 0.5)), 0.0)
        assert bool((below < level).all())


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize(
    ("location", "noise", "within"), [(0.3, 0.2, 0.1), (1.2, 0.05, 0.6), (-0.8, 1.0, 0.4)]
)
def test_moments_are_those_of_numeric_integration(
    name: str, location: float, noise: float, within: float
) -> None:
    link = LINKS[name]
    found = [float(each) for each in link.moments(*torch.tensor([location, noise, within]).double())]
    expected = _dense_moments(link, location, noise, within)
    # The mesh of rounded values has steps of its own; the split of the sum is integrated with few nodes.
    assert found[0] == pytest.approx(expected[0], abs=2e-3 if link.whole else 1e-6)
    assert found[1] + found[2] == pytest.approx(sum(expected[1:]), rel=1e-2 if link.whole else 1e-5)
    assert found[1] == pytest.approx(expected[1], abs=(0.1 if link.whole else 1e-3) * sum(expected[1:]))


@pytest.mark.parametrize("std", [1e-3, 0.1, 1.0, 3.0, 30.0])
def test_logistic_moments_are_precise_at_every_width(std: float) -> None:
    nodes, weights = _grid(200_001)
    unit = Link("logit", low=0.0, high=1.0, margin=1e-3)
    for location in (0.0, -1.0, 4.0):
        y = torch.sigmoid(location + std * nodes)
        mean = float(weights @ y)
        variance = float(weights @ (y - mean).square())
        own = torch.tensor([location, std**2, 0.0], dtype=torch.float64)
        found = [float(each) for each in unit.moments(*own)]
        assert found[0] == pytest.approx(mean, abs=1e-7)
        assert found[1] + found[2] == pytest.approx(variance, rel=1e-5)


def test_log_normal_moments_have_their_closed_form() -> None:
    location, noise, within = torch.tensor([0.7, 0.3, 0.5], dtype=torch.float64)
    mean, aleatoric, epistemic = POSITIVE.moments(location, noise, within)
    total = torch.expm1(noise + within) * torch.exp(2 * location + noise + within)
    torch.testing.assert_close(mean, torch.exp(location + (noise + within) / 2))
    torch.testing.assert_close(aleatoric + epistemic, total)


@pytest.mark.parametrize("name", LINKS)
def test_variances_add_up(name: str) -> None:
    answered = Transformed(_belief(), (LINKS[name],))
    total = answered.aleatoric() + answered.epistemic()
    torch.testing.assert_close(answered.variance(), total)
    between = answered.stds.square() + (answered.means - answered.mean().unsqueeze(1)).square()
    weights = answered.log_weights.exp()[..., None, None]
    torch.testing.assert_close((weights * between).sum(1), total)
    assert bool((answered.epistemic() >= 0).all())


@pytest.mark.parametrize("name", ["log1p", "whole"])
def test_the_probabilities_of_whole_numbers_add_up_and_have_the_answered_mean(name: str) -> None:
    link = LINKS[name]
    answered = Transformed(_belief(spread=0.3), (link,))
    values = torch.arange(3000, dtype=torch.float64) + link.low
    logs = torch.stack([answered.log_density(torch.full((1, 4, 1), v, dtype=torch.float64)) for v in values])
    probabilities = logs.exp()
    torch.testing.assert_close(
        probabilities.sum(0), torch.ones(1, 4, 1, dtype=torch.float64), rtol=1e-6, atol=0
    )
    mean = (values.view(-1, 1, 1, 1) * probabilities).sum(0)
    torch.testing.assert_close(answered.mean(), mean, rtol=1e-4, atol=1e-6)
    square = (values.square().view(-1, 1, 1, 1) * probabilities).sum(0)
    torch.testing.assert_close(answered.variance(), square - mean.square(), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["log", "logit"])
def test_densities_integrate_to_one(name: str) -> None:
    link, belief = LINKS[name], _belief()
    z = torch.linspace(-9, 12, 20_001, dtype=torch.float64)
    y = link.to_values(z)
    answered = Transformed(belief.at_rows(torch.zeros(1, len(y), dtype=torch.long)), (link,))
    logs = answered.log_density(y.view(1, -1, 1)).flatten()
    inside = (y > link.low + link.margin) & (y < link.high - link.margin)
    assert float(torch.trapezoid(logs.exp()[inside], y[inside])) == pytest.approx(1, abs=2e-3)


def test_the_cell_of_a_bound_holds_all_that_lies_beyond() -> None:
    grid = Link("logit", low=0.0, high=1.0, margin=0.0125, step=0.05)
    answered = Transformed(_belief(), (grid,))
    labels = torch.arange(21, dtype=torch.float64) / 20
    logs = torch.stack([answered.log_density(label.expand(1, 4, 1)) for label in labels])
    torch.testing.assert_close((logs.exp() * 0.05).sum(0), torch.ones(1, 4, 1, dtype=torch.float64))


def test_cells_keep_their_probability_far_in_the_tails_and_when_narrow() -> None:
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for where in (0.0, 5.0, 40.0, -40.0):
        for width in (1e-9, 1e-6, 1e-3, 0.5):
            lower, upper = zero + where, zero + where + width
            found = float(log_cell_probability(lower, upper, zero, one))
            nodes = torch.linspace(where, where + width, 2001, dtype=torch.float64)
            logs = -0.5 * nodes.square() - 0.5 * math.log(2 * math.pi)
            top = logs.max()
            expected = float(top + torch.trapezoid((logs - top).exp(), nodes - where).log())
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_cell_absurdly_far_away_has_no_probability_rather_than_no_number() -> None:
    one = torch.ones((), dtype=torch.float64)
    assert float(log_cell_probability(0 * one, one, 1e80 * one, one)) < -1e100


@pytest.mark.parametrize("where", [0.0, 0.5, 1.7, 3.0, 8.0])
def test_a_cell_has_its_probability_on_either_side_of_the_width_where_the_series_ends(where: float) -> None:
    mean, std = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for part in (0.5, 0.999, 1.001, 2.0):
        half = 0.5 * part * NARROW_CELL / (1 + where)
        lower, upper = mean + where - half, mean + where + half
        expected = 0.5 * ((lower / math.sqrt(2)).erfc() - (upper / math.sqrt(2)).erfc())
        assert float(log_cell_probability(lower, upper, mean, std)) == pytest.approx(
            float(expected.log()), abs=1e-8
        )


@pytest.mark.parametrize("name", LINKS)
def test_the_crps_is_that_of_samples(name: str) -> None:
    link, belief = LINKS[name], _belief()
    one = belief.at_rows(torch.zeros(1, 1, dtype=torch.long))
    answered = Transformed(one, (link,))
    draw = torch.Generator().manual_seed(1)
    chosen = torch.multinomial(one.log_weights.exp()[0], 20_000, True, generator=draw)
    scales = (one.noise + one.within).sqrt()[0, chosen, 0, 0]
    z = one.means[0, chosen, 0, 0] + scales * torch.randn(20_000, generator=draw, dtype=torch.float64)
    y = link.nearest(z) if link.whole else link.to_values(z)
    truth = torch.tensor(4.0 if link.whole else 1.5, dtype=torch.float64)
    other = y[torch.randperm(len(y), generator=draw)]
    expected = float((y - truth).abs().mean() - 0.5 * (y - other).abs().mean())
    assert float(answered.crps(truth.view(1, 1, 1))) == pytest.approx(expected, rel=0.05)


def test_a_light_hypothesis_far_away_does_not_carry_the_mean_of_a_log_normal_belief() -> None:
    bounded = Link("log", low=0.0, max_location=3.0, max_variance=1.0)
    row = torch.tensor([1.0, 40.0], dtype=torch.float64).view(1, 2, 1, 1)
    variance = torch.tensor([0.2, 90.0], dtype=torch.float64).view(1, 2, 1, 1)
    logs = torch.tensor([[1 - 1e-4, 1e-4]], dtype=torch.float64).log()
    answered = Transformed(Predictive(row, variance, torch.zeros_like(variance), logs), (bounded,))
    own = math.exp(1.0 + 0.1)
    assert float(answered.mean()) == pytest.approx(own, rel=2e-3)
    torch.testing.assert_close(answered.variance(), answered.aleatoric() + answered.epistemic())
    assert float(answered.mean()) < float(answered.interval(0.9)[1])


def test_a_belief_wholly_above_training_keeps_a_mean_inside_its_interval() -> None:
    bounded = Link("log", low=0.0, max_location=3.0, max_variance=1.0)
    belief = _belief(spread=0.2)
    above = Predictive(belief.means + 8.0, belief.noise, belief.within, belief.log_weights)
    answered = Transformed(above, (bounded,))
    lower, upper = answered.interval(0.9)
    assert bool(((answered.mean() > lower) & (answered.mean() < upper)).all())


@pytest.mark.parametrize("name", LINKS)
def test_values_far_out_on_the_scale_are_finite_in_single_precision(name: str) -> None:
    link = LINKS[name]
    values = link.quantile(torch.tensor([-500.0, 0.0, 500.0]))
    assert bool(values.isfinite().all())
    assert bool((values >= link.low).all() & (values <= link.high).all())
    if name == "log":
        assert float(values[0]) > 0


@pytest.mark.parametrize("std", [0.3, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("name", ["log1p", "whole"])
def test_components_narrower_than_a_cell_have_the_number_they_lie_on(name: str, std: float) -> None:
    """Also where the sum over cells goes over into its integral."""
    link = LINKS[name]
    numbers = link.low + torch.tensor([7.0, 8, 31, 32, 33, 60], dtype=torch.float64)
    width = std / (1 + numbers) if link.scale == "log1p" else torch.full_like(numbers, std)
    part = 0.5 * width.square()
    mean, *_ = link.moments(link.to_scale(numbers), part, part)
    torch.testing.assert_close(mean, numbers, rtol=0, atol=0.13)
