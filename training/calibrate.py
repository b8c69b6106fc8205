"""The last step of training: scalars that are fitted to the validation tasks."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bmaml.blocks import blocks
from bmaml.densities import LOG_2PI
from bmaml.embedding import Embedding
from bmaml.learners import Learned, Learner
from bmaml.learners.surprise import GROUPS, LEAST_SHARES, LOG_NOTHING, SURPRISING
from bmaml.predictive import Predictive
from bmaml.task import TaskBatch
from training.families import Family
from training.loop import TASKS_PER_BLOCK, task_nlls

ROUNDS = 2
"""Searches of each scalar where there are several, since each is fitted with the others fixed."""

SOFTENED_SHARES = (0.001, 0.003, 0.01)
"""Softened shares of the weights that are tried, beside none."""

SHARE_ROUNDS = 5
"""Rounds of expectation maximisation for the prior weights of the groups of hypotheses."""

SHARE_PRIOR_TASKS = 2
"""Tasks without need of a surprising hypothesis that are counted beside the validation tasks."""

MAX_POOLED_LOGIT = 5.0
"""Log odds of pooled processes against particles, at most: neither is ever ruled out."""

START_POOLED_LOGIT = 3.5
"""The same where validation tasks do not tell. Few tasks are learned by heart, and particles of other tasks
explain a single label by chance."""

POOLED_LOGIT_STD = 2.0
"""Standard deviation of the prior of these odds, around `START_POOLED_LOGIT`."""

TOLERANCE = 0.01
"""Width of the last bracket: one percent of a scalar whose logarithm is searched."""


class ValidationTasks(Protocol):
    """A family, or what stands in for one, with validation tasks."""

    @property
    def validation_tasks(self) -> int:
        """The number of different validation tasks."""

    def validation(self) -> Iterator[TaskBatch]:
        """The validation tasks; the same every time."""


def calibrated(
    learner: Learner[Any],
    learned: dict[str, Tensor],
    family: Family,
    embedding: Embedding | None = None,
) -> dict[str, Tensor]:
    """`learned` with each of the learner's calibrated scalars at the lowest validation NLL.

    Examples are the widening of `collapsed`, the precision of `llama`'s start and the exponent of the
    evidence. Each is searched within the learner's distance of its trained value, with the learner's prior:
    few tasks move it little. A scalar that training leaves alone moves only where the gain exceeds its own
    standard error. Surprising hypotheses come last, since the scalars describe tasks like those of training.
    """
    found = dict(learned)
    tasks = _EmbeddedValidation(family, learned, embedding)
    looks = Looks(learner.known, learned, tasks)
    if "pooled" in _groups(learned):
        found["log_shares"] = with_pooled_share(found, looks, tasks.validation_tasks)
    names = [name for name in learner.calibrated if name in learned]
    for name in names * (ROUNDS if len(names) > 1 else 1):
        trained = learned[name]

        def nlls(shift: float, name: str = name, trained: Tensor = trained) -> Tensor:
            """The NLL of each validation task, a mean over its draws."""
            each = looks.nlls({**found, name: trained + shift})
            return each.double().view(-1, tasks.validation_tasks).mean(0)

        scalar = learner.calibrated[name]
        precision = scalar.prior_std**-2 / tasks.validation_tasks

        def penalised(
            shift: float, nlls: Callable[[float], Tensor] = nlls, part: float = precision
        ) -> Tensor:
            """The same, with each task's part of the prior."""
            return nlls(shift) + 0.5 * part * shift**2

        shift = golden_section_search(penalised, scalar.low, scalar.high)
        gains = nlls(0.0) - nlls(shift)
        needed = _standard_error(gains) if not scalar.trained else 0.0
        found[name] = trained + (shift if float(gains.mean()) > needed else 0.0)
    if "log_softened" in found:
        found["log_shares"] = calibrated_shares(learner, found, tasks)
        all_looks = Looks(learner, found, tasks)
        found["log_shares"] = with_surprising_share(found, all_looks, tasks.validation_tasks)
    if "pooled" in _groups(learned):
        found["log_shares"] = with_pooled_share(found, looks, tasks.validation_tasks)
    if "log_softened" in found:
        found["log_softened"] = calibrated_softening(found, all_looks)
    return found


