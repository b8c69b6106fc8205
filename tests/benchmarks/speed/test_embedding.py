"""Every way to embed pictures that is timed gives the service's features, up to its precision."""

import pytest
import torch

from benchmarks.speed.embedding import ways
from bmaml.embedding import ConvNet


@pytest.mark.parametrize("views", [1, 3])
def test_all_ways_give_the_same_features(views):
    network = ConvNet(channels=1, size=28, width=16, views=views)
    generator = torch.Generator().manual_seed(0)
    learned = network.initialise(generator)
    pictures = torch.rand(4, 1, 28, 28, generator=generator)
    expected, *others = (features(pictures) for features in ways(network, learned).values())
    *exact, rough = others
    for found in exact:
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(rough, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
