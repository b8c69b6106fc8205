"""A convolutional classifier as one vector: the folded embedding, derivatives, ragged tasks."""

import pytest
import torch

from bmaml.conv_classifier import ConvClassifier
from bmaml.embedding import ConvNet
from bmaml.learners import InvalidLearner
from bmaml.learners.emaml import EMAML
from bmaml.learners.maml import MAML
from bmaml.networks import MLP, InvalidNetwork
from bmaml.task import Examples, TaskBatch
from tests.closed_form import generator

WAYS = 3


def network(light=True, channels=1, size=16):
    return ConvClassifier(channels, size, WAYS, width=4, light=light)


def trained_embedding(form):
    noise = generator(1)
    return {
        name: value.double() + 0.2 * torch.rand(value.shape, generator=noise, dtype=torch.float64)
        for name, value in form.blocks.initialise(generator()).items()
    }


def maml(form, kind=MAML, **settings):
    particles = 1 if kind is MAML else 2
    return kind(form, particles=particles, likelihood="categorical", step_size=0.02, **settings)


def learned_by(learner):
    noise = generator(5)
    return {
        name: value.double() + 0.01 * torch.randn(value.shape, generator=noise, dtype=torch.float64)
        for name, value in learner.initialise(generator(2)).items()
    }


def examples(form, rows, seed=0):
    y = torch.eye(WAYS, dtype=torch.float64)[torch.arange(rows) % WAYS]
    x = torch.rand(rows, form.inputs, generator=generator(seed), dtype=torch.float64)
    return x, y


@pytest.mark.parametrize(("light", "channels", "size"), [(True, 1, 16), (False, 3, 16), (True, 3, 21)])
def test_a_folded_embedding_and_head_give_the_same_outputs(light, channels, size):
    form = network(light, channels, size)
    embedding: ConvNet = form.blocks
    learned, head = trained_embedding(form), MLP(embedding.features, (), WAYS + 2)
    theta = head.initialise(2, generator(3)).double()
    images = torch.rand(2, 4, form.inputs, dtype=torch.float64)
    expected = head(theta.unsqueeze(0), embedding(learned, images))[..., :WAYS]
    torch.testing.assert_close(form(form.folded(learned, theta).unsqueeze(0), images), expected)


def test_an_embedding_of_another_form_is_not_folded():
    learned = trained_embedding(network(light=False))
    with pytest.raises(InvalidNetwork, match="block 0 has kernels"):
        network().folded(learned, torch.zeros(1, 5))
    with pytest.raises(InvalidNetwork, match="no 3 outputs"):
        network().folded(trained_embedding(network()), torch.zeros(1, 2 * (network().blocks.features + 1)))


@pytest.mark.parametrize("light", [True, False])
def test_shared_parameters_equal_a_copy_for_each_task(light):
    form = network(light)
    theta = form.initialise(2, generator()).double().unsqueeze(0)
    images = torch.rand(3, 4, form.inputs, dtype=torch.float64)
    torch.testing.assert_close(form(theta, images), form(theta.expand(3, -1, -1), images))


def test_first_and_second_derivatives_are_those_of_finite_differences():
    form = ConvClassifier(1, 16, 2, width=2)
    theta = form.initialise(1, generator()).double().unsqueeze(0)
    theta = theta + 0.01 * torch.randn(theta.shape, generator=generator(5), dtype=torch.float64)  # off kinks
    images = torch.rand(1, 2, form.inputs, generator=generator(6), dtype=torch.float64)
    along = torch.randn(theta.shape, generator=generator(4), dtype=torch.float64)

    def output(step):
        return form(theta + step * along, images).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, step)
    assert torch.autograd.gradgradcheck(output, step)


def test_the_meta_gradient_goes_through_the_inner_steps():
    form = network()
    learner = maml(form, steps=2)
    learned = learned_by(learner)
    batch = TaskBatch(
        Examples.padded([examples(form, 3), examples(form, 5, 1)]),
        Examples.padded([examples(form, 6, 2), examples(form, 4, 3)]),
    )
    along = torch.randn(learned["initial"].shape, generator=generator(4), dtype=torch.float64)

    def loss(step):
        return learner.loss({**learned, "initial": learned["initial"] + step * along}, batch)

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(step), step)
    with torch.no_grad():
        expected = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_adaptation_moves_kernels_and_not_the_head_alone():
    form = network()
    learner = maml(form)
    learned = learned_by(learner)
    moved = learner.adapt(learned, Examples.padded([examples(form, 3)])).particles - learned["initial"]
    kernels = moved[0, 0, : -(form.blocks.features + 1) * WAYS - 2]
    assert float(kernels.abs().max()) > 0


@pytest.mark.parametrize("kind", [MAML, EMAML])
def test_ragged_tasks_together_equal_each_alone(kind):
    form = network()
    learner = maml(form, kind)
    learned = learned_by(learner)
    tasks = [examples(form, 3), examples(form, 5, 1)]
    images = torch.rand(2, 4, form.inputs, dtype=torch.float64)
    together = learner.predict(learner.adapt(learned, Examples.padded(tasks)), images).probabilities()
    for row, each in enumerate(tasks):
        posterior = learner.adapt(learned, Examples.padded([each]))
        alone = learner.predict(posterior, images[row : row + 1]).probabilities()
        torch.testing.assert_close(alone[0], together[row])


def test_numbers_are_refused():
    with pytest.raises(InvalidLearner, match="a convolutional classifier predicts classes"):
        MAML(network(), particles=1)
