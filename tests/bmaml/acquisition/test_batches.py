"""Batches of numbers against their contracts and against dense determinants."""

import dataclasses

import pytest
import torch

from bmaml.acquisition import ACQUISITIONS, MAX_POOL_TARGETS, STRATEGIES
from bmaml.predictive import Predictive
from tests.bmaml.acquisition.pools import belief, candidates, pool


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("labelled", [0, 3])
def test_batches_are_distinct_available_and_no_longer_than_the_pool(name, labelled):
    about = belief(rank=3)
    available = torch.ones(2, 12, dtype=torch.bool)
    available[0, :3] = False
    available[1, 4:] = False
    found = STRATEGIES[name](candidates(about, available=available, labelled=labelled), 6).indices
    for task, expected in ((0, 6), (1, 4)):
        chosen = [index for index in found[task].tolist() if index >= 0]
        assert len(chosen) == len(set(chosen)) == expected
        assert available[task, chosen].all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_exhausted_pool_ends_in_minus_one_without_gain_and_is_not_saturation(name):
    available = torch.ones(2, 12, dtype=torch.bool)
    available[1, 4:] = False
    batch = STRATEGIES[name](candidates(belief(rank=3), available=available, labelled=1), 20)
    assert batch.indices.shape == batch.gains.shape == (2, 12)
    assert batch.indices[1, 4:].tolist() == [-1] * 8
    assert batch.gains[1, 4:].tolist() == [0.0] * 8
    assert batch.gains.isfinite().all()
    assert batch.strategies == [name]
    assert batch.saturated_at.tolist() == [-1, -1]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("particles", [3, 5])
def test_rows_that_may_not_be_chosen_change_nothing(name, particles):
    about = belief(particles=particles)
    about.means[:, :, 9:] *= 1e4
    whole = dataclasses.replace(
        candidates(about, labelled=2), target=about.part(slice(None), slice(3, 7))
    )  # without one, the whole pool is the target of `joint_epig`
    whole.scores[:, 9:] = -5
    offered = dataclasses.replace(
        whole,
        scores=whole.scores[:, :9],
        available=whole.available[:, :9],
        uniform=whole.uniform[:, :9],
        x=whole.x[:, :9],
        predictive=about.part(slice(None), slice(0, 9)),
    )
    whole.available[:, 9:] = False
    found, expected = STRATEGIES[name](whole, 5), STRATEGIES[name](offered, 5)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.saturated_at, expected.saturated_at)
    assert found.strategies == expected.strategies
    torch.testing.assert_close(found.gains, expected.gains)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_draw_decides_between_equals(name):
    about = belief(rank=3)
    same = dataclasses.replace(
        about,
        means=torch.zeros_like(about.means),
        within=about.within[:, :, :1],
        factor=about.factor[:, :1].expand(-1, 12, -1, -1),
    )
    tied = dataclasses.replace(
        candidates(same, scores=torch.ones(2, 12), labelled=1), x=torch.zeros(2, 12, 2)
    )
    first = STRATEGIES[name](tied, 1).indices[:, 0]
    assert torch.equal(first, tied.uniform.argmax(-1))


@pytest.mark.parametrize("name", STRATEGIES)
def test_permuting_the_pool_permutes_the_choice(name):
    about, order = belief(rank=3), torch.randperm(12)
    offered = candidates(about, labelled=2)
    shuffled = dataclasses.replace(
        offered,
        scores=offered.scores[:, order],
        uniform=offered.uniform[:, order],
        x=offered.x[:, order],
        predictive=Predictive(
            about.means[:, :, order],
            about.noise,
            about.within[:, :, order],
            about.log_weights,
            about.factor[:, order],
        ),
    )
    found = STRATEGIES[name](shuffled, 5).indices
    assert torch.equal(order[found], STRATEGIES[name](offered, 5).indices)


def test_top_k_is_the_sorted_scores_and_ties_go_to_the_draw():
    offered = candidates(belief())
    expected = offered.scores.topk(4).indices
    assert torch.equal(STRATEGIES["top_k"](offered, 4).indices, expected)
    tied = dataclasses.replace(offered, scores=torch.zeros(2, 12))
    assert torch.equal(STRATEGIES["top_k"](tied, 4).indices, tied.uniform.topk(4).indices)


