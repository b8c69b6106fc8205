"""Convolutional features of images, shared by all particles: only the heads adapt to a task.

Parameters are named tensors beside the learner's own (`embedding.0.kernel`, …), because no particle carries
them. Batch normalisation uses the batch's statistics in training and running statistics afterwards, so that
an answer never depends on the rest of its batch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from bmaml.blocks import blocks
from bmaml.errors import BmamlError
from bmaml.shapes import Inputs
from bmaml.task import Examples, TaskBatch

PREFIX = "embedding."
"""Start of the names of the parameters."""
MOMENTUM = 0.02
"""Weight of a training batch in the running statistics."""
EPSILON = 1e-5
"""Added to variances before they are inverted."""
MIN_SIZE = 16
"""Pixels along each side of an image, at least: four poolings leave one."""
BLOCKS = 4
"""Blocks of convolution, normalisation, ReLU and pooling."""
MAX_CPU_PIXELS = 1 << 16
"""Pixels of the images that a CPU embeds together after training: more need more memory and are no faster."""
VIEW_SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Rows down and columns right by which each view of an image is shifted, cyclically."""


class InvalidEmbedding(BmamlError, ValueError):
    """An embedding that cannot be built."""


class Embedding(ABC):
    """An embedding of images whose parameters are learned beside the learner's."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The first parameters by name; the names begin with `PREFIX`."""

    @abstractmethod
    def __call__(
        self, learned: Mapping[str, Tensor], images: Inputs, training: bool = False
    ) -> Float[Tensor, "task row feature"]:
        """Features of images, given as rows.

        Args:
            training: whether this is part of a meta-step.
        """

    def embedded(self, learned: Mapping[str, Tensor], batch: TaskBatch, training: bool) -> TaskBatch:
        """The batch with features in the place of images, from one pass."""
        shown = batch.support.x.shape[1]
        features = self(learned, torch.cat([batch.support.x, batch.query.x], 1), training)
        support, query = features[:, :shown], features[:, shown:]
        return TaskBatch(
            Examples(support, batch.support.y, batch.support.mask),
            Examples(query, batch.query.y, batch.query.mask),
        )


