"""The weight of hypotheses about tasks unlike those of training, and the weight that is warned of."""

from bmaml.learners.surprise import DEFAULT_THRESHOLD, GROUPS, Group
from service.job import Answer, Array, Job
from service.schemas.diagnostics import Surprise


def surprise_of(weights: Array) -> Surprise:
    """The weights of the surprising groups, from those of a learner's groups, `[group]`."""
    by_group = dict(zip(GROUPS, weights.tolist(), strict=False))  # the last is there with pooled processes
    return Surprise(by_group["wide"], by_group["noisy"], by_group["broad"])


def total_weight(surprise: Surprise) -> float:
    """The weight of all surprising hypotheses together."""
    return surprise.wide + surprise.noisy + surprise.broad


def surprising_group(job: Job, answer: Answer) -> Group | None:
    """The heaviest surprising group; None where the task looks like those of training, or has no rows."""
    surprise, prior = answer.surprise, job.model.surprising_prior
    if surprise is None or prior is None or answer.support_nll is None:
        return None
    threshold = job.model.manifest.surprise_threshold or DEFAULT_THRESHOLD
    if total_weight(surprise) <= prior + threshold * (1 - prior):
        return None
    weights: dict[Group, float] = {
        "wide": surprise.wide,
        "noisy": surprise.noisy,
        "broad": surprise.broad,
    }
    return max(weights, key=weights.__getitem__)
