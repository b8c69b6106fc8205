"""Scores of a pool and the batch chosen from it, for one task; tensor work, on the engine's thread."""

import torch
from torch import Tensor

from bmaml.acquisition import ACQUISITIONS, Pool
from bmaml.batch import STRATEGIES, Candidates
from bmaml.predictive import Predictive
from service.work import ChooseAsk, Chosen, Moments

STRATEGY_NAMES = ("auto", *STRATEGIES)

JOINT_INFORMATION = frozenset({"total_variance", "epistemic_variance", "entropy", "epig"})
"""Acquisitions whose best rows tend to say the same thing, so that a batch needs the joint view."""


def resolved_strategy(strategy: str, acquisition: str, size: int) -> str:
    """What `auto` stands for.

    One row: the best. Several: the most information together for acquisitions that measure it,
    power sampling for those that look for a maximum, and plain top-k for random draws.
    """
    if strategy != "auto":
        return strategy
    if size == 1 or acquisition == "random":
        return "top_k"
    return "max_determinant" if acquisition in JOINT_INFORMATION else "power"


def choose(ask: ChooseAsk, belief: Predictive, moments: Moments, rows_x: Tensor, support_x: Tensor) -> Chosen:
    """The batch of pool rows to label next."""
    pool = slice(ask.pool_rows)
    everything = slice(None)
    predictive = belief.part(everything, pool)
    device = predictive.means.device
    has_target = belief.means.shape[2] > ask.pool_rows
    uniform = torch.from_numpy(ask.keys).to(device).unsqueeze(0)
    best = (
        predictive.mean()[..., 0].amax(-1) if ask.best is None else torch.full((1,), ask.best, device=device)
    )
    scores = ACQUISITIONS[ask.acquisition].score(
        Pool(
            predictive=predictive,
            best=best,
            uniform=uniform,
            target=belief.part(everything, slice(ask.pool_rows, None)) if has_target else None,
        )
    )
    batch = STRATEGIES[ask.strategy](
        Candidates(
            scores=scores.double(),
            available=torch.from_numpy(~ask.excluded).to(device).unsqueeze(0),
            uniform=uniform,
            predictive=predictive,
            x=rows_x[:, pool],
            labelled=support_x,
            labelled_mask=torch.ones(support_x.shape[:2], dtype=torch.bool, device=device),
        ),
        ask.size,
    )
    indices = [int(index) for index in batch.indices[0].tolist() if index >= 0]
    saturated = int(batch.saturated_at[0])
    return Chosen(
        indices=indices,
        gains=[float(gain) for gain in batch.gains[0].tolist()[: len(indices)]],
        scores=scores[0].double().cpu().numpy(),
        moments=Moments(*(values[pool] for values in (moments.mean, moments.aleatoric, moments.epistemic))),
        strategies=batch.strategies,
        saturated_at=saturated if saturated >= 0 else None,
        ceiling=batch.ceiling,
    )
