"""Two answers to the same question that a user might serve instead: a GP per task, and a transformer.

Both are timed, not judged, here: benchmarks/accuracy compares their predictions with ours. The transformer
that is trained there has the same sizes. Its speed does not depend on its weights, and here they are random.
"""

import torch
from torch import Tensor

from benchmarks.context_transformer import Architecture, ContextTransformer
from benchmarks.gp_per_task import gp_per_task
from benchmarks.serving.reference_models import Belief
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import Model


def gp_belief(model: Model, x: Tensor, y: Tensor, query: Tensor) -> Predictive:
    """The belief of a scikit-learn GP, whose hyperparameters are fitted to the task."""
    arrays = (each.double().numpy() for each in (x, y[:, 0], query))
    means, variances = (torch.from_numpy(each)[None, None, :, None] for each in gp_per_task(*arrays))
    return Predictive(means, variances.square(), torch.zeros_like(means), torch.zeros_like(means)[:, :, 0, 0])


def in_context() -> Belief:
    """The belief of a transformer with the support rows in its context."""
    network = ContextTransformer(Architecture()).eval()
    return lambda model, x, y, query: network.belief(Examples.full(x[None], y[None]), query[None])
