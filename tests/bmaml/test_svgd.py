"""Stein variational gradient descent: the laws of docs/method.md and the defects other code has."""

import math

import pytest
import torch

from bmaml import svgd


def kernel_direction(particles, scores, width):
    """φ from autograd of the kernel itself, particle by particle."""
    count = len(particles)
    result = torch.zeros_like(particles)
    for i in range(count):
        for j in range(count):
            source = particles[j].clone().requires_grad_()
            value = torch.exp(-(source - particles[i]).square().sum() / width)
            (slope,) = torch.autograd.grad(value, source)
            result[i] += value.detach() * scores[j] + slope
    return result / count


def test_direction_is_scores_times_kernel_plus_autograd_of_the_kernel():
    particles, scores = torch.randn(2, 4, 3)
    width = torch.tensor([1.7])
    expected = kernel_direction(particles, scores, 1.7)
    torch.testing.assert_close(svgd.direction(particles[None], scores[None], width)[0], expected)


@pytest.mark.parametrize("count", [3, 4])
def test_bandwidth_is_the_median_over_distinct_pairs(count):
    particles = torch.randn(1, count, 2)
    pairs = torch.pdist(particles[0]).square()
    expected = pairs.quantile(0.5) / math.log(count + 1)
    found = svgd.median_bandwidth(svgd.squared_distances(particles))
    torch.testing.assert_close(found, expected[None])


def test_no_gradient_flows_through_the_bandwidth():
    particles = torch.randn(1, 4, 2, requires_grad=True)
    assert not svgd.median_bandwidth(svgd.squared_distances(particles)).requires_grad


def test_permuting_particles_permutes_the_direction():
    particles, scores = torch.randn(2, 2, 6, 3)
    order = torch.randperm(6)
    torch.testing.assert_close(
        svgd.direction(particles[:, order], scores[:, order]), svgd.direction(particles, scores)[:, order]
    )


def test_moving_the_origin_changes_nothing():
    particles, scores = torch.randn(2, 1, 5, 3)
    torch.testing.assert_close(svgd.direction(particles + 1e3, scores), svgd.direction(particles, scores))


def test_one_particle_takes_plain_gradient_steps():
    start = torch.randn(1, 1, 3)
    expected = start
    for _ in range(3):
        expected = expected - 0.1 * expected
    torch.testing.assert_close(svgd.run(start, torch.neg, 3, 0.1), expected)


def test_coincident_particles_stay_finite_and_share_their_score():
    particles = torch.ones(1, 4, 2)
    scores = torch.randn(1, 4, 2)
    found = svgd.direction(particles, scores)
    torch.testing.assert_close(found, scores.mean(1, keepdim=True).expand_as(scores))


def test_a_shared_start_equals_one_copy_per_task():
    particles, scores = torch.randn(1, 4, 3), torch.randn(5, 4, 3)
    copies = particles.expand(5, -1, -1).clone()
    torch.testing.assert_close(svgd.direction(particles, scores), svgd.direction(copies, scores))


def test_one_step_size_per_parameter():
    start, rates = torch.randn(1, 3, 2), torch.tensor([0.1, 0.0])
    moved = svgd.run(start, torch.neg, 1, rates)
    assert torch.equal(moved[..., 1], start[..., 1])
    torch.testing.assert_close(moved, start + rates * svgd.direction(start, -start))


def test_variance_of_a_gaussian_rises_towards_the_truth_from_below():
    ratios = []
    for count in (10, 20, 50):
        particles = svgd.run(torch.randn(1, count, 2), torch.neg, 300, 0.5)
        ratios.append(float(particles.var(1, correction=0).mean()))
    assert ratios[0] < ratios[1] < ratios[2] < 1
    assert ratios == pytest.approx([0.66, 0.78, 0.88], abs=0.04)


def test_gradcheck_through_steps_with_the_bandwidth_fixed(monkeypatch):
    monkeypatch.setattr(svgd, "median_bandwidth", lambda squared: torch.full((len(squared),), 1.3))
    start = torch.randn(1, 3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda theta: svgd.run(theta, lambda t: -(t**3), 2, 0.1), (start,), atol=1e-7
    )
