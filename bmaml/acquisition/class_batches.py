"""Batch selection for classification: greedy joint information (BatchBALD)."""

import torch
from torch import Tensor

from bmaml import tails
from bmaml.acquisition.batches import Batch, Candidates, Picker, Strategy, k_centre, power, top_k
from bmaml.acquisition.class_scores import MAX_JOINT_PROBABILITIES, information_ceiling
from bmaml.blocks import blocks
from bmaml.categorical import Categorical

MIN_OUTCOMES, MAX_OUTCOMES = 32, 2_000
"""Joint labellings of the selected rows in the table; a sample represents more of them."""
MAX_TABLE_WORK = 1 << 31
"""Labellings × hypotheses × rows × classes × picks; larger selections keep fewer, `MIN_OUTCOMES` at least."""
MIN_INFORMATION = 1e-5
"""Nats about the hypotheses; less is rounding."""
MIN_LEFT_INFORMATION = 0.01
"""Fraction of the information ceiling; a selection that leaves less to be learned is saturated."""


def joint_information(candidates: Candidates, size: int) -> Batch:
    """Greedy maximisation of the information that labels give about the hypothesis (Kirsch et al. 2019).

    A row adds I(y; h | y₁ … y_k) = H(y | y₁ … y_k) − E H(y | h). Labels are independent given the hypothesis,
    so that the joint distribution of the selected labels is a table of outcomes × hypotheses. Where the table
    has more outcomes than `MAX_OUTCOMES`, a sample of it takes its place. The information ceiling is the
    entropy of the hypotheses' weights; a saturated task goes on with `k_centre`.
    """
    picker = Picker(candidates)
    assert isinstance(candidates.predictive, Categorical)
    belief = candidates.predictive.hypotheses
    probabilities = tails.exp(belief.log_probabilities)  # [task, hypothesis, row, class]
    weights, expected = tails.exp(belief.log_weights), belief.expected_entropy()
    limits = torch.special.entr(weights).sum(-1)
    outcomes = torch.ones_like(weights).unsqueeze(1)  # [task, outcome, hypothesis]
    shares = weights.new_ones(len(weights), 1)  # probability that an outcome represents, over its mass
    size = min(size, candidates.available.shape[-1])
    work = probabilities.numel() * size
    most = min(MAX_OUTCOMES, max(MIN_OUTCOMES, MAX_TABLE_WORK // work))
    known = weights.new_zeros(len(weights))
    saturated_at = torch.full((len(weights),), -1, device=weights.device)
    generator = torch.Generator(weights.device).manual_seed(0)
    for pick in range(size):
        spent = known >= (1 - MIN_LEFT_INFORMATION) * limits - MIN_INFORMATION
        spent = spent & picker.available.any(-1)
        saturated_at = torch.where((saturated_at < 0) & spent, pick, saturated_at)
        if bool((saturated_at >= 0).all()):  # no task needs its joint information any more
            picker.take(picker.distances())
            continue
        gain = _conditional_entropy(outcomes * weights.unsqueeze(1), shares, probabilities) - expected
        index = picker.take(torch.where((saturated_at >= 0).unsqueeze(-1), picker.distances(), gain))
        place = index.clamp_min(0)
        each = torch.arange(len(weights), device=weights.device)
        known = known + gain[each, place] * (saturated_at < 0)
        chosen = probabilities[each, :, place]  # [task, hypothesis, class]
        outcomes = (outcomes.unsqueeze(2) * chosen.mT.unsqueeze(1)).flatten(1, 2)
        shares = shares.repeat_interleave(chosen.shape[-1], 1)
        if outcomes.shape[1] > most:
            outcomes, shares = _sampled(outcomes, shares, weights, most, generator)
    used = ["joint"] if bool((saturated_at != 0).any()) else []
    used += ["k_centre"] if bool((saturated_at >= 0).any()) else []
    return picker.batch(used, saturated_at, information_ceiling(belief))


def _conditional_entropy(masses: Tensor, shares: Tensor, probabilities: Tensor) -> Tensor:
    """H(y | outcome) of each row, `[task, row]`.

    Args:
        masses: joint probabilities `[task, outcome, hypothesis]`, up to a factor per outcome.
        shares: probability that each outcome represents, over its mass.
        probabilities: `[task, hypothesis, row, class]`.
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
    """Outcomes drawn in proportion to their probability, each representing an equal share of the whole.

    Their masses are one: the probability of fifty labels together underflows in single precision.
    """
    mass = (outcomes * weights.unsqueeze(1)).sum(-1)
    drawn = torch.multinomial(mass * shares, most, replacement=True, generator=generator)
    kept = outcomes.gather(1, drawn.unsqueeze(-1).expand(-1, -1, outcomes.shape[-1]))
    return kept / mass.gather(1, drawn).unsqueeze(-1), torch.full_like(drawn, 1 / most, dtype=shares.dtype)


CLASS_STRATEGIES: dict[str, Strategy] = {
    "top_k": top_k,
    "power": power,
    "joint": joint_information,
    "k_centre": k_centre,
}
