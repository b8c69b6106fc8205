"""Predictors as functions of one flat parameter vector, evaluated for all tasks and particles at once.

A vector holds weights and biases layer by layer, so that a set of particles is one matrix and SVGD moves
points of a vector space. One `split` takes it apart: slices would each have a full-size gradient under
autograd.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bmaml.errors import BmamlError
from bmaml.shapes import Features, Inputs, Outputs


class InvalidNetwork(BmamlError, ValueError):
    """A network that cannot be built."""


@dataclass(frozen=True)
class Activation:
    """A nonlinearity and its derivatives, as functions of the pre-activation a.

    Attributes:
        value, slope: the function and its first derivative.
        curvature: the second derivative; None where it is zero almost everywhere.
        gain: scale of initial weights that keeps the signal's size from layer to layer.
        backward: (δ, a) ↦ δ · slope(a), the backward pass, fused where there is a kernel for it.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor] | None
    gain: float
    backward: Callable[[Tensor, Tensor], Tensor]


def _relu_backward(delta: Tensor, a: Tensor) -> Tensor:
    gradient: Tensor = torch.ops.aten.threshold_backward(delta, a, 0)
    return gradient


def _tanh_slope(a: Tensor) -> Tensor:
    return 1 - torch.tanh(a).square()


def _tanh_curvature(a: Tensor) -> Tensor:
    t = torch.tanh(a)
    return -2 * t * (1 - t.square())


