"""Batch selection for classification: greedy joint information (BatchBALD)."""

import torch
from torch import Tensor

from bmaml import tails
from bmaml.acquisition.batches import Batch, Candidates, Strategy, greedily, k_centre, power, top_k
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
    assert isinstance(candidates.predictive, Categorical)
    joint = _Labellings(candidates.predictive.hypotheses, min(size, candidates.available.shape[-1]))
    return greedily(candidates, size, "joint", joint, information_ceiling(candidates.predictive.hypotheses))


class _Labellings:
    """The joint distribution of the labels of picked rows, as a table of outcomes × hypotheses.

    Args:
        size: rows that will be picked, at most.
    """

    def __init__(self, belief: Categorical, size: int) -> None:
        self._probabilities = tails.exp(belief.log_probabilities)  # [task, hypothesis, row, class]
        self._weights, self._expected = tails.exp(belief.log_weights), belief.expected_entropy()
        self._limits = torch.special.entr(self._weights).sum(-1)
        self._outcomes = torch.ones_like(self._weights).unsqueeze(1)  # [task, outcome, hypothesis]
        # Probability that an outcome represents, over its mass.
        self._shares = self._weights.new_ones(len(self._weights), 1)
        work = self._probabilities.numel() * size
        self._most = min(MAX_OUTCOMES, max(MIN_OUTCOMES, MAX_TABLE_WORK // work))
        self._known = self._weights.new_zeros(len(self._weights))
        self._generator = torch.Generator(self._weights.device).manual_seed(0)

    def spent(self, available: Tensor) -> Tensor:
        return self._known >= (1 - MIN_LEFT_INFORMATION) * self._limits - MIN_INFORMATION

    def gains(self) -> Tensor:
        masses = self._outcomes * self._weights.unsqueeze(1)
        self._gains = _conditional_entropy(masses, self._shares, self._probabilities) - self._expected
        return self._gains

    def learn(self, index: Tensor, counted: Tensor) -> None:
        place, each = index.clamp_min(0), torch.arange(len(index), device=index.device)
        self._known = self._known + self._gains[each, place] * counted
        chosen = self._probabilities[each, :, place]  # [task, hypothesis, class]
        self._outcomes = (self._outcomes.unsqueeze(2) * chosen.mT.unsqueeze(1)).flatten(1, 2)
        self._shares = self._shares.repeat_interleave(chosen.shape[-1], 1)
        if self._outcomes.shape[1] > self._most:
            self._outcomes, self._shares = _sampled(
                self._outcomes, self._shares, self._weights, self._most, self._generator
            )


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
