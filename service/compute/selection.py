"""The selection of rows to label: scores of one task's pool, and a batch chosen by them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bmaml.acquisition import (
    ACQUISITIONS,
    CLASS_ACQUISITIONS,
    CLASS_STRATEGIES,
    MAX_POOL_TARGETS,
    STRATEGIES,
    Candidates,
    ClassPool,
    Pool,
    Strategy,
)
from bmaml.categorical import Categorical
from bmaml.predictive import Predictive
from service.job import Selection, SelectionSpec, Uncertainty


def choose(
    spec: SelectionSpec, belief: Predictive, uncertainty: Uncertainty, rows_x: Tensor, support_x: Tensor
) -> Selection:
    """Select pool rows of a regression task.

    Args:
        belief: the belief about pool rows, then target rows.
        uncertainty: of the same rows.
        rows_x: their inputs, `[1, row, input]`.
        support_x: inputs of the support rows, `[1, shot, input]`.
    """
    pool, all_tasks = slice(spec.pool_rows), slice(None)
    predictive = belief.part(all_tasks, pool)
    uniform = _uniform(spec, rows_x)
    best = predictive.mean()[..., 0].amax(-1) if spec.best is None else uniform.new_tensor([spec.best])
    has_target = belief.means.shape[2] > spec.pool_rows
    target = belief.part(all_tasks, slice(spec.pool_rows, None)) if has_target else None
    scores = ACQUISITIONS[spec.acquisition].score(
        Pool(predictive, best.to(predictive.means), uniform, target)
    )
    return _chosen(spec, STRATEGIES, scores, predictive, uncertainty, rows_x, support_x, target)


def choose_by_class(
    spec: SelectionSpec, belief: Categorical, uncertainty: Uncertainty, rows_x: Tensor, support_x: Tensor
) -> Selection:
    """Select pool rows of a classification task; arguments as `choose`, with features for inputs."""
    predictive = belief.part(slice(None), slice(spec.pool_rows))
    has_target = belief.log_probabilities.shape[2] > spec.pool_rows
    target = belief.part(slice(None), slice(spec.pool_rows, None)) if has_target else None
    pool = ClassPool(predictive, _uniform(spec, rows_x), target)
    scores = CLASS_ACQUISITIONS[spec.acquisition].score(pool)
    return _chosen(spec, CLASS_STRATEGIES, scores, predictive, uncertainty, rows_x, support_x)


def _chosen(
    spec: SelectionSpec,
    strategies: Mapping[str, Strategy],
    scores: Tensor,
    predictive: Predictive | Categorical,
    uncertainty: Uncertainty,
    rows_x: Tensor,
    support_x: Tensor,
    target: Predictive | None = None,
) -> Selection:
    """Let the strategy select a batch by these scores of the pool rows, `[1, row]`."""
    pool = slice(spec.pool_rows)
    batch = strategies[spec.strategy](
        Candidates(
            scores=scores.double(),
            available=torch.from_numpy(~spec.excluded).to(scores.device).unsqueeze(0),
            uniform=_uniform(spec, rows_x),
            predictive=predictive,
            x=rows_x[:, pool],
            labelled=support_x,
            labelled_mask=torch.ones(support_x.shape[:2], dtype=torch.bool, device=scores.device),
            target=target,
        ),
        spec.size,
    )
    indices = [int(index) for index in batch.indices[0].tolist() if index >= 0]
    saturated = int(batch.saturated_at[0])
    return Selection(
        indices=indices,
        gains=[float(gain) for gain in batch.gains[0].tolist()[: len(indices)]],
        scores=scores[0].double().cpu().numpy(),
        targets=_targets(spec, rows_x.shape[1]),
        uncertainty=Uncertainty(uncertainty.aleatoric[pool], uncertainty.epistemic[pool]),
        strategies=batch.strategies,
        saturated_at=saturated if saturated >= 0 else None,
        ceiling=batch.ceiling,
    )


def _targets(spec: SelectionSpec, rows: int) -> int | None:
    """Targets of EPIG: the rows after the pool, else those that represent the pool."""
    if spec.acquisition != "epig":
        return None
    return rows - spec.pool_rows or min(spec.pool_rows, MAX_POOL_TARGETS)


def _uniform(spec: SelectionSpec, like: Tensor) -> Tensor:
    """The pool rows' keys as a tensor `[1, row]` on the device of `like`."""
    return torch.from_numpy(spec.keys).to(like.device).unsqueeze(0)
