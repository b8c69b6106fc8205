"""A convolutional classifier as a function of one flat parameter vector, kernels included.

MAML as published (Finn et al. 2017) adapts all layers of a network of four blocks. Here a block is a
convolution with a bias, ReLU and pooling: there is no normalisation at all, so that an answer depends neither
on the other images of a request nor on other requests. The normalisation of a trained `ConvNet` is an affine
map for each channel, and `folded` multiplies it into the kernels: both networks then agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from bmaml.embedding import BLOCKS, EPSILON, PREFIX, ConvNet
from bmaml.networks import MLP, InvalidNetwork, affine
from bmaml.shapes import Inputs, Outputs

INITIAL_HEAD = 0.1
"""Standard deviation of the initial weights of the output layer, times the square root of its inputs."""


@dataclass(frozen=True)
class ConvClassifier:
    """Blocks of convolution, ReLU and pooling as in `ConvNet`, and a linear output layer.

    A parameter vector holds kernel `[row, column, channel in, channel out]` and bias of each block, then
    weights and biases of the output layer, as those of an `MLP` without hidden layers.

    Attributes:
        channels, size, width, light: as of `ConvNet`.
        outputs: classes of a task, at most.

    Raises:
        InvalidNetwork: fewer than one output.
        InvalidEmbedding: as `ConvNet`.
    """

    channels: int
    size: int
    outputs: int
    width: int = 64
    light: bool = True

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise InvalidNetwork(f"a classifier needs at least one output; found {self.outputs}")
        _ = self.blocks

    @property
    def blocks(self) -> ConvNet:
        """The embedding of the same form."""
        return ConvNet(self.channels, self.size, self.width, self.light)

    @property
    def inputs(self) -> int:
        """Values of one image: channels × size × size."""
        return self.blocks.inputs

    @property
    def feature_size(self) -> int:
        """Features that the output layer takes."""
        return self.blocks.features

    @property
    def head_size(self) -> int:
        """The number of parameters in the output layer; they are the last of the vector."""
        return (self.feature_size + 1) * self.outputs

    @property
    def numbers_per_row(self) -> int:
        """Numbers that one image needs in a pass, about: the largest matrix of windows of a block."""
        side, largest = self.size, 0
        for block, (i, _, kernel) in enumerate(self.blocks.kernels):
            stride, pooled = self._form(block)
            side = -(-side // stride)
            largest = max(largest, side**2 * kernel**2 * i)
            side = side // 2 if pooled else side
        return largest

    def initialise(self, particles: int, generator: torch.Generator) -> Tensor:
        """Independent random parameters `[particle, param]`.

        Kernels have variance 2 / fan-in (He et al. 2015), the output layer 0.01 / fan-in; biases are zero.
        """
        pieces = []
        for i, o, side in self.blocks.kernels:
            fan = i * side**2
            pieces.append(torch.randn(particles, fan * o, generator=generator) * math.sqrt(2 / fan))
            pieces.append(torch.zeros(particles, o))
        features = self.blocks.features
        head = torch.randn(particles, features * self.outputs, generator=generator)
        pieces += [head * (INITIAL_HEAD / math.sqrt(features)), torch.zeros(particles, self.outputs)]
        return torch.cat(pieces, -1)

    def folded(self, learned: Mapping[str, Tensor], head: Tensor) -> Tensor:
        """The parameters `[particle, param]` that equal a trained embedding and a linear layer on it.

        Args:
            learned: the parameters of a `ConvNet` of the same form, by name.
            head: parameters of an `MLP` without hidden layers on its features, `[particle, param]`; outputs
                beyond `outputs` are left out.

        Raises:
            InvalidNetwork: tensors of another form.
        """
        pieces = []
        for block, (i, o, side) in enumerate(self.blocks.kernels):
            kernel, scale, shift, mean, variance = (
                learned[f"{PREFIX}{block}.{name}"]
                for name in ("kernel", "scale", "shift", "mean", "variance")
            )
            if kernel.shape != (o, i, side, side):
                raise InvalidNetwork(
                    f"block {block} has kernels {tuple(kernel.shape)}, not {(o, i, side, side)}"
                )
            factor = scale * torch.rsqrt(variance + EPSILON)
            pieces += [(kernel.permute(2, 3, 1, 0) * factor).flatten(), shift - mean * factor]
        features = self.blocks.features
        there = head.shape[-1] // (features + 1)
        if there < self.outputs or head.shape[-1] % (features + 1):
            raise InvalidNetwork(
                f"no {self.outputs} outputs on {features} features in {head.shape[-1]} values"
            )
        weight, bias = head.split([features * there, there], -1)
        weight = weight.unflatten(-1, (features, there))[..., : self.outputs].flatten(-2)
        shared = torch.cat(pieces).expand(len(head), -1)
        return torch.cat([shared, weight, bias[..., : self.outputs]], -1)

    def __call__(self, theta: Tensor, x: Inputs) -> Outputs:
        """The outputs, for parameters `[#task, particle, param]` and images as rows."""
        tasks, rows, _ = x.shape
        pieces = iter(theta.split(self._sizes(), -1))
        image = x.view(tasks, rows, self.channels, self.size, self.size)
        signal = image.permute(0, 1, 3, 4, 2).unsqueeze(1)  # [task, #particle, row, height, width, channel]
        for block, (i, o, kernel) in enumerate(self.blocks.kernels):
            weight = next(pieces).unflatten(-1, (kernel**2 * i, o))
            stride, pooled = self._form(block)
            windows = _Windows.apply(_padded(signal, kernel // 2), kernel, stride)
            side = windows.shape[3]
            signal = torch.relu(affine(windows.flatten(2, 4), weight, next(pieces).unsqueeze(-2)))
            signal = signal.unflatten(2, (rows, side, side))
            signal = _pooled(signal) if pooled else signal
        features = signal.movedim(-1, -3).flatten(3)
        weight = next(pieces).unflatten(-1, (self.blocks.features, self.outputs))
        return affine(features, weight, next(pieces).unsqueeze(-2))

    def _form(self, block: int) -> tuple[int, bool]:
        """The stride of a block's convolution, and whether pooling follows."""
        strided = self.light and block == 0
        return (2 if strided else 1), not strided and not (self.light and block == BLOCKS - 1)

    def _sizes(self) -> list[int]:
        blocks = [size for i, o, side in self.blocks.kernels for size in (i * o * side**2, o)]
        return [*blocks, self.blocks.features * self.outputs, self.outputs]


