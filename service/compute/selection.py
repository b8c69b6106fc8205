"""Scores of a pool and the batch chosen from it, for one task; tensor work, on the engine's thread."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bmaml.acquisition import (
    ACQUISITIONS,
    CLASS_ACQUISITIONS,
    CLASS_STRATEGIES,
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
    """The batch of pool rows to label next, by what is believed about their numbers."""
    pool, everything = slice(spec.pool_rows), slice(None)
    predictive = belief.part(everything, pool)
    uniform = _uniform(spec, rows_x)
    best = predictive.mean()[..., 0].amax(-1) if spec.best is None else uniform.new_tensor([spec.best])
    has_target = belief.means.shape[2] > spec.pool_rows
    target = belief.part(everything, slice(spec.pool_rows, None)) if has_target else None
    scores = ACQUISITIONS[spec.acquisition].score(
        Pool(predictive, best.to(predictive.means), uniform, target)
    )
    return _chosen(spec, STRATEGIES, scores, predictive, uncertainty, rows_x, support_x)


def choose_by_class(
    spec: SelectionSpec, belief: Categorical, uncertainty: Uncertainty, rows_x: Tensor, support_x: Tensor
) -> Selection:
    """The batch of pool rows to label next, by what is believed about their classes."""
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
) -> Selection:
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
        ),
        spec.size,
    )
    indices = [int(index) for index in batch.indices[0].tolist() if index >= 0]
    saturated = int(batch.saturated_at[0])
    return Selection(
        indices=indices,
        gains=[float(gain) for gain in batch.gains[0].tolist()[: len(indices)]],
        scores=scores[0].double().cpu().numpy(),
        uncertainty=Uncertainty(uncertainty.aleatoric[pool], uncertainty.epistemic[pool]),
        strategies=batch.strategies,
        saturated_at=saturated if saturated >= 0 else None,
        ceiling=batch.ceiling,
    )


def _uniform(spec: SelectionSpec, like: Tensor) -> Tensor:
    return torch.from_numpy(spec.keys).to(like.device).unsqueeze(0)
