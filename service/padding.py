"""Works side by side on the device, and numbers back: what all kinds of model share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bmaml.learners import Diverged
from bmaml.task import Examples
from service.work import Array, Work


def padded(works: Sequence[Work], device: torch.device) -> tuple[Examples, Examples]:
    """Support sets, and query rows without labels, padded to the longest."""
    support = [(torch.from_numpy(work.support_x), torch.from_numpy(work.support_y)) for work in works]
    query = [(torch.from_numpy(work.query_x), torch.from_numpy(work.query_x[:, :0])) for work in works]
    return Examples.padded(support).to(device), Examples.padded(query).to(device)


def array(values: Tensor) -> Array:
    """On the CPU, in double precision."""
    return values.double().cpu().numpy()


def diverged(work: Work) -> Diverged:
    """What a task is told whose adaptation left the finite numbers."""
    return Diverged(
        f"adapting {work.model.manifest.name!r} to these {len(work.support_x)} rows left the finite numbers; "
        "check the units of the rows, or ask for fewer steps"
    )