def test_power_sampling_draws_in_proportion_to_the_score():
    about = belief(rows=3, tasks=1)
    scores = torch.tensor([[1.0, 2.0, 5.0]]).expand(40_000, -1)
    wide = Predictive(
        about.means.expand(40_000, -1, -1, -1),
        about.noise,
        about.within,
        about.log_weights.expand(40_000, -1),
    )
    first = STRATEGIES["power"](candidates(wide, scores=scores), 1).indices[:, 0]
    frequencies = torch.bincount(first, minlength=3) / 40_000
    torch.testing.assert_close(frequencies, torch.tensor([0.125, 0.25, 0.625]), atol=0.015, rtol=0)


def test_power_sampling_measures_negative_scores_from_the_lowest():
    scores = torch.rand(2, 12) - 3
    offered = candidates(belief(), scores=scores)
    shifted = dataclasses.replace(offered, scores=scores - scores.amin(-1, keepdim=True))
    found = STRATEGIES["power"](offered, 12)
    assert torch.equal(found.indices, STRATEGIES["power"](shifted, 12).indices)
    assert torch.equal(found.indices[:, -1], scores.argmin(-1))
    assert torch.equal(found.gains, scores.gather(1, found.indices))


@pytest.mark.parametrize("rank", [None, 3])
def test_max_determinant_takes_the_row_that_raises_the_dense_log_determinant_most(rank):
    about = belief(particles=7, rank=rank)
    batch = STRATEGIES["max_determinant"](candidates(about), 5)
    rows = about.covariance_root()[:, :, 0]
    covariance = rows @ rows.mT / 0.2
    for task in range(2):
        chosen = []
        for index in batch.indices[task].tolist():
            options = [row for row in range(12) if row not in chosen]
            dense = [
                torch.logdet(torch.eye(len(chosen) + 1) + covariance[task][[*chosen, row]][:, [*chosen, row]])
                for row in options
            ]
            assert options[int(torch.stack(dense).argmax())] == index
            chosen.append(index)


def test_joint_entropy_takes_the_row_that_raises_the_dense_entropy_most_noise_included():
    about = belief(rank=3)
    about = dataclasses.replace(about, noise=0.05 + torch.rand(2, 5, 12, 1))
    batch = STRATEGIES["joint_entropy"](candidates(about), 5)
    rows, noise = about.covariance_root()[:, :, 0], about.aleatoric()[:, :, 0]
    for task in range(2):
        covariance = rows[task] @ rows[task].mT + noise[task].diag()
        entropies = [torch.zeros(())]
        for pick, index in enumerate(batch.indices[task].tolist()):
            chosen = batch.indices[task, :pick].tolist()
            options = [row for row in range(12) if row not in chosen]
            every = [[*chosen, row] for row in options]
            dense = torch.stack(
                [torch.logdet(2 * torch.pi * torch.e * covariance[some][:, some]) for some in every]
            )
            assert options[int(dense.argmax())] == index
            entropies.append(0.5 * dense.max())
        torch.testing.assert_close(batch.gains[task], torch.stack(entropies).diff())


def conditioned(covariance, noise, chosen):
    """The epistemic covariance of all rows given noisy labels of the chosen ones, by the dense formula."""
    if not chosen:
        return covariance
    known = covariance[chosen][:, chosen] + noise[chosen].diag()
    return covariance - covariance[:, chosen] @ torch.linalg.solve(known, covariance[chosen])


