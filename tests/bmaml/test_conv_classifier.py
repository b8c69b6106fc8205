"""A convolutional classifier as one vector: folded embeddings, normalisation, derivatives, ragged tasks."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, cross_entropy

from bmaml.conv_classifier import ConvClassifier
from bmaml.embedding import ConvNet
from bmaml.learners import InvalidLearner
from bmaml.learners.emaml import EMAML
from bmaml.learners.maml import MAML
from bmaml.networks import MLP, InvalidNetwork
from bmaml.task import Examples, TaskBatch
from tests.closed_form import generator

WAYS = 3


NORMALISATIONS = ["none", "support", "query"]


def network(light=True, channels=1, size=16, normalisation="none"):
    strided = normalisation != "none"
    return ConvClassifier(channels, size, WAYS, 4, light, strided, normalisation)


def reference(theta, images):
    """The outputs of a strided, normalised network `[particle, row, output]`, of torch's own operations."""
    form = network(normalisation="query")
    outputs = []
    for vector in theta.split(1):
        rest, signal = vector[0], images.view(-1, 1, 16, 16)
        for i, o in ((1, 2), (2, 4), (4, 4), (4, 4)):
            kernel, scale, shift, rest = rest.split([9 * i * o, o, o, len(rest) - (9 * i + 2) * o])
            kernel = kernel.view(3, 3, i, o).permute(3, 2, 0, 1)
            signal = batch_norm(conv2d(signal, kernel, None, 2, 1), None, None, scale, shift, True)
            signal = torch.relu(signal)
        weight, bias = rest.split([form.feature_size * WAYS, WAYS])
        outputs.append(signal.flatten(1) @ weight.view(-1, WAYS) + bias)
    return torch.stack(outputs)


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
    with pytest.raises(InvalidNetwork, match="a strided or normalised network has no equal"):
        network(normalisation="support").folded(trained_embedding(network()), torch.zeros(1, 5))


def test_a_normalised_network_is_strided_convolutions_and_batch_normalisation():
    form = network(normalisation="query")
    theta = form.initialise(2, generator()).double()
    theta = theta + 0.1 * torch.randn(theta.shape, generator=generator(1), dtype=torch.float64)
    images = torch.rand(1, 5, form.inputs, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(form(theta.unsqueeze(0), images)[0], reference(theta, images[0]))


def test_the_meta_gradient_is_that_of_torch_func_through_one_step_of_maml():
    form = network(normalisation="query")
    learner = maml(form, mean_gradient=True)
    learned = learned_by(learner)
    batch = TaskBatch(*(Examples.padded([examples(form, rows, rows)]) for rows in (3, 6)))
    support, query = batch.support, batch.query

    def published(theta):
        def inner(theta):
            return cross_entropy(reference(theta, support.x[0])[0], support.y[0])

        adapted = theta - learner.step_size * torch.func.grad(inner)(theta)
        return cross_entropy(reference(adapted, query.x[0])[0], query.y[0], reduction="sum")

    start = learned["initial"].requires_grad_()
    (found,) = torch.autograd.grad(learner.loss({**learned, "initial": start}, batch), start)
    expected = torch.func.grad(published)(start.detach()[:, :-2])
    torch.testing.assert_close(found[:, :-2], expected)
    assert float(expected.abs().max()) > 0.01


@pytest.mark.parametrize("normalisation", ["support", "query"])
def test_predictions_are_normalised_by_the_support_set_alone(normalisation):
    form = network(normalisation=normalisation)
    learner = maml(form, EMAML)
    learned = learned_by(learner)
    support = Examples.padded([examples(form, 6)])
    images = torch.rand(1, 4, form.inputs, generator=generator(3), dtype=torch.float64)
    posterior = learner.adapt(learned, support)
    together = learner.predict(posterior, images).probabilities()
    for row in range(4):
        alone = learner.predict(posterior, images[:, row : row + 1]).probabilities()
        torch.testing.assert_close(alone[:, 0], together[:, row])
    theta = posterior.particles[..., :-2]
    among_support = form(theta, torch.cat([support.x, support.x], 1))  # the same moments
    torch.testing.assert_close(form(theta, support.x, moments=posterior.moments), among_support[..., :6, :])
    transductive = learner.predict(replace(posterior, moments=None), images).probabilities()
    logits = reference(theta[0], images[0])
    torch.testing.assert_close(transductive[0], logits.softmax(-1).mean(0))


def test_the_meta_objective_normalises_query_images_as_it_says():
    batches = {}
    for normalisation in ("support", "query"):
        form = network(normalisation=normalisation)
        learner = maml(form)
        learned = learned_by(learner)
        batch = TaskBatch(*(Examples.padded([examples(form, rows, rows)]) for rows in (3, 6)))
        posterior = learner.adapt(learned, batch.support)
        kept = posterior if normalisation == "support" else replace(posterior, moments=None)
        logs = learner.predict(kept, batch.query.x).log_density(batch.query.y)
        torch.testing.assert_close(learner.loss(learned, batch), -logs.sum())
        batches[normalisation] = float(learner.loss(learned, batch))
    assert abs(batches["support"] - batches["query"]) > 1e-3


def test_an_empty_support_set_leaves_the_signal_in_its_own_units():
    form = network(normalisation="support")
    learner = maml(form)
    posterior = learner.adapt(
        learned_by(learner), Examples.empty(form.inputs, WAYS, torch.zeros((), dtype=torch.float64))
    )
    moments = posterior.moments[0, 0]
    assert set(moments.tolist()) == {0.0, 1.0}
    assert bool(posterior.finite().all())


@pytest.mark.parametrize(
    ("light", "normalisation"), [(True, "none"), (False, "none"), (True, "support"), (True, "query")]
)
def test_shared_parameters_equal_a_copy_for_each_task(light, normalisation):
    form = network(light, normalisation=normalisation)
    theta = form.initialise(2, generator()).double().unsqueeze(0)
    images = torch.rand(3, 4, form.inputs, dtype=torch.float64)
    torch.testing.assert_close(form(theta, images), form(theta.expand(3, -1, -1), images))


@pytest.mark.parametrize("normalisation", ["none", "query"])
def test_first_and_second_derivatives_are_those_of_finite_differences(normalisation):
    form = ConvClassifier(1, 16, 2, 2, strided=normalisation != "none", normalisation=normalisation)
    theta = form.initialise(1, generator()).double().unsqueeze(0)
    theta = theta + 0.01 * torch.randn(theta.shape, generator=generator(5), dtype=torch.float64)  # off kinks
    images = torch.rand(1, 2, form.inputs, generator=generator(6), dtype=torch.float64)
    along = torch.randn(theta.shape, generator=generator(4), dtype=torch.float64)

    def output(step):
        return form(theta + step * along, images).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, step)
    assert torch.autograd.gradgradcheck(output, step)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_meta_gradient_goes_through_the_inner_steps(normalisation):
    form = network(normalisation=normalisation)
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


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_adaptation_moves_kernels_and_not_the_head_alone(normalisation):
    form = network(normalisation=normalisation)
    learner = maml(form)
    learned = learned_by(learner)
    moved = learner.adapt(learned, Examples.padded([examples(form, 3)])).particles - learned["initial"]
    kernels = moved[0, 0, : -form.head_size - 2]
    assert float(kernels.abs().max()) > 0


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", [MAML, EMAML])
def test_ragged_tasks_together_equal_each_alone(kind, normalisation):
    form = network(normalisation=normalisation)
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
