"""Alternatives to the learners: forecasts from one task alone, and two methods that learn from many tasks.

Each is a function from a support set and query inputs to a `Predictive`, so that the code that scores the
learners scores them too.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel
from torch import Tensor, nn

from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch
from bmaml.transformed import Transformed

Array = NDArray[np.float64]
Forecaster = Callable[[Examples, Tensor], Predictive | Transformed]
"""A prediction of many tasks from their support sets and query inputs `[task, query, input]`."""

TaskForecaster = Callable[[Array, Array, Array], tuple[Array, Array]]
"""Mean and standard deviation `[query]` from one task's x `[shot, input]`, y `[shot]` and query x."""


def task_by_task(forecast: TaskForecaster, smallest_std: float) -> Forecaster:
    """A forecaster that takes tasks one by one.

    Args:
        smallest_std: a floor under the standard deviation, which would otherwise be zero for a perfect fit.
    """

    def forecast_tasks(support: Examples, x: Tensor) -> Predictive:
        means, deviations = [], []
        for task in range(len(support)):
            seen = support.mask[task].numpy()
            rows = support.x[task].double().numpy()[seen], support.y[task, :, 0].double().numpy()[seen]
            mean, std = forecast(*rows, x[task].double().numpy())
            means.append(mean)
            deviations.append(np.maximum(std, smallest_std))
        return gaussian(*(torch.tensor(np.stack(each)).unsqueeze(-1) for each in (means, deviations)))

    return forecast_tasks


def last_value(x: Array, y: Array, query: Array) -> tuple[Array, Array]:
    """The last value, with the standard deviation of the steps so far."""
    return np.full(len(query), y[-1]), np.full(len(query), np.diff(y).std())


def exponential(x: Array, y: Array, query: Array) -> tuple[Array, Array]:
    """a + b·exp(−c·x) by bounded least squares, with the residuals' standard deviation; one input."""

    def curve(x: Array, a: float, b: float, c: float) -> Array:
        return a + b * np.exp(-c * (x - origin))

    origin = x[0, 0]
    bounds = [-4.0, -8.0, 1e-3], [4.0, 8.0, 10.0]
    start = np.clip((y[-1], y[0] - y[-1], 1.0), *bounds)
    try:
        best, _ = optimize.curve_fit(curve, x[:, 0], y, p0=start, bounds=bounds)
    except RuntimeError:
        return last_value(x, y, query)
    std = (curve(x[:, 0], *best) - y).std(ddof=min(3, len(y) - 1))
    return curve(query[:, 0], *best), np.full(len(query), std)


def gp_with_learned_kernel(tasks: Iterable[tuple[Array, Array]]) -> TaskForecaster:
    """A GP whose hyperparameters maximise the marginal likelihood of all training tasks together."""
    start: Kernel = ConstantKernel(1.0) * RBF(1.0, (1e-2, 1e2)) + WhiteKernel(1e-2, (1e-6, 1e1))
    fitted = [GaussianProcessRegressor(start, optimizer=None, alpha=1e-8).fit(x, y) for x, y in tasks]

    def loss(theta: Array) -> tuple[float, Array]:
        each = [process.log_marginal_likelihood(theta, eval_gradient=True) for process in fitted]
        return -sum(value for value, _ in each), -np.sum([gradient for _, gradient in each], axis=0)

    best = optimize.minimize(loss, start.theta, jac=True, method="L-BFGS-B", bounds=start.bounds)
    kernel = start.clone_with_theta(best.x)

    def forecast(x: Array, y: Array, query: Array) -> tuple[Array, Array]:
        process = GaussianProcessRegressor(kernel, optimizer=None, alpha=1e-8).fit(x, y)
        mean, std = process.predict(query, return_std=True)
        return mean, std

    return forecast


class NeuralProcess(nn.Module):
    """A conditional neural process (Garnelo et al. 2018): encoder, mean over rows, decoder to a Gaussian."""

    def __init__(self, inputs: int, width: int = 128) -> None:
        super().__init__()

        def stack(first: int, last: int) -> nn.Sequential:
            layers = [nn.Linear(first, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(width, last))

        self.encoder, self.decoder = stack(inputs + 1, width), stack(width + inputs, 2)

    def forward(self, support: Examples, x: Tensor) -> Predictive:
        """The Gaussian of every row of x."""
        mask = support.mask.unsqueeze(-1)
        rows = self.encoder(torch.cat([support.x, support.y], -1)) * mask
        summary = rows.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
        decoded = self.decoder(torch.cat([summary.expand(-1, x.shape[1], -1), x], -1))
        return gaussian(decoded[..., :1], 1e-3 + nn.functional.softplus(decoded[..., 1:]))


@dataclass(frozen=True)
class Schedule:
    """Settings of Adam with cosine decay."""

    steps: int
    meta_batch: int = 16
    learning_rate: float = 1e-3


def neural_process(
    draw: Callable[[int, torch.Generator], TaskBatch],
    validation: Callable[[], TaskBatch],
    schedule: Schedule,
    seed: int,
) -> Forecaster:
    """A neural process trained on the query NLL, as it was at the best of twenty validation NLLs."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    first = draw(1, generator)
    network = NeuralProcess(first.support.x.shape[-1])
    optimiser = torch.optim.Adam(network.parameters(), schedule.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, schedule.steps)
    best, best_nll, checked = network.state_dict(), math.inf, validation()

    def nll(batch: TaskBatch) -> Tensor:
        logs = network(batch.support, batch.query.x).log_density(batch.query.y)
        mask = batch.query.mask.unsqueeze(-1)
        return -torch.where(mask, logs, 0).sum() / mask.sum()

    for step in range(1, schedule.steps + 1):
        optimiser.zero_grad()
        nll(draw(schedule.meta_batch, generator)).backward()
        optimiser.step()
        decay.step()
        if step % max(1, schedule.steps // 20) == 0:
            with torch.no_grad():
                found = float(nll(checked))
            if found < best_nll:
                best = {name: value.clone() for name, value in network.state_dict().items()}
                best_nll = found
    network.load_state_dict(best)
    return network


def gaussian(mean: Tensor, std: Tensor) -> Predictive:
    """A belief of one Gaussian component; its whole variance counts as noise."""
    means = mean.unsqueeze(1)
    noise = std.square().unsqueeze(1)
    return Predictive(means, noise, means.new_zeros(1, 1, 1, 1), means.new_zeros(len(mean), 1))