@pytest.mark.parametrize("posted", [True, False])
def test_joint_epig_takes_the_row_that_tells_most_about_the_targets_given_those_before(posted):
    about = belief(rows=16, rank=3)
    about = dataclasses.replace(about, noise=0.05 + torch.rand(2, 5, 16, 1))
    offered = candidates(about.part(slice(None), slice(12)))
    if posted:
        offered = dataclasses.replace(offered, target=about.part(slice(None), slice(12, 16)))
    batch = STRATEGIES["joint_epig"](offered, 5)
    assert batch.strategies == ["joint_epig"]
    targets = slice(12, 16) if posted else slice(12)
    for task in range(2):
        rows, noise = about.covariance_root()[task, :, 0], about.aleatoric()[task, :, 0]
        for pick, (index, gain) in enumerate(
            zip(batch.indices[task].tolist(), batch.gains[task], strict=True)
        ):
            chosen = batch.indices[task, :pick].tolist()
            left = conditioned(rows @ rows.mT, noise, chosen)
            total = left.diagonal() + noise
            squares = left[:12, targets].square() / (total[:12, None] * total[targets])
            values = -0.5 * torch.log1p(-squares).mean(-1)
            values[chosen] = -torch.inf
            assert int(values.argmax()) == index
            torch.testing.assert_close(gain, values.max())


@pytest.mark.parametrize("posted", [True, False])
def test_a_batch_by_epig_begins_with_the_row_of_the_highest_epig(posted):
    about = belief(rows=300, rank=3)
    target = dataclasses.replace(belief(rows=200, rank=3), log_weights=about.log_weights) if posted else None
    whole = pool(about, target)
    scores = ACQUISITIONS["epig"].score(whole)
    offered = dataclasses.replace(candidates(about, scores), uniform=whole.uniform, target=target)
    batch = STRATEGIES["joint_epig"](offered, 3)
    torch.testing.assert_close(batch.gains[:, 0], scores.amax(-1))
    assert torch.equal(batch.indices[:, 0], scores.argmax(-1))


def test_many_targets_are_represented_by_rows_from_end_to_end():
    about, target = belief(rows=12, rank=3), belief(rows=1000, rank=3)
    target = dataclasses.replace(target, log_weights=about.log_weights)
    offered = dataclasses.replace(candidates(about), target=target)
    kept = torch.linspace(0, 999, MAX_POOL_TARGETS).round().long()
    some = dataclasses.replace(
        target,
        means=target.means[:, :, kept],
        within=target.within[:, :, kept],
        factor=target.factor[:, kept],
    )
    batch = STRATEGIES["joint_epig"](offered, 4)
    expected = STRATEGIES["joint_epig"](dataclasses.replace(offered, target=some), 4)
    assert torch.equal(batch.indices, expected.indices)
    torch.testing.assert_close(batch.gains, expected.gains)


def spent(rows, chosen):
    """Whether the chosen rows, known without noise, say all about the others."""
    free = [row for row in range(len(rows)) if row not in chosen]
    known = torch.linalg.pinv(rows[chosen]) @ rows[chosen]
    left = (rows - rows @ known).square().sum(-1)
    return bool(left[free].max() <= 1e-6 * rows.square().sum(-1).max())


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("rank", [None, 2])
def test_rows_that_repeat_others_are_saturation_only_once_nothing_else_is_left(rank, outputs):
    about, thrice = belief(rows=5, particles=7, rank=rank), torch.arange(5).repeat(3)
    size = torch.tensor([2.0, 2.0, 0.1, 0.1, 0.1])[thrice].unsqueeze(
        -1
    )  # to ask again tells more than the small
    many = Predictive(
        (size * about.means[:, :, thrice]).repeat(1, 1, 1, outputs),
        about.noise,
        size.square() * about.within[:, :, thrice] if rank else about.within,
        about.log_weights,
        size.unsqueeze(-1) * about.factor[:, thrice] if rank else None,
    )
    batch = STRATEGIES["max_determinant"](candidates(many, labelled=1), 12)
    rows = many.covariance_root()[:, :, 0]
    for task in range(2):
        chosen = batch.indices[task].tolist()
        saturated = next((pick for pick in range(12) if spent(rows[task], chosen[:pick])), -1)
        assert int(batch.saturated_at[task]) == saturated
        assert len({index % 5 for index in chosen[:6]}) < 5  # some were asked for again


def test_max_determinant_gains_add_up_to_the_joint_information():
    about = belief(rank=3)
    batch = STRATEGIES["max_determinant"](candidates(about), 5)
    for task in range(2):
        rows = about.covariance_root()[task, batch.indices[task], 0]
        expected = 0.5 * torch.logdet(torch.eye(5) + rows @ rows.T / 0.2)
        torch.testing.assert_close(batch.gains[task].sum(), expected)
    assert (batch.gains.diff(dim=-1) <= 1e-9).all()  # information has diminishing returns


