"""Muon (Jordan et al. 2024) for the hidden matrices of every particle, Adam for all else.

The momentum-averaged gradient of a matrix is replaced by the nearest semi-orthogonal matrix, so that every
direction moves at the same rate. Five steps of a Newton–Schulz iteration approximate it with products of
small matrices, for all particles at once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bmaml.conv_classifier import Network
from bmaml.networks import MLP

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of X, XXᵀX and (XXᵀ)²X in one step."""
NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Adam):
    """Adam for all parameters but the matrices between hidden layers in `initial`.

    Group option `matrix_lr`: the spectral norm of one update of such a matrix.
    """

    def __init__(self, learned: dict[str, Tensor], network: Network, lr: float, matrix_lr: float) -> None:
        super().__init__(learned.values(), lr=lr)
        self._initial, self._places = learned["initial"], hidden_matrices(network)
        for group in self.param_groups:
            group["matrix_lr"] = matrix_lr

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update from the gradients."""
        gradient = self._initial.grad
        if gradient is None:
            return super().step(closure)
        momentum = self.state[self._initial].get("matrix_momentum", torch.zeros_like(gradient))
        moves = []
        for start, stop, shape in self._places:
            own, mean = gradient[:, start:stop], momentum[:, start:stop]
            mean.mul_(MOMENTUM).add_(own)
            ahead = own.add(mean, alpha=MOMENTUM).unflatten(1, shape)
            moves.append(orthogonalised(ahead).flatten(1))
            own.zero_()  # Adam then leaves them as they are
        result = super().step(closure)  # before our own state, since Adam initialises an empty one
        self.state[self._initial]["matrix_momentum"] = momentum
        rate = self.param_groups[0]["matrix_lr"]
        for (start, stop, _), move in zip(self._places, moves, strict=True):
            self._initial[:, start:stop].sub_(move, alpha=rate)
        return result


def hidden_matrices(network: Network) -> list[tuple[int, int, tuple[int, int]]]:
    """Start, stop and shape of each matrix between hidden layers in the vector of a particle.

    A `ConvClassifier` has none.
    """
    places: list[tuple[int, int, tuple[int, int]]] = []
    if not isinstance(network, MLP):
        return places
    start = 0
    for depth, (i, o) in enumerate(network.layers):
        if 0 < depth < len(network.hidden):
            places.append((start, start + i * o, (i, o)))
        start += i * o + o
    return places


def orthogonalised(matrices: Tensor) -> Tensor:
    """U Vᵀ of each matrix U S Vᵀ, approximately: singular values lie between about 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    result = matrices / matrices.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = result @ result.mT
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result
