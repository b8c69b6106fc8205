"""What holds for every learner, and what each adds."""

import dataclasses

import pytest
import torch

from bmaml import fused_svgd, laplace, svgd
from bmaml.densities import joint_scores, log_joint, log_likelihood, weights_of
from bmaml.learners import InvalidLearner, learner_from, settings_of
from bmaml.learners.bfa import BFA
from bmaml.learners.bmaml import BMAML
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.conjugate import Conjugate
from bmaml.learners.emaml import EMAML
from bmaml.learners.llama import LLAMA
from bmaml.learners.maml import MAML
from bmaml.networks import MLP
from bmaml.task import Examples, TaskBatch
from tests.closed_form import LEARNERS, bayesian_regression, full_batch, generator, learner_of, ragged


def ragged_batch():
    """Three tasks of two to six rows, five query rows each."""
    support = Examples.padded(ragged(4)[1:])
    return TaskBatch(support, Examples.full(torch.randn(3, 5, 2), torch.randn(3, 5, 2)))


ENSEMBLES = [kind for kind in LEARNERS if kind not in (MAML, LLAMA)]
"""Those that start from many particles."""


def moments(learner, learned, support, x, steps):
    belief = learner.predict(learner.adapt(learned, support, steps), x)
    return belief.mean(), belief.aleatoric(), belief.epistemic()


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("steps", [0, 2])
def test_ragged_tasks_together_equal_each_alone(kind, steps):
    learner, learned = learner_of(kind, step_size=1e-3)
    tasks, x = ragged(4), torch.randn(4, 5, 2)
    together = moments(learner, learned, Examples.padded(tasks), x, steps)
    for task, rows in enumerate(tasks):
        alone = moments(learner, learned, Examples.padded([rows]), x[task : task + 1], steps)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[task], expected[0])


@pytest.mark.parametrize(
    ("kind", "steps"),
    [(EMAML, 2), (LLAMA, 2), (BFA, 2), (BMAML, 2), (Collapsed, 0), (Collapsed, 2)],
)
def test_what_lies_in_the_padding_changes_nothing(kind, steps):
    learner, learned = learner_of(kind, step_size=1e-3, steps=steps)
    batch = full_batch()

    def padded(examples):
        rubbish = Examples(*(torch.full((3, 2, 2), 7.0) for _ in "xy"), torch.zeros(3, 2, dtype=torch.bool))
        return examples.joined(rubbish)

    found = moments(learner, learned, padded(batch.support), batch.query.x, steps)
    expected = moments(learner, learned, batch.support, batch.query.x, steps)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    wide = TaskBatch(padded(batch.support), padded(batch.query))
    torch.testing.assert_close(learner.loss(learned, wide), learner.loss(learned, batch))


