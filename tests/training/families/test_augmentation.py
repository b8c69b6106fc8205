"""Rotations, distortions and lighting of images."""

import torch

from tests.closed_form import generator
from training.families.augmentation import distorted, relit, rotated


def test_four_quarter_turns_are_none_and_each_turns_its_own():
    images = torch.rand(5, 1, 8, 8)
    quarters = torch.tensor([0, 1, 2, 3, 1])
    once = rotated(images, quarters)
    torch.testing.assert_close(rotated(once, -quarters % 4), images)
    torch.testing.assert_close(once[1], torch.rot90(images[1], 1, (-2, -1)))


def test_no_strength_distorts_nothing_and_light_stays_in_range():
    images = torch.rand(6, 3, 8, 8)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(distorted(images, labels, 0.0, generator()), images)
    lit = relit(images, 3.0, generator())
    assert float(lit.min()) >= 0
    assert float(lit.max()) <= 1
