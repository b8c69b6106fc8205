"""The transformer over rows: order and padding do not matter, and its mixtures are densities."""

import pytest
import torch

from benchmarks.context_transformer import (
    Architecture,
    ContextTransformer,
    Recipe,
    at_most,
    load,
    log_density,
    mean_nll,
    save,
    train,
)
from bmaml.task import Examples, TaskBatch

SHAPES = [
    Architecture(inputs=2, width=16, heads=2, layers=2, components=3, attention=a) for a in (True, False)
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(tasks: int, count: int, seed: int) -> Examples:
    draw = generator(seed)
    x, y = (torch.randn(tasks, count, axis, generator=draw, dtype=torch.float64) for axis in (2, 1))
    return Examples.full(x, y)


@pytest.fixture(params=SHAPES, ids=["attention", "deep set"])
def network(request) -> ContextTransformer:
    """A network in float64 whose every parameter is away from its start."""
    torch.manual_seed(0)
    found = ContextTransformer(request.param).double().eval()
    with torch.no_grad():
        for each in found.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return found


def test_the_order_of_support_rows_does_not_matter(network):
    support, query = rows(3, 6, 1), rows(3, 4, 2)
    order = torch.randperm(6, generator=generator())
    shuffled = Examples.full(support.x[:, order], support.y[:, order])
    for found, expected in zip(network(shuffled, query.x), network(support, query.x), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_query_row_does_not_depend_on_the_others(network):
    support, query = rows(2, 5, 1), rows(2, 4, 2)
    whole = network(support, query.x)
    for place in range(4):
        for found, expected in zip(network(support, query.x[:, [place]]), whole, strict=True):
            torch.testing.assert_close(found, expected[:, [place]])


@pytest.mark.parametrize("shown", [0, 1, 5])
def test_padding_changes_nothing(network, shown):
    support, query = rows(2, 5, 1), rows(2, 4, 2)
    mask = (torch.arange(5) < shown).expand(2, -1)
    padded = Examples(support.x, support.y, mask)
    cut = Examples.full(support.x[:, :shown], support.y[:, :shown])
    for found, expected in zip(network(padded, query.x), network(cut, query.x), strict=True):
        torch.testing.assert_close(found, expected)


def test_every_parameter_has_a_gradient(network):
    loss = mean_nll(network, TaskBatch(rows(4, 5, 1), rows(4, 6, 2)))
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    idle = {name for name, each in zip(names, gradients, strict=True) if each is None}
    unread = {name for name in names if name.startswith("label") or ".query." in name}
    assert idle == (set() if network.architecture.attention else unread)
    assert all(bool(each.isfinite().all()) for each in gradients if each is not None)
    assert all(bool((each != 0).any()) for each in gradients if each is not None)


def test_the_density_integrates_to_one(network):
    support, query = rows(2, 5, 1), rows(2, 3, 2)
    grid = torch.linspace(-40, 40, 80001, dtype=torch.float64)
    with torch.no_grad():
        logs, means, std = network(support, query.x)
        density = log_density(
            (logs[..., None, :], means[..., None, :], std[..., None, :]), grid[:, None]
        ).exp()
    torch.testing.assert_close(torch.trapezoid(density, grid), torch.ones(2, 3, dtype=torch.float64))


def test_the_belief_has_the_density_and_a_task_for_each_row(network):
    support, query = rows(2, 5, 1), rows(2, 3, 2)
    answer = network.belief(support, query.x)
    expected = log_density(network(support, query.x), query.y)
    torch.testing.assert_close(answer.log_density(query.y.reshape(6, 1, 1)).reshape(2, 3), expected)


def test_the_first_real_query_rows_are_kept():
    query = rows(2, 5, 1)
    mask = torch.tensor([[False, True, False, True, True], [False, False, True, False, False]])
    kept = at_most(Examples(query.x, query.y, mask), 2)
    assert kept.mask.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(kept.x[0], query.x[0, [1, 3]])
    torch.testing.assert_close(kept.y[1, 0], query.y[1, 2])


def lines(tasks: int, draw: torch.Generator) -> TaskBatch:
    """Straight lines: five support rows and four query rows."""
    x = torch.randn(tasks, 9, 1, generator=draw)
    y = x * torch.randn(tasks, 1, 1, generator=draw)
    return TaskBatch(Examples.full(x[:, :5], y[:, :5]), Examples.full(x[:, 5:], y[:, 5:]))


def test_training_keeps_the_best_look_and_a_file_brings_it_back(tmp_path):
    checked = lines(50, generator(1))
    architecture = Architecture(width=16, heads=2, layers=1, components=2)
    recipe = Recipe(60, meta_batch=16, learning_rate=1e-2, warmup=5, looks=6)
    network, looks = train(lines, lambda: iter([checked]), architecture, recipe, 0)
    with torch.no_grad():
        reached = float(mean_nll(network, checked))
    assert [look.step for look in looks] == [10, 20, 30, 40, 50, 60]
    assert reached == pytest.approx(min(look.validation_nll for look in looks))
    assert reached < looks[0].validation_nll
    save(tmp_path / "new" / "transformer.pt", network, recipe, looks)
    again, its_recipe, its_looks = load(tmp_path / "new" / "transformer.pt")
    assert (its_recipe, its_looks) == (recipe, looks)
    for found, expected in zip(
        again(checked.support, checked.query.x), network(checked.support, checked.query.x), strict=True
    ):
        assert torch.equal(found, expected)
