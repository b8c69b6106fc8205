"""Learners of policies: the laws of docs/method.md for scores, rounds and meta-objectives."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from bmaml import returns, svgd
from bmaml.episodes import Episodes, InvalidEpisodes, rounds_of, rows_of
from bmaml.learners import InvalidLearner, policy_from, settings_of
from bmaml.learners.policy_posterior import PolicyParticles
from bmaml.networks import MLP
from bmaml.task import TaskBatch
from tests.policies import acted, means_of, policy_of

NAMES = ["maml", "emaml", "bmaml"]


def start(learned):
    return learned["initial"].unsqueeze(0)


def with_padding(episodes, value):
    """The same episodes with an episode and two steps more, filled with a value and masked out."""
    grown = [pad(each, (0, 0, 0, 2, 0, 1), value=value) for each in (episodes.observations, episodes.actions)]
    rewards = pad(episodes.rewards, (0, 2, 0, 1), value=value)
    mask = pad(episodes.mask, (0, 2, 0, 1))
    covered = grown[0].new_tensor(value)
    grown = [torch.where(mask.unsqueeze(-1), each, covered) for each in grown]
    return Episodes(*grown, torch.where(mask, rewards, covered), mask)


def test_log_probabilities_recomputed_from_actions_equal_those_of_the_draws():
    learner, learned = policy_of("bmaml")
    particles = start(learned) + 0.3 * torch.randn(3, 4, 1)
    episodes = acted(learner, particles)
    means, std = means_of(learner, particles, episodes)
    noise = (episodes.actions - means) / std
    expected = (-0.5 * noise.square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(learner.log_prob(particles, episodes), expected)


def test_returns_are_discounted_sums_of_later_rewards():
    rewards = torch.randn(2, 1, 3, 7)
    expected, later = torch.zeros_like(rewards), torch.zeros(2, 1, 3)
    for step in reversed(range(7)):
        expected[..., step] = later = rewards[..., step] + 0.9 * later
    torch.testing.assert_close(returns.discounted(rewards, 0.9), expected)


def test_the_baseline_is_a_ridge_regression_on_observation_and_time():
    learner, learned = policy_of("maml")
    episodes = acted(learner, start(learned), tasks=1)
    gains = returns.discounted(torch.where(episodes.mask, episodes.rewards, 0), 0.9)
    time = torch.arange(5.0).expand_as(gains) / 100
    o = episodes.observations
    rows = torch.cat([o, o**2, torch.stack([time, time**2, time**3, torch.ones_like(time)], -1)], -1)
    seen, targets = rows[episodes.mask], gains[episodes.mask]
    coefficients = torch.linalg.solve(seen.T @ seen + 1e-5 * torch.eye(10), seen.T @ targets)
    torch.testing.assert_close(returns.baseline(episodes, gains)[episodes.mask], seen @ coefficients)


def test_advantages_are_standardised_for_each_particle_over_its_real_steps():
    learner, learned = policy_of("emaml")
    episodes = acted(learner, start(learned))
    found = returns.advantages(episodes, 0.99)
    assert (found[~episodes.mask] == 0).all()
    for task in range(3):
        for particle in range(4):
            own = found[task, particle][episodes.mask[task, particle]]
            torch.testing.assert_close(own.mean(), torch.tensor(0.0), atol=1e-12, rtol=0)
            torch.testing.assert_close(own.std(correction=0), torch.tensor(1.0))


def test_a_score_is_the_gradient_of_the_mean_of_log_probability_times_advantage():
    learner, learned = policy_of("emaml")
    particles = start(learned).expand(3, -1, -1).clone().requires_grad_()
    episodes = acted(learner, particles)
    weighted = learner.log_prob(particles, episodes) * returns.advantages(episodes, learner.discount)
    total = (weighted.sum((-1, -2)) / episodes.lengths()).sum()
    (expected,) = torch.autograd.grad(total, particles)
    torch.testing.assert_close(learner.scores(particles.detach(), episodes), expected)


@pytest.mark.parametrize("name", NAMES)
def test_no_reward_gives_no_score(name):
    learner, learned = policy_of(name)
    episodes = acted(learner, start(learned))
    bare = replace(episodes, rewards=torch.zeros_like(episodes.rewards))
    scores = learner.scores(start(learned).expand(3, -1, -1), bare)
    assert torch.equal(scores, torch.zeros_like(scores))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objective", ["mean", "chaser", "mixture"])
def test_padding_changes_nothing(name, objective):
    learner, learned = policy_of(name, objective=objective)
    learned["initial"].requires_grad_()
    support, query = (acted(learner, start(learned)) for _ in range(2))
    expected = learner.meta_loss(learned, [support], query)
    padded = learner.meta_loss(learned, [with_padding(support, 7.0)], with_padding(query, -3.0))
    torch.testing.assert_close(padded, expected)
    (one,) = torch.autograd.grad(expected, learned["initial"])
    (other,) = torch.autograd.grad(padded, learned["initial"])
    torch.testing.assert_close(other, one)


@pytest.mark.parametrize("particles", [1, 4])
def test_with_plain_gradients_the_chasers_gradient_is_mamls(particles):
    chaser, learned = policy_of("emaml", objective="chaser", particles=particles)
    learned["initial"].requires_grad_()
    support = acted(chaser, start(learned))
    query = acted(chaser, chaser.adapt_rounds(learned, None, [support]).particles)
    (found,) = torch.autograd.grad(chaser.meta_loss(learned, [support], query), learned["initial"])
    mean = replace(chaser, objective="mean")
    (expected,) = torch.autograd.grad(mean.meta_loss(learned, [support], query), learned["initial"])
    # MAML's loss is a mean over particles, the distance a sum.
    torch.testing.assert_close(found, 2 * chaser.step_size * particles * expected)


def test_the_mixture_credits_particles_by_the_softmax_of_their_returns():
    learner, learned = policy_of("bmaml", objective="mixture", temperature=0.7)
    learned["initial"].requires_grad_()
    support, query = (acted(learner, start(learned)) for _ in range(2))
    (found,) = torch.autograd.grad(learner.meta_loss(learned, [support], query), learned["initial"])
    adapted = learner.adapt_rounds(learned, None, [support]).particles
    credit = (query.returns() / 0.7).softmax(-1)
    surrogate = (credit * learner.gain(adapted, query)).sum(-1)
    (expected,) = torch.autograd.grad(-surrogate.mean(), learned["initial"])
    torch.testing.assert_close(found, expected)


def test_coincident_particles_move_by_their_mean_score():
    learner, learned = policy_of("bmaml", alpha=0.02)
    particles = start(learned)[:, :1].expand(3, 4, -1)
    scores = torch.randn(particles.shape)
    expected = scores.sum(1, keepdim=True).expand_as(scores)  # the rate is one particle's own
    torch.testing.assert_close(learner.direction(particles, scores), expected)


def test_one_stein_particle_follows_its_score():
    learner, learned = policy_of("bmaml", particles=1, alpha=0.3)
    scores = torch.randn(2, 1, start(learned).shape[-1])
    torch.testing.assert_close(learner.direction(start(learned), scores), scores)


def test_the_mean_bandwidth_gives_the_authors_direction():
    learner, learned = policy_of("bmaml", alpha=0.2, bandwidth="mean")
    theta = learned["initial"]
    scores = torch.randn(theta.shape)
    distances = torch.cdist(theta, theta)
    width = distances[~torch.eye(4, dtype=torch.bool)].mean() ** 2 / math.log(5)
    kernel = torch.exp(-(distances**2) / width)
    repulsion = (2 / width) * (kernel.sum(1, keepdim=True) * theta - kernel @ theta)
    expected = kernel @ scores + 0.2 * repulsion
    torch.testing.assert_close(learner.direction(theta[None], scores[None])[0], expected)
    assert not svgd.mean_bandwidth(svgd.squared_distances(theta[None].requires_grad_())).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_rounds_one_by_one_equal_all_at_once(name):
    learner, learned = policy_of(name)
    posterior, rounds = None, []
    for _ in range(3):
        particles = start(learned) if posterior is None else posterior.particles
        rounds.append(acted(learner, particles))
        posterior = learner.adapt_rounds(learned, posterior, rounds[-1:])
    for whole in (
        learner.adapt_rounds(learned, None, rounds),
        learner.adapt(learned, rows_of(rounds)),
    ):
        for key, tensor in posterior.tensors().items():
            torch.testing.assert_close(whole.tensors()[key], tensor)


def test_tasks_of_different_rounds_together_equal_each_alone():
    learner, learned = policy_of("bmaml")
    first = acted(learner, start(learned))
    second = acted(learner, learner.adapt_rounds(learned, None, [first]).particles)
    second.mask[1] = False  # this task has one round
    together = learner.adapt_rounds(learned, None, [first, second])
    alone = learner.adapt_rounds(learned, None, [first])
    torch.testing.assert_close(together.particles[1], alone.particles[1])
    torch.testing.assert_close(together.log_weights[1], alone.log_weights[1])
    assert together.rounds.tolist() == [2, 1, 2]


def test_posteriors_of_single_tasks_side_by_side_answer_as_each_alone():
    learner, learned = policy_of("bmaml")
    episodes = acted(learner, start(learned))
    together = learner.adapt_rounds(learned, None, [episodes])
    parts = [together.at(torch.tensor([task])) for task in range(3)]
    parts.append(learner.prior(learned))
    joined = PolicyParticles.joined(parts)
    x = torch.randn(4, 5, 3)
    belief = learner.predict(joined, x)
    for task, part in enumerate(parts):
        alone = learner.predict(part, x[task : task + 1])
        torch.testing.assert_close(belief.mean()[task], alone.mean()[0])
        torch.testing.assert_close(belief.variance()[task], alone.variance()[0])
    assert joined.best().tolist() == [*together.best().tolist(), 0]
    more = acted(learner, joined.particles, tasks=4)
    after = learner.adapt_rounds(learned, joined, [more])
    assert after.rounds.tolist() == [2, 2, 2, 1]


def test_a_particle_with_fewer_than_two_episodes_stays_put():
    learner, learned = policy_of("bmaml")
    episodes = acted(learner, start(learned))
    episodes.mask[:, 1, 1:] = False
    episodes.mask[:, 2] = False
    moved = learner.adapt_rounds(learned, None, [episodes])
    change = (moved.particles - start(learned)).abs().sum(-1)
    assert (change[:, [1, 2]] == 0).all()
    assert (change[:, [0, 3]] > 0).all()
    assert (moved.log_weights[:, 2] == -math.inf).all()  # it has not acted
    torch.testing.assert_close(moved.log_weights.exp().sum(-1), torch.ones(3))
    assert bool(moved.finite().all())


def test_later_rounds_move_at_the_later_rate():
    learner, learned = policy_of("emaml", later_rate=0.25)
    first = acted(learner, start(learned))
    after = learner.adapt_rounds(learned, None, [first])
    second = acted(learner, after.particles)
    expected = after.particles + 0.25 * 0.1 * learner.scores(after.particles, second)
    torch.testing.assert_close(learner.adapt_rounds(learned, after, [second]).particles, expected)


def test_rows_and_episodes_are_one_anothers_inverse():
    learner, learned = policy_of("bmaml")
    rounds = [acted(learner, start(learned)) for _ in range(2)]
    rows = rows_of(rounds)
    found = rounds_of(rows, learner.particles)
    for one, other in zip(found, rounds, strict=True):
        assert torch.equal(one.mask, other.mask)
        for name in ("observations", "actions", "rewards"):
            mask = other.mask
            torch.testing.assert_close(getattr(one, name)[mask], getattr(other, name)[mask])
    support, query = rows_of(rounds[:1]), rows_of(rounds[1:])
    loss = learner.loss(learned, TaskBatch(support, query))
    torch.testing.assert_close(loss, learner.meta_loss(learned, rounds[:1], rounds[1]))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(-3, 4.0, "no particle 4"), (-2, -1.0, "whole numbers"), (-1, 0.5, "whole numbers"), (-1, 0.0, "same")],
)
def test_rows_whose_places_are_wrong_are_refused(column, value, message):
    learner, learned = policy_of("bmaml")
    rows = rows_of([acted(learner, start(learned), ragged=False)])
    rows.x[0, 1, column] = value
    with pytest.raises(InvalidEpisodes, match=message):
        rounds_of(rows, learner.particles)


def test_a_belief_is_the_mixture_of_the_particles_gaussians():
    learner, learned = policy_of("bmaml")
    episodes = acted(learner, start(learned))
    posterior = learner.adapt_rounds(learned, None, [episodes])
    x = torch.randn(3, 7, 3)
    belief = learner.predict(posterior, x)
    weights = (episodes.returns() / learner.temperature).softmax(-1)
    torch.testing.assert_close(belief.weights, weights)
    size = learner.network.size
    means = learner.network(posterior.particles[..., :size], x)
    torch.testing.assert_close(belief.mean(), (weights[..., None, None] * means).sum(1))
    noise = posterior.particles[..., size:].exp().square()
    torch.testing.assert_close(belief.aleatoric()[:, 0], (weights[..., None] * noise).sum(1))


def test_actions_are_those_of_the_chosen_particle():
    learner, learned = policy_of("bmaml", temperature=0.1)
    episodes = acted(learner, start(learned))
    posterior = learner.adapt_rounds(learned, None, [episodes])
    belief = learner.predict(posterior, torch.randn(3, 4000, 3))
    rows = torch.arange(3)
    best = learner.act(posterior, belief, "best", torch.Generator().manual_seed(0))
    assert best.particle.tolist() == episodes.returns().argmax(-1).tolist()
    offsets = best.values - belief.means[rows, best.particle]
    std = belief.noise.expand_as(belief.means)[rows, best.particle].sqrt()
    torch.testing.assert_close(offsets.std(1), std[:, 0], rtol=0.06, atol=0)  # of 4,000 draws
    mean = learner.act(posterior, belief, "mean", torch.Generator())
    assert mean.particle is None
    torch.testing.assert_close(mean.values, belief.means.mean(1))
    again = learner.act(posterior, belief, "best", torch.Generator().manual_seed(0))
    assert torch.equal(best.values, again.values)


def test_particles_search_in_turn_until_one_is_paid():
    learner, learned = policy_of("bmaml")
    posterior = learner.prior(learned)

    def told(episodes, returns, enough=0.0):
        held = replace(posterior, episodes=torch.tensor([episodes]), returns=torch.tensor([returns]))
        return int(held.next_particle(enough))

    assert told([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]) == 0
    assert told([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]) == 2  # the next that has not acted
    assert told([1.0, 1.0, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0]) == 1  # paid: no need to look farther
    assert told([1.0, 1.0, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0], enough=1.0) == 2
    assert told([2.0, 2.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]) == 2  # the fewest episodes
    assert told([1.0, 1.0, 0.0, 0.0], [-9.0, -7.0, 0.0, 0.0]) == 2  # costs: everyone acts once
    assert told([1.0, 1.0, 1.0, 1.0], [-9.0, -7.0, -8.0, -9.0]) == 1  # then the best


def test_thompson_draws_particles_with_their_weights():
    learner, learned = policy_of("bmaml", temperature=2.0)
    posterior = learner.adapt_rounds(learned, None, [acted(learner, start(learned), tasks=1)])
    belief = learner.predict(posterior, torch.randn(1, 1, 3))
    generator = torch.Generator().manual_seed(0)
    drawn = [int(learner.act(posterior, belief, "thompson", generator).particle) for _ in range(3000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 3000
    torch.testing.assert_close(shares, posterior.log_weights[0].exp(), atol=0.03, rtol=0)  # 3 standard errors


def test_adaptation_is_differentiable_twice():
    learner, learned = policy_of("bmaml", particles=2)
    support = acted(learner, start(learned), tasks=1)
    width = svgd.median_bandwidth(svgd.squared_distances(start(learned)))

    def adapted(initial):
        return learner.adapt_rounds({"initial": initial}, None, [support]).particles

    # On policy only at the start: the gradient there, against differences of scores with a fixed behaviour.
    theta = start(learned).clone().requires_grad_()
    old = learner.log_prob(start(learned), support)
    ahead = returns.advantages(support, learner.discount)

    def by_ratio(theta):
        ratio = (learner.log_prob(theta, support) - old).exp()
        gains = (torch.where(support.mask, ratio * ahead, 0)).sum((-1, -2)) / support.lengths()
        (scores,) = torch.autograd.grad(gains.sum(), theta, create_graph=True)
        factor = learner.alpha * learner.particles
        return theta + learner.step_size * factor * svgd.direction(theta, scores / learner.alpha, width)

    probe = torch.randn(theta.shape)
    (expected,) = torch.autograd.grad((by_ratio(theta) * probe).sum(), theta)
    initial = learned["initial"].clone().requires_grad_()
    (found,) = torch.autograd.grad((adapted(initial) * probe).sum(), initial)
    torch.testing.assert_close(found, expected[0])


@pytest.mark.parametrize("rate", ["scalar", "parameter"])
def test_the_inner_rate_can_be_learned(rate):
    learner, learned = policy_of("bmaml", learn_step_size=rate)
    fixed, _ = policy_of("bmaml")
    episodes = acted(learner, start(learned))
    one = learner.adapt_rounds(learned, None, [episodes]).particles
    torch.testing.assert_close(one, fixed.adapt_rounds(learned, None, [episodes]).particles)
    learned["log_step_size"].requires_grad_()
    (gradient,) = torch.autograd.grad(
        learner.meta_loss(learned, [episodes], episodes), learned["log_step_size"]
    )
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("name", NAMES)
def test_settings_make_the_same_learner_again(name):
    learner, _ = policy_of(name)
    assert policy_from(name, settings_of(learner)) == learner


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("maml", {"particles": 2}, "one particle"),
        ("emaml", {"steps": 0}, "at least one round"),
        ("emaml", {"discount": 1.1}, "discount must lie"),
        ("emaml", {"temperature": 0.0}, "temperature must be positive"),
        ("bmaml", {"alpha": 0.0}, "alpha must be positive"),
        ("emaml", {"alpha": 0.1}, "no setting alpha"),
        ("llama", {}, "unknown learner of policies"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, message):
    with pytest.raises(InvalidLearner, match=message):
        policy_from(name, {"network": MLP(2, (3,), 1), **settings})
