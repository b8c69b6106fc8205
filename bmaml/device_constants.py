"""Constants of a learner as tensors, copied to each device once.

A copy from the host is a host synchronisation, and cannot be recorded in a CUDA graph.
"""

import functools

import torch
from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values in the precision of `like`, on its device; the tensor must not be written to."""
    if torch.compiler.is_compiling():
        return like.new_tensor(values)
    return _cached(values, like.dtype, like.device)


@functools.cache
def _cached(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