@pytest.mark.parametrize("kind", [BFA, BMAML])
def test_one_particle_climbs_its_log_joint_and_knows_nothing_of_its_own_error(kind):
    learner, learned = learner_of(kind, particles=1, step_size=1e-3)
    batch = full_batch()
    expected = learned["initial"].expand(3, 1, -1).clone()
    for _ in range(2):
        theta = expected.clone().requires_grad_()
        total = log_joint(learner.network, theta, batch.support, learner.priors).sum()
        expected = expected + 1e-3 * torch.autograd.grad(total, theta)[0]
    posterior = learner.adapt(learned, batch.support, 2)
    torch.testing.assert_close(posterior.particles, expected)
    assert not learner.predict(posterior, batch.query.x).epistemic().any()


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_coincident_particles_stay_finite_with_their_gradients(kind):
    learner, learned = learner_of(kind, step_size=1e-3, steps=2)
    initial = learned["initial"][:1].expand(5, -1).clone().requires_grad_()
    batch = full_batch()
    assert learner.adapt({**learned, "initial": initial}, batch.support).finite().all()
    (gradient,) = torch.autograd.grad(learner.loss({**learned, "initial": initial}, batch), initial)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_the_order_of_particles_does_not_matter(kind):
    learner, learned = learner_of(kind, step_size=1e-3)
    batch, order = full_batch(), torch.randperm(learner.particles)
    shuffled = {**learned, "initial": learned["initial"][order]}
    found = moments(learner, shuffled, batch.support, batch.query.x, 2)
    for one, other in zip(found, moments(learner, learned, batch.support, batch.query.x, 2), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", LEARNERS)
def test_an_empty_support_set_leaves_the_start(kind):
    learner, learned = learner_of(kind)
    nothing = Examples.padded([(torch.zeros(0, 2), torch.zeros(0, 2))])
    x = torch.randn(1, 5, 2)
    untouched = moments(learner, learned, nothing, x, 0)
    for found, expected in zip(moments(learner, learned, nothing, x, 3), untouched, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("rate", ["scalar", "parameter"])
def test_gradients_reach_everything_that_is_learned(kind, rate):
    learner, learned = learner_of(kind, learn_step_size=rate, steps=1, step_size=1e-3)
    learned = {name: value.requires_grad_() for name, value in learned.items()}
    learner.loss(learned, full_batch()).backward()
    for name in learned.keys() - ({"log_weight_precision"} if kind is LLAMA else set()):
        value = learned[name]
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", LEARNERS)
def test_settings_survive_the_round_trip(kind):
    learner, _ = learner_of(kind, steps=3, step_size=0.5)
    assert learner_from(learner.name, settings_of(learner)) == learner


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("nobody", {}, "'nobody'"),
        ("bmaml", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "depth": 3}, "depth"),
        ("bmaml", {}, "network"),
        ("bmaml", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "particles": 0}, "found 0"),
        ("bmaml", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "leader_steps": 0}, "found 0"),
        ("bmaml", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "steps": 0}, "chaser"),
        ("bfa", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "steps": -1}, "found -1"),
        ("bfa", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "steps": 101}, "found 101"),
        ("bfa", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "step_size": 0.0}, "found 0.0"),
        ("maml", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "particles": 2}, "found 2"),
        ("llama", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "occam": -1.0}, "found -1.0"),
        ("bfa", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "learn_step_size": "x"}, "'x'"),
        ("collapsed", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "scales": []}, r"found \(\)"),
        ("collapsed", {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "spread": -1.0}, "found -1.0"),
        (
            "collapsed",
            {"network": {"inputs": 1, "hidden": [4], "outputs": 1}, "bands": [1.0, 2.0]},
            "bands need sine features",
        ),
        (
            "collapsed",
            {
                "network": {"inputs": 1, "hidden": [4], "outputs": 1, "activation": "sine"},
                "bands": [2.0, 1.0],
            },
            r"a lowest and a higher frequency; found \(2.0, 1.0\)",
        ),
    ],
)
def test_settings_that_describe_no_learner_are_refused_by_name(name, settings, found):
    with pytest.raises(InvalidLearner, match=found):
        learner_from(name, settings)


@pytest.mark.parametrize("kind", LEARNERS)
def test_divergence_is_seen_in_the_task_it_happened_in(kind):
    learner, learned = learner_of(kind)
    batch = full_batch()
    batch.support.y[1] = torch.inf
    assert learner.adapt(learned, batch.support, 1).finite().tolist() == [True, False, True]


def test_adaptation_is_differentiable_with_the_bandwidth_fixed(monkeypatch):
    monkeypatch.setattr(svgd, "median_bandwidth", lambda squared: torch.full((len(squared),), 30.0))
    learner = BFA(MLP(1, (2,), 1, "tanh"), particles=3, step_size=1e-2)
    initial = learner.initialise(generator())["initial"].double().requires_grad_()
    support = Examples.padded([(torch.randn(2, 1), torch.randn(2, 1)) for _ in range(2)])

    def adapted(initial):
        return learner.adapt({"initial": initial}, support, 2).particles

    assert torch.autograd.gradcheck(adapted, (initial,), atol=1e-6)


def test_bfa_minimises_the_log_of_the_mean_likelihood():
    learner, learned = learner_of(BFA, step_size=1e-3)
    batch = full_batch()
    adapted = learner.adapt(learned, batch.support).particles
    likelihood = log_likelihood(learner.network, adapted, batch.query).exp().mean(-1)
    torch.testing.assert_close(learner.loss(learned, batch), -likelihood.log().mean())


