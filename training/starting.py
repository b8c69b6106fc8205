"""The parameters of a published version that a run begins with."""

from typing import Any

import torch
from torch import Tensor

from bmaml.embedding import PREFIX
from bmaml.learners import Learner
from bmaml.task import Examples
from model_store import Model
from training.families import Family


def starting_parameters(
    source: Model, learner: Learner[Any], tasks: Family, frozen: bool = False
) -> dict[str, Tensor]:
    """The tensors of `source` that the run learns.

    Scalars that its learner does not have are left out. A run of fewer particles takes the heaviest ones on
    its validation tasks.

    Args:
        frozen: the rows of the tasks are features, and the embedding stays as it is.
    """
    wanted = learner.initialise(torch.Generator())
    found = {
        name: tensor
        for name, tensor in source.learned.items()
        if (not frozen if name.startswith(PREFIX) else name in wanted or tensor.ndim > 0)
    }
    there, fewer = source.learner.particles, learner.particles
    if fewer >= there:
        return found
    heaviest = _weights(source, tasks, frozen).topk(fewer).indices.sort().values
    return {
        name: tensor[heaviest] if tensor.ndim > 1 and len(tensor) == there and name in wanted else tensor
        for name, tensor in found.items()
    }


def _weights(source: Model, tasks: Family, frozen: bool) -> Tensor:
    """The mean weight of every particle of `source` on the validation tasks."""
    particles, total = source.learner.particles, torch.zeros(())
    with torch.no_grad():
        for batch in tasks.validation():
            x = batch.support.x if frozen else source.embedded(batch.support.x)
            support = Examples(x, batch.support.y, batch.support.mask)
            logs = source.learner.adapt(source.learned, support).log_weights
            total = total + logs.unflatten(1, (particles, -1)).logsumexp(-1).exp().sum(0)
    return total
