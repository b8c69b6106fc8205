"""The belief about the class of a query: a weighted mixture of the particles' class probabilities."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bmaml import tails
from bmaml.shapes import LogWeights, PerRow


@dataclass(frozen=True)
class Categorical:
    """Class probabilities of every particle for every query row.

    Given a particle, labels are independent. Particles that are uncertain themselves are hypotheses only
    together with a draw of what they are uncertain of (`hypotheses`).

    Attributes:
        log_probabilities: of each particle, normalised over the classes of the task; −∞ for other classes.
        log_weights: logarithms of the particles' weights, normalised.
    """

    log_probabilities: Float[Tensor, "task particle row class"]
    log_weights: LogWeights

    @property
    def hypotheses(self) -> "Categorical":
        """The probabilities under each hypothesis that labels decide between: here under each particle."""
        return self

    def log_mixture(self) -> Float[Tensor, "task row class"]:
        """Log probabilities of the mixture."""
        return tails.logsumexp(self.log_probabilities + self.log_weights[..., None, None], 1)

    def probabilities(self) -> Float[Tensor, "task row class"]:
        """Class probabilities of the mixture."""
        return self.log_mixture().exp()

    def log_density(self, y: Float[Tensor, "task row class"]) -> Float[Tensor, "task row 1"]:
        """Log probability of the true class, given as one-hot rows; zero for a row of zeros."""
        truth = torch.where(y > 0, self.log_mixture(), 0.0)
        return truth.sum(-1, keepdim=True)

    def entropy(self) -> PerRow:
        """Entropy of the mixture in nats: the total uncertainty."""
        return torch.special.entr(self.probabilities()).sum(-1)

    def expected_entropy(self) -> PerRow:
        """Weighted mean of the particles' entropies in nats, which no label removes (aleatoric)."""
        logs = self.log_probabilities.clamp_min(-tails.MAX_EXPONENT)
        return self._average(-(tails.exp(logs) * logs).sum(-1))

    def mutual_information(self) -> PerRow:
        """Mutual information of label and particle in nats (epistemic; BALD, Houlsby et al. 2011).

        It is the entropy minus the expected entropy.
        """
        return (self.entropy() - self.expected_entropy()).clamp_min(0)

    def margin(self) -> PerRow:
        """Probability of the most probable class minus that of the next; 1 where there is no other."""
        best = self.probabilities().topk(min(2, self.log_probabilities.shape[-1]), -1).values
        return best[..., 0] - (best[..., 1] if best.shape[-1] > 1 else 0)

    def variation_ratio(self) -> PerRow:
        """The weight of the particles whose most probable class is not the one that most of them name."""
        return (1 - self.votes().amax(-1)).clamp_min(0)

    def votes(self) -> Float[Tensor, "task row class"]:
        """The weight of the particles that name each class the most probable one."""
        votes = self.log_probabilities == self.log_probabilities.amax(-1, keepdim=True)
        return self._average(votes.to(self.log_weights.dtype))

    def towards(self, prior: "Categorical", share: PerRow) -> "Returning":
        """The belief mixed with the prior of the same rows, which has `share` of each."""
        return Returning(_mixed(self, prior, share), self.log_weights, self, prior, share)

    def part(self, tasks: slice, rows: slice = slice(None)) -> "Categorical":
        """The belief about some rows of some tasks."""
        weights = self.log_weights if len(self.log_weights) == 1 else self.log_weights[tasks]
        return Categorical(self.log_probabilities[tasks, :, rows], weights)

    def _average(self, values: Tensor) -> Tensor:
        weights = tails.exp(self.log_weights)
        return (weights.view(*weights.shape, *[1] * (values.ndim - 2)) * values).sum(1)


@dataclass(frozen=True)
class Returning(Categorical):
    """A belief of which the prior has a share at each row: that of a row far from all that is known.

    The share is the probability that nothing which was learned of the task, and nothing of its inputs beyond
    the training range, holds at the row. Each particle's probabilities are mixed with the prior's mixture. A
    hypothesis of the answer is one of the belief or one of the prior, so that the epistemic part at share 1
    is the prior's. Labels of other rows decide between the belief's alone.

    Attributes:
        belief: about the rows as if they lay in the training range.
        prior: the belief before any label about the nearest rows in the range.
        share: of the prior.
    """

    belief: Categorical
    prior: Categorical
    share: PerRow

    @property
    def hypotheses(self) -> Categorical:
        """Those of the belief, mixed with the prior."""
        each = self.belief.hypotheses
        return Categorical(_mixed(each, self.prior, self.share), each.log_weights)

    def expected_entropy(self) -> PerRow:
        """Weighted mean over the hypotheses of the belief and of the prior."""
        return torch.lerp(self.belief.expected_entropy(), self.prior.expected_entropy(), self.share)

    def votes(self) -> Float[Tensor, "task row class"]:
        """The weight of the hypotheses, of both, that name each class the most probable one."""
        return torch.lerp(self.belief.votes(), self.prior.votes(), self.share.unsqueeze(-1))

    def part(self, tasks: slice, rows: slice = slice(None)) -> "Returning":
        """The belief about some rows of some tasks."""
        return replace(
            self,
            log_probabilities=self.log_probabilities[tasks, :, rows],
            log_weights=self.log_weights if len(self.log_weights) == 1 else self.log_weights[tasks],
            belief=self.belief.part(tasks, rows),
            prior=self.prior.part(tasks, rows),
            share=self.share[tasks, rows],
        )


def _mixed(
    belief: Categorical, prior: Categorical, share: PerRow
) -> Float[Tensor, "task particle row class"]:
    """Log probabilities of each particle, mixed with those of the prior's mixture."""
    share = share.unsqueeze(-1)
    own = belief.log_probabilities + torch.log1p(-share).unsqueeze(1)
    return torch.logaddexp(own, (prior.log_mixture() + share.log()).unsqueeze(1))


def normalised(
    logits: Float[Tensor, "task particle row class"], present: Bool[Tensor, "task class"]
) -> Float[Tensor, "task particle row class"]:
    """Log softmax over the classes of each task; −∞ for other classes, and in tasks without classes."""
    some = present.any(-1, keepdim=True)
    among = torch.where(some, present, True)[:, None, None, :]  # a softmax over nothing is NaN
    logs = logits.masked_fill(~among, -torch.inf).log_softmax(-1)
    return logs.masked_fill(~some[:, :, None, None], -torch.inf)


def present_classes(
    y: Float[Tensor, "task row class"], mask: Bool[Tensor, "task row"]
) -> Bool[Tensor, "task class"]:
    """True for the classes of each task: those of its real rows."""
    return ((y > 0) & mask.unsqueeze(-1)).any(1)