def test_the_chaser_loss_has_no_gradient_through_the_leader():
    learner, learned = learner_of(BMAML, step_size=1e-3)
    batch = full_batch()
    initial = learned["initial"].clone().requires_grad_()
    loss = learner.loss({"initial": initial}, batch)
    (found,) = torch.autograd.grad(loss, initial)

    def step(particles, examples):
        scores = joint_scores(learner.network, particles, examples, learner.priors)
        return particles + learner.step_size * svgd.direction(particles, scores)

    chaser = step(initial.unsqueeze(0), batch.support)
    leader = step(chaser.detach(), batch.all_examples()).detach()
    expected = (weights_of(chaser) - weights_of(leader)).square().sum() / len(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, initial)[0])


def collapsed_parts(particle: int = 0, shots: int = 4):
    """One particle's features and prior mean on a support set, by hand."""
    learner, learned = learner_of(Collapsed, steps=0)
    learned = {**learned, "log_widening": torch.zeros(())}
    batch = full_batch(tasks=1, shots=shots)
    theta = weights_of(learned["initial"])[None]

    def features(x):
        hidden = learner.network.features(theta, x)[0, particle]
        return torch.cat([hidden, torch.ones(len(hidden), 1)], -1) / 6**0.5

    precision = learned["initial"][particle, -2:].exp()
    prior_mean = learner.network(theta, batch.support.x)[0, particle]
    return learner, learned, batch, features, precision, prior_mean


def test_evidence_is_the_dense_multivariate_normal_s():
    learner, learned, batch, features, (gamma, lamda), prior_mean = collapsed_parts()
    phi = features(batch.support.x)
    covariance = phi @ phi.T / lamda + torch.eye(4) / gamma
    expected = sum(
        torch.distributions.MultivariateNormal(prior_mean[:, o], covariance).log_prob(
            batch.support.y[0, :, o]
        )
        for o in range(2)
    )
    found = learner.evidence(learned["initial"].unsqueeze(0), batch.support)[0, 0]
    torch.testing.assert_close(found, expected)


def own_covariance(belief, learner, particle):
    """Of the rows, inside one particle: what it adds to the mixture's, by its weight."""
    factor = belief.factor[0, :, 0].unflatten(-1, (learner.particles, -1))[:, particle]
    return factor @ factor.T / belief.log_weights[0, particle].exp()


def test_prediction_is_bayesian_linear_regression_s():
    learner, learned, batch, features, (gamma, lamda), _ = collapsed_parts()
    weight, bias = learner.network.unpack(weights_of(learned["initial"]))[-1]
    prior = torch.cat([weight[0], bias[0]]) * 6**0.5
    posterior = learner.adapt(learned, batch.support)
    belief = learner.predict(posterior, batch.query.x, joint=True)
    mean, covariance = bayesian_regression(
        features(batch.support.x), batch.support.y[0], prior, float(lamda), float(gamma)
    )
    phi = features(batch.query.x)
    torch.testing.assert_close(belief.means[0, 0], phi @ mean)
    dense = phi @ covariance @ phi.T
    torch.testing.assert_close(belief.within[0, 0, :, 0], dense.diagonal())
    torch.testing.assert_close(own_covariance(belief, learner, 0), dense)


def test_without_rows_the_prediction_is_the_prior_and_weights_are_equal():
    learner, learned, batch, features, (_, lamda), _ = collapsed_parts()
    nothing = Examples.padded([(torch.zeros(0, 2), torch.zeros(0, 2))])
    posterior = learner.adapt(learned, nothing)
    belief = learner.predict(posterior, batch.query.x)
    torch.testing.assert_close(posterior.log_weights.exp(), torch.full((1, 5), 0.2))
    torch.testing.assert_close(
        belief.means, learner.network(weights_of(learned["initial"])[None], batch.query.x)
    )
    torch.testing.assert_close(belief.within[0, 0, :, 0], features(batch.query.x).square().sum(-1) / lamda)


