"""Learners with softmax heads: likelihood, scores, adaptation and meta-gradients for classes."""

import math
from dataclasses import replace

import pytest
import torch

from bmaml import class_densities
from bmaml.categorical import present_classes
from bmaml.densities import Precisions, log_prior
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


def test_the_class_likelihood_is_a_sum_of_log_softmax_over_the_classes_of_the_task():
    learner, learned = head(BFA)
    particles = learned["initial"].unsqueeze(0)
    x, y = task((2, 1, 0, 3))
    examples = Examples.padded([(x, y)])
    present = present_classes(examples.y, examples.mask)
    found = class_densities.log_likelihood(learner.network, particles, examples, present)
    logits = learner.network(particles[..., :-2], examples.x)[0][..., [0, 1, 3]].log_softmax(-1)
    truth = y[:, [0, 1, 3]]
    torch.testing.assert_close(found[0], (logits * truth).sum((-1, -2)))


def test_scores_are_the_gradient_of_the_joint_and_leave_the_noise_alone():
    learner, learned = head(BFA)
    examples = Examples.padded([task((2, 1, 2, 1)), task((1, 1, 0, 0), seed=2)])
    present = present_classes(examples.y, examples.mask)
    theta = learned["initial"].expand(2, -1, -1).clone().requires_grad_()
    joint = class_densities.log_likelihood(learner.network, theta, examples, present) + log_prior(
        theta, Precisions()
    )
    expected = torch.autograd.grad(joint.sum(), theta)[0]
    found = class_densities.joint_scores(
        learner.network, learned["initial"].unsqueeze(0), examples, present, Precisions()
    )
    torch.testing.assert_close(found[..., :-2], expected[..., :-2])
    torch.testing.assert_close(found[..., -1], expected[..., -1])
    assert bool((found[..., -2] == 0).all())


@pytest.mark.parametrize("kind", [BFA, BMAML])
def test_fixed_precisions_stay_in_every_task_and_are_meta_learned(kind):
    learner, learned = head(kind)
    fixed = replace(learner, fixed_precisions=True)
    examples = Examples.padded([task((2, 1, 3, 2))])
    for each, moves in ((learner, True), (fixed, False)):
        adapted = each.adapt(learned, examples, 2).particles
        assert torch.equal(adapted[0, :, -1], learned["initial"][:, -1]) is not moves
        assert not torch.equal(adapted[0, :, :-2], learned["initial"][:, :-2])
    initial = learned["initial"].clone().requires_grad_()
    loss = fixed.loss({**learned, "initial": initial}, TaskBatch(examples, examples))
    assert bool((torch.autograd.grad(loss, initial)[0][:, -1] != 0).all())


@pytest.mark.parametrize("kind", HEADS)
def test_the_mean_gradient_divides_the_rate_by_the_rows(kind):
    learner, learned = head(kind)
    examples = Examples.padded([task((2, 1, 3, 2))])
    mean = replace(learner, mean_gradient=True, step_size=8 * learner.step_size)
    torch.testing.assert_close(
        mean.adapt(learned, examples).particles, learner.adapt(learned, examples).particles
    )
    twice = examples.joined(examples)
    if kind in (MAML, EMAML):
        found, expected = (mean.adapt(learned, each).particles for each in (twice, examples))
        torch.testing.assert_close(found, expected)


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


@pytest.mark.parametrize("kind", HEADS)
def test_fixed_classes_are_possible_without_rows_and_learn_from_those_there_are(kind):
    learner, learned = head(kind, hidden=())
    learner = replace(learner, fixed_classes=True)
    x, y = task((2, 0, 2, 0))
    nothing = Examples.empty(5, 4, like=x)
    prior = learner.predict(learner.adapt(learned, nothing), x.unsqueeze(0)).probabilities()
    logits = learner.network(learned["initial"][:, :-2].unsqueeze(0), x.unsqueeze(0))
    torch.testing.assert_close(prior, logits.softmax(-1).mean(1))
    shown = learner.adapt(learned, Examples.padded([(x, y)]))
    after = learner.predict(shown, x.unsqueeze(0)).probabilities()
    assert bool((after > 0).all())
    assert float((after * y).sum()) > float((prior * y).sum())
    assert learner.fixed_classes


def test_numbers_have_no_fixed_classes():
    with pytest.raises(InvalidLearner, match="numbers have no classes"):
        learner_from("bfa", {"network": {"inputs": 5, "hidden": [], "outputs": 3}, "fixed_classes": True})
