"""Pooled processes: their marginal likelihood, their prior of a new task, their weight beside particles."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from bmaml.learners import InvalidLearner, learner_from, settings_of
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.pooled import LEAST_FAR_SHARE, POOLED_LAYERS, Pooled, far_share, left_out_score
from bmaml.learners.pooled_fit import LAYERS, MarginalLikelihood, fitted_layer, minimised
from bmaml.learners.surprise import GROUPS
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.closed_form import generator

POOLED = Pooled(frequencies=5)
COUNTS = (4, 1, 7)


def panel(inputs=2, outputs=1, counts=COUNTS, seed=0):
    """Ragged tasks."""
    draw = generator(seed)
    return Examples.padded(
        [(torch.randn(n, inputs, generator=draw), torch.randn(n, outputs, generator=draw)) for n in counts]
    )


def rows_of(tasks):
    """x and y of all real rows, and the task of each."""
    owner = torch.arange(len(tasks)).unsqueeze(1).expand(tasks.mask.shape)
    return tasks.x[tasks.mask], tasks.y[tasks.mask], owner[tasks.mask]


def dense_kernel(found, features, owner):
    """Covariance of all rows: the population's and, within a task, that of its deviation."""
    population = (features * found.population.square()) @ features.T
    own = features @ found.deviation @ found.deviation.T @ features.T
    return population + own * (owner.unsqueeze(1) == owner)


def dense_noise(found, x):
    return torch.exp(found.noise[0] + (x @ found.noise[1:]).clamp(-3, 3))


def features_at(likelihood, found, x):
    """ψ(x) of rows `[row, input]`."""
    rows = Examples.full(x.unsqueeze(0), torch.zeros(1, len(x), 1))
    moved = MarginalLikelihood(rows, likelihood.frequencies, likelihood.layer)
    return moved.features(found.lengths)[0]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("outputs", "version"), [(1, (True, True)), (2, (False, True)), (1, (True, False))])
def test_the_marginal_likelihood_is_that_of_one_gaussian_over_the_rows_of_all_tasks(layer, outputs, version):
    tasks = panel(outputs=outputs)
    likelihood = MarginalLikelihood(tasks, POOLED.draw_frequencies(2), layer, *version)
    values = 0.5 * torch.randn(len(likelihood.start()), generator=generator(1))
    found = likelihood.hyperparameters(values)
    x, y, owner = rows_of(tasks)
    features = features_at(likelihood, found, x)
    covariance = dense_kernel(found, features, owner) + torch.diag(dense_noise(found, x))
    expected = MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y.T).sum()
    prior = Normal(0.0, 1.0).log_prob(likelihood.deviations(values)).sum()
    prior = prior + 0.5 * len(values) * math.log(2 * math.pi)
    torch.testing.assert_close(-likelihood.objective(values), expected + prior)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_gradient_of_the_marginal_likelihood_is_its_derivative(layer):
    likelihood = MarginalLikelihood(panel(counts=(3, 2)), POOLED.draw_frequencies(2), layer)
    values = (0.3 * torch.randn(len(likelihood.start()), generator=generator(2))).requires_grad_()
    assert torch.autograd.gradcheck(likelihood.objective, values)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("shown", "far"), [(0, False), (3, False), (3, True)])
def test_a_new_task_is_predicted_by_conditioning_on_all_rows_of_all_tasks(layer, shown, far, monkeypatch):
    tasks, index = panel(outputs=2), LAYERS.index(layer) + far * len(LAYERS)
    learner, learned = learner_with(POOLED, inputs=2, outputs=2)
    monkeypatch.setattr("bmaml.learners.pooled.MAX_CROSS_VALIDATED", 0)
    fitted = {name: value.double() for name, value in POOLED.fitted(tasks).items()}
    alone = torch.full((POOLED_LAYERS,), -1e3)
    alone[index] = 0.0
    learned = {**learned, **fitted, "pooled_log_prior": alone, "log_shares": shares_of(pooled=1.0)}
    new = panel(outputs=2, counts=(shown + 4,), seed=5)
    support = Examples.full(new.x[:, :shown], new.y[:, :shown])
    belief = learner.predict(learner.adapt(learned, support), new.x[:, shown:])

    frequencies = POOLED.draw_frequencies(2).double()
    likelihood = MarginalLikelihood(tasks, frequencies, layer)
    found = likelihood.hyperparameters(minimised(likelihood.objective, likelihood.start()))
    x, y, owner = rows_of(tasks)
    x = torch.cat([x, new.x[0]])
    owner = torch.cat([owner, torch.full((shown + 4,), len(tasks))])
    kernel = dense_kernel(found, features_at(likelihood, found, x), owner)
    if far:  # the new task deviates four times as much
        new_rows = owner == len(tasks)
        more = features_at(likelihood, found, x) @ found.deviation
        kernel = kernel + 15 * (more @ more.T) * (new_rows & new_rows.unsqueeze(1))
    known, asked = slice(None, len(x) - 4), slice(len(x) - 4, None)
    seen = torch.cat([y, new.y[0, :shown]])
    inverse = torch.linalg.inv(kernel[known, known] + torch.diag(dense_noise(found, x[known])))
    gain = kernel[asked, known] @ inverse
    variance = (kernel[asked, asked] - gain @ kernel[known, asked]).diagonal()
    near = {"rtol": 2e-4, "atol": 2e-5}  # learned tensors are kept in single precision
    torch.testing.assert_close(belief.mean()[0], gain @ seen, **near)
    total = (variance + dense_noise(found, x[asked])).unsqueeze(-1).expand(-1, 2)
    torch.testing.assert_close(belief.variance()[0], total, **near)