def calibrated_shares(learner: Learner[Any], learned: dict[str, Tensor], family: ValidationTasks) -> Tensor:
    """Log prior weights of the groups of hypotheses: how many of the validation tasks each explains.

    Expectation maximisation on the evidence of all rows of a task, with a Dirichlet prior:
    `SHARE_PRIOR_TASKS` more tasks in which the surprising groups have their least shares. A standard error is
    taken off the shares of these groups: a few tasks that happen to look unlike the others are no reason for
    wider answers. No group has less than its share in `LEAST_SHARES`: that no validation task needed it does
    not rule it out.
    """
    shares = learned["log_shares"].double().exp()
    surprising = torch.tensor([group in SURPRISING for group in _groups(learned)])
    prior = torch.where(surprising, torch.tensor(LEAST_SHARES[: len(shares)]).to(shares), shares)
    tasks = family.validation_tasks + SHARE_PRIOR_TASKS
    seen = family.validation_tasks / tasks
    with torch.no_grad():
        explained = torch.cat(
            [learner.adapt(learned, part.all_examples()).group_weights for part in validation_parts(family)]
        )
    evidence = explained.double() / shares  # of the groups, each task's up to a factor
    for _ in range(SHARE_ROUNDS):
        explained = evidence * shares
        counted = (explained / explained.sum(-1, keepdim=True)).mean(0)
        shares = _with_least_shares(seen * counted + (1 - seen) * prior / prior.sum())
    error = (shares * (1 - shares) / tasks).sqrt()
    lower = torch.where(surprising, shares - error, shares)
    rest = 1 - lower[surprising].sum()
    shares = torch.where(surprising, lower, shares * (rest / shares[~surprising].sum()))
    return _with_least_shares(shares).log().to(learned["log_shares"])


def with_surprising_share(learned: dict[str, Tensor], looks: "Looks", tasks: int) -> Tensor:
    """Log prior weights of the groups, the surprising ones lowered as far as the validation tasks prefer.

    All rows of a task tell far more about it than the few that an answer rests on. Shares that explain whole
    tasks may make those answers too wide, so one factor of at most 1 lowers them. The score is the NLL of the
    answered mean and variance; the factor stays 1 unless the gain exceeds its standard error.

    Args:
        tasks: how many different tasks the looks hold, each with as many draws of its support set.
    """
    shares = learned["log_shares"].exp()
    surprising = torch.tensor([group in SURPRISING for group in _groups(learned)])
    least = torch.tensor(LEAST_SHARES[: len(shares)])[surprising]
    furthest = float((least / shares[surprising]).log().min())
    if furthest > -TOLERANCE:
        return learned["log_shares"]

    def lowered(log_factor: float) -> Tensor:
        trial = torch.where(surprising, shares * math.exp(log_factor), shares)
        rest = 1 - trial[surprising].sum()
        trial = torch.where(surprising, trial, shares * (rest / shares[~surprising].sum()))
        return _with_least_shares(trial).log().to(learned["log_shares"])

    def nlls(log_factor: float) -> Tensor:
        each = looks.answered_nlls({**learned, "log_shares": lowered(log_factor)})
        return each.view(-1, tasks).mean(0)

    best = golden_section_search(nlls, furthest, 0.0)
    gains = nlls(0.0) - nlls(best)
    return lowered(best) if float(gains.mean()) > _standard_error(gains) else learned["log_shares"]


