"""Random changes of images: other views of a class, and new classes made from it."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

CLASS_ROTATION, CLASS_STRETCH, CLASS_SHEAR = 0.15, 0.1, 0.15
"""Standard deviations of the map that the images of a class share, at strength 1: radians, then fractions."""
ROTATION, STRETCH, SHEAR, SHIFT = 0.1, 0.06, 0.08, 0.06
"""Standard deviations of each image's own map, at strength 1; the shift is a part of half the side."""
BRIGHTNESS, CONTRAST = 0.1, 0.2


def rotated(images: Tensor, quarters: Tensor) -> Tensor:
    """Images `[n, channel, side, side]`, each turned by its number of quarters `[n]` of a circle."""
    result = images.clone()
    for quarter in (1, 2, 3):
        chosen = quarters == quarter
        result[chosen] = torch.rot90(images[chosen], quarter, (-2, -1))
    return result


def distorted(images: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Images `[n, channel, side, side]` under a random affine map of each class and one of each image.

    The map that the images of a class share makes another class of it. The image's own map imitates
    another hand or camera. At strength 1 the standard deviations are 9 and 6 degrees of rotation, 10 and
    6 % of stretch, 0.15 and 0.08 of shear, and 3 % of the side of shift.

    Args:
        labels: the class of each image, 0 …
    """
    classes = int(labels.max()) + 1
    shared = _linear_maps(classes, CLASS_ROTATION, CLASS_STRETCH, CLASS_SHEAR, strength, generator)
    own = _linear_maps(len(images), ROTATION, STRETCH, SHEAR, strength, generator)
    shift = torch.randn(len(images), 2, 1, generator=generator) * SHIFT * strength
    theta = torch.cat([shared[labels] @ own, shift], -1)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False, padding_mode="border")


def relit(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Photographs mirrored half of the time, each with its own brightness and contrast."""
    count = len(images)
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    light = torch.randn(count, images.shape[1], 1, 1, generator=generator) * BRIGHTNESS * strength
    contrast = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * CONTRAST * strength)
    middle = images.mean((1, 2, 3), keepdim=True)
    return ((images - middle) * contrast + middle + light).clamp(0, 1)


def _linear_maps(
    count: int, rotation: float, stretch: float, shear: float, strength: float, generator: torch.Generator
) -> Tensor:
    """Random linear maps of the plane, `[n, 2, 2]`."""
    angle, first, second, slant = torch.randn(4, count, generator=generator) * strength
    cosine, sine = torch.cos(rotation * angle), torch.sin(rotation * angle)
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    zero = torch.zeros(count)
    upper = torch.stack([torch.exp(stretch * first), shear * slant], -1)
    lower = torch.stack([zero, torch.exp(stretch * second)], -1)
    return turn @ torch.stack([upper, lower], 1)