@dataclass(frozen=True)
class ConvNet(Embedding):
    """Four blocks of convolution, batch normalisation, ReLU and 2 × 2 pooling.

    The standard network of few-shot learning (Vinyals et al. 2016) has `width` channels in each
    block. The `light` one begins with a 5 × 5 convolution of stride 2 with half as many channels
    in the place of the first pooling, and does not pool at the end: on a CPU, where the
    full-resolution maps cost most, it is several times as fast.

    Attributes:
        channels: 1 for grey, 3 for RGB.
        size: pixels along each side.
        views: views of an image whose features are averaged after training: the image, and the image shifted
            by one pixel down, up, right, left (cyclically). Each costs a pass.
        bfloat16: multiply in bfloat16 in training, where the processor has it. Features are float32, and
            so are the images of an answer unless they are embedded under `torch.autocast`.

    Raises:
        InvalidEmbedding: channels other than 1 or 3, images under 16 × 16, a width that is odd or
            below 2, views outside 1 … 5.
    """

    channels: int
    size: int
    width: int = 64
    light: bool = True
    bfloat16: bool = False
    views: int = 1

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidEmbedding(f"images have 1 or 3 channels; found {self.channels}")
        if self.size < MIN_SIZE:
            raise InvalidEmbedding(f"images need at least {MIN_SIZE} pixels a side; found {self.size}")
        if self.width < 2 or self.width % 2:
            raise InvalidEmbedding(f"the width must be even and positive; found {self.width}")

        if not 1 <= self.views <= len(VIEW_SHIFTS):
            raise InvalidEmbedding(f"there are 1 to {len(VIEW_SHIFTS)} views; found {self.views}")

    @property
    def inputs(self) -> int:
        """Values of one image: channels × size × size."""
        return self.channels * self.size**2

    @property
    def features(self) -> int:
        """Features of one image."""
        side = self.size
        for _ in range(BLOCKS):
            side //= 2
        if self.light:
            side = -(-self.size // 2) // 2 // 2
        return self.width * side**2

    @property
    def kernels(self) -> list[tuple[int, int, int]]:
        """(channels in, channels out, pixels along a side of the kernel) of each block."""
        first = (self.channels, self.width // 2, 5) if self.light else (self.channels, self.width, 3)
        second = (first[1], self.width, 3)
        return [first, second, *[(self.width, self.width, 3)] * (BLOCKS - 2)]

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh parameters by name; kernels are normal with variance 2 / fan-in (He et al. 2015)."""
        named = {}
        for block, (i, o, side) in enumerate(self.kernels):
            kernel = torch.randn(o, i, side, side, generator=generator) * math.sqrt(2 / (i * side**2))
            named[f"{PREFIX}{block}.kernel"] = kernel
            named[f"{PREFIX}{block}.scale"] = torch.ones(o)
            named[f"{PREFIX}{block}.shift"] = torch.zeros(o)
            named[f"{PREFIX}{block}.mean"] = torch.zeros(o)
            named[f"{PREFIX}{block}.variance"] = torch.ones(o)
        return named

    def __call__(
        self, learned: Mapping[str, Tensor], images: Inputs, training: bool = False
    ) -> Float[Tensor, "task row feature"]:
        """Features of images `[task, row, channel × height × width]`.

        Args:
            training: normalise by the batch's own statistics, and update the running statistics in place;
                nothing else is changed by a meta-step but the optimiser's parameters.
        """
        tasks, rows, _ = images.shape
        signal = images.reshape(tasks * rows, self.channels, self.size, self.size)
        if not len(signal):
            return images.new_zeros(tasks, rows, self.features)
        if training:
            features = self._features(learned, signal, training)
        else:
            most = MAX_CPU_PIXELS if signal.device.type == "cpu" else None
            parts = blocks(len(signal), most, self.size**2)
            features = torch.cat([self._average(learned, signal[part]) for part in parts])
        return features.unflatten(0, (tasks, rows))

    def _average(self, learned: Mapping[str, Tensor], signal: Tensor) -> Tensor:
        """Features averaged over the views of each image."""
        total = self._features(learned, signal, False)
        for move in VIEW_SHIFTS[1 : self.views]:
            total = total + self._features(learned, signal.roll(move, (-2, -1)), False)
        return total / self.views

    def _features(self, learned: Mapping[str, Tensor], signal: Tensor, training: bool) -> Tensor:
        dtype, signal = signal.dtype, signal.contiguous(memory_format=torch.channels_last)
        coarse = self.bfloat16 and training
        with torch.autocast(signal.device.type, torch.bfloat16) if coarse else nullcontext():
            for block in range(BLOCKS):
                signal = self._block(learned, block, signal, training)
        return signal.flatten(1).to(dtype)

    def _block(self, learned: Mapping[str, Tensor], block: int, signal: Tensor, training: bool) -> Tensor:
        kernel, scale, shift, mean, variance = (
            learned[f"{PREFIX}{block}.{name}"] for name in ("kernel", "scale", "shift", "mean", "variance")
        )
        strided = self.light and block == 0
        stride, padding = 2 if strided else 1, kernel.shape[-1] // 2
        if training:
            signal = conv2d(signal, kernel, None, stride, padding)
            running = mean.detach(), variance.detach()
            signal = batch_norm(signal, *running, scale, shift, True, MOMENTUM, EPSILON)
        else:  # an affine map per channel, folded into the kernel
            factor = scale * torch.rsqrt(variance + EPSILON)
            folded = kernel * factor[:, None, None, None]
            signal = conv2d(signal, folded, shift - mean * factor, stride, padding)
        signal = torch.relu(signal)
        pooled = not strided and not (self.light and block == BLOCKS - 1)
        return max_pool2d(signal, 2) if pooled else signal