def test_bare_particles_saturate_after_m_minus_one_rows_and_diversity_takes_over():
    batch = STRATEGIES["max_determinant"](candidates(belief(particles=4), labelled=1), 6)
    assert batch.saturated_at.tolist() == [3, 3]
    assert batch.ceiling == 3
    assert batch.strategies == ["max_determinant", "k_centre"]


@pytest.mark.parametrize("particles", [2, 5, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturation_is_seen_in_either_precision(particles, dtype):
    about = belief(rows=40, particles=particles)
    values = {name: getattr(about, name).to(dtype) for name in ("means", "noise", "within", "log_weights")}
    batch = STRATEGIES["max_determinant"](candidates(Predictive(**values)), particles + 2)
    assert batch.saturated_at.tolist() == [particles - 1] * 2


def test_one_particle_has_nothing_to_tell_apart():
    batch = STRATEGIES["max_determinant"](candidates(belief(particles=1), labelled=1), 3)
    assert batch.strategies == ["k_centre"]
    assert (batch.ceiling, batch.saturated_at.tolist()) == (0, [0, 0])


def test_particles_with_variance_of_their_own_have_no_ceiling():
    batch = STRATEGIES["max_determinant"](candidates(belief(particles=2, rank=6)), 8)
    assert batch.ceiling is None
    assert batch.strategies == ["max_determinant"]


def test_saturation_does_not_depend_on_the_units_of_an_output():
    # The first output tells two groups of particles apart; the second, in other units, all of them.
    groups = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 4, 1, 1) * torch.rand(2, 1, 12, 1)
    means = torch.cat([groups, torch.randn(2, 4, 12, 1)], -1)
    plain = Predictive(
        means, torch.full((2, 4, 1, 2), 0.2), torch.zeros(1, 1, 1, 1), torch.zeros(2, 4).log_softmax(-1)
    )
    offered = candidates(plain)
    small = dataclasses.replace(offered, predictive=plain.rescaled(torch.zeros(2), torch.tensor([1.0, 1e-5])))
    one, two = (STRATEGIES["max_determinant"](each, 6) for each in (offered, small))
    assert one.saturated_at.tolist() == two.saturated_at.tolist() == [3, 3]
    assert torch.equal(one.indices, two.indices)


def test_k_centre_starts_from_the_best_score_where_nothing_is_labelled():
    offered = candidates(belief())
    batch = STRATEGIES["k_centre"](offered, 2)
    assert torch.equal(batch.indices[:, 0], offered.scores.argmax(-1))
    padded = dataclasses.replace(
        offered, labelled=torch.randn(2, 3, 2), labelled_mask=torch.zeros(2, 3, dtype=torch.bool)
    )
    assert torch.equal(STRATEGIES["k_centre"](padded, 2).indices, batch.indices)


def test_distances_between_nearby_rows_survive_single_precision():
    offered = candidates(belief(rows=40), labelled=30)
    x = torch.randn(2, 40, 2).float() + 100
    near = x[:, :30] + 1e-3
    single = dataclasses.replace(offered, x=x, labelled=near)
    double = dataclasses.replace(offered, x=x.double(), labelled=near.double())
    one, two = (STRATEGIES["k_centre"](each, 5) for each in (single, double))
    torch.testing.assert_close(one.gains, two.gains, rtol=1e-4, atol=1e-7)  # float32 differences of 100


def test_k_centre_takes_the_farthest_row_each_time():
    offered = candidates(belief(), labelled=2)
    found = STRATEGIES["k_centre"](offered, 3)
    for task in range(2):
        centres = list(offered.labelled[task])
        for index, gain in zip(found.indices[task].tolist(), found.gains[task].tolist(), strict=True):
            distances = torch.cdist(offered.x[task], torch.stack(centres)).square().amin(-1)
            assert index == int(distances.argmax())
            assert gain == pytest.approx(float(distances.max()))
            centres.append(offered.x[task, index])
