"""Features of pictures, and softmax heads on them."""

import math

import pytest
import torch

import bmaml.embedding as embedding_module
from bmaml import softmax
from bmaml.categorical import classes_of
from bmaml.densities import Precisions, log_prior
from bmaml.embedding import PREFIX, ConvNet, InvalidEmbedding
from bmaml.learners import InvalidLearner, learner_from
from bmaml.learners.bfa import BFA
from bmaml.learners.bmaml import BMAML
from bmaml.learners.emaml import EMAML
from bmaml.learners.maml import MAML
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.closed_form import generator

HEADS = (MAML, EMAML, BFA, BMAML)
CLASSES = 4


def net(light=True, channels=1, size=16):
    embedding = ConvNet(channels, size, width=4, light=light)
    noise = generator(1)
    learned = {
        name: value.double() + 0.1 * torch.rand(value.shape, generator=noise, dtype=torch.float64)
        for name, value in embedding.initialise(generator()).items()
    }
    return embedding, learned


def task(counts, seed=0):
    draw = generator(seed)
    y = torch.eye(len(counts)).repeat_interleave(torch.tensor(counts), 0)
    return torch.randn(len(y), 5, generator=draw), y


def head(kind, hidden=(6,)):
    learner = kind(
        MLP(5, hidden, CLASSES, "tanh"),
        particles=1 if kind is MAML else 3,
        likelihood="categorical",
        step_size=0.05,
    )
    noise = generator(1)
    learned = learner.initialise(generator())
    return learner, {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=noise, dtype=torch.float64)
        for name, value in learned.items()
    }


@pytest.mark.parametrize(("light", "size"), [(True, 16), (False, 16), (True, 28), (False, 28), (True, 32)])
def test_features_are_as_many_as_announced(light, size):
    embedding, learned = net(light, 3, size)
    found = embedding(learned, torch.rand(2, 3, embedding.inputs))
    assert found.shape == (2, 3, embedding.features)
    assert embedding(learned, torch.rand(2, 0, embedding.inputs)).shape == (2, 0, embedding.features)


@pytest.mark.parametrize("light", [True, False])
def test_a_picture_s_features_do_not_depend_on_its_company(light):
    embedding, learned = net(light)
    images = torch.rand(1, 6, embedding.inputs)
    together = embedding(learned, images)
    for row in range(6):
        torch.testing.assert_close(embedding(learned, images[:, row : row + 1])[0, 0], together[0, row])


