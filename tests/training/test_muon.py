"""Muon for the matrices between hidden layers, Adam for everything else."""

import copy

import torch

from bmaml.networks import MLP
from training.muon import Muon, hidden_matrices, orthogonalised


def start(network, particles=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "initial": network.initialise(particles, generator).double().requires_grad_(),
        "log_temperature": torch.zeros((), dtype=torch.float64, requires_grad=True),
    }


def loss(learned):
    return (learned["initial"].sin() * torch.arange(learned["initial"].shape[1])).sum() + learned[
        "log_temperature"
    ]


def test_the_places_are_the_weights_between_hidden_layers():
    network = MLP(2, (4, 5, 3), 1)
    theta = torch.arange(network.size, dtype=torch.float64).expand(1, 1, -1)
    layers = network.unpack(theta)
    for (begin, end, shape), (weight, _) in zip(hidden_matrices(network), layers[1:3], strict=True):
        assert torch.equal(theta[0, 0, begin:end].view(shape), weight[0, 0])
    assert hidden_matrices(MLP(2, (4,), 1)) == []


def test_orthogonalised_keeps_the_singular_vectors_and_brings_all_values_near_one():
    matrices = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices)
    found = left.mT @ orthogonalised(matrices) @ right.mT
    values = found.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(values))
    assert (values.median(-1).values > 0.6).all()
    assert (values < 1.3).all()


def test_everything_but_the_matrices_moves_as_adam_moves_it():
    network = MLP(1, (4, 4), 1)
    ours, reference = start(network), start(network)
    muon, adam = Muon(ours, network, 0.01, 0.5), torch.optim.Adam(reference.values(), lr=0.01)
    ((begin, end, _),) = hidden_matrices(network)
    for _ in range(3):
        for optimiser, learned in ((muon, ours), (adam, reference)):
            optimiser.zero_grad()
            loss(learned).backward()
            optimiser.step()
        with torch.no_grad():  # what the matrices do must not reach the others through the loss
            ours["initial"][:, begin:end] = reference["initial"][:, begin:end]
    torch.testing.assert_close(ours, reference)


def test_a_matrix_moves_by_its_rate_along_the_orthogonalised_gradient():
    network = MLP(1, (4, 4), 1)
    learned = start(network)
    muon = Muon(learned, network, 0.01, 0.5)
    before = learned["initial"].detach().clone()
    loss(learned).backward()
    ((begin, end, shape),) = hidden_matrices(network)
    gradient = learned["initial"].grad[:, begin:end].clone().unflatten(1, shape)
    muon.step()
    moved = (learned["initial"].detach() - before)[:, begin:end].unflatten(1, shape)
    torch.testing.assert_close(moved, -0.5 * orthogonalised(gradient))


def test_its_state_survives_a_checkpoint():
    network = MLP(1, (4, 4), 1)
    whole, resumed = start(network), start(network)
    first, second = (Muon(learned, network, 0.01, 0.1) for learned in (whole, resumed))

    def step(optimiser, learned):
        optimiser.zero_grad()
        loss(learned).backward()
        optimiser.step()

    step(first, whole)
    for name in whole:
        resumed[name].data.copy_(whole[name])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(first, whole)
    step(second, resumed)
    assert torch.equal(whole["initial"], resumed["initial"])
