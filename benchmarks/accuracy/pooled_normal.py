"""Families of normal tasks: a linear mixed-effects model and a Gaussian process whose kernel all tasks share.

The labels of a task are y = X β + f + ε. The coefficients β ~ N(0, `PRIOR_STD`²) are the same in all tasks, f
is drawn anew for each task from a process whose covariance K has parameters θ, and the noise ε is white. Both
models differ in K alone. θ maximises the likelihood of the training tasks at the best β, times weak priors.
A new task is predicted by exact conditioning, and what the training tasks leave open about β is part of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from benchmarks.accuracy.baselines import Array

PRIOR_STD = 10.0
"""Of the shared coefficients, in standardised units."""
JITTER = 1e-6
MAX_ITERATIONS = 200
BOUNDS = (-6.5, 3.0)
"""Of every parameter θ: most are logarithms."""

Tasks = Sequence[tuple[Array, Array]]
"""x `[row, input]` and y `[row]` of each task, standardised."""
Basis = Literal["constant", "linear", "quadratic"]


@dataclass(frozen=True)
class MixedEffects:
    """A linear mixed-effects model: every task has coefficients of its own, from a shared normal.

    Attributes:
        fixed, random: the basis functions of the shared and of the task's own coefficients.
        full: the covariance of a task's coefficients is any; otherwise it is diagonal.
    """

    fixed: Basis = "linear"
    random: Basis = "linear"
    full: bool = False

    def parameters(self, inputs: int, squares: int) -> tuple[Array, Array]:
        """Mean and standard deviation of the normal prior of θ, the logarithm of the noise first."""
        size = _columns(self.random, inputs, squares)
        below = size * (size - 1) // 2 if self.full else 0
        means = np.r_[math.log(0.3), np.full(size, math.log(0.3)), np.zeros(below)]
        return means, np.r_[2.0, np.full(size, 2.0), np.full(below, 0.5)]

    def covariance(self, theta: Tensor, left: "Design", right: "Design") -> Tensor:
        """K between rows, `[task, row, row]`, without the noise."""
        size = left.random.shape[-1]
        factor = torch.diag(theta[1 : 1 + size].exp())
        if self.full:
            places = torch.tril_indices(size, size, -1)
            factor = factor.index_put((places[0], places[1]), theta[1 + size :])
        return (left.random @ factor) @ (right.random @ factor).mT


@dataclass(frozen=True)
class PooledProcess:
    """A Gaussian process: a constant, a linear part, and a stationary part with a length for every input.

    Attributes:
        fixed: the basis functions of the shared coefficients.
        smooth: the stationary kernel is the squared exponential; otherwise Matérn's of 5/2.
    """

    fixed: Basis = "linear"
    smooth: bool = True
    random: Basis = "linear"

    def parameters(self, inputs: int, squares: int) -> tuple[Array, Array]:
        """Mean and standard deviation of the normal prior of θ, the logarithm of the noise first."""
        size = _columns(self.random, inputs, squares)
        lengths = np.full(inputs, math.log(2.0 * math.sqrt(inputs)))
        means = np.r_[math.log(0.3), np.full(size, math.log(0.3)), math.log(0.5), lengths]
        return means, np.r_[np.full(1 + size, 2.0), 1.5, np.full(inputs, 1.0)]

    def covariance(self, theta: Tensor, left: "Design", right: "Design") -> Tensor:
        """K between rows, `[task, row, row]`, without the noise."""
        inputs, size = left.x.shape[-1], left.random.shape[-1]
        own = theta[1 : 1 + size].exp()
        inverse = (-theta[2 + size : 2 + size + inputs]).exp()
        a, b = left.x * inverse, right.x * inverse
        squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
        if self.smooth:
            shape = (-0.5 * squares.clamp_min(0)).exp()
        else:
            distance = (5 * squares.clamp_min(1e-12)).sqrt()
            shape = (1 + distance + distance.square() / 3) * (-distance).exp()
        return (left.random * own) @ (right.random * own).mT + (2 * theta[1 + size]).exp() * shape


Covariance = MixedEffects | PooledProcess


@dataclass(frozen=True)
class Design:
    """Rows of tasks, and their basis functions.

    Attributes:
        x: `[task, row, input]`.
        fixed, random: `[task, row, column]`; zero in absent rows.
        present: `[task, row]`.
    """

    x: Tensor
    fixed: Tensor
    random: Tensor
    present: Tensor


def _columns(basis: Basis, inputs: int, squares: int) -> int:
    return 1 + (0 if basis == "constant" else inputs) + (squares if basis == "quadratic" else 0)


@dataclass(frozen=True)
class Family:
    """What all tasks share, given θ.

    Attributes:
        kind: of the covariance.
        theta: its parameters; the logarithm of the noise's standard deviation comes first.
        squared: the inputs whose squares are basis functions.
        mean, factor: of the normal posterior of β; its covariance is factorᵀ factor.
    """

    kind: Covariance
    theta: Tensor
    squared: tuple[int, ...]
    mean: Tensor
    factor: Tensor

    def predict(self, x: Array, y: Array, query: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the labels of the query rows, given support rows."""
        rows = np.concatenate([x, query])
        design = design_of(self.kind, self.squared, [rows])
        with torch.no_grad():
            covariance = self.kind.covariance(self.theta, design, design)[0]
            shared = design.fixed[0] @ self.factor.mT
            covariance = covariance + shared @ shared.mT + _noise(self.theta) * torch.eye(len(rows))
            mean = design.fixed[0] @ self.mean
            seen = slice(len(x))
            cholesky = torch.linalg.cholesky(covariance[seen, seen])
            across = torch.linalg.solve_triangular(cholesky, covariance[seen, len(x) :], upper=False)
            error = torch.linalg.solve_triangular(
                cholesky, (torch.tensor(y) - mean[seen])[:, None], upper=False
            )
            found = mean[len(x) :] + (across.mT @ error)[:, 0]
            variance = covariance.diagonal()[len(x) :] - across.square().sum(0)
        return found.numpy(), variance.clamp_min(JITTER).sqrt().numpy()


