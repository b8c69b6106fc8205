"""Laplace particles: classes of fixed meaning, with and without order."""

import math
from dataclasses import replace

import pytest
import torch

from bmaml.acquisition import CLASS_ACQUISITIONS
from bmaml.learners import InvalidLearner, learner_from, settings_of
from bmaml.learners.laplace import Laplace
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.bmaml.acquisition.pools import class_pool
from tests.closed_form import generator

CLASSES = 4


def learner_and_start(ordered=False, particles=3, scales=(1.0, 3.0), **settings):
    learner = Laplace(
        MLP(3, (5,), 1 if ordered else CLASSES, "tanh"),
        particles=particles,
        classes=CLASSES,
        ordered=ordered,
        scales=scales,
        factors=1 if ordered else 2,
        **settings,
    )
    noise = generator(1)
    return learner, {
        name: value.double() + 0.2 * torch.randn(value.shape, generator=noise)
        for name, value in learner.initialise(generator()).items()
    }


def rows(count, seed=2, label=None):
    noise = generator(seed)
    x = torch.randn(count, 3, generator=noise)
    drawn = torch.randint(CLASSES, (count,), generator=noise)
    labels = drawn if label is None else torch.full((count,), label)
    return x, torch.eye(CLASSES)[labels]


def queries(count=6, seed=7):
    return torch.randn(1, count, 3, generator=generator(seed))


def belief(learner, learned, *tasks, x=None):
    x = queries() if x is None else x
    return learner.predict(learner.adapt(learned, Examples.padded(list(tasks))), x.expand(len(tasks), -1, -1))


both = pytest.mark.parametrize("ordered", [False, True])


@both
def test_every_class_has_a_probability_with_and_without_rows(ordered):
    learner, learned = learner_and_start(ordered)
    found = belief(learner, learned, rows(0), rows(3, label=1)).probabilities()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 6))
    assert bool((found > 0).all())


@both
def test_labels_of_a_class_make_it_more_probable(ordered):
    learner, learned = learner_and_start(ordered)
    counts = (0, 1, 4, 16)
    found = belief(learner, learned, *(rows(count, label=3) for count in counts)).probabilities()
    assert bool((found.mean(1)[:, 3].diff() > 0).all())


@both
def test_before_training_a_task_without_rows_has_the_frequencies_of_the_classes(ordered):
    learner, _ = learner_and_start(ordered)
    learned = learner.initialise(generator())
    frequencies = torch.tensor([0.1, 0.5, 0.15, 0.25])
    learned |= learner.start_from(frequencies)
    learned["random_effects"].zero_()
    learned["initial"].zero_()
    learned = {name: tensor.double() for name, tensor in learned.items()}
    found = belief(learner, learned, rows(0)).probabilities()
    torch.testing.assert_close(found, frequencies.expand(1, 6, -1), atol=1e-6, rtol=0)


@both
def test_tasks_answer_alike_alone_and_padded_beside_others(ordered):
    learner, learned = learner_and_start(ordered)
    tasks = [rows(0), rows(2, seed=3), rows(9, seed=4)]
    together = belief(learner, learned, *tasks)
    for place, task in enumerate(tasks):
        alone = belief(learner, learned, task)
        torch.testing.assert_close(together.probabilities()[place], alone.probabilities()[0])
        torch.testing.assert_close(together.mutual_information()[place], alone.mutual_information()[0])


@both
def test_neither_the_order_of_rows_nor_that_of_particles_changes_an_answer(ordered):
    learner, learned = learner_and_start(ordered)
    x, y = rows(5)
    found = belief(learner, learned, (x, y)).probabilities()
    torch.testing.assert_close(belief(learner, learned, (x.flip(0), y.flip(0))).probabilities(), found)
    turned = {name: each.flip(0) if each.ndim > 1 else each for name, each in learned.items()}
    torch.testing.assert_close(belief(learner, turned, (x, y)).probabilities(), found)


@both
def test_the_parts_of_the_entropy_add_up_and_labels_remove_the_epistemic_one(ordered):
    learner, learned = learner_and_start(ordered)
    found = belief(learner, learned, rows(0), rows(2), rows(40))
    total = found.expected_entropy() + found.mutual_information()
    torch.testing.assert_close(total, found.entropy())
    assert bool((found.mutual_information().mean(1).diff() < 0).all())


