"""Gaussian classes with conjugate means: closed forms, laws, and the smaller tasks inside a larger one."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from bmaml.learners import InvalidLearner, learner_from
from bmaml.task import Examples, TaskBatch
from tests.bmaml.conjugate_tasks import CLASSES, learner_and_start, rows
from tests.closed_form import generator


def batch(counts=(2, 1, 3, 2), asked=3, seed=0):
    support, query = rows(counts, seed), rows([asked] * len(counts), seed + 1)
    return TaskBatch(Examples.padded([support]), Examples.padded([query]))


def student(learner, learned, x, y, query):
    """log p(z* | class) up to a constant, dimension by dimension and class by class."""
    found = []
    knee, sharp = learned["log_knee"].exp(), learned["log_sharpness"].exp()
    for particle in range(learner.particles):
        weight, bias = learner.network.unpack(learned["initial"][particle])[0]
        z, z_query = x @ weight + bias, query @ weight + bias
        between, within = ((2 * learned[name][particle]).exp() for name in ("log_between", "log_within"))
        logs = []
        for label in range(y.shape[1]):
            own = z[y[:, label] > 0]
            variance = 1 / (1 / between + len(own) / within)
            mean = variance * own.sum(0) / within
            spread = variance + within
            square = ((z_query - mean).square() / spread).sum(-1)
            logs.append(-0.5 * sharp * (spread.log().sum() + knee * torch.log(1 + square / knee)))
        found.append(torch.stack(logs, -1))
    return torch.stack(found)


def densities(learner, learned, x, y, query):
    """log p(z* | class) and log p(z) of each class by dense multivariate normals, particle by particle."""
    found = []
    for particle in range(learner.particles):
        weight, bias = learner.network.unpack(learned["initial"][particle])[0]
        z, z_query = x @ weight + bias, query @ weight + bias
        between, within = ((2 * learned[name][particle]).exp() for name in ("log_between", "log_within"))
        predictive, evidence = [], []
        for label in range(y.shape[1]):
            own = z[y[:, label] > 0]
            n = len(own)
            logs, total = torch.zeros(len(query)), torch.zeros(())
            for d in range(z.shape[1]):
                cov = between[d] * torch.ones(n + 1, n + 1) + within[d] * torch.eye(n + 1)
                seen = MultivariateNormal(torch.zeros(n), cov[:n, :n]).log_prob(own[:, d])
                total = total + seen
                joint = MultivariateNormal(torch.zeros(n + 1), cov)
                extended = torch.cat([own[:, d].expand(len(query), n), z_query[:, d : d + 1]], 1)
                logs = logs + joint.log_prob(extended) - seen
            predictive.append(logs)
            evidence.append(total)
        found.append((torch.stack(predictive, -1), torch.stack(evidence)))
    predictive, evidence = zip(*found, strict=True)
    return torch.stack(predictive), torch.stack(evidence)


def test_with_a_far_knee_the_answer_is_bayes_rule_over_dense_normals():
    learner, learned = learner_and_start()
    learned["log_knee"] = torch.tensor(25.0)
    x, y = rows((2, 1, 3, 2))
    query = torch.randn(6, 5)
    log_densities, evidence = densities(learner, learned, x, y, query)
    belief = learner.predict(learner.adapt(learned, Examples.padded([(x, y)])), query.unsqueeze(0))
    sharp = learned["log_sharpness"].exp()
    expected = (sharp * log_densities).log_softmax(-1)
    torch.testing.assert_close(belief.log_probabilities[0], expected, atol=1e-6, rtol=1e-6)
    weights = (learned["log_temperature"].exp() * evidence.sum(-1)).log_softmax(0)
    torch.testing.assert_close(belief.log_weights[0], weights)


def test_the_answer_is_bayes_rule_over_student_densities():
    learner, learned = learner_and_start()
    x, y = rows((2, 1, 3, 2))
    query = torch.randn(6, 5)
    belief = learner.predict(learner.adapt(learned, Examples.padded([(x, y)])), query.unsqueeze(0))
    expected = student(learner, learned, x, y, query).log_softmax(-1)
    torch.testing.assert_close(belief.log_probabilities[0], expected)


def test_far_from_every_class_the_answer_is_unsure():
    learner, learned = learner_and_start(dimensions=5)
    x, y = rows((3, 3, 3))
    posterior = learner.adapt(learned, Examples.padded([(3 * x, y)]))
    direction = torch.randn(1, 1, 5)
    near, far = (learner.predict(posterior, scale * direction).entropy() for scale in (3.0, 3000.0))
    assert float(far) > float(near)
    volumes = (posterior.variances + posterior.scatter).log().sum(-1)
    assert float(volumes.std(-1).max()) < 1e-6  # equal counts: only distances tell the classes apart
    torch.testing.assert_close(far, torch.tensor([[math.log(3)]]), atol=0.01, rtol=0)


def test_the_evidence_of_a_class_is_that_of_a_dense_normal_and_zero_without_rows():
    learner, learned = learner_and_start()
    x, y = rows((2, 0, 3))
    found = learner.evidence(learned, Examples.padded([(x, y)]))[0]
    expected = densities(learner, learned, x, y[:, [0, 2]], x[:1])[1]
    torch.testing.assert_close(found[:, [0, 2]], expected)
    assert bool((found[:, 1] == 0).all())


def test_many_rows_of_separate_classes_leave_no_doubt():
    learner, learned = learner_and_start(dimensions=5)
    learned["log_sharpness"] = torch.zeros(())
    centres = 20 * torch.randn(3, 5, generator=generator(3))
    y = torch.eye(3).repeat_interleave(20, 0)
    x = centres.repeat_interleave(20, 0) + torch.randn(60, 5)
    belief = learner.predict(learner.adapt(learned, Examples.padded([(x, y)])), centres.unsqueeze(0))
    torch.testing.assert_close(belief.probabilities()[0], torch.eye(3), atol=1e-6, rtol=0)


def test_a_wide_prior_and_equal_scatter_make_each_particle_a_prototypical_network():
    learner, learned = learner_and_start(particles=1)
    learned["log_between"] = torch.full_like(learned["log_between"], 12.0)
    learned["log_within"] = torch.zeros_like(learned["log_within"])
    learned["log_sharpness"], learned["log_knee"] = torch.zeros(()), torch.tensor(25.0)
    x, y = rows((3, 3, 3))
    query = torch.randn(4, 5)
    weight, bias = learner.network.unpack(learned["initial"][0])[0]
    prototypes = torch.stack([(x[y[:, c] > 0] @ weight + bias).mean(0) for c in range(3)])
    squares = torch.cdist(query @ weight + bias, prototypes).square()
    expected = (-0.5 * squares / (1 + 1 / 3)).softmax(-1)  # σ² + σ²/n with n = 3
    belief = learner.predict(learner.adapt(learned, Examples.padded([(x, y)])), query.unsqueeze(0))
    torch.testing.assert_close(belief.probabilities()[0], expected, atol=1e-6, rtol=1e-6)


def test_ragged_tasks_together_equal_each_alone():
    learner, learned = learner_and_start()
    tasks = [rows((2, 1, 3, 2)), rows((1, 1, 0, 0), seed=2), rows((0, 4, 1, 2), seed=3)]
    x = torch.randn(3, 5, 5)
    together = learner.predict(learner.adapt(learned, Examples.padded(tasks)), x)
    for task, each in enumerate(tasks):
        alone = learner.predict(learner.adapt(learned, Examples.padded([each])), x[task : task + 1])
        torch.testing.assert_close(together.probabilities()[task], alone.probabilities()[0])
        torch.testing.assert_close(together.entropy()[task], alone.entropy()[0])


def test_columns_of_classes_that_are_not_there_change_nothing():
    learner, learned = learner_and_start()
    x, y = rows((2, 1))
    query = torch.randn(1, 4, 5)
    wide = torch.cat([y, torch.zeros(len(y), 6)], 1)
    narrow = learner.predict(learner.adapt(learned, Examples.padded([(x, y)])), query)
    padded = learner.predict(learner.adapt(learned, Examples.padded([(x, wide)])), query)
    torch.testing.assert_close(padded.probabilities()[..., :2], narrow.probabilities())
    assert bool((padded.probabilities()[..., 2:] == 0).all())
    torch.testing.assert_close(padded.mutual_information(), narrow.mutual_information())


def test_the_names_of_classes_do_not_matter():
    learner, learned = learner_and_start()
    tasks = batch()
    order = torch.tensor([2, 0, 3, 1])
    swapped = Examples(tasks.support.x, tasks.support.y[..., order], tasks.support.mask)
    found = learner.predict(learner.adapt(learned, swapped), tasks.query.x).probabilities()
    expected = learner.predict(learner.adapt(learned, tasks.support), tasks.query.x).probabilities()
    torch.testing.assert_close(found, expected[..., order])


def test_the_loss_is_the_nll_of_the_whole_task_and_of_the_smaller_ones_inside_it():
    plain, learned = learner_and_start()
    learner, _ = learner_and_start(ways=(2,))
    tasks = batch()

    def nll(batch):
        belief = plain.predict(plain.adapt(learned, batch.support), batch.query.x)
        return -belief.log_density(batch.query.y).mean()

    def halved(examples, first):
        own = examples.y[..., first : first + 2].sum(-1)[0] > 0
        return Examples.full(examples.x[:, own], examples.y[:, own, first : first + 2])

    pairs = [TaskBatch(halved(tasks.support, f), halved(tasks.query, f)) for f in (0, 2)]
    torch.testing.assert_close(plain.loss(learned, tasks), nll(tasks))
    expected = (nll(tasks) + (nll(pairs[0]) + nll(pairs[1])) / 2) / 2
    torch.testing.assert_close(learner.loss(learned, tasks), expected)


def test_the_loss_has_the_gradient_it_should():
    learner, learned = learner_and_start(ways=(2,))
    names, tasks = list(learned), batch()
    values = tuple(learned[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(
        lambda *given: learner.loss(dict(zip(names, given, strict=True)), tasks), values
    )


def test_uncertainty_falls_with_rows_and_adds_up():
    learner, learned = learner_and_start(particles=6, dimensions=4)
    query = torch.randn(1, 50, 5)
    few = learner.predict(learner.adapt(learned, Examples.padded([rows((1,) * CLASSES)])), query)
    total = few.entropy()
    torch.testing.assert_close(total, few.expected_entropy() + few.mutual_information())
    assert bool((total <= math.log(CLASSES) + 1e-9).all())
    assert bool((few.mutual_information() <= math.log(6) + 1e-9).all())


@pytest.mark.parametrize(
    ("settings", "found"), [({"steps": 2}, "no inner steps"), ({"ways": [5, 1]}, r"found \(5, 1\)")]
)
def test_settings_that_make_no_sense_are_refused(settings, found):
    with pytest.raises(InvalidLearner, match=found):
        learner_from("conjugate", {"network": {"inputs": 5, "hidden": [], "outputs": 2}, **settings})
