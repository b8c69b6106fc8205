"""Numbers of a learner as tensors: moved to a device once, and left there.

A copy from the host waits for the device, and cannot be part of a recorded computation.
"""

import functools

import torch
from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values in the precision of `like`, on its device; not to be written to."""
    if torch.compiler.is_compiling():
        return like.new_tensor(values)
    return _kept(values, like.dtype, like.device)


@functools.cache
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