def learner_with(pooled, inputs=1, outputs=1, **settings):
    """Two particles beside pooled processes, at scale 1."""
    network = MLP(inputs, (4,), outputs, "sine")
    learner = Collapsed(network=network, particles=2, pooled=pooled, **settings)
    return learner, learner.initialise(generator())


def shares_of(pooled):
    """Log shares of the groups, of which only particles and pooled processes have any."""
    shares = torch.full((len(GROUPS),), 1e-30)
    shares[0], shares[-1] = max(1 - pooled, 1e-30), pooled
    return shares.log()


def test_padding_and_the_order_of_tasks_change_nothing():
    tasks = panel()
    wider = Examples(
        torch.cat([tasks.x, torch.ones(3, 2, 2)], 1),
        torch.cat([tasks.y, torch.full((3, 2, 1), 9.0)], 1),
        torch.cat([tasks.mask, torch.zeros(3, 2, dtype=torch.bool)], 1),
    )
    turned = Examples(tasks.x.flip(0), tasks.y.flip(0), tasks.mask.flip(0))
    for layer in LAYERS:
        values = None
        for each in (tasks, wider, turned):
            likelihood = MarginalLikelihood(each, POOLED.draw_frequencies(2), layer)
            values = 0.3 * torch.ones(len(likelihood.start())) if values is None else values
            found = likelihood.objective(values)
            torch.testing.assert_close(
                found, MarginalLikelihood(tasks, POOLED.draw_frequencies(2), layer).objective(values)
            )


