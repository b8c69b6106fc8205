"""Hypotheses about tasks unlike those of training: their closed forms, their weights, their pruning."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from bmaml.densities import PRECISIONS, weights_of
from bmaml.learners import InvalidLearner, learner_from, settings_of
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.hypotheses import Layout
from bmaml.learners.pruning import LIGHT, KeptHypotheses
from bmaml.learners.surprise import FAR_SCALES, GROUPS, START_SHARES, Surprise
from bmaml.random_features import broad_features
from bmaml.task import Examples
from tests.closed_form import full_batch, generator, learner_of, ragged
from tests.surprising import NOISE, sine_learner, sines, steps

SURPRISE = Surprise(
    wide_scales=(8.0, 20.0),
    noise_levels=(5.0, 30.0),
    noisy_scales=(1.0, 3.0),
    noisy_every=2,
    lengths=(2.0, 0.7),
    broad_noises=(0.01, 0.5),
    broad_scales=(0.5, 2.0),
    far_scales=(8.0, 40.0),
    frequencies=6,
)
SCALES = (0.5, 2.0)


def small(particles=4, surprise=SURPRISE, scales=SCALES, **settings):
    """A learner with all groups of hypotheses, two inputs and two outputs."""
    learner, learned = learner_of(Collapsed, particles, steps=0, scales=scales, surprise=surprise, **settings)
    learned = {**learned, "log_widening": torch.zeros(()), "log_temperature": torch.zeros(())}
    if "noise_slopes" in learned:
        learned["noise_slopes"] = 0.3 * torch.randn(learned["noise_slopes"].shape, generator=generator(7))
    if surprise is not None:
        learned["log_shares"] = torch.tensor(START_SHARES).log()
        learned["frequencies"] = surprise.draw_frequencies(2)
    return learner, learned


def rows_of(count, seed=0):
    draw = generator(seed)
    return Examples.full(torch.randn(1, count, 2, generator=draw), torch.randn(1, count, 2, generator=draw))


class Dense:
    """The Gaussian of one hypothesis at scale 1, by hand: mean, kernel matrix, noise."""

    def __init__(self, learner, learned, layer):
        self.learner, self.learned, self.layer = learner, learned, layer
        self.own = layer < len(learner.layout.own)

    def mean(self, x):
        if not self.own:
            return torch.zeros(len(x), 2)
        theta = weights_of(self.learned["initial"])[None]
        return self.learner.network(theta, x[None])[0, self.particle]

    @property
    def particle(self):
        return self.learner.layout.own[self.layer][0]

    def features(self, x):
        theta = weights_of(self.learned["initial"])[None]
        hidden = self.learner.network.features(theta, x[None])[0, self.particle]
        return torch.cat([hidden, torch.ones(len(x), 1)], -1)

    def kernel(self, x, z):
        if self.own:
            lamda = self.learned["initial"][self.particle, -1].exp()
            return self.features(x) @ self.features(z).T / (6 * lamda)
        length = self.broad[0]
        longest = max(self.learner.surprise.lengths)
        phases = (x @ self.learned["frequencies"])[:, None] - (z @ self.learned["frequencies"])[None]
        waves = torch.cos(phases / (math.sqrt(2) * length)).mean(-1)
        return 1 + 4 * x @ z.T / (2 * longest**2) + waves

    def noise(self, x):
        if not self.own:
            return torch.full((len(x),), self.broad[1])
        _, level = self.learner.layout.own[self.layer]
        noise = level * torch.exp(-self.learned["initial"][self.particle, -2]).expand(len(x))
        if "noise_slopes" in self.learned:
            noise = noise * torch.exp(self.features(x) @ self.learned["noise_slopes"][self.particle])
        return noise

    @property
    def broad(self):
        return self.learner.surprise.broad_layers[self.layer - len(self.learner.layout.own)]


def prior_of(learner):
    """Prior weights of the hypotheses: within a group equal, as 1/scale, or as 1/scale³ where it is far."""
    hypotheses = learner.layout.hypotheses
    broad, far = GROUPS.index("broad"), learner.surprise.far_scales
    powers = [(each.group > 0) + 2 * (each.group == broad and each.scale in far) for each in hypotheses]
    tilted = torch.tensor([each.scale**-power for each, power in zip(hypotheses, powers, strict=True)])
    group = torch.tensor([each.group for each in hypotheses])
    totals = torch.zeros(len(START_SHARES)).index_add(0, group, tilted)
    return torch.tensor(START_SHARES)[group] * tilted / totals[group]


@pytest.mark.parametrize("varying_noise", [False, True])
@pytest.mark.parametrize("rows", [3, 40])  # fewer rows than features, and more
def test_every_hypothesis_has_the_weight_of_its_dense_multivariate_normal(rows, varying_noise):
    learner, learned = small(varying_noise=varying_noise)
    support = rows_of(rows)
    expected = []
    for layer, scale, *_ in learner.layout.hypotheses:
        dense = Dense(learner, learned, layer)
        x = support.x[0]
        covariance = scale**2 * (dense.kernel(x, x) + torch.diag_embed(dense.noise(x)))
        residuals = (support.y[0] - dense.mean(x)).T
        expected.append(MultivariateNormal(torch.zeros(rows), covariance).log_prob(residuals).sum())
    found = learner.adapt(learned, support).log_weights[0]
    assert len(found) == learner.hypotheses == 4 * 4 + 2 * 2 * 2 + 4 * 4
    torch.testing.assert_close(found, (prior_of(learner).log() + torch.stack(expected)).log_softmax(-1))


@pytest.mark.parametrize("varying_noise", [False, True])
@pytest.mark.parametrize("rows", [0, 3, 40])
def test_every_hypothesis_predicts_by_conditioning_its_gaussian(rows, varying_noise):
    learner, learned = small(varying_noise=varying_noise)
    support, query = rows_of(rows), rows_of(5, seed=1).x
    belief = learner.predict(learner.adapt(learned, support), query, joint=True)
    total = torch.zeros(5, 5)
    for index, (layer, scale, *_) in enumerate(learner.layout.hypotheses):
        dense, x, z = Dense(learner, learned, layer), support.x[0], query[0]
        inverse = torch.linalg.inv(dense.kernel(x, x) + torch.diag_embed(dense.noise(x)))
        gain = dense.kernel(z, x) @ inverse
        mean = dense.mean(z) + gain @ (support.y[0] - dense.mean(x))
        covariance = scale**2 * (dense.kernel(z, z) - gain @ dense.kernel(x, z))
        torch.testing.assert_close(belief.means[0, index], mean)
        torch.testing.assert_close(belief.within[0, index, :, 0], covariance.diagonal())
        torch.testing.assert_close(belief.noise[0, index, :, 0], scale**2 * dense.noise(z))
        total = total + belief.weights[0, index] * covariance
    torch.testing.assert_close(belief.factor[0, :, 0] @ belief.factor[0, :, 0].T, total)


@pytest.mark.parametrize("resolution", [0.0, 0.5])
def test_a_noisy_layer_is_a_particle_of_lower_noise_precision(resolution):
    surprise = dataclasses.replace(SURPRISE, noise_levels=(30.0,), noisy_every=1)
    learner, learned = small(surprise=surprise, resolution=resolution)
    learned["initial"][:, -2] = torch.tensor([0.0, 4.0, 8.0, 12.0])  # some are below the noise of rounding
    plain = dataclasses.replace(learner, surprise=None, scales=surprise.noisy_scales)
    lowered = learned["initial"].clone()
    lowered[:, -2] -= math.log(30)
    batch = full_batch()
    noisy = [index for index, each in enumerate(learner.layout.hypotheses) if GROUPS[each.group] == "noisy"]
    posterior = learner.adapt(learned, batch.support)
    other = plain.adapt({**learned, "initial": lowered}, batch.support)
    tilt = torch.tensor(surprise.noisy_scales).log().repeat(4)
    torch.testing.assert_close((posterior.log_weights[:, noisy] + tilt).log_softmax(-1), other.log_weights)
    found, expected = (
        learner.predict(posterior, batch.query.x),
        plain.predict(other, batch.query.x),
    )
    for name in ("means", "noise", "within"):
        chosen = getattr(found, name)[:, noisy]
        torch.testing.assert_close(chosen, getattr(expected, name).expand_as(chosen))


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_random_features_approximate_the_stated_kernel(inputs):
    surprise = dataclasses.replace(SURPRISE, frequencies=1024)
    x = torch.randn(1, 30, inputs, generator=generator())
    features = broad_features(surprise.draw_frequencies(inputs), x, surprise.lengths)[0]
    squares = torch.cdist(x[0], x[0]).square()
    for each, length in zip(features, surprise.lengths, strict=True):
        rbf = torch.exp(-squares / (2 * inputs * length**2))
        linear = 4 * x[0] @ x[0].T / (inputs * max(surprise.lengths) ** 2)
        tolerance = 3 / math.sqrt(1024)  # of a mean of so many cosines
        torch.testing.assert_close(each @ each.T, 1 + linear + rbf, rtol=0, atol=tolerance)
        torch.testing.assert_close((each @ each.T).diagonal(), 2 + linear.diagonal())


def test_the_frequencies_are_the_same_every_time_whatever_the_seed_of_training():
    learner, _ = small()
    one, other = (learner.initialise(generator(seed))["frequencies"] for seed in (0, 1))
    assert torch.equal(one, other)
    assert torch.equal(one, SURPRISE.draw_frequencies(2))


def test_settings_survive_the_round_trip_and_their_mistakes_are_named():
    learner, _ = small()
    assert learner_from("collapsed", settings_of(learner)) == learner
    without = dataclasses.replace(learner, surprise=None)
    assert learner_from("collapsed", settings_of(without)) == without
    for name, value in (
        ("wide_scales", ()),
        ("noise_levels", (0.0,)),
        ("lengths", (math.inf,)),
        ("noisy_every", 0),
        ("frequencies", 0),
    ):
        with pytest.raises(InvalidLearner, match=name):
            dataclasses.replace(SURPRISE, **{name: value})
    with pytest.raises(InvalidLearner, match="evidence weights"):
        small(evidence_weights=False)


def test_without_rows_each_group_has_its_share_and_the_prior_within():
    learner, learned = small()
    nothing = Examples.padded([(torch.zeros(0, 2), torch.zeros(0, 2))])
    posterior = learner.adapt(learned, nothing)
    torch.testing.assert_close(posterior.group_weights, torch.tensor([START_SHARES]))
    torch.testing.assert_close(posterior.log_weights[0].exp(), prior_of(learner))
    for shares in (torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])):
        found = learner.adapt({**learned, "log_shares": shares.log()}, nothing).group_weights[0]
        torch.testing.assert_close(found, shares)


def test_far_scales_hardly_add_to_the_variance_before_any_row():
    learner, learned = small(surprise=dataclasses.replace(SURPRISE, far_scales=FAR_SCALES))
    nothing = Examples.padded([(torch.zeros(0, 2), torch.zeros(0, 2))])
    posterior = learner.adapt(learned, nothing)
    far = torch.tensor([each.scale >= min(FAR_SCALES) for each in learner.layout.hypotheses])
    without = dataclasses.replace(
        posterior, log_weights=torch.where(far, -math.inf, posterior.log_weights).log_softmax(-1)
    )
    x = rows_of(20, seed=1).x
    whole, near = (learner.predict(each, x).variance() for each in (posterior, without))
    assert (whole > near).all()
    torch.testing.assert_close(whole, near, rtol=2e-3, atol=0)


@pytest.mark.parametrize("size", [1e2, 1e3, 1e6])
def test_labels_in_a_wrong_unit_are_answered_widely(size):
    learner, learned = sine_learner()
    whole = sines(100, 30, size=size)
    support = Examples.full(whole.x[:, :10], whole.y[:, :10])
    posterior = learner.adapt(learned, support)
    assert (posterior.group_weights[:, GROUPS.index("broad")] > 0.99).all()
    belief = learner.predict(posterior, whole.x[:, 10:])
    error = (whole.y[:, 10:] - belief.mean()).abs()
    assert (error <= 1.645 * belief.variance().sqrt()).double().mean() > 0.8
    assert error.square().mean().sqrt() < 0.7 * size


@pytest.mark.parametrize("negligible", [0.0, 1e-9])
def test_the_groups_weights_add_up_to_one_and_are_those_of_all_hypotheses(negligible):
    learner, learned = small()
    support = full_batch().support
    posterior = learner.adapt_pruned(learned, support, negligible)
    group = torch.tensor([each.group for each in learner.layout.hypotheses])
    whole = learner.adapt(learned, support)
    for task in range(3):
        expected = torch.zeros(len(START_SHARES)).index_add(0, group, whole.log_weights[task].exp())
        torch.testing.assert_close(posterior.group_weights[task], expected)
    torch.testing.assert_close(posterior.group_weights.sum(-1), torch.ones(3))


def test_the_order_of_particles_does_not_matter():
    learner, learned = small(surprise=dataclasses.replace(SURPRISE, noisy_every=1))
    order = torch.tensor([2, 0, 3, 1])
    batch = full_batch()
    one, other = (
        learner.adapt({**learned, "initial": initial}, batch.support)
        for initial in (learned["initial"], learned["initial"][order])
    )
    torch.testing.assert_close(one.group_weights, other.group_weights)
    torch.testing.assert_close(learner.effective_particles(one), learner.effective_particles(other))
    places = [
        learner.layout.hypotheses.index(each._replace(layer=moved))
        for each in learner.layout.hypotheses
        for level, particle in [divmod(each.layer, 4)]
        for moved in [4 * level + int(order[particle]) if level < 3 else each.layer]
    ]
    torch.testing.assert_close(other.log_weights, one.log_weights[:, places])
    found, expected = learner.predict(other, batch.query.x), learner.predict(one, batch.query.x)
    torch.testing.assert_close(found.mean(), expected.mean())
    torch.testing.assert_close(found.variance(), expected.variance())


def test_pruned_and_merged_is_the_whole_mixture_within_the_tolerances():
    surprise = dataclasses.replace(SURPRISE, noisy_every=1)
    learner, learned = small(40, surprise, (0.25, 0.5, 1.0, 2.0, 4.0))
    batch = full_batch(tasks=6, shots=5)
    whole = learner.predict(learner.adapt(learned, batch.support), batch.query.x)
    pruned = learner.adapt_pruned(learned, batch.support, 1e-9)
    light = learner.predict(pruned, batch.query.x)
    assert light.means.shape[1] < 0.8 * whole.means.shape[1]
    torch.testing.assert_close(light.mean(), whole.mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(light.aleatoric(), whole.aleatoric(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(light.epistemic(), whole.epistemic(), rtol=1e-6, atol=1e-6)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.9, 0.95])
    least = torch.minimum(levels, 1 - levels)
    for tolerance in (0.0, 1e-3):
        found = light.quantiles(levels.expand(6, -1), tolerance=tolerance)
        for index, level in enumerate(levels):
            error = (whole.cdf(found[:, index]) - level).abs() / least[index]
            # Merging may move a level by a thousandth; the tolerance is that of the lowest level.
            assert float(error.max()) < 1e-3 + tolerance


def test_the_light_hypotheses_of_a_layer_are_merged_into_one_of_the_same_variance():
    layout = Layout(1, (1.0, 3.0, 5.0, 7.0))
    weights = torch.tensor([[0.0, 0.6 * LIGHT, 0.2 * LIGHT, 3 * LIGHT]])
    weights[0, 0] = 1 - weights.sum()
    kept = KeptHypotheses.of(layout, weights.log(), 1e-12)
    mean_square = (0.6 * 9 + 0.2 * 25) / 0.8
    expected = torch.tensor([[weights[0, 0], 3 * LIGHT, 0.8 * LIGHT]])
    torch.testing.assert_close(kept.log_weights.exp(), expected)
    torch.testing.assert_close(kept.scales, torch.tensor([[1.0, 7.0, math.sqrt(mean_square)]]))
    assert kept.owner.tolist() == [[0, 0, 0]]
    unmerged = KeptHypotheses.of(layout, weights.log(), 0.0)
    for power in (0, 2):
        both = [(each.log_weights.exp() * each.scales**power).sum() for each in (kept, unmerged)]
        torch.testing.assert_close(*both)


def test_the_merging_of_each_task_is_its_own():
    layout = Layout(2, (1.0, 3.0), SURPRISE)
    draw = generator()
    logs = (6 * torch.randn(5, len(layout.hypotheses), generator=draw)).log_softmax(-1)
    together = KeptHypotheses.of(layout, logs, 1e-9)
    for task in range(5):
        alone = KeptHypotheses.of(layout, logs[task : task + 1], 1e-9)
        count = alone.log_weights.shape[1]
        torch.testing.assert_close(together.log_weights[task, :count], alone.log_weights[0])
        torch.testing.assert_close(together.scales[task, :count], alone.scales[0])
        assert bool((together.log_weights[task, count:] == -torch.inf).all())


def beliefs(learner, learned, support, x, negligible):
    posterior = learner.adapt_pruned(learned, support, negligible)
    belief = learner.predict(posterior, x, joint=True)
    root = belief.covariance_root()
    return (
        belief.mean(),
        belief.aleatoric(),
        belief.epistemic(),
        root[:, :, 0] @ root[:, :, 0].mT,
    ), posterior


@pytest.mark.parametrize("negligible", [0.0, 1e-9])
@pytest.mark.parametrize("varying_noise", [False, True])
def test_neither_padding_nor_company_changes_an_answer(negligible, varying_noise):
    learner, learned = small(12, varying_noise=varying_noise)
    tasks = ragged(5, rows=8)
    x = torch.randn(5, 6, 2, generator=generator(3))
    support = Examples.padded(tasks)
    garbage = torch.where(support.mask.unsqueeze(-1), support.y, 1e6)
    dirty = Examples(torch.where(support.mask.unsqueeze(-1), support.x, -1e3), garbage, support.mask)
    together, posterior = beliefs(learner, learned, support, x, negligible)
    padded, _ = beliefs(learner, learned, dirty, x, negligible)
    for task, rows in enumerate(tasks):
        own = slice(task, task + 1)
        alone, single = beliefs(learner, learned, Examples.padded([rows]), x[own], negligible)
        torch.testing.assert_close(single.group_weights, posterior.group_weights[own])
        for one, other, dirtied in zip(alone, together, padded, strict=True):
            torch.testing.assert_close(other[own], one)
            torch.testing.assert_close(dirtied[own], one)


def kept_apart(learner, learned):
    """Posteriors of single tasks, kept with and without broad processes, and one with nothing else."""
    supports = [sines(1, 40), sines(1, 3, seed=1), steps(1, 20), sines(1, 6, size=10.0), steps(1, 8, seed=2)]
    parts = [learner.adapt_pruned(learned, support, 1e-8) for support in supports]
    counts = [(part.head.shape[1], part.process_head.shape[1]) for part in parts]
    assert len(set(counts)) > 2
    assert min(broad for _, broad in counts) == 0
    return parts, supports


@pytest.mark.parametrize("only_broad", [False, True])
def test_posteriors_of_different_sizes_answer_together_as_they_do_alone(only_broad):
    learner, learned = sine_learner()
    if only_broad:  # a task that no particle explains keeps none
        learned["log_shares"] = torch.tensor([0.998, 1e-12, 1e-12, 2e-3]).log()
    parts, _ = kept_apart(learner, learned)
    assert (min(part.head.shape[1] for part in parts) == 0) == only_broad
    x = torch.linspace(-3, 3, 9).view(1, -1, 1)
    joined = type(parts[0]).joined(parts)
    again = joined.at(torch.tensor([4, 2, 0]))
    together = learner.predict(joined, x.expand(5, -1, -1), joint=True)
    some = learner.predict(again, x.expand(3, -1, -1), joint=True)
    for task, part in enumerate(parts):
        alone = learner.predict(part, x, joint=True)
        pairs = [(together, task)]
        if task in (4, 2, 0):
            pairs.append((some, (4, 2, 0).index(task)))
        single = learner.predict(joined.at(torch.tensor([task])), x, joint=True)
        for belief, place in [*pairs, (single, 0)]:
            for name in ("mean", "aleatoric", "epistemic"):
                torch.testing.assert_close(getattr(belief, name)()[place], getattr(alone, name)()[0])
            one, other = (root[:, 0] @ root[:, 0].T for root in (_root(belief, place), _root(alone, 0)))
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(
            learner.effective_particles(joined)[task], learner.effective_particles(part)[0]
        )
    assert joined.at(torch.tensor([0])).process_head.shape[1] == 0


def _root(belief, task):
    return belief.covariance_root()[task]


def test_a_batch_keeps_of_each_task_what_it_keeps_alone():
    learner, learned = sine_learner()
    supports = [sines(1, 20), steps(1, 20), sines(1, 6, size=10.0)]
    together = Examples.padded([(each.x[0], each.y[0]) for each in supports])
    posterior = learner.adapt_pruned(learned, together, 1e-8)
    x = torch.linspace(-3, 3, 9).view(1, -1, 1)
    belief = learner.predict(posterior, x.expand(3, -1, -1), joint=True)
    for task, support in enumerate(supports):
        part = learner.adapt_pruned(learned, support, 1e-8)
        own = posterior.at(torch.tensor([task]))
        assert own.log_weights.shape == part.log_weights.shape
        alone = learner.predict(part, x, joint=True)
        torch.testing.assert_close(belief.mean()[task], alone.mean()[0])
        torch.testing.assert_close(belief.variance()[task], alone.variance()[0])
        roots = _root(belief, task)[:, 0], _root(alone, 0)[:, 0]
        torch.testing.assert_close(roots[0] @ roots[0].T, roots[1] @ roots[1].T)


@pytest.mark.parametrize("rows", [10, 20])
def test_the_rows_tell_what_is_unlike_training(rows):
    learner, learned = sine_learner()

    def shares(support):
        return dict(
            zip(GROUPS[:4], learner.adapt(learned, support).group_weights.mean(0).tolist(), strict=True)
        )

    assert shares(sines(40, rows))["known"] > 0.99
    noisy = shares(sines(40, rows, noise=30 * NOISE))
    assert noisy["noisy"] + noisy["broad"] > 0.95
    assert shares(sines(40, rows, size=10.0))["wide"] > 0.9
    assert shares(steps(40, rows))["broad"] > 0.9


def test_a_family_that_no_particle_knows_is_answered_as_widely_as_it_is_unknown():
    learner, learned = sine_learner()
    tasks = steps(100, 20)
    support, query = (
        Examples(tasks.x[:, part], tasks.y[:, part], tasks.mask[:, part])
        for part in (slice(None, 10), slice(10, None))
    )
    plain = dataclasses.replace(learner, surprise=None)
    held = []
    for each in (learner, plain):
        low, high = each.predict(each.adapt(learned, support), query.x).interval(0.9)
        held.append(float(((query.y >= low) & (query.y <= high)).double().mean()))
    assert held[0] > 0.8
    assert held[1] < 0.4


def test_training_leaves_the_surprising_hypotheses_out():
    learner, learned = small(varying_noise=True)
    plain = dataclasses.replace(learner, surprise=None)
    batch = full_batch()
    torch.testing.assert_close(learner.loss(learned, batch), plain.loss(learned, batch), rtol=0, atol=0)
    assert {name for name in learned if not learner.trains(name)} >= {"log_shares", "frequencies"}
    everything = {name: value.clone().requires_grad_() for name, value in learned.items()}
    unused = torch.autograd.grad(
        learner.loss(everything, batch),
        [everything["log_shares"], everything["frequencies"]],
        allow_unused=True,
    )
    assert unused == (None, None)


def test_the_loss_and_the_weights_are_differentiable():
    learner, learned = small(2, varying_noise=True)
    batch = full_batch(tasks=1, shots=3, queries=2)

    def loss(initial):
        return learner.loss({**learned, "initial": initial}, batch)

    def weights(initial):
        return learner.adapt({**learned, "initial": initial}, batch.support).log_weights

    start = learned["initial"].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, start)
    assert torch.autograd.gradcheck(weights, start)


def test_no_noise_at_scale_one_is_below_that_of_a_label_s_resolution():
    resolution = 0.6
    learner, learned = small(resolution=resolution)
    learned["initial"][:, -2] = torch.tensor([-1.0, 1.0, 5.0, 40.0])
    posterior = learner.adapt(learned, full_batch().support)
    belief = learner.predict(posterior, full_batch().query.x)
    scale = torch.tensor([each.scale for each in learner.layout.hypotheses])[:, None, None]
    noise = belief.noise / scale.square()
    assert float(noise.min()) >= resolution**2 / 3 * (1 - 1e-12)
    assert float(noise.min()) < resolution**2 / 2


def test_repeated_labels_reward_no_particle_for_noise_below_their_resolution():
    sharp, sharper = (_evidence_of_equal_labels(0.1, log_precision) for log_precision in (10.0, 30.0))
    torch.testing.assert_close(sharp, sharper)
    bare, barer = (_evidence_of_equal_labels(0.0, log_precision) for log_precision in (10.0, 30.0))
    assert bool((barer > bare + 20).all())
    tiny = dataclasses.replace(SURPRISE, broad_noises=(1e-9,))
    learner, _ = small(surprise=tiny, resolution=0.1)
    assert [noise for _, noise in learner.layout.surprise.broad_layers] == [pytest.approx(0.1**2 / 3)] * 2


def _evidence_of_equal_labels(resolution, log_precision):
    learner, learned = small(resolution=resolution)
    initial = learned["initial"].clone()
    initial[:, -PRECISIONS] = log_precision
    x = torch.randn(1, 9, 2, generator=generator())  # more rows than features
    mean = learner.network(weights_of(initial)[None], x)
    return torch.stack(
        [
            learner.evidence(initial[None, m : m + 1].expand(-1, 4, -1), Examples.full(x, mean[:, m]))[0, 0]
            for m in range(4)
        ]
    )