Network = MLP | ConvClassifier
"""The predictors that particles parametrise."""


def _padded(signal: Tensor, width: int) -> Tensor:
    return pad(signal, (0, 0, width, width, width, width))


def _pooled(signal: Tensor) -> Tensor:
    """Signals `[…, height, width, channel]` after 2 × 2 pooling."""
    flat = signal.flatten(0, -4).movedim(-1, 1)
    return max_pool2d(flat, 2).movedim(1, -1).unflatten(0, signal.shape[:-3])


class _Windows(torch.autograd.Function):
    """The square windows of padded signals, side by side, as a convolution multiplies them.

    `[…, height, width, channel]` becomes `[…, row, column, kernel × kernel × channel]`. Its gradient is the
    transposed map and the gradient of that the map again, so that derivatives of any order are exact.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, kernel: int, stride: int) -> Tensor:
        ctx.form = (signal.shape, kernel, stride)
        windows = signal.unfold(-3, kernel, stride).unfold(-3, kernel, stride)
        return windows.movedim(-3, -1).flatten(-3)  # […, row, column, (kernel, kernel, channel)]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Overlaid.apply(gradient, *ctx.form), None, None


class _Overlaid(torch.autograd.Function):
    """The transpose of `_Windows`: the sum of windows where they lie on each other."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, shape: torch.Size, kernel: int, stride: int) -> Tensor:
        ctx.form = (kernel, stride)
        result = windows.new_zeros(shape)
        apart = windows.unflatten(-1, (kernel, kernel, shape[-1]))
        rows, columns = (stride * (count - 1) + 1 for count in windows.shape[-3:-1])
        for i in range(kernel):
            for j in range(kernel):
                result[..., i : i + rows : stride, j : j + columns : stride, :] += apart[..., i, j, :]
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Windows.apply(gradient, *ctx.form), None, None, None
