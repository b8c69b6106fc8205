"""The parameters of a published version that a run begins with."""

import math
from typing import Any

import torch
from torch import Tensor

from bmaml.conv_classifier import ConvClassifier
from bmaml.densities import PRECISIONS, weights_of
from bmaml.embedding import PREFIX, ConvNet
from bmaml.learners import Learner
from bmaml.learners.bare import Bare
from bmaml.networks import MLP, InvalidNetwork
from bmaml.task import Examples
from model_store import Model
from training.config import InvalidConfig
from training.families import Family

KERNEL_RATE = 0.01
"""The inner rate of kernels at the start of a whole network, as a part of that of the heads."""


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
    if isinstance(learner.network, ConvClassifier) and isinstance(source.embedding, ConvNet):
        found = _folded(source, learner, learner.network)
    if fewer >= there:
        return found
    heaviest = _weights(source, tasks, frozen).topk(fewer).indices.sort().values
    return {
        name: tensor[heaviest] if tensor.ndim > 1 and len(tensor) == there and name in wanted else tensor
        for name, tensor in found.items()
    }


def _folded(source: Model, learner: Learner[Any], network: ConvClassifier) -> dict[str, Tensor]:
    """The tensors of a source with an embedding, for particles that are whole networks.

    Rates that are learned parameter by parameter begin with that of its heads, and in the kernels with a
    small part of it: at the whole of it one step would destroy the features.

    Raises:
        InvalidConfig: an embedding of another form, a normalised network, or heads that are no linear layers.
    """
    if network.strided or network.normalised:
        raise InvalidConfig(
            f"{source.manifest.name} has heads on shared features, which a normalised network cannot begin "
            "with: add --normalise none"
        )
    heads = source.learner.network
    if not isinstance(source.learner, Bare) or not isinstance(heads, MLP) or heads.hidden:
        raise InvalidConfig(
            f"{source.manifest.name} has no linear heads that a whole network could begin with"
        )
    initial = source.learned["initial"]
    try:
        weights = network.folded(source.learned, weights_of(initial))
    except InvalidNetwork as error:
        raise InvalidConfig(f"{source.manifest.name} cannot be folded into one network: {error}") from None
    found = {"initial": torch.cat([weights, initial[:, -PRECISIONS:]], -1)}
    rate = source.learned.get("log_step_size")
    if rate is not None and learner.learn_step_size == "parameter":
        rates = (rate.mean() + math.log(KERNEL_RATE)).repeat(found["initial"].shape[-1])
        rates[-network.head_size - PRECISIONS :] = rate.mean()
        found["log_step_size"] = rates
    return found


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