def lines(tasks, level, slope, noise, wave=0.0, seed=0):
    """Lines with normal levels and slopes, a sine wave of random size, and noise."""
    draw = generator(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    x = 3.4 * torch.rand(tasks, 12, 1, generator=draw) - 1.7
    y = level * normal(tasks, 1, 1) + slope * normal(tasks, 1, 1) * x + noise * normal(tasks, 12, 1)
    return Examples.full(x, 1 + y + wave * normal(tasks, 1, 1) * torch.sin(3 * x))


def test_the_fit_finds_the_variances_that_made_the_tasks():
    tasks = lines(400, level=0.8, slope=0.3, noise=0.2)
    found = fitted_layer(MarginalLikelihood(tasks, POOLED.draw_frequencies(1), "linear"))
    covariance = (found.root @ found.root.T)[:2, :2]
    # A variance of 400 tasks is known to 7 % (one standard error).
    torch.testing.assert_close(covariance.diagonal(), torch.tensor([0.64, 0.09]), rtol=0.2, atol=0)
    assert float(covariance[0, 1]) == pytest.approx(0, abs=0.03)
    assert float(found.noise[0].exp()) == pytest.approx(0.04, rel=0.05)
    assert float((found.root @ found.mean)[0, 0]) == pytest.approx(1, abs=0.12)


MADE = {
    "level": {"level": 0.8, "slope": 0.0, "noise": 0.2},
    "linear": {"level": 0.8, "slope": 0.3, "noise": 0.2},
    "smooth": {"level": 0.8, "slope": 0.3, "noise": 0.2, "wave": 0.6},
}


@pytest.mark.parametrize("best", MADE)
@pytest.mark.parametrize("cross_validated", [0, 64])
def test_the_layer_that_made_the_tasks_is_preferred_to_simpler_ones(best, cross_validated, monkeypatch):
    monkeypatch.setattr("bmaml.learners.pooled.MAX_CROSS_VALIDATED", cross_validated)
    log_prior = POOLED.fitted(lines(24, **MADE[best]))["pooled_log_prior"]
    assert float(log_prior.exp().sum()) == pytest.approx(1)
    log_prior, place = log_prior[: len(LAYERS)], LAYERS.index(best)
    if place:
        assert float(log_prior[:place].max()) < float(log_prior[place:].max()) - 1
    if not cross_validated:
        assert int(log_prior.argmax()) == place or best == "smooth"


@pytest.mark.parametrize("tasks", [2, 10])
def test_a_task_far_from_all_others_is_as_likely_as_the_rule_of_succession_says(tasks):
    log_prior = POOLED.fitted(lines(tasks, level=1.0, slope=1.0, noise=0.1))["pooled_log_prior"]
    near, far = log_prior.double().view(2, len(LAYERS)).exp()
    assert float(far.sum()) == pytest.approx(1 / (tasks + 2))
    torch.testing.assert_close(far / near, torch.full_like(far, 1 / (tasks + 1)), rtol=1e-5, atol=0)
    assert far_share(5000) == LEAST_FAR_SHARE


def test_the_score_of_left_out_tasks_is_that_of_their_conditional_gaussians():
    tasks, frequencies = lines(8, **MADE["linear"]), POOLED.draw_frequencies(1).double()
    expected = 0.0
    for fold in range(4):
        out = torch.arange(8) % 4 == fold
        others = Examples(tasks.x[~out], tasks.y[~out], tasks.mask[~out])
        found = fitted_layer(MarginalLikelihood(others, frequencies, "linear", False, False))
        for x, y in zip(tasks.x[out], tasks.y[out], strict=True):
            features = torch.cat([torch.ones(12, 1), x], -1) @ found.root[:2, :2]
            covariance = features @ features.T + torch.exp(found.noise[0]) * torch.eye(12)
            rest = y[:, 0] - features @ found.mean[:2, 0]
            for shown in (1, 3, 6):
                gain = covariance[shown:, :shown] @ torch.linalg.inv(covariance[:shown, :shown])
                variance = (covariance[shown:, shown:] - gain @ covariance[:shown, shown:]).diagonal()
                belief = Normal(gain @ rest[:shown], variance.sqrt())
                expected += float(belief.log_prob(rest[shown:]).mean()) / 3
    assert left_out_score(tasks, frequencies, "linear", False, False) == pytest.approx(expected)


def test_particles_alone_are_trained():
    learner, learned = learner_with(POOLED)
    moving = {name for name in learned if learner.trains(name)}
    assert not any(name.startswith("pooled") or name == "log_shares" for name in moving)
    tasks = lines(6, 0.5, 0.2, 0.1)
    batch = TaskBatch(tasks, lines(6, 0.5, 0.2, 0.1))
    plain = dataclasses.replace(learner, pooled=None)
    assert float(learner.loss(learned, batch)) == pytest.approx(float(plain.loss(learned, batch)))


def test_a_group_without_weight_answers_nothing():
    learner, learned = learner_with(POOLED)
    learned |= POOLED.fitted(lines(20, 0.5, 0.2, 0.1))
    support, x = lines(1, 0.5, 0.2, 0.1, seed=3), torch.zeros(1, 1, 1)
    plain = dataclasses.replace(learner, pooled=None)
    found = learner.predict(learner.adapt({**learned, "log_shares": shares_of(0.0)}, support), x)
    expected = plain.predict(plain.adapt(learned, support), x)
    torch.testing.assert_close(found.mean(), expected.mean())
    torch.testing.assert_close(found.variance(), expected.variance())


def test_the_widening_is_that_of_pooled_predictions_alone():
    learner, learned = learner_with(POOLED)
    learned |= POOLED.fitted(lines(20, 0.5, 0.2, 0.1))
    support, x = lines(1, 0.5, 0.2, 0.1, seed=3), torch.zeros(1, 1, 1)
    wide = {**learned, "log_pooled_widening": torch.tensor(math.log(2))}
    for pooled, factor in ((1.0, 4.0), (0.0, 1.0)):
        shares = {"log_shares": shares_of(pooled)}
        one, other = (
            learner.predict(learner.adapt({**each, **shares}, support), x) for each in (learned, wide)
        )
        torch.testing.assert_close(other.mean(), one.mean())
        widest = (other.noise + other.within) / (one.noise + one.within)
        heavy = one.weights[0] > 1e-6
        torch.testing.assert_close(widest[0, heavy].flatten(), torch.full((int(heavy.sum()),), factor))


def test_settings_survive_the_round_trip_and_their_mistakes_are_named():
    learner, _ = learner_with(POOLED)
    assert learner_from("collapsed", settings_of(learner)) == learner
    with pytest.raises(InvalidLearner, match="frequencies"):
        Pooled(frequencies=0)
    with pytest.raises(InvalidLearner, match="evidence weights"):
        dataclasses.replace(learner, evidence_weights=False)
