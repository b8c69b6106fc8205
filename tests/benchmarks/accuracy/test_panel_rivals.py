"""The rivals on panels are exact: likelihoods and predictions are those of dense normal distributions."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from benchmarks.accuracy.panel_boosting import BoostedFamily, Boosting, MovedLine
from benchmarks.accuracy.panel_report import Cell, summary, tables
from benchmarks.accuracy.panel_rivals import best, normal_nll
from benchmarks.accuracy.pooled_normal import (
    JITTER,
    PRIOR_STD,
    MixedEffects,
    PooledProcess,
    PooledTasks,
    fitted,
)

KINDS = [
    MixedEffects(random="constant"),
    MixedEffects(full=True),
    MixedEffects("quadratic", "quadratic"),
    PooledProcess(),
    PooledProcess("constant", smooth=False),
]


def tasks(counts=(3, 7, 5), inputs=2, seed=0):
    """Tasks of different lengths, with levels and slopes of their own."""
    random = np.random.default_rng(seed)
    found = []
    for count in counts:
        x = random.standard_normal((count, inputs))
        level, slope = random.standard_normal(2)
        found.append((x, level + slope * x[:, 0] + np.sin(x[:, -1]) + 0.1 * random.standard_normal(count)))
    return found


def basis(which, x):
    columns = [np.ones((len(x), 1))]
    columns += [x] if which != "constant" else []
    columns += [x**2 - 1] if which == "quadratic" else []
    return np.concatenate(columns, 1)


def parameters(kind, seed=1):
    start, _ = kind.parameters(2, 2)
    return torch.tensor(start + 0.3 * np.random.default_rng(seed).standard_normal(len(start)))


def covariance(kind, theta, a, b):
    """K between rows of one task, by the formula of each kind."""
    theta, za, zb = theta.numpy(), basis(kind.random, a), basis(kind.random, b)
    size = za.shape[1]
    factor = np.diag(np.exp(theta[1 : 1 + size]))
    if isinstance(kind, MixedEffects):
        if kind.full:
            factor[np.tril_indices(size, -1)] = theta[1 + size :]
        return za @ factor @ factor.T @ zb.T
    lengths = np.exp(theta[2 + size :])
    squares = (np.square(a[:, None] - b[None]) / lengths**2).sum(-1)
    far = np.sqrt(5 * squares)
    shape = np.exp(-squares / 2) if kind.smooth else (1 + far + far**2 / 3) * np.exp(-far)
    return za @ factor**2 @ zb.T + np.exp(2 * theta[1 + size]) * shape


def noise(theta):
    return float((2 * theta[0]).exp()) + JITTER


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_likelihood_is_that_of_one_normal_distribution_for_each_task(kind):
    family, theta = tasks(), parameters(kind)
    pooled = PooledTasks(kind, (0, 1), family)
    mean = pooled.family(theta).mean
    expected = -0.5 * float((mean / PRIOR_STD).square().sum())
    expected -= len(mean) * (np.log(PRIOR_STD) + 0.5 * np.log(2 * np.pi))
    for x, y in family:
        own = covariance(kind, theta, x, x) + noise(theta) * np.eye(len(x))
        centre = torch.tensor(basis(kind.fixed, x)) @ mean
        expected += float(MultivariateNormal(centre, torch.tensor(own)).log_prob(torch.tensor(y)))
    assert float(pooled.log_likelihood(theta)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_new_task_is_predicted_by_conditioning_the_normal_of_all_rows(kind):
    """Training tasks, support and query rows have one normal distribution, over all coefficients."""
    family, theta = tasks(), parameters(kind)
    (x, y), rows = tasks((6,), seed=5)[0], 2
    found = PooledTasks(kind, (0, 1), family).family(theta).predict(x[:rows], y[:rows], x[rows:])
    parts = [*(each for each, _ in family), x]
    fixed = basis(kind.fixed, np.concatenate(parts))
    whole = PRIOR_STD**2 * fixed @ fixed.T
    start = 0
    for each in parts:
        where = slice(start, start + len(each))
        whole[where, where] += covariance(kind, theta, each, each) + noise(theta) * np.eye(len(each))
        start += len(each)
    known = len(whole) - (len(x) - rows)
    labels = np.concatenate([*(each for _, each in family), y[:rows]])
    gain = np.linalg.solve(whole[:known, :known], whole[:known, known:]).T
    expected = gain @ labels, np.sqrt(np.diag(whole[known:, known:] - gain @ whole[:known, known:]))
    np.testing.assert_allclose(
        found, expected, rtol=1e-5, atol=1e-6
    )  # the prior's variance of 100 costs digits


def test_without_support_rows_the_prediction_is_the_shared_part():
    family = PooledTasks(MixedEffects(), (0, 1), tasks()).family(parameters(MixedEffects()))
    query = np.array([[0.3, -1.0], [2.0, 0.5]])
    mean, _ = family.predict(np.empty((0, 2)), np.empty(0), query)
    np.testing.assert_allclose(mean, basis("linear", query) @ family.mean.numpy(), rtol=1e-12)


def test_fitted_variances_are_those_that_made_the_tasks():
    random = np.random.default_rng(0)
    family = []
    for _ in range(300):
        x = random.standard_normal((8, 1))
        own = np.array([0.7, 0.4]) * random.standard_normal(2)
        family.append((x, 0.5 + own[0] + own[1] * x[:, 0] + 0.2 * random.standard_normal(8)))
    found = fitted(MixedEffects(), family)
    expected = [0.2, 0.7, 0.4]
    np.testing.assert_allclose(
        found.theta.exp().numpy(), expected, rtol=0.15
    )  # 300 tasks tell a std to some 4 %
    np.testing.assert_allclose(found.mean.numpy(), [0.5, 0.0], atol=0.12)


def test_the_moved_line_is_a_ridge_regression_plus_the_shrunk_mean_residual():
    line = MovedLine(np.array([2.0]), 1.0, 0.5)
    x, query = np.array([[0.0], [1.0]]), np.array([[3.0]])
    np.testing.assert_allclose(line.predict(x, np.array([2.0, 4.0]), query), [7 + 2 / 2.5])


def test_boosting_learns_from_the_support_rows_and_knows_its_error():
    random = np.random.default_rng(0)

    def task():
        x = random.uniform(-1, 1, (12, 1))
        slope = random.choice([-1, 1])
        return x, slope * np.abs(x[:, 0]) + 0.05 * random.standard_normal(12)

    family = BoostedFamily(Boosting(150, 10), [task() for _ in range(60)], 0)
    errors, stds = [], []
    for x, y in [task() for _ in range(40)]:
        mean, std = family.predict(x[:4], y[:4], x[4:])
        errors.append(np.square(y[4:] - mean))
        stds.append(std)
    assert np.sqrt(np.mean(errors)) < 0.2  # without the support rows: 0.58
    assert np.sqrt(np.mean(errors)) == pytest.approx(np.sqrt(np.mean(np.square(stds))), rel=0.4)


def test_the_variant_that_predicts_tasks_left_out_best_is_taken():
    def constant(std):
        return lambda _: lambda x, y, query: (np.zeros(len(query)), np.full(len(query), std))

    family = [(np.zeros((8, 1)), np.random.default_rng(seed).standard_normal(8)) for seed in range(12)]
    name, _ = best({"narrow": constant(0.1), "right": constant(1.0), "wide": constant(9.0)}, family, 0)
    assert name == "right"


def test_the_negative_log_density_is_the_normal_one():
    mean, std, y = np.array([0.0, 1.0]), np.array([1.0, 0.5]), np.array([0.3, 2.0])
    expected = -torch.distributions.Normal(torch.tensor(mean), torch.tensor(std)).log_prob(torch.tensor(y))
    np.testing.assert_allclose(normal_nll(mean, std, y), expected, rtol=1e-12)


def run(*answers):
    names = ("task", "shots", "draw", "nll", "squared_error", "held", "effective")
    return {"answers": [dict(zip(names, each, strict=True)) for each in answers]}


def test_means_are_over_draws_then_tasks_then_splits():
    first = run((0, 1, 0, 1.0, 4.0, 1.0, 1.0), (0, 1, 1, 3.0, 4.0, 0.5, 2.0), (1, 1, 0, 6.0, 1.0, 1.0, 1.0))
    second = run((0, 1, 0, 8.0, 0.0, 0.0, 5.0), (0, 3, 0, 99.0, 99.0, 0.0, 1.0))
    cell = Cell.of([first, second], 1)
    assert cell.mean(cell.nll) == pytest.approx(((2 + 6) / 2 + 8) / 2)
    assert cell.rmse == pytest.approx(np.sqrt((2.5 + 0) / 2))
    assert cell.error(cell.nll) == pytest.approx(np.std([2, 6, 8], ddof=1) / np.sqrt(3))
    assert cell.sure == "100 % (2)"


def test_a_cell_counts_as_level_behind_by_a_little_and_as_ahead_before_every_rival():
    def cells(nll):
        return Cell.of([run((0, 1, 0, nll, 1.0, 0.9, 1.0), (1, 1, 0, nll, 1.0, 0.9, 1.0))], 1)

    found = {
        ("a", 1): {"ours": cells(1.02), "other": cells(1.0)},
        ("b", 1): {"ours": cells(0), "other": cells(1)},
    }
    found["c", 1] = {"ours": cells(1.5), "other": cells(1.0)}
    counts = [line.split("|")[2].strip() for line in summary(found)[2:]]
    assert counts == ["3", "2", "1", "3"]
    assert sum(line.startswith("| a | 1 |") for line in tables(found, {"a": 7.0})) == 3
