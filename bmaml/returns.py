"""Returns and advantages of episodes, with a baseline that is fitted to each particle of each task.

Duan et al., "Benchmarking deep reinforcement learning for continuous control", ICML 2016, has the
linear baseline.
"""

import torch
from torch import Tensor

from bmaml.episodes import Episodes, Steps

RIDGE = 1e-5
"""Penalty of the baseline's squared coefficients."""
LARGEST_FEATURE = 10.0
"""Observations are clipped to this size for the baseline."""
TIME_SCALE = 100.0
LEAST_SPREAD = 1e-5
"""Advantages with a smaller standard deviation count as zero: without reward there is no score."""


def discounted(rewards: Steps, discount: float) -> Steps:
    """The discounted sum of rewards from each step to the end, Σₖ γᵏ rₜ₊ₖ.

    Each pass doubles the steps that the sums span, so that long episodes take few operations.
    """
    sums, length, span = rewards, rewards.shape[-1], 1
    while span < length:
        later = torch.nn.functional.pad(sums[..., span:], (0, span))
        sums = sums + discount**span * later
        span *= 2
    return sums


def baseline(episodes: Episodes, returns: Steps) -> Steps:
    """A ridge regression of returns on (o, o², s, s², s³, 1), s = t/100, for each particle of each task."""
    features = _features(episodes)
    rows = features.flatten(2, 3).double()
    targets = torch.where(episodes.mask, returns, 0).flatten(2, 3).double().unsqueeze(-1)
    penalty = RIDGE * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    coefficients, _ = torch.linalg.solve_ex(rows.mT @ rows + penalty, rows.mT @ targets)
    return (rows @ coefficients).view_as(returns).to(returns.dtype)


def advantages(episodes: Episodes, discount: float) -> Steps:
    """Discounted returns minus the baseline, standardised over the steps of each particle of each task.

    Zero in the padding, and for a particle whose advantages have a standard deviation below 1e-5.
    """
    mask = episodes.mask
    returns = discounted(torch.where(mask, episodes.rewards, 0), discount)
    ahead = torch.where(mask, returns - baseline(episodes, returns), 0)
    steps = episodes.lengths().clamp_min(1)[..., None, None]
    centred = torch.where(mask, ahead - ahead.sum((-1, -2), keepdim=True) / steps, 0)
    spread = (centred.square().sum((-1, -2), keepdim=True) / steps).sqrt()
    return torch.where(spread > LEAST_SPREAD, centred / spread.clamp_min(LEAST_SPREAD), 0)


def _features(episodes: Episodes) -> Tensor:
    seen = episodes.observations.clamp(-LARGEST_FEATURE, LARGEST_FEATURE)
    time = torch.arange(seen.shape[3], dtype=seen.dtype, device=seen.device).view(-1, 1) / TIME_SCALE
    time = time.expand(*seen.shape[:-1], 1)
    powers = [time, time.square(), time**3, torch.ones_like(time)]
    features = torch.cat([seen, seen.square(), *powers], -1)
    return torch.where(episodes.mask.unsqueeze(-1), features, 0)