ACTIVATIONS = {
    "relu": Activation(torch.relu, lambda a: (a > 0).to(a.dtype), None, math.sqrt(2), _relu_backward),
    "tanh": Activation(torch.tanh, _tanh_slope, _tanh_curvature, 1.0, lambda d, a: d * _tanh_slope(a)),
    "sine": Activation(torch.sin, torch.cos, lambda a: -torch.sin(a), 1.0, lambda d, a: d * torch.cos(a)),
}


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron with linear output.

    Attributes:
        inputs, outputs: columns of x and y.
        hidden: units of each hidden layer; none for a linear map.
        activation: relu, tanh or sine (periodic features; Sitzmann et al. 2020).

    Raises:
        InvalidNetwork: a size below one or an unknown activation.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    activation: str = "relu"

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs, *self.hidden) < 1:
            raise InvalidNetwork(
                f"every layer needs at least one unit; found {self.inputs}, {self.hidden}, {self.outputs}"
            )
        if self.activation not in ACTIVATIONS:
            raise InvalidNetwork(
                f"unknown activation {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}"
            )

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every layer, the output layer last."""
        widths = (self.inputs, *self.hidden, self.outputs)
        return list(itertools.pairwise(widths))

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(i * o + o for i, o in self.layers)

    @property
    def feature_size(self) -> int:
        """The width of the last hidden layer; of the inputs where there is none."""
        return self.hidden[-1] if self.hidden else self.inputs

    @property
    def numbers_per_row(self) -> int:
        """Numbers that one row needs in a pass, about."""
        return self.feature_size

    @property
    def head_size(self) -> int:
        """The number of parameters in the output layer; they are the last of the vector."""
        return (self.feature_size + 1) * self.outputs

    def initialise(self, particles: int, generator: torch.Generator) -> Tensor:
        """Independent random parameters `[particle, param]`: normal weights, zero biases.

        Weights have variance gain² / fan-in (He et al. 2015), the output layer's 1 / fan-in.
        """
        gain = ACTIVATIONS[self.activation].gain
        blocks = []
        for depth, (i, o) in enumerate(self.layers):
            scale = (gain if depth < len(self.hidden) else 1.0) / math.sqrt(i)
            blocks.append(torch.randn(particles, i * o, generator=generator) * scale)
            blocks.append(torch.zeros(particles, o))
        return torch.cat(blocks, -1)

    def unpack(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weights `[…, inputs, outputs]` and biases `[…, 1, outputs]` of `[…, param]`."""
        sizes = [size for i, o in self.layers for size in (i * o, o)]
        pieces = iter(theta.split(sizes, -1))
        return [(next(pieces).unflatten(-1, (i, o)), next(pieces).unsqueeze(-2)) for i, o in self.layers]

    def features(self, theta: Tensor, x: Inputs) -> Features:
        """The last hidden layer (x itself where there is none), for parameters `[#task, particle, param]`."""
        return self._hidden(self.unpack(theta), x)

    def __call__(self, theta: Tensor, x: Inputs) -> Outputs:
        """The outputs, for parameters `[#task, particle, param]`."""
        return self.features_and_outputs(theta, x)[1]

    def features_and_outputs(self, theta: Tensor, x: Inputs) -> tuple[Features, Outputs]:
        """Features and outputs from one pass; without a hidden layer all particles share the features x."""
        layers = self.unpack(theta)
        features = self._hidden(layers, x)
        weight, bias = layers[-1]
        return features, affine(features, weight, bias)

    def jacobian(self, theta: Tensor, x: Inputs) -> Float[Tensor, "task particle row output param"]:
        """∂ outputs / ∂ parameters at every row, in closed form."""
        signals, deltas = self._sensitivities(theta, x)
        pieces = []
        for signal, delta in zip(signals, deltas, strict=True):
            outer = signal[..., None, :, None] * delta.unsqueeze(-2)
            pieces += [outer.flatten(-2), delta.expand(*outer.shape[:-2], -1)]
        return torch.cat(pieces, -1)

    def tangent_gram(self, theta: Tensor, x: Inputs) -> Float[Tensor, "task particle #value #value"]:
        """J Jᵀ with the rows of J ordered row by row, output by output (the neural tangent kernel).

        Layer by layer it is (signal · signal + 1) × (sensitivity · sensitivity), so that J itself,
        whose rows are as long as θ, is never formed.
        """
        total = x.new_zeros(())
        for signal, delta in zip(*self._sensitivities(theta, x), strict=True):
            rows, outputs = signal.shape[-2], delta.shape[-2]
            inner = (signal @ signal.mT + 1).repeat_interleave(outputs, -1).repeat_interleave(outputs, -2)
            flat = delta.expand(*delta.shape[:2], rows, -1, -1).flatten(2, 3)
            total = total + inner * (flat @ flat.mT)
        return total

    def _sensitivities(self, theta: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's input `[…, row, i]`, and ∂ outputs / ∂ its pre-activations `[…, row, output, o]`."""
        activation, layers = ACTIVATIONS[self.activation], self.unpack(theta)
        signals, slopes = [x.unsqueeze(1)], []
        for weight, bias in layers[:-1]:
            a = affine(signals[-1], weight, bias)
            slopes.append(activation.slope(a))
            signals.append(activation.value(a))
        delta = torch.eye(self.outputs, dtype=x.dtype, device=x.device).expand(1, 1, 1, -1, -1)
        deltas = [delta]
        for (weight, _), slope in zip(reversed(layers[1:]), reversed(slopes), strict=True):
            delta = (delta @ weight.mT.unsqueeze(2)) * slope.unsqueeze(-2)
            deltas.insert(0, delta)
        return signals, deltas

    def _hidden(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        value = ACTIVATIONS[self.activation].value
        signal = x.unsqueeze(1)
        for weight, bias in layers[:-1]:
            signal = value(affine(signal, weight, bias))
        return signal


def affine(signal: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """signal `[task, #particle, row, i]` times weight `[#task, particle, i, o]`, plus bias.

    Where all tasks share the weights, their rows are folded into one product per particle, so that weights
    are neither copied nor multiplied task by task.
    """
    tasks, rows = signal.shape[0], signal.shape[2]
    if weight.shape[0] == 1 and tasks > 1:
        folded = signal.transpose(0, 1).flatten(1, 2)
        if folded.shape[0] != weight.shape[1]:
            folded = folded.expand(weight.shape[1], -1, -1)
        product = _product(folded, weight[0], None if bias is None else bias[0])
        return product.unflatten(1, (tasks, rows)).transpose(0, 1)
    if signal.shape[1] != weight.shape[1]:
        signal = signal.expand(-1, weight.shape[1], -1, -1)
    weight = weight.expand(tasks, -1, -1, -1)
    flat_bias = None if bias is None else bias.expand(tasks, -1, -1, -1).flatten(0, 1)
    product = _product(signal.flatten(0, 1), weight.flatten(0, 1), flat_bias)
    return product.unflatten(0, (tasks, -1))


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(left, right) if bias is None else torch.baddbmm(bias, left, right)
