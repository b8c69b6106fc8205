"""Pictures made from pictures: what a class may look like, and what a class might have been."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

CLASS_ROTATION, CLASS_STRETCH, CLASS_SHEAR = 0.15, 0.1, 0.15
ROTATION, STRETCH, SHEAR, SHIFT = 0.1, 0.06, 0.08, 0.06
BRIGHTNESS, CONTRAST = 0.1, 0.2


def turned(images: Tensor, quarters: Tensor) -> Tensor:
    """Images `[n, channel, side, side]` turned by quarters `[n]` of a circle each."""
    result = images.clone()
    for quarter in (1, 2, 3):
        some = quarters == quarter
        result[some] = torch.rot90(images[some], quarter, (-2, -1))
    return result


def distorted(images: Tensor, owners: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Images `[n, channel, side, side]` under a random affine map of each class and one of each image.

    The map that the images of a class share makes another class of it; the image's own is what
    another hand or camera would have done. Strength 1: rotations of 9 and 6 degrees, stretches
    of 10 and 6 %, shears of 0.15 and 0.08, shifts of 3 % of the side (standard deviations).

    Args:
        owners: the class of each image, 0 …
    """
    classes = int(owners.max()) + 1
    shared = _maps(classes, CLASS_ROTATION, CLASS_STRETCH, CLASS_SHEAR, strength, generator)
    own = _maps(len(images), ROTATION, STRETCH, SHEAR, strength, generator)
    shift = torch.randn(len(images), 2, 1, generator=generator) * SHIFT * strength
    theta = torch.cat([shared[owners] @ own, shift], -1)
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


def _maps(
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