def _groups(learned: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The groups of hypotheses whose shares a learner has; none where it has no shares."""
    return GROUPS[: len(learned["log_shares"])] if "log_shares" in learned else ()


def _with_least_shares(shares: Tensor) -> Tensor:
    """The shares, those below `LEAST_SHARES` raised to it and the others lowered in proportion."""
    least = torch.tensor(LEAST_SHARES[: len(shares)]).to(shares)
    raised = torch.zeros_like(shares, dtype=torch.bool)
    for _ in LEAST_SHARES:  # lowering one may take it below its least
        lowered = shares * (1 - least[raised].sum()) / shares[~raised].sum()
        raised = raised | (lowered < least)
    return torch.where(raised, least, lowered)


def with_pooled_share(learned: dict[str, Tensor], looks: "Looks", tasks: int) -> Tensor:
    """Log prior weights of the groups, particles against pooled processes as the validation tasks prefer.

    The evidence of whole tasks says which group explains them; what counts is how a few rows are answered.
    The score is the NLL of the answered mean and variance, with a prior of the odds that few tasks hardly
    leave: the standard error of two gains says little. The odds stay at `START_POOLED_LOGIT` unless the gain
    exceeds that error.

    Args:
        tasks: how many different tasks the looks hold, each with as many draws of its support set.
    """
    shares = learned["log_shares"].exp()
    known, pooled = GROUPS.index("known"), GROUPS.index("pooled")
    both = shares[known] + shares[pooled]

    def divided(logit: float) -> Tensor:
        logs = learned["log_shares"].clone()
        logs[pooled] = both.log() + logsigmoid(torch.tensor(logit))
        logs[known] = both.log() + logsigmoid(torch.tensor(-logit))
        return logs

    def nlls(logit: float) -> Tensor:
        each = looks.answered_nlls({**learned, "log_shares": divided(logit)})
        return each.view(-1, tasks).mean(0)

    def penalised(logit: float) -> Tensor:
        """The same, with each task's part of the prior."""
        return nlls(logit) + 0.5 * ((logit - START_POOLED_LOGIT) / POOLED_LOGIT_STD) ** 2 / tasks

    best = golden_section_search(penalised, -MAX_POOLED_LOGIT, MAX_POOLED_LOGIT)
    gains = nlls(START_POOLED_LOGIT) - nlls(best)
    return divided(best if float(gains.mean()) > _standard_error(gains) else START_POOLED_LOGIT)


def calibrated_softening(learned: dict[str, Tensor], looks: "Looks") -> Tensor:
    """The logarithm of the softened share of the weights that suits the answered mean and variance best."""

    def mean_nll(log_share: float) -> float:
        trial = {**learned, "log_softened": torch.tensor(log_share)}
        return float(looks.answered_nlls(trial).mean())

    return torch.tensor(min((LOG_NOTHING, *map(math.log, SOFTENED_SHARES)), key=mean_nll))


class Looks:
    """The validation tasks, looked at again and again in a search after training.

    Args:
        learned: the learned tensors; see `Learner.looks` for those that may differ from look to look.
    """

    def __init__(self, learner: Learner[Any], learned: Learned, family: ValidationTasks) -> None:
        with torch.no_grad():
            self._parts = [
                (learner.looks(learned, part.support, part.query.x), part.query)
                for part in validation_parts(family)
            ]

    def nlls(self, learned: Learned) -> Tensor:
        """The NLL of each validation task, `[task]`."""
        with torch.no_grad():
            return torch.cat([task_nlls(look(learned), query) for look, query in self._parts]).double()

    def answered_nlls(self, learned: Learned) -> Tensor:
        """The NLL of each validation task under a normal with the answered mean and variance, `[task]`.

        Unlike the mixture's own, it shows whether the answered standard deviation can be relied on.
        """
        totals = []
        with torch.no_grad():
            for look, query in self._parts:
                belief = look(learned)
                assert isinstance(belief, Predictive)
                variance, mask = belief.variance(), query.mask.unsqueeze(-1)
                each = 0.5 * ((query.y - belief.mean()).square() / variance + variance.log() + LOG_2PI)
                totals.append(torch.where(mask, each, 0).sum((1, 2)) / mask.expand_as(each).sum((1, 2)))
        return torch.cat(totals).double()


def validation_parts(family: ValidationTasks) -> Iterator[TaskBatch]:
    """The validation tasks, a few at a time."""
    for batch in family.validation():
        for part in blocks(len(batch), TASKS_PER_BLOCK):
            yield batch.tasks(part)


def _standard_error(values: Tensor) -> float:
    """The standard error of the mean of independent values `[value]`; infinite for a single one."""
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.inf


class _EmbeddedValidation:
    """The validation tasks of a family, their images embedded once, since calibration moves no features."""

    def __init__(self, family: Family, learned: Mapping[str, Tensor], embedding: Embedding | None) -> None:
        self.batch, self.validation_tasks = family.batch, family.validation_tasks
        with torch.no_grad():
            self._batches = [
                batch if embedding is None else embedding.embedded(learned, batch, training=False)
                for batch in family.validation()
            ]

    def validation(self) -> Iterator[TaskBatch]:
        """The validation tasks; the same every time."""
        return iter(self._batches)


def golden_section_search(values: Callable[[float], Tensor], low: float, high: float) -> float:
    """The argument at which the mean of a unimodal function's values is lowest, by golden-section search."""

    def mean(where: float) -> float:
        return float(values(where).mean())

    ratio = (5**0.5 - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    found = [mean(each) for each in inner]
    while high - low > TOLERANCE:
        if found[0] < found[1]:
            high, inner[1], found[1] = inner[1], inner[0], found[0]
            inner[0] = high - ratio * (high - low)
            found[0] = mean(inner[0])
        else:
            low, inner[0], found[0] = inner[0], inner[1], found[1]
            inner[1] = low + ratio * (high - low)
            found[1] = mean(inner[1])
    return (low + high) / 2
