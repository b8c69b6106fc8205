"""Draws of class means: the mutual information of a label and (particle, class means)."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from bmaml.acquisition import CLASS_ACQUISITIONS, CLASS_STRATEGIES
from bmaml.learners import conjugate_belief
from bmaml.task import Examples
from tests.bmaml.acquisition.pools import class_candidates, class_pool, joint_entropy
from tests.bmaml.conjugate_tasks import CLASSES, learner_and_start, rows
from tests.closed_form import generator


def queries(count=6, tasks=1, seed=7):
    return torch.randn(tasks, count, 5, generator=generator(seed))


def belief(learner, learned, *tasks, x=None):
    query = queries(tasks=len(tasks)) if x is None else x
    return learner.predict(learner.adapt(learned, Examples.padded(list(tasks))), query)


def written_out(found, draws, seed=5):
    """Entropies of the mean and of the mean draw, class means drawn independently one particle at a time."""
    noise = generator(seed)
    weights = found.log_weights[0].exp()
    mixed, inside = 0.0, 0.0
    for particle, weight in enumerate(weights):
        means, spread = found.means[0, particle], found.variances[0, particle].sqrt()
        drawn = means + spread * torch.randn(draws, *means.shape, generator=noise)
        offsets = found.z[0, particle][None, :, None] - drawn.unsqueeze(1)  # [draw, row, class, dimension]
        square = (offsets.square() / found.scatter[0, particle]).sum(-1)
        logits = -0.5 * found.sharpness * found.knee * torch.log1p(square / found.knee)
        p = logits.masked_fill(~found.present[0], -torch.inf).softmax(-1)
        mixed = mixed + weight * p.mean(0)
        inside = inside + weight * torch.special.entr(p).sum(-1).mean(0)
    return torch.special.entr(mixed).sum(-1), inside


@pytest.mark.parametrize("particles", [1, 3])
def test_the_information_is_that_of_independent_draws_written_out(particles):
    found = replace(belief(*learner_and_start(particles), rows((1, 2, 0, 1))), pairs=8192)
    total, inside = written_out(found, 40_000)
    # Means over 16,384 and 40,000 draws of values of at most log 3: standard errors below 0.01.
    torch.testing.assert_close(found.hypotheses.entropy()[0], total, atol=0.02, rtol=0)
    torch.testing.assert_close(found.hypotheses.expected_entropy()[0], inside, atol=0.02, rtol=0)


def test_two_classes_on_a_line_agree_with_quadrature():
    learner, learned = learner_and_start(particles=1, dimensions=1)
    learned["log_knee"], learned["log_sharpness"] = torch.tensor(25.0), torch.zeros(())
    found = replace(belief(learner, learned, rows((1, 2))), pairs=8192)
    grid = torch.linspace(-6, 6, 401)
    density = torch.exp(-grid.square() / 2)
    density = density / density.sum()
    drawn = found.means[0, 0, :, 0] + found.variances[0, 0, :, 0].sqrt() * grid.unsqueeze(-1)  # [grid, class]
    each = (
        found.z[0, 0, :, 0][:, None, None] - drawn
    ).square() / found.scatter.squeeze()  # [row, grid, class]
    p = torch.sigmoid(0.5 * (each[:, None, :, 1] - each[:, :, None, 0]))  # of class 0, by both means
    weights = density.unsqueeze(-1) * density

    def entropy(p):
        return torch.special.entr(p) + torch.special.entr(1 - p)

    expected = entropy((weights * p).sum((1, 2))) - (weights * entropy(p)).sum((1, 2))
    torch.testing.assert_close(found.hypotheses.mutual_information()[0], expected, atol=0.005, rtol=0)


def test_known_means_leave_nothing_to_learn_to_a_single_particle():
    found = belief(*learner_and_start(particles=1), rows((2, 1, 3, 2)))
    shrunk = [replace(found, variances=found.variances * factor) for factor in (1.0, 1e-2, 1e-4, 1e-12)]
    values = [each.mutual_information() for each in shrunk]
    for more, less in itertools.pairwise(values):
        assert bool((less < more).all())
    torch.testing.assert_close(values[-1], torch.zeros_like(values[-1]), atol=1e-9, rtol=0)


def test_known_means_leave_the_disagreement_of_the_particles():
    found = belief(*learner_and_start(), rows((2, 1, 3, 2)))
    known = replace(found, variances=1e-20 * found.variances)
    total, inside = written_out(known, 1)
    torch.testing.assert_close(known.hypotheses.entropy()[0], total)
    torch.testing.assert_close(known.hypotheses.expected_entropy()[0], inside)


def test_a_single_particle_has_an_epistemic_part_that_falls_with_rows():
    learner, learned = learner_and_start(particles=1, dimensions=4)
    x, y = rows((16,) * CLASSES)
    order = torch.arange(16 * CLASSES).view(CLASSES, 16)
    values = []
    for shots in (1, 4, 16):
        own = order[:, :shots].flatten()
        values.append(
            float(belief(learner, learned, (x[own], y[own]), x=queries(100)).mutual_information().mean())
        )
    assert values[0] > values[1] > values[2] > 0


def test_the_parts_add_up_to_the_entropy_of_the_closed_form():
    found = belief(*learner_and_start(), rows((1, 1, 1, 1)), x=torch.cat([queries(20), 30 * queries(20)], 1))
    total = torch.special.entr(found.probabilities()).sum(-1)
    torch.testing.assert_close(found.entropy(), total)
    torch.testing.assert_close(found.expected_entropy() + found.mutual_information(), total)
    assert bool((found.expected_entropy() >= 0).all())
    assert bool((found.mutual_information() >= 0).all())


def test_the_order_of_classes_and_of_particles_does_not_matter():
    learner, learned = learner_and_start()
    (x, y), classes, particles = rows((2, 1, 3, 2)), [2, 0, 3, 1], [1, 2, 0]
    expected = belief(learner, learned, (x, y))
    own = ("initial", "log_between", "log_within")
    other = {name: tensor[particles] if name in own else tensor for name, tensor in learned.items()}
    for found in (belief(learner, learned, (x, y[:, classes])), belief(learner, other, (x, y))):
        torch.testing.assert_close(found.mutual_information(), expected.mutual_information())
        torch.testing.assert_close(found.variation_ratio(), expected.variation_ratio())
    renamed = belief(learner, learned, (x, y[:, classes])).hypotheses.log_probabilities
    torch.testing.assert_close(renamed, expected.hypotheses.log_probabilities[..., classes])


def test_neighbours_and_padding_change_no_draw():
    learner, learned = learner_and_start()
    tasks = [rows((2, 1, 3, 2)), rows((1, 1, 0, 0), seed=2), rows((0, 4, 1, 2), seed=3)]
    x = queries(tasks=3)
    together = belief(learner, learned, *tasks, x=x)
    for task, each in enumerate(tasks):
        alone = belief(learner, learned, each, x=x[task : task + 1])
        part = together.part(slice(task, task + 1))
        for found in (together.mutual_information()[task], part.mutual_information()[0]):
            torch.testing.assert_close(found, alone.mutual_information()[0])
        torch.testing.assert_close(part.hypotheses.log_weights, alone.hypotheses.log_weights)


def test_rows_see_the_same_draws_together_and_in_parts(monkeypatch):
    found = belief(*learner_and_start(), rows((2, 1, 3, 2)))
    whole = found.hypotheses.log_probabilities
    monkeypatch.setattr(conjugate_belief, "MAX_DRAWN_VALUES", 1)
    torch.testing.assert_close(replace(found).hypotheses.log_probabilities, whole)
    parts = [found.part(slice(None), slice(i, i + 1)).hypotheses.log_probabilities for i in range(6)]
    torch.testing.assert_close(torch.cat(parts, 2), whole)


def test_draws_weigh_as_much_as_their_particle():
    found = belief(*learner_and_start(), rows((2, 1, 3, 2)))
    weights = torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64)
    pairs = conjugate_belief._Pairs.of(weights.log(), 32)
    shares = torch.zeros(1, 3, dtype=torch.float64).scatter_add(
        1, pairs.particles, 2 * pairs.log_weights.exp()
    )
    torch.testing.assert_close(shares, weights)
    counts = pairs.particles.flatten().bincount()
    assert bool(((counts - 32 * weights[0]).abs() < 1).all())
    one = replace(found, log_weights=torch.tensor([[0.0, -torch.inf, -torch.inf]]))
    assert conjugate_belief._Pairs.of(one.log_weights, 32).particles.tolist() == [[0] * 32]
    assert bool((one.mutual_information() > 0).all())


def test_all_acquisitions_read_the_same_draws():
    found = belief(*learner_and_start(), rows((2, 1, 3, 2)))
    drawn = found.hypotheses
    for name in ("bald", "epig", "variation_ratio"):
        score = CLASS_ACQUISITIONS[name].score
        torch.testing.assert_close(score(class_pool(found, found)), score(class_pool(drawn, drawn)))
    picked = CLASS_STRATEGIES["joint"](class_candidates(found), 3)
    bald = CLASS_ACQUISITIONS["bald"].score(class_pool(found))[0]
    assert int(picked.indices[0, 0]) == int(bald.argmax())
    assert float(picked.gains[0, 0]) == pytest.approx(float(bald.max()))
    chosen = picked.indices[0].tolist()
    joint = joint_entropy(drawn, chosen) - float(drawn.expected_entropy()[0, chosen].sum())
    assert float(picked.gains.sum()) == pytest.approx(joint)
    assert picked.ceiling == pytest.approx(math.log(2 * conjugate_belief.PAIRS), abs=0.1)


def test_a_task_without_rows_has_no_entropy_of_any_kind():
    learner, learned = learner_and_start()
    found = belief(learner, learned, (torch.zeros(0, 5), torch.zeros(0, 3)))
    for values in (found.entropy(), found.mutual_information(), found.expected_entropy()):
        torch.testing.assert_close(values, torch.zeros(1, 6))
