"""Batches are checked when built; networks are functions of one flat vector."""

import pytest
import torch

from bmaml.networks import MLP, InvalidNetwork
from bmaml.task import Examples, InvalidExamples, TaskBatch
from tests.closed_form import full_batch, generator, ragged


def test_padding_is_zero_and_masked():
    examples = Examples.padded(ragged(3))
    assert examples.mask.sum(-1).tolist() == [0, 2, 4]
    assert not examples.x[~examples.mask].any()
    assert not examples.y[~examples.mask].any()


def test_an_empty_batch_of_rows_keeps_one_padded_row():
    assert Examples.padded(ragged(1)).mask.tolist() == [[False]]


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda: Examples.padded([]), "at least one task"),
        (lambda: Examples.padded([(torch.zeros(2, 1), torch.zeros(3, 1))]), "same number of rows"),
        (
            lambda: Examples.padded(
                [(torch.zeros(1, 1), torch.zeros(1, 1)), (torch.zeros(1, 2), torch.zeros(1, 1))]
            ),
            "same inputs and outputs",
        ),
        (lambda: TaskBatch(full_batch(2).support, full_batch(3).query), "2 support sets .* 3 query sets"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused_by_name(build, found):
    with pytest.raises(InvalidExamples, match=found):
        build()


def test_everything_is_support_and_query():
    batch = full_batch(shots=4, queries=5)
    assert batch.all_examples().mask.shape == (3, 9)


def test_the_network_equals_a_torch_module():
    network = MLP(2, (6, 5), 3, "tanh")
    theta = network.initialise(2, generator()).double()
    theta = theta + 0.1 * torch.randn_like(theta)
    layers = []
    for weight, bias in network.unpack(theta[1]):
        layer = torch.nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = weight.T, bias[0]
        layers += [layer, torch.nn.Tanh()]
    x = torch.randn(4, 7, 2)
    torch.testing.assert_close(network(theta[None], x)[:, 1], torch.nn.Sequential(*layers[:-1])(x))


def test_shared_parameters_equal_one_copy_per_task():
    network = MLP(2, (6, 5), 3, "sine")
    theta = torch.randn(1, 4, network.size)
    x = torch.randn(5, 3, 2)
    torch.testing.assert_close(network(theta, x), network(theta.expand(5, -1, -1).clone(), x))


@pytest.mark.parametrize(
    ("hidden", "activation", "found"),
    [((4, 0), "tanh", r"\(4, 0\)"), ((4,), "step", "'step'")],
)
def test_networks_that_cannot_be_built_are_refused_by_name(hidden, activation, found):
    with pytest.raises(InvalidNetwork, match=found):
        MLP(1, hidden, 1, activation)