def test_the_hypotheses_are_the_particles_taken_apart():
    learner, learned = learner_and_start()
    found = belief(learner, learned, rows(3))
    torch.testing.assert_close(found.hypotheses.probabilities(), found.probabilities())
    part = found.part(slice(0, 1), slice(2, 4))
    torch.testing.assert_close(part.probabilities(), found.probabilities()[:, 2:4])
    torch.testing.assert_close(part.mutual_information(), found.mutual_information()[:, 2:4])


def test_two_classes_with_a_random_intercept_agree_with_quadrature():
    learner = Laplace(MLP(1, (), 2, "tanh"), particles=1, classes=2, effects=1)
    learned = {
        name: torch.zeros_like(each).double() for name, each in learner.initialise(generator()).items()
    }
    learned["loadings"] = torch.tensor([[[-0.5], [0.5]]])
    learned["random_effects"][0, 0] = 1.2
    learned["fixed_effects"][0, 1] = torch.tensor([-0.4, 0.4])
    x = torch.tensor([[0.3], [-1.0], [0.8]])
    support = x, torch.eye(2)[torch.tensor([1, 0, 1])]
    asked = torch.tensor([[[0.0], [1.5]]])
    found = belief(learner, learned, support, x=asked).probabilities()[0, :, 1]

    grid = torch.linspace(-8, 8, 4001)
    signs = torch.tensor([1.0, -1.0, 1.0])
    logits = 0.8 * x[:, 0] + 1.2 * grid.unsqueeze(-1)
    logs = torch.nn.functional.logsigmoid(signs * logits).sum(-1) - 0.5 * grid.square()
    expected = (
        logs.softmax(0).unsqueeze(-1) * torch.sigmoid(0.8 * asked[0, :, 0] + 1.2 * grid.unsqueeze(-1))
    ).sum(0)
    # 32 orthogonal antithetic draws of one random effect: an error of 0.01 in the probabilities.
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


@both
def test_the_loss_is_the_mean_log_loss_of_a_task_and_the_penalty(ordered):
    learner, learned = learner_and_start(ordered)
    tasks = [(rows(2, seed=3), rows(5, seed=4)), (rows(0), rows(2, seed=5))]
    support, query = (Examples.padded([task[part] for task in tasks]) for part in (0, 1))
    loss = learner.loss(learned, TaskBatch(support, query))
    each = []
    for shown, (x, y) in tasks:
        found = belief(learner, learned, shown, x=x.unsqueeze(0))
        each.append(-found.log_density(y.unsqueeze(0)).mean())
    torch.testing.assert_close(loss, torch.stack(each).mean())
    penalised = replace(learner, shrinkage=0.1).loss(learned, TaskBatch(support, query))
    squares = learned["initial"].square().sum() + sum(
        learned[name][:, 1:].square().sum() for name in ("fixed_effects", "random_effects")
    )
    torch.testing.assert_close(penalised - loss, 0.05 * squares / 3)


@both
def test_every_learned_tensor_has_a_gradient(ordered):
    learner, learned = learner_and_start(ordered)
    learned = {name: each.requires_grad_() for name, each in learned.items()}
    batch = TaskBatch(Examples.padded([rows(4)]), Examples.padded([rows(5, seed=3)]))
    learner.loss(learned, batch).backward()
    for name, each in learned.items():
        assert each.grad is not None, name
        assert bool(each.grad.isfinite().all()), name
        assert bool((each.grad != 0).any()), name


@pytest.mark.parametrize("name", CLASS_ACQUISITIONS)
def test_acquisitions_score_every_row(name):
    learner, learned = learner_and_start()
    found = belief(learner, learned, rows(3))
    scores = CLASS_ACQUISITIONS[name].score(class_pool(found, found))
    assert scores.shape == (1, 6)
    assert bool(scores.isfinite().all())


def test_settings_survive_a_manifest():
    learner, _ = learner_and_start(shrinkage=0.5)
    assert learner_from("laplace", settings_of(learner)) == learner


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"classes": 1}, "two classes"),
        ({"factors": 4}, "1 to 3 factors"),
        ({"effects": 0}, "one or more effects"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, -math.inf)}, "scales"),
        ({"shrinkage": -1.0}, "shrinkage"),
        ({"ordered": True}, "1 outputs"),
    ],
)
def test_settings_that_make_no_learner_are_refused(wrong, sentence):
    settings = settings_of(learner_and_start()[0]) | wrong
    with pytest.raises(InvalidLearner, match=sentence):
        learner_from("laplace", settings)