def fitted(kind: Covariance, tasks: Tasks) -> Family:
    """The family with the best θ on some tasks."""
    squared = _squared_inputs(tasks)
    pooled = PooledTasks(kind, squared, tasks)
    start, spread = kind.parameters(tasks[0][0].shape[1], len(squared))

    def loss(theta: Array) -> tuple[float, Array]:
        at = torch.tensor(theta, requires_grad=True)
        prior = 0.5 * ((at - torch.tensor(start)) / torch.tensor(spread)).square().sum()
        value = prior - pooled.log_likelihood(at)
        value.backward()
        assert at.grad is not None
        return float(value.detach()), at.grad.numpy()

    bounds, most = [BOUNDS] * len(start), {"maxiter": MAX_ITERATIONS}
    best = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=most)
    return pooled.family(torch.tensor(best.x))


class PooledTasks:
    """Tasks in one padded batch, and their likelihood."""

    def __init__(self, kind: Covariance, squared: tuple[int, ...], tasks: Tasks) -> None:
        self.kind, self.squared = kind, squared
        self.design = design_of(kind, squared, [x for x, _ in tasks])
        self._y = torch.zeros(self.design.present.shape, dtype=torch.float64)
        for place, (_, y) in enumerate(tasks):
            self._y[place, : len(y)] = torch.tensor(y)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """log p(y | θ, β) p(β) of all tasks at the best β."""
        cholesky, fixed, y = self._whitened(theta)
        mean, _ = _coefficients(fixed, y)
        error = y - (fixed @ mean)
        volume = 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum()
        prior = (mean / PRIOR_STD).square().sum() + 2 * len(mean) * math.log(PRIOR_STD)
        count = self.design.present.sum() + len(mean)
        return -0.5 * (error.square().sum() + volume + prior + count * math.log(2 * math.pi))

    def family(self, theta: Tensor) -> Family:
        """The family with these parameters, and β as these tasks tell it."""
        with torch.no_grad():
            _, fixed, y = self._whitened(theta)
            mean, factor = _coefficients(fixed, y)
        return Family(self.kind, theta, self.squared, mean, factor)

    def _whitened(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The Cholesky factor of each task's covariance, and basis and labels divided by it."""
        present = self.design.present
        both = present[:, :, None] & present[:, None, :]
        covariance = torch.where(both, self.kind.covariance(theta, self.design, self.design), 0.0)
        own = torch.where(present, _noise(theta), 1.0)
        cholesky = torch.linalg.cholesky(covariance + torch.diag_embed(own))
        columns = torch.cat([self.design.fixed, self._y.unsqueeze(-1)], -1)
        whitened = torch.linalg.solve_triangular(cholesky, columns, upper=False)
        return cholesky, whitened[..., :-1], whitened[..., -1]


def _coefficients(fixed: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and factor of the posterior of β from whitened rows of all tasks."""
    rows = fixed.flatten(0, 1)
    precision = rows.mT @ rows + torch.eye(rows.shape[1], dtype=rows.dtype) / PRIOR_STD**2
    cholesky = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve((rows.mT @ y.flatten())[:, None], cholesky)[:, 0]
    identity = torch.eye(len(mean), dtype=rows.dtype)
    return mean, torch.linalg.solve_triangular(cholesky, identity, upper=False)


def _noise(theta: Tensor) -> Tensor:
    """The variance of the noise."""
    return (2 * theta[0]).exp() + JITTER


def design_of(kind: Covariance, squared: tuple[int, ...], tasks: Sequence[Array]) -> Design:
    """Padded rows of tasks, with the basis functions of the model."""
    most = max(len(x) for x in tasks)
    x = torch.zeros(len(tasks), most, tasks[0].shape[1], dtype=torch.float64)
    present = torch.zeros(len(tasks), most, dtype=torch.bool)
    for place, rows in enumerate(tasks):
        x[place, : len(rows)] = torch.tensor(rows)
        present[place, : len(rows)] = True

    def basis(which: Basis) -> Tensor:
        columns = [torch.ones_like(x[..., :1])]
        if which != "constant":
            columns.append(x)
        if which == "quadratic":
            columns.append(x[..., list(squared)].square() - 1)
        return torch.cat(columns, -1) * present.unsqueeze(-1)

    return Design(x, basis(kind.fixed), basis(kind.random), present)


def _squared_inputs(tasks: Tasks) -> tuple[int, ...]:
    """The inputs of more than two values."""
    rows = np.concatenate([x for x, _ in tasks])
    return tuple(place for place in range(rows.shape[1]) if len(np.unique(rows[:, place])) > 2)
