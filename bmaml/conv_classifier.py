"""A convolutional classifier as a function of one flat parameter vector, kernels included.

MAML as published (Finn et al. 2017) adapts all layers of a network of four blocks. A block is a convolution,
batch normalisation, ReLU, and a stride of two in the convolution or pooling after it.

The published normalisation takes the moments of the images that are classified together, so that an answer
depends on the other images of its request. Here the moments of the support set normalise the query images as
well (MetaBN in Bronskill et al. 2020), or there is no normalisation at all.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from bmaml.embedding import BLOCKS, EPSILON, PREFIX, ConvNet
from bmaml.networks import MLP, InvalidNetwork, affine
from bmaml.shapes import ChannelMoments, Inputs, Mask, Outputs

INITIAL_HEAD = 0.1
"""Standard deviation of the initial weights of the output layer, times the square root of its inputs."""

Normalisation = Literal["none", "support", "query"]
"""The images whose moments normalise query images in training: none, the support set or the query set."""


@dataclass(frozen=True)
class ConvClassifier:
    """Four blocks of convolution, normalisation and ReLU, and a linear output layer.

    A parameter vector holds kernel `[row, column, channel in, channel out]` and bias of each block; kernel,
    scale and shift where it is normalised. Then come weights and biases of the output layer, as those of an
    `MLP` without hidden layers.

    Attributes:
        channels, size, width, light: as of `ConvNet`.
        outputs: classes of a task, at most.
        strided: 3 × 3 convolutions of stride two in the place of pooling, as Finn et al. 2017 have them for
            Omniglot; the first has half as many channels. `light` has then no meaning.
        normalisation: moments of the support set normalise the support set and, with "support", the query
            images. With "query" the meta-objective normalises query images by their own moments, as
            published. Predictions take the moments of the support set in both cases.

    Raises:
        InvalidNetwork: fewer than one output, or an unknown normalisation.
        InvalidEmbedding: as `ConvNet`.
    """

    channels: int
    size: int
    outputs: int
    width: int = 64
    light: bool = True
    strided: bool = False
    normalisation: Normalisation = "none"

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise InvalidNetwork(f"a classifier needs at least one output; found {self.outputs}")
        if self.normalisation not in get_args(Normalisation):
            choices = ", ".join(get_args(Normalisation))
            raise InvalidNetwork(f"normalisation is one of {choices}; found {self.normalisation!r}")
        _ = self.blocks

    @property
    def blocks(self) -> ConvNet:
        """The embedding of the same form, if this network is neither strided nor normalised."""
        return ConvNet(self.channels, self.size, self.width, self.light)

    @property
    def kernels(self) -> list[tuple[int, int, int]]:
        """(channels in, channels out, pixels along a side of the kernel) of each block."""
        if not self.strided:
            return self.blocks.kernels
        widths = [self.channels, self.width // 2, *[self.width] * (BLOCKS - 1)]
        return [(i, o, 3) for i, o in itertools.pairwise(widths)]

    @property
    def normalised(self) -> bool:
        """Whether there is any normalisation."""
        return self.normalisation != "none"

    @property
    def inputs(self) -> int:
        """Values of one image: channels × size × size."""
        return self.blocks.inputs

    @property
    def feature_size(self) -> int:
        """Features that the output layer takes."""
        return self.width * (-(-self.size // 2**BLOCKS)) ** 2 if self.strided else self.blocks.features

    @property
    def head_size(self) -> int:
        """The number of parameters in the output layer; they are the last of the vector."""
        return (self.feature_size + 1) * self.outputs

    @property
    def numbers_per_row(self) -> int:
        """Numbers that one image needs in a pass, about: the largest matrix of windows of a block."""
        side, largest = self.size, 0
        for block, (i, _, kernel) in enumerate(self.kernels):
            stride, pooled = self._form(block)
            side = -(-side // stride)
            largest = max(largest, side**2 * kernel**2 * i)
            side = side // 2 if pooled else side
        return largest

    def initialise(self, particles: int, generator: torch.Generator) -> Tensor:
        """Independent random parameters `[particle, param]`.

        Kernels have variance 2 / fan-in (He et al. 2015), the output layer 0.01 / fan-in. Scales are one,
        shifts and biases zero.
        """
        pieces = []
        for i, o, side in self.kernels:
            fan = i * side**2
            pieces.append(torch.randn(particles, fan * o, generator=generator) * math.sqrt(2 / fan))
            pieces += [torch.ones(particles, o)] if self.normalised else []
            pieces.append(torch.zeros(particles, o))
        features = self.feature_size
        head = torch.randn(particles, features * self.outputs, generator=generator)
        pieces += [head * (INITIAL_HEAD / math.sqrt(features)), torch.zeros(particles, self.outputs)]
        return torch.cat(pieces, -1)

    def folded(self, learned: Mapping[str, Tensor], head: Tensor) -> Tensor:
        """The parameters `[particle, param]` that equal a trained embedding and a linear layer on it.

        The normalisation of a trained `ConvNet` is an affine map for each channel, which is multiplied into
        the kernels.

        Args:
            learned: the parameters of a `ConvNet` of the same form, by name.
            head: parameters of an `MLP` without hidden layers on its features, `[particle, param]`; outputs
                beyond `outputs` are left out.

        Raises:
            InvalidNetwork: tensors of another form, or this network is strided or normalised.
        """
        if self.strided or self.normalised:
            raise InvalidNetwork("a strided or normalised network has no equal among embeddings")
        pieces = []
        for block, (i, o, side) in enumerate(self.kernels):
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

    def __call__(
        self, theta: Tensor, x: Inputs, mask: Mask | None = None, moments: ChannelMoments | None = None
    ) -> Outputs:
        """The outputs, for parameters `[#task, particle, param]` and images as rows.

        Args:
            mask: the rows whose moments normalise, where no moments are given; None takes all of the task.
            moments: of `moments`, by which rows are normalised in the place of their own.
        """
        return self._pass(theta, x, mask, moments)[0]

    def moments(self, theta: Tensor, x: Inputs, mask: Mask) -> ChannelMoments:
        """Mean and variance of each channel over the rows of a mask, block by block.

        Without any row they are zero and one.
        """
        return torch.cat(self._pass(theta, x, mask, None)[1], -1)

    def _pass(
        self, theta: Tensor, x: Tensor, mask: Tensor | None, moments: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        tasks, rows, _ = x.shape
        pieces = iter(theta.split(self._sizes(), -1))
        given, found = self._by_block(moments), []
        image = x.view(tasks, rows, self.channels, self.size, self.size)
        signal = image.permute(0, 1, 3, 4, 2).unsqueeze(1)  # [task, #particle, row, height, width, channel]
        for block, (i, o, kernel) in enumerate(self.kernels):
            weight = next(pieces).unflatten(-1, (kernel**2 * i, o))
            stride, pooled = self._form(block)
            windows = _Windows.apply(_padded(signal, kernel // 2), kernel, stride)
            side = windows.shape[3]
            if self.normalised:
                signal = affine(windows.flatten(2, 4), weight)
                own = next(given) if moments is not None else _moments(signal, mask, rows)
                signal = _normalised(signal, own, next(pieces), next(pieces))
                found.append(own.flatten(2))
            else:
                signal = affine(windows.flatten(2, 4), weight, next(pieces).unsqueeze(-2))
            signal = torch.relu(signal).unflatten(2, (rows, side, side))
            signal = _pooled(signal) if pooled else signal
        features = signal.movedim(-1, -3).flatten(3)
        weight = next(pieces).unflatten(-1, (self.feature_size, self.outputs))
        return affine(features, weight, next(pieces).unsqueeze(-2)), found

    def _by_block(self, moments: Tensor | None) -> Iterator[Tensor]:
        """The moments of each block, `[task, particle, moment, channel]`."""
        if moments is None:
            return iter(())
        sizes = [2 * o for _, o, _ in self.kernels]
        return (each.unflatten(-1, (2, -1)) for each in moments.split(sizes, -1))

    def _form(self, block: int) -> tuple[int, bool]:
        """The stride of a block's convolution, and whether pooling follows."""
        if self.strided:
            return 2, False
        strided = self.light and block == 0
        return (2 if strided else 1), not strided and not (self.light and block == BLOCKS - 1)

    def _sizes(self) -> list[int]:
        affine_sizes = 2 if self.normalised else 1
        blocks = [size for i, o, side in self.kernels for size in (i * o * side**2, *[o] * affine_sizes)]
        return [*blocks, self.feature_size * self.outputs, self.outputs]


Network = MLP | ConvClassifier
"""The predictors that particles parametrise."""


def _moments(signal: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    """Mean and variance `[task, particle, 2, channel]` of `[task, particle, row × place, channel]`."""
    places = signal.shape[2] // rows if rows else 0
    seen = signal.new_ones(len(signal), rows) if mask is None else mask.to(signal.dtype)
    counts = seen.sum(-1, keepdim=True)
    shares = (seen / (counts * places).clamp_min(1)).repeat_interleave(places, 1)[:, None, None]
    mean = shares @ signal
    variance = shares @ (signal - mean).square()
    return torch.cat([mean, torch.where(counts[:, None, None] > 0, variance, 1.0)], 2)


def _normalised(signal: Tensor, moments: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The signal in units of its moments, times a scale and plus a shift for each channel."""
    mean, variance = moments.split(1, 2)
    factor = torch.rsqrt(variance + EPSILON) * scale.unsqueeze(-2)
    return torch.addcmul(shift.unsqueeze(-2), signal - mean, factor)


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