def test_weights_are_proportional_to_evidence_to_the_power_of_the_temperature():
    learner, learned, batch, *_ = collapsed_parts()
    evidence = learner.evidence(learned["initial"].unsqueeze(0), batch.support)
    expected = (learned["log_temperature"].exp() * evidence).softmax(-1)
    torch.testing.assert_close(learner.adapt(learned, batch.support).log_weights.exp(), expected)


def test_equal_weights_on_request():
    learner, learned = learner_of(Collapsed, evidence_weights=False)
    weights = learner.adapt(learned, full_batch().support).log_weights.exp()
    torch.testing.assert_close(weights, torch.full((3, 5), 0.2))


def test_steps_on_the_features_raise_the_evidence_and_leave_head_and_precisions():
    learner, learned = learner_of(Collapsed, particles=1)
    support = full_batch().support
    moved = learner.adapt({**learned}, support, 3).particles
    head = learner.network.head_size + 2
    start = learned["initial"].unsqueeze(0)
    assert torch.equal(moved[..., -head:], start[..., -head:].expand(3, -1, -1))
    assert (learner.evidence(moved, support) > learner.evidence(start, support)).all()


def inside(belief):
    """The average variance inside the particles."""
    return (belief.log_weights.exp()[..., None, None] * belief.within).sum(1)


def test_the_widening_scales_deviations_as_far_as_the_rows_have_spoken_and_no_mean_or_weight():
    learner, learned, batch, *_ = collapsed_parts()
    wide = {**learned, "log_widening": torch.tensor(2.0).log()}
    one, two = (
        learner.predict(learner.adapt(each, batch.support), batch.query.x, True) for each in (learned, wide)
    )
    nothing = Examples(batch.support.x[:, :0], batch.support.y[:, :0], batch.support.mask[:, :0])
    before, still = (learner.predict(learner.adapt(each, nothing), batch.query.x) for each in (learned, wide))
    factor = 4 ** (1 - one.within / before.within)
    assert float(factor.min()) > 1
    torch.testing.assert_close(two.means, one.means)
    torch.testing.assert_close(two.log_weights, one.log_weights)
    torch.testing.assert_close(two.noise, factor * one.noise)
    torch.testing.assert_close(two.within, factor * one.within)
    torch.testing.assert_close(two.factor.square().sum(-1), inside(two))
    torch.testing.assert_close(still.variance(), before.variance())


