"""The prior mean beside the population's mean: before any label, a model should predict no worse."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bmaml.blocks import blocks
from bmaml.task import Examples
from model_store import Model
from training.families.family import VALIDATION_SEED_OFFSET, RegressionFamily

POPULATION_TASKS = 1000
"""Training tasks that the population's mean is taken from."""
NEIGHBOURS = 100
"""Training rows nearest in their inputs, of which the population's mean is the mean."""
MAX_ROWS = 20_000
"""Rows of either side, at most: a bound on time."""
ROWS_PER_BLOCK = 500
"""Rows whose neighbours are searched at once: a bound on memory."""
STANDARD_ERRORS = 2.0
"""Standard errors by which a prior mean has to be worse to be reported."""


@dataclass(frozen=True)
class PriorCheck:
    """Root mean squared errors on the rows of the validation tasks, before any label, over all outputs.

    Attributes:
        model, population: of the prior mean, and of the mean of training rows with the nearest inputs; in
            standard deviations of the outputs.
        worse: whether the prior mean's error is larger by more than `STANDARD_ERRORS`, tasks counted.
    """

    model: float
    population: float
    worse: bool

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        figures = f"RMSE {self.model:.3g} against {self.population:.3g}, in standard deviations of the labels"
        if not self.worse:
            return f"Before any label it predicts as well as the mean of similar training rows ({figures})."
        return (
            f"Before any label it predicts worse than the mean of similar training rows ({figures}): do not "
            "ask it without labels, or train it with --shots from 0."
        )


def check_prior(model: Model, family: RegressionFamily, seed: int) -> PriorCheck:
    """The check of a model on the validation tasks of its family."""
    generator = torch.Generator().manual_seed(seed + VALIDATION_SEED_OFFSET)
    known = _rows(family.batch(POPULATION_TASKS, generator).all_examples())
    errors: list[Tensor] = []
    for batch in family.validation():
        tasks = batch.all_examples()
        with torch.no_grad():
            prior = model.prior(tasks.x).mean()
        population = torch.stack([_population_mean(*known, x) for x in tasks.x])
        squares = [((mean - tasks.y).square().mean(-1) * tasks.mask).sum(-1) for mean in (prior, population)]
        errors.append(torch.stack(squares, -1) / tasks.counts().clamp_min(1).unsqueeze(-1))
    both = torch.cat(errors).double().view(-1, family.validation_tasks, 2).mean(0)
    own, population_error = both.mean(0).tolist()
    excess = both[:, 0] - both[:, 1]
    margin = STANDARD_ERRORS * float(excess.std() / len(excess) ** 0.5) if len(excess) > 1 else 0.0
    return PriorCheck(own**0.5, population_error**0.5, float(excess.mean()) > margin)


def _rows(examples: Examples) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of the rows of many tasks."""
    return examples.x[examples.mask][:MAX_ROWS], examples.y[examples.mask][:MAX_ROWS]


def _population_mean(known_x: Tensor, known_y: Tensor, x: Tensor) -> Tensor:
    """The mean label of the training rows whose inputs are nearest, `[row, output]`."""
    found = []
    for part in blocks(len(x), ROWS_PER_BLOCK):
        nearest = torch.cdist(x[part], known_x).topk(min(NEIGHBOURS, len(known_x)), largest=False).indices
        found.append(known_y[nearest].mean(1))
    return torch.cat(found)