@pytest.mark.parametrize("light", [True, False])
def test_folding_the_statistics_into_the_kernels_changes_nothing(light):
    embedding, learned = net(light)
    images = torch.rand(1, 4, embedding.inputs)
    signal = images.reshape(4, 1, embedding.size, embedding.size)
    for block in range(4):
        kernel, scale, shift, mean, variance = (
            learned[f"{PREFIX}{block}.{name}"] for name in ("kernel", "scale", "shift", "mean", "variance")
        )
        strided = light and block == 0
        signal = torch.nn.functional.conv2d(signal, kernel, None, 2 if strided else 1, kernel.shape[-1] // 2)
        signal = torch.nn.functional.batch_norm(signal, mean, variance, scale, shift).relu()
        if not strided and not (light and block == 3):
            signal = torch.nn.functional.max_pool2d(signal, 2)
    torch.testing.assert_close(embedding(learned, images)[0], signal.flatten(1))


def test_memory_for_many_pictures_is_bounded_and_they_are_the_same_as_alone(monkeypatch):
    embedding, learned = net()
    images = torch.rand(2, 5, embedding.inputs)
    together = embedding(learned, images)
    seen = []

    def watched(signal, *rest):
        seen.append(len(signal))
        return torch.nn.functional.conv2d(signal, *rest)

    monkeypatch.setattr(embedding_module, "conv2d", watched)
    monkeypatch.setattr(embedding_module, "MAX_CPU_PIXELS", 3 * embedding.size**2 + 1)
    torch.testing.assert_close(embedding(learned, images), together)
    assert max(seen) == 3


def test_views_are_averaged_once_training_is_over():
    embedding, learned = net()
    images = torch.rand(1, 3, embedding.inputs)
    square = images.view(1, 3, 16, 16)
    three = ConvNet(1, 16, width=4, views=3)
    moved = [square.roll(rows, 2).reshape(1, 3, -1) for rows in (0, 1, -1)]
    expected = torch.stack([embedding(learned, each) for each in moved]).mean(0)
    torch.testing.assert_close(three(learned, images), expected)
    once = embedding(learned, images, training=True)
    torch.testing.assert_close(three(learned, images, training=True), once)
    with pytest.raises(InvalidEmbedding, match="found 6"):
        ConvNet(1, 28, views=6)


def test_training_moves_the_statistics_alone():
    embedding, learned = net()
    before = {name: value.clone() for name, value in learned.items()}
    embedding(learned, torch.rand(1, 4, embedding.inputs), training=True)
    moved = {
        name.removeprefix(PREFIX)[2:] for name in learned if not torch.equal(learned[name], before[name])
    }
    assert moved == {"mean", "variance"}


@pytest.mark.parametrize(("settings", "found"), [((2, 28), "found 2"), ((1, 8), "found 8")])
def test_embeddings_that_cannot_be_built_are_refused(settings, found):
    with pytest.raises(InvalidEmbedding, match=found):
        ConvNet(*settings)
    with pytest.raises(InvalidEmbedding, match="found 3"):
        ConvNet(1, 28, width=3)


def test_the_class_likelihood_is_a_sum_of_log_softmax_over_the_classes_of_the_task():
    learner, learned = head(BFA)
    particles = learned["initial"].unsqueeze(0)
    x, y = task((2, 1, 0, 3))
    examples = Examples.padded([(x, y)])
    present = classes_of(examples.y, examples.mask)
    found = softmax.log_likelihood(learner.network, particles, examples, present)
    logits = learner.network(particles[..., :-2], examples.x)[0][..., [0, 1, 3]].log_softmax(-1)
    truth = y[:, [0, 1, 3]]
    torch.testing.assert_close(found[0], (logits * truth).sum((-1, -2)))


def test_scores_are_the_gradient_of_the_joint_and_leave_the_noise_alone():
    learner, learned = head(BFA)
    examples = Examples.padded([task((2, 1, 2, 1)), task((1, 1, 0, 0), seed=2)])
    present = classes_of(examples.y, examples.mask)
    theta = learned["initial"].expand(2, -1, -1).clone().requires_grad_()
    joint = softmax.log_likelihood(learner.network, theta, examples, present) + log_prior(theta, Precisions())
    expected = torch.autograd.grad(joint.sum(), theta)[0]
    found = softmax.joint_scores(learner.network, learned["initial"].unsqueeze(0), examples, Precisions())
    torch.testing.assert_close(found[..., :-2], expected[..., :-2])
    torch.testing.assert_close(found[..., -1], expected[..., -1])
    assert bool((found[..., -2] == 0).all())


@pytest.mark.parametrize("kind", HEADS)
def test_ragged_tasks_together_equal_each_alone(kind):
    learner, learned = head(kind)
    tasks = [task((2, 1, 3, 2)), task((1, 1, 0, 0), seed=2), task((0, 2, 1, 2), seed=3)]
    x = torch.randn(3, 5, 5)
    together = learner.predict(learner.adapt(learned, Examples.padded(tasks), 2), x).probabilities()
    for number, each in enumerate(tasks):
        alone = learner.predict(learner.adapt(learned, Examples.padded([each]), 2), x[number : number + 1])
        torch.testing.assert_close(together[number], alone.probabilities()[0])


@pytest.mark.parametrize("kind", HEADS)
def test_adapting_explains_the_support_set_better(kind):
    learner, learned = head(kind)
    support = Examples.padded([task((3, 3, 3, 3))])

    def nll(steps):
        belief = learner.predict(learner.adapt(learned, support, steps), support.x)
        return -float(belief.log_density(support.y).mean())

    assert nll(5) < nll(0)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_reach_the_start_and_the_features(kind):
    learner, learned = head(kind, hidden=())
    batch = TaskBatch(Examples.padded([task((2, 2, 1, 1))]), Examples.padded([task((1, 1, 2, 2), seed=4)]))
    x = batch.support.x.clone().requires_grad_()
    start = learned["initial"].requires_grad_()
    shown = Examples(x, batch.support.y, batch.support.mask)
    learner.loss({**learned, "initial": start}, TaskBatch(shown, batch.query)).backward()
    for gradient in (start.grad, x.grad):
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("kind", [EMAML, BFA])
def test_the_meta_gradient_through_adaptation_is_right(kind):
    learner, learned = head(kind, hidden=())
    batch = TaskBatch(Examples.padded([task((2, 1, 1, 1))]), Examples.padded([task((1, 1, 2, 2), seed=4)]))
    if kind is BFA:
        learned["initial"] = learned["initial"][:1]  # one particle: no bandwidth to hold fixed
        learner = BFA(learner.network, particles=1, likelihood="categorical", step_size=0.05)
    start = learned["initial"].requires_grad_()
    assert torch.autograd.gradcheck(lambda each: learner.loss({**learned, "initial": each}, batch), (start,))


def test_a_network_of_more_outputs_than_classes_uses_the_first():
    learner, learned = head(EMAML)
    x, y = task((2, 1, 3, 2))
    narrow = Examples.padded([(x[:6], y[:6, :3])])
    belief = learner.predict(learner.adapt(learned, narrow), x.unsqueeze(0))
    assert belief.probabilities().shape[-1] == 3
    torch.testing.assert_close(belief.probabilities().sum(-1), torch.ones(1, 8))
    assert float(belief.entropy().max()) <= math.log(3) + 1e-9


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("bfa", {"likelihood": "poisson"}, "'poisson'"),
        ("bfa", {"likelihood": "categorical", "evidence_weights": True}, "classes have none"),
        ("llama", {"likelihood": "categorical"}, "predicts numbers"),
    ],
)
def test_heads_that_cannot_be_are_refused(name, settings, found):
    with pytest.raises(InvalidLearner, match=found):
        learner_from(name, {"network": {"inputs": 5, "hidden": [], "outputs": 3}, **settings})