@pytest.mark.parametrize("log_precision", [20.0, 60.0])
def test_particles_that_know_no_noise_stay_finite_in_either_form_and_in_any_company(log_precision):
    learner, learned = learner_of(Collapsed, steps=0)
    learned["initial"][:, -2] = log_precision
    batch = full_batch(tasks=3, shots=30)
    mask = torch.arange(30) < torch.tensor([[30], [6], [4]])  # of six features; in either form
    support = Examples(batch.support.x, batch.support.y, mask)
    together = learner.predict(learner.adapt(learned, support), batch.query.x)
    assert together.log_density(batch.query.y).isfinite().all()
    for task, count in enumerate((30, 6, 4)):
        own = slice(task, task + 1)
        rows = Examples(*(each[own, :count] for each in (support.x, support.y, support.mask)))
        alone = learner.predict(learner.adapt(learned, rows), batch.query.x[own])
        for found, expected in (
            (together.mean()[own], alone.mean()),
            (together.variance()[own], alone.variance()),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_prior_widening_scales_deviations_as_far_as_the_rows_have_not_spoken():
    learner, learned, batch, *_ = collapsed_parts()
    learner = dataclasses.replace(learner, prior_widening=True)
    wide = {**learned, "log_widening": torch.tensor(0.7), "log_prior_widening": torch.tensor(2.0).log()}
    one, two = (
        learner.predict(learner.adapt(each, batch.support), batch.query.x, True) for each in (learned, wide)
    )
    nothing = Examples(batch.support.x[:, :0], batch.support.y[:, :0], batch.support.mask[:, :0])
    before, after = (
        learner.predict(learner.adapt(each, nothing), batch.query.x, True) for each in (learned, wide)
    )
    left = one.within / before.within
    noisier = torch.exp(1.4 * (1 - left))
    factor = noisier * 4**left
    torch.testing.assert_close(two.means, one.means)
    torch.testing.assert_close(two.noise, noisier * one.noise)
    torch.testing.assert_close(two.within, factor * one.within)
    torch.testing.assert_close(two.factor.square().sum(-1), inside(two))
    torch.testing.assert_close(after.aleatoric(), before.aleatoric())
    torch.testing.assert_close(inside(after), 4 * inside(before))
    torch.testing.assert_close(after.factor.square().sum(-1), inside(after))


def test_a_scale_is_a_hypothesis_with_the_evidence_of_a_scaled_covariance():
    _, learned, batch, features, (gamma, lamda), prior_mean = collapsed_parts()
    learner, _ = learner_of(Collapsed, steps=0, scales=(0.5, 3.0))
    phi = features(batch.support.x)
    covariance = phi @ phi.T / lamda + torch.eye(4) / gamma
    residuals = batch.support.y[0] - prior_mean
    expected = torch.stack(
        [
            torch.distributions.MultivariateNormal(torch.zeros(4), scale**2 * covariance)
            .log_prob(residuals.T)
            .sum()
            for scale in (0.5, 3.0)
        ]
    )
    posterior = learner.adapt(learned, batch.support)
    found = posterior.log_weights[0, :2]
    tau = learned["log_temperature"].exp()
    torch.testing.assert_close(found[1] - found[0], tau * (expected[1] - expected[0]))
    belief = learner.predict(posterior, batch.query.x, joint=True)
    torch.testing.assert_close(belief.means[:, 0], belief.means[:, 1])
    torch.testing.assert_close(belief.noise[0, 1], 36 * belief.noise[0, 0])
    torch.testing.assert_close(belief.factor.square().sum(-1), inside(belief))


def test_the_two_meta_objectives_of_collapsed_are_their_formulas():
    learner, learned, *_ = collapsed_parts()
    batch = full_batch()
    belief = learner.predict(learner.adapt(learned, batch.support), batch.query.x)
    each = (
        torch.distributions.Normal(
            belief.means, (belief.noise + belief.within).sqrt().expand_as(belief.means)
        )
        .log_prob(batch.query.y.unsqueeze(1))
        .exp()
    )
    weights = belief.log_weights.exp()
    together = (weights * each.flatten(2).prod(-1)).sum(1).log()
    torch.testing.assert_close(learner.loss(learned, batch), -together.mean() / 5)
    apart = torch.einsum("tm,tmqo->tqo", weights, each).log().sum((1, 2))
    pointwise, _ = learner_of(Collapsed, steps=0, pointwise=True)
    torch.testing.assert_close(pointwise.loss(learned, batch), -apart.mean() / 5)


@pytest.mark.parametrize("kind", [MAML, EMAML])
def test_maml_climbs_the_likelihood_with_the_weights_alone(kind):
    learner, learned = learner_of(kind, step_size=1e-3)
    batch = full_batch()
    expected = learned["initial"].expand(3, -1, -1)
    for _ in range(2):
        theta = expected.clone().requires_grad_()
        total = log_likelihood(learner.network, theta, batch.support).sum()
        moved = expected + 1e-3 * torch.autograd.grad(total, theta)[0]
        expected = torch.cat([weights_of(moved), expected[..., -2:]], -1)
    posterior = learner.adapt(learned, batch.support, 2)
    torch.testing.assert_close(posterior.particles, expected)
    if kind is MAML:
        assert not learner.predict(posterior, batch.query.x).epistemic().any()


@pytest.mark.parametrize("kind", [MAML, EMAML, LLAMA])
def test_the_gradient_of_maml_is_second_order(kind):
    learner, learned = learner_of(kind, step_size=1e-3, steps=2, **({"occam": 0.0} if kind is LLAMA else {}))
    batch = full_batch()
    initial = learned["initial"].clone().requires_grad_()
    (found,) = torch.autograd.grad(learner.loss({**learned, "initial": initial}, batch), initial)
    theta = initial.unsqueeze(0).expand(3, -1, -1)
    for _ in range(2):
        total = log_likelihood(learner.network, theta, batch.support).sum()
        (scores,) = torch.autograd.grad(total, theta, create_graph=True)
        theta = torch.cat([weights_of(theta + 1e-3 * scores), theta[..., -2:]], -1)
    expected = -log_likelihood(learner.network, theta, batch.query).mean()
    torch.testing.assert_close(found, torch.autograd.grad(expected, initial)[0])


def jacobian_of(learner, theta, x):
    """One network's Jacobian by automatic differentiation, `[row × output, param]`."""
    return torch.autograd.functional.jacobian(
        lambda theta: learner.network(theta[None, None], x)[0, 0].flatten(), theta
    )


def test_the_jacobian_and_its_gram_are_autograd_s():
    learner, learned = learner_of(EMAML)
    theta, x = weights_of(learned["initial"])[None], torch.randn(3, 4, 2)
    found = learner.network.jacobian(theta, x)
    for task in range(3):
        for particle in range(5):
            expected = jacobian_of(learner, theta[0, particle], x[task : task + 1])
            torch.testing.assert_close(found[task, particle].flatten(0, 1), expected)
    flat = found.flatten(2, 3)
    torch.testing.assert_close(learner.network.tangent_gram(theta, x), flat @ flat.mT)


def llama_parts():
    """A LLAMA with many draws, one task, the adapted point, and the dense precision there."""
    learner, learned = learner_of(LLAMA, particles=40_000, step_size=1e-3)
    learned["log_weight_precision"] = torch.tensor(2.0, dtype=torch.float64)
    batch = full_batch(tasks=1)
    point = EMAML.adapt(learner, learned, batch.support).particles[0, 0]
    jacobian = jacobian_of(learner, point[:-2], batch.support.x)
    identity = torch.eye(len(point) - 2)
    precision = learned["log_weight_precision"].exp() * identity + point[-2].exp() * jacobian.T @ jacobian
    return learner, learned, batch, point, precision


def test_the_draws_of_llama_are_exactly_gaussian():
    learner, learned, batch, point, precision = llama_parts()
    # Standard basis vectors in place of normal draws: together they are the root of the covariance.
    size = len(point) - 2
    root = laplace.draws(
        learner.network, point[None, None], batch.support, learned["log_weight_precision"], torch.eye(size)
    )
    root = root[0] - point[:-2]
    torch.testing.assert_close(root, root.T)
    torch.testing.assert_close(root @ root.T, torch.linalg.inv(precision))


def test_the_draws_of_llama_have_the_mean_and_covariance_of_its_gaussian():
    learner, learned, batch, point, precision = llama_parts()
    drawn = weights_of(learner.adapt(learned, batch.support).particles[0])
    # The errors of 40,000 draws: 1/200 of a standard deviation, and √2/200 of a variance.
    standard = (drawn - point[:-2]) @ torch.linalg.cholesky(precision)
    assert standard.mean(0).abs().max() < 5 / 200
    assert (torch.cov(standard.T) - torch.eye(len(point) - 2)).abs().max() < 5 * 2**0.5 / 200


def test_the_draws_of_llama_depend_on_the_seed_alone():
    learner, learned = learner_of(LLAMA, seed=3)
    batch = full_batch()
    one, again = (learner.adapt(learned, batch.support).particles for _ in range(2))
    other = learner.drawing(4).adapt(learned, batch.support).particles
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", LEARNERS)
def test_only_llama_depends_on_a_seed(kind):
    learner, _ = learner_of(kind)
    assert learner.drawing(7).seed == (7 if kind is LLAMA else 0)
    assert (learner.drawing(7) is learner) is (kind is not LLAMA)


@pytest.mark.parametrize("kind", [kind for kind in LEARNERS if kind is not Collapsed])
def test_learners_whose_hypotheses_cost_the_same_leave_none_out(kind):
    learner, learned = learner_of(kind)
    support = ragged_batch().support
    pruned, whole = learner.adapt_pruned(learned, support, 0.5), learner.adapt(learned, support)
    assert torch.equal(pruned.log_weights, whole.log_weights)


def test_training_moves_all_scalars_but_those_that_only_unseen_tasks_tell():
    _, learned = learner_of(Collapsed, correlated=(2, 10), prior_widening=True)
    still = [name for name in learned if not Collapsed(MLP(2, (6, 5), 2)).trains(name)]
    assert sorted(still) == ["correlation", "log_prior_widening"]


def test_tasks_have_as_many_classes_as_the_network_has_outputs_where_each_needs_one():
    assert BMAML(MLP(2, (), 7), likelihood="categorical").max_classes == 7
    assert BMAML(MLP(2, (), 7)).max_classes is None
    assert Conjugate(MLP(2, (), 7)).max_classes is None


def test_the_loss_of_llama_adds_the_log_volume():
    learner, learned, batch, point, precision = llama_parts()
    with_volume = dataclasses.replace(learner, particles=2, occam=0.3).loss(learned, batch)
    without = dataclasses.replace(learner, particles=2, occam=0.0).loss(learned, batch)
    volume = torch.logdet(precision) - (len(point) - 2) * learned["log_weight_precision"]
    torch.testing.assert_close(with_volume - without, 0.3 * 0.5 * volume)


def test_the_weights_of_bare_particles_are_their_laplace_evidence():
    learner, learned = learner_of(BFA, step_size=1e-3, evidence_weights=True)
    batch = full_batch(tasks=1)
    posterior = learner.adapt(learned, batch.support)
    expected = []
    for adapted, start in zip(posterior.particles[0], learned["initial"], strict=True):
        jacobian = jacobian_of(learner, adapted[:-2], batch.support.x)
        gamma, lamda = adapted[-2:].exp()
        identity = torch.eye(len(adapted) - 2)
        precision = lamda * identity + gamma * jacobian.T @ jacobian
        prior = torch.distributions.Normal(start[:-2], lamda.rsqrt()).log_prob(adapted[:-2]).sum()
        fit = log_likelihood(learner.network, adapted[None, None], batch.support)[0, 0]
        expected.append(fit + prior - 0.5 * torch.logdet(precision / (2 * torch.pi)))
    tau = learned["log_temperature"].exp()
    torch.testing.assert_close(posterior.log_weights[0], (tau * torch.stack(expected)).log_softmax(-1))


def test_noise_that_depends_on_x_enters_evidence_and_prediction_row_by_row():
    learner, learned = learner_of(Collapsed, steps=0, varying_noise=True)
    learned["log_widening"] = torch.zeros(())
    batch = full_batch(tasks=1)
    theta = weights_of(learned["initial"])[None]

    def parts(x):
        hidden = learner.network.features(theta, x)[0, 2]
        raw = torch.cat([hidden, torch.ones(len(hidden), 1)], -1)
        noise = torch.exp(raw @ learned["noise_slopes"][2] - learned["initial"][2, -2])
        return raw / 6**0.5, noise, learner.network(theta, x)[0, 2]

    phi, noise, prior_mean = parts(batch.support.x)
    lamda = learned["initial"][2, -1].exp()
    dense = torch.distributions.MultivariateNormal(
        torch.zeros(4), phi @ phi.T / lamda + torch.diag_embed(noise)
    )
    residual = batch.support.y[0] - prior_mean
    found = learner.evidence(learned["initial"].unsqueeze(0), batch.support, learned["noise_slopes"])
    torch.testing.assert_close(found[0, 2], dense.log_prob(residual.T).sum())

    belief = learner.predict(learner.adapt(learned, batch.support), batch.query.x, joint=True)
    asked, asked_noise, asked_mean = parts(batch.query.x)
    gain = asked @ phi.T / lamda @ torch.linalg.inv(dense.covariance_matrix)
    torch.testing.assert_close(belief.means[0, 2], asked_mean + gain @ residual)
    covariance = asked @ asked.T / lamda - gain @ phi @ asked.T / lamda
    torch.testing.assert_close(own_covariance(belief, learner, 2), covariance)
    torch.testing.assert_close(belief.within[0, 2, :, 0], covariance.diagonal())
    torch.testing.assert_close(belief.noise[0, 2, :, 0], asked_noise)


@pytest.mark.parametrize("size", [1.0, 5.0])
@pytest.mark.parametrize("steps", [0, 2])
def test_leaving_out_hypotheses_of_no_weight_changes_no_answer(steps, size):
    settings = {"scales": (0.5, 1.0, 2.0), "varying_noise": True}
    learner, learned = learner_of(Collapsed, particles=40, **settings)
    learned["log_temperature"] = torch.tensor(0.0)
    learned["noise_slopes"] = 0.1 * torch.randn(learned["noise_slopes"].shape)
    batch = ragged_batch()
    support = dataclasses.replace(batch.support, y=size * batch.support.y)
    whole = learner.adapt(learned, support, steps)
    light = learner.adapt_pruned(learned, support, 1e-9, steps)
    assert light.log_weights.shape[1] < whole.log_weights.shape[1]
    if size > 1:  # some particles are kept, more in one task than in another
        kept = (light.log_weights > -torch.inf).sum(-1)
        assert light.head.shape[1] < 40
        assert len(set(kept.tolist())) > 1
    one, other = (learner.predict(each, batch.query.x) for each in (whole, light))
    torch.testing.assert_close(other.mean(), one.mean(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(other.variance(), one.variance(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        learner.effective_particles(light), learner.effective_particles(whole), rtol=1e-6, atol=0
    )
    for task in range(len(batch)):
        alone = learner.predict(light.at(torch.tensor([task])), batch.query.x[task : task + 1])
        torch.testing.assert_close(alone.mean()[0], other.mean()[task])


def test_posteriors_taken_apart_and_joined_again_are_the_same():
    learner, learned = learner_of(Collapsed, particles=12, scales=(0.5, 2.0))
    batch = ragged_batch()
    posterior = learner.adapt_pruned(learned, batch.support, 1e-9)
    parts = [posterior.at(torch.tensor([task])) for task in (2, 0, 1)]
    joined = type(posterior).joined(parts)
    order = torch.tensor([2, 0, 1])
    expected = learner.predict(posterior, batch.query.x)
    found = learner.predict(joined, batch.query.x[order])
    torch.testing.assert_close(found.mean(), expected.mean()[order])
    torch.testing.assert_close(found.variance(), expected.variance()[order])


@pytest.mark.parametrize("rows", [3, 6, 7, 40])
def test_few_rows_and_many_condition_the_last_layer_alike(rows):
    learner, learned, _, features, (gamma, lamda), _ = collapsed_parts()
    x, y = torch.randn(1, rows, 2), torch.randn(1, rows, 2)
    belief = learner.predict(learner.adapt(learned, Examples.full(x, y)), x)
    weight, bias = learner.network.unpack(weights_of(learned["initial"]))[-1]
    prior = torch.cat([weight[0], bias[0]]) * 6**0.5
    mean, covariance = bayesian_regression(features(x), y[0], prior, float(lamda), float(gamma))
    phi = features(x)
    torch.testing.assert_close(belief.means[0, 0], phi @ mean)
    torch.testing.assert_close(belief.within[0, 0, :, 0], (phi @ covariance @ phi.T).diagonal())
    covariance = phi @ phi.T / lamda + torch.eye(rows) / gamma
    expected = sum(
        torch.distributions.MultivariateNormal((phi @ prior)[:, o], covariance).log_prob(y[0, :, o])
        for o in range(2)
    )
    found = learner.evidence(learned["initial"].unsqueeze(0), Examples.full(x, y))[0, 0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sine"])
@pytest.mark.parametrize("rate", ["none", "parameter"])
@pytest.mark.parametrize("particles", [1, 5])
def test_moves_without_a_graph_are_those_with_one(activation, rate, particles, monkeypatch):
    learner, _ = learner_of(BFA, particles=particles, learn_step_size=rate, step_size=1e-3)
    learner = dataclasses.replace(learner, network=MLP(2, (5, 4), 2, activation))
    learned = {name: value.double() for name, value in learner.initialise(generator()).items()}
    batch = ragged_batch()
    monkeypatch.setattr(fused_svgd, "MAX_CPU_PARAMETERS", 1)  # one task at a time
    with_graph = learner.adapt(learned, batch.support, 3).particles
    with torch.no_grad():
        without = learner.adapt(learned, batch.support, 3).particles
    torch.testing.assert_close(without, with_graph)
