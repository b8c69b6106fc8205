"""Sine curves: their ranges and noise, fixed and unlimited tasks, shots."""

import pytest
import torch

from tests.closed_form import generator
from training.config import Shots, SinusoidConfig
from training.families import Sinusoid
from training.families.sinusoid import curves


def test_curves_have_the_paper_s_ranges_and_relative_noise():
    x, y, clean = curves(2000, 50, generator())
    assert x.abs().max() <= 5
    amplitude = clean.abs().amax(1)
    assert 4.5 < amplitude.max() <= 5
    noise = (y - clean).std(1) / amplitude
    assert noise.median() == pytest.approx(0.01, rel=0.1)  # the largest of 50 points is near A


def test_a_finite_family_repeats_its_points_and_an_unlimited_one_does_not():
    finite = Sinusoid(SinusoidConfig(Shots(5, 5), 5, tasks=3), seed=0)
    seen = {
        float(value) for seed in range(20) for value in finite.batch(4, generator(seed)).support.x[:, 0, 0]
    }
    assert len(seen) == 3
    unlimited = Sinusoid(SinusoidConfig(Shots(5, 5), 5), seed=0)
    assert len({float(unlimited.batch(1, generator(seed)).support.x[0, 0, 0]) for seed in range(20)}) == 20


def test_resplitting_deals_the_same_points_anew():
    family = Sinusoid(SinusoidConfig(Shots(5, 5), 5, tasks=1, resplit=True), seed=0)
    one, other = (family.batch(1, generator(seed)).all_examples().x.flatten() for seed in (1, 2))
    assert not torch.equal(one, other)
    assert torch.equal(one.sort().values, other.sort().values)


def test_shots_vary_within_their_range_and_held_out_values_are_noiseless():
    family = Sinusoid(SinusoidConfig(Shots(2, 6), 5), seed=0)
    counts = family.batch(500, generator()).support.counts()
    assert set(counts.tolist()) == {2, 3, 4, 5, 6}
    (held_out,) = family.held_out(shots=3)
    assert held_out.query.mask.shape == (500, 200)
    assert held_out.support.counts().eq(3).all()
