"""Which rows to label together where labels are classes: greedy joint information (BatchBALD)."""

from collections.abc import Callable

import torch
from torch import Tensor

from bmaml import tails
from bmaml.acquisition.batches import Batch, Candidates, Picker, k_centre, power, top_k
from bmaml.acquisition.class_scores import MAX_JOINT_PROBABILITIES, ceiling
from bmaml.blocks import blocks
from bmaml.categorical import Categorical

MOST_OUTCOMES, FEWEST_OUTCOMES = 2_000, 32
"""Joint labellings of the chosen rows that are kept; more are represented by a sample of them."""
MOST_WORK = 1 << 28
"""Labellings × rows × classes × picks: where there would be more, fewer labellings are kept."""
ROUNDING = 1e-5
"""Nats about the particles that are none."""

SATURATED = 0.01
"""Saturation: the chosen rows leave less than this part of the ceiling to be learned about the particles."""


def joint_information(candidates: Candidates, size: int) -> Batch:
    """Greedily the rows whose labels together say most about the particle (Kirsch et al. 2019).

    A row adds I(y; m | y₁ … y_k) = H(y | y₁ … y_k) − E H(y | m), the labels being independent given the
    particle, so that the joint distribution of the chosen labels is a table of outcomes × particles.
    Beyond 2,000 outcomes (32 for large batches of large pools) the table is a sample of them, drawn from
    itself. What can be learned ends at the
    entropy of the particles' weights; once 99 % of it is spent, `k_centre` chooses.
    """
    picker, belief = Picker(candidates), candidates.predictive
    assert isinstance(belief, Categorical)
    probabilities = tails.exp(belief.log_probabilities)  # [task, particle, row, class]
    weights, expected = tails.exp(belief.log_weights), belief.expected_entropy()
    limits = torch.special.entr(weights).sum(-1)
    outcomes = torch.ones_like(weights).unsqueeze(1)  # [task, outcome, particle]
    shares = weights.new_ones(len(weights), 1)  # how much of the whole an outcome stands for, over its mass
    size = min(size, candidates.available.shape[-1])
    work = len(weights) * probabilities.shape[2] * probabilities.shape[3] * size
    most = min(MOST_OUTCOMES, max(FEWEST_OUTCOMES, MOST_WORK // work))
    known = weights.new_zeros(len(weights))
    saturated_at = torch.full((len(weights),), -1, device=weights.device)
    generator = torch.Generator(weights.device).manual_seed(0)
    for pick in range(size):
        full = (known >= (1 - SATURATED) * limits - ROUNDING) & picker.available.any(-1)
        saturated_at = torch.where((saturated_at < 0) & full, pick, saturated_at)
        if bool((saturated_at >= 0).all()):  # nothing of what labels would tell is asked any more
            picker.take(picker.distances())
            continue
        gain = _uncertain(outcomes * weights.unsqueeze(1), shares, probabilities) - expected
        index = picker.take(torch.where((saturated_at >= 0).unsqueeze(-1), picker.distances(), gain))
        place = index.clamp_min(0)
        each = torch.arange(len(weights), device=weights.device)
        known = known + gain[each, place] * (saturated_at < 0)
        chosen = probabilities[each, :, place]  # [task, particle, class]
        outcomes = (outcomes.unsqueeze(2) * chosen.mT.unsqueeze(1)).flatten(1, 2)
        shares = shares.repeat_interleave(chosen.shape[-1], 1)
        if outcomes.shape[1] > most:
            outcomes, shares = _sampled(outcomes, shares, weights, most, generator)
    used = ["joint"] if bool((saturated_at != 0).any()) else []
    used += ["k_centre"] if bool((saturated_at >= 0).any()) else []
    return picker.batch(used, saturated_at, ceiling(belief))


def _uncertain(masses: Tensor, shares: Tensor, probabilities: Tensor) -> Tensor:
    """H(y | outcome) of each row, `[task, row]`.

    Args:
        masses: of each outcome and particle, `[task, outcome, particle]`.
        probabilities: `[task, particle, row, class]`.
    """
    tasks, outcomes, _ = masses.shape
    found = masses.new_empty(tasks, probabilities.shape[2])
    pairs = tasks * outcomes * probabilities.shape[3]
    for some in blocks(found.shape[1], MAX_JOINT_PROBABILITIES, pairs):
        # [task, row, outcome, class]: the mass of an outcome together with each class of each row.
        mass = torch.einsum("tom,tmrc->troc", masses, probabilities[:, :, some])
        conditional = torch.special.entr(mass).sum(-1) - torch.special.entr(mass.sum(-1))
        found[:, some] = (conditional * shares.unsqueeze(1)).sum(-1)
    return found


def _sampled(
    outcomes: Tensor, shares: Tensor, weights: Tensor, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Outcomes drawn in proportion to their mass, each standing for an equal part of the whole.

    They come with a mass of one: that of fifty labels together has no place in single precision.
    """
    mass = (outcomes * weights.unsqueeze(1)).sum(-1)
    drawn = torch.multinomial(mass * shares, most, replacement=True, generator=generator)
    kept = outcomes.gather(1, drawn.unsqueeze(-1).expand(-1, -1, outcomes.shape[-1]))
    return kept / mass.gather(1, drawn).unsqueeze(-1), torch.full_like(drawn, 1 / most, dtype=shares.dtype)


CLASS_STRATEGIES: dict[str, Callable[[Candidates, int], Batch]] = {
    "top_k": top_k,
    "power": power,
    "joint": joint_information,
    "k_centre": k_centre,
}
