"""Particles that each listen to one band of frequencies."""

import math

import torch

from bmaml.frequency_bands import BAND_OVERLAP, redraw_in_bands
from bmaml.learners.collapsed import Collapsed
from bmaml.networks import MLP
from bmaml.task import Examples
from tests.closed_form import generator

BANDS = (0.5, 2.1)


def first_layer(network, weights):
    weight, bias = network.unpack(weights.unsqueeze(0))[0]
    return weight[0], bias[0, :, 0]


def test_every_frequency_lies_in_the_band_of_its_particle():
    network = MLP(3, (50, 4), 1, "sine")
    weights = redraw_in_bands(network, network.initialise(8, generator()), BANDS, generator(1))
    frequencies = first_layer(network, weights)[0].norm(dim=1)  # [particle, unit]
    step = (BANDS[1] - BANDS[0]) / 8
    centres = BANDS[0] + step * (torch.arange(8) + 0.5)
    assert bool(((frequencies - centres.unsqueeze(-1)).abs() <= BAND_OVERLAP * step / 2 + 1e-9).all())


def test_only_the_first_layer_is_redrawn():
    network = MLP(2, (5, 4), 1, "sine")
    before = network.initialise(6, generator())
    after = redraw_in_bands(network, before, BANDS, generator(1))
    size = network.layers[0][0] * network.layers[0][1] + network.layers[0][1]
    assert torch.equal(before[:, size:], after[:, size:])
    assert not bool((before[:, :size] == after[:, :size]).any())


def test_phases_and_directions_cover_the_circle():
    network = MLP(2, (4000,), 1, "sine")
    weight, bias = first_layer(
        network, redraw_in_bands(network, network.initialise(1, generator()), BANDS, generator(1))
    )
    angles = torch.atan2(weight[0, 1], weight[0, 0]) + math.pi
    for each in (bias[0], angles):
        quarters = torch.histc(each, 4, 0, 2 * math.pi) / len(each)
        torch.testing.assert_close(quarters, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_the_evidence_finds_the_frequency_of_a_curve_before_any_training():
    learner = Collapsed(MLP(1, (12,), 1, "sine"), particles=32, bands=BANDS)
    learned = learner.initialise(generator())
    x = torch.linspace(-5, 5, 12).view(1, -1, 1)
    for frequency in (0.7, 1.3, 1.9):
        posterior = learner.adapt(learned, Examples.full(x, torch.sin(frequency * x + 1)))
        best = int(posterior.log_weights[0].argmax())
        centre = BANDS[0] + (BANDS[1] - BANDS[0]) / 32 * (best + 0.5)
        assert abs(centre - frequency) < 0.15
