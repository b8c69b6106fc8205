"""The kind of a target: its scale, its domain and the distance of its labels, from a word and the labels."""

import math
import re

import numpy as np
import torch

from model_store.columns import Array, Column, OutputTransform, Target

AUTO = "auto"
"""The word that leaves the choice to trials."""
KINDS = ("real", "log", "logit", "count", "integer", AUTO)
"""Words after the colon of `--y`; a `logit` may name its bounds."""
LEAST_RATIO = 2.0
"""The largest label over the smallest from which on a log scale is tried."""
_LOGIT = re.compile(r"logit(?:\(([^(),]+),([^(),]+)\))?")
MAX_MARGIN = 0.005
"""The largest margin at a bound, in widths of the domain."""
LEAST_VISIBLE_STEP = 0.02
"""Distance of neighbouring labels, in standard deviations, from which on it counts."""
STEP_TOLERANCE = 1e-6
"""Deviation of labels from multiples of a step, in steps, that is rounding."""


def is_target_word(word: str) -> bool:
    """Whether a word names a kind of target."""
    return word in KINDS or _bounds(word) is not None


def _bounds(word: str) -> tuple[float, float] | None:
    """The bounds of `logit` or `logit(LOW,HIGH)`; None for another word or bounds that make no range."""
    if (match := _LOGIT.fullmatch(word)) is None:
        return None
    try:
        low, high = float(match[1] or 0), float(match[2] or 1)
    except ValueError:
        return None
    return (low, high) if math.isfinite(low) and low < high < math.inf else None


def candidates(labels: Array) -> tuple[str, ...]:
    """The kinds that fit labels, the plain one first."""
    step = visible_step(labels)
    if step is not None and (step == np.round(step)):
        return ("integer", "count") if labels.min() >= 0 else ("integer",)
    fitting = ["real"]
    if labels.min() > 0 and labels.max() > LEAST_RATIO * labels.min():
        fitting.append("log")
    if labels.min() >= 0 and labels.max() <= 1:
        fitting.append("logit")
    return tuple(fitting)


def domain_of(word: str) -> Target | None:
    """The values that a word admits, whatever the labels; None for real numbers."""
    if word in ("count", "integer"):
        return Target(kind="integer", low=0.0 if word == "count" else None, step=1.0)
    if word == "log":
        return Target(kind="positive", low=0.0)
    if (bounds := _bounds(word)) is not None:
        return Target(kind="bounded", low=bounds[0], high=bounds[1], margin=_widest_margin(*bounds))
    return None


def target_of(word: str, labels: Array, resolution: float) -> tuple[OutputTransform, Target | None]:
    """The scale and the values of a target, from its word and its labels.

    Args:
        resolution: half the distance of labels, as it was given; 0 looks for a distance in the labels.
    """
    domain = domain_of(word)
    if domain is not None and domain.kind == "integer":
        low = 0.0 if labels.min() >= 0 else None
        return "log1p" if word == "count" else "none", domain.model_copy(update={"low": low})
    step = 2 * resolution or visible_step(labels)
    if domain is None:
        return "none", None if step is None else Target(kind="real", step=step)
    if domain.kind == "positive":
        return "log", domain.model_copy(update={"step": step})
    assert domain.low is not None
    assert domain.high is not None
    margin = _margin(labels, domain.low, domain.high, step)
    return "logit", domain.model_copy(update={"step": step, "margin": margin})


def _margin(labels: Array, low: float, high: float, step: float | None) -> float:
    """Half the distance of the label nearest to a bound; with a step a quarter of it, half a bound's cell."""
    if step is not None:
        return min(step / 4, _widest_margin(low, high))
    distances = np.minimum(labels - low, high - labels)
    nearest = float(distances[distances > 0].min(initial=math.inf))
    return min(nearest / 2, _widest_margin(low, high))


def _widest_margin(low: float, high: float) -> float:
    return MAX_MARGIN * (high - low)


def visible_step(labels: Array) -> float | None:
    """The largest number that all labels are multiples of; None where it is too small to be seen.

    The greatest common divisor of the distances between neighbouring labels, by Euclid's algorithm.
    """
    values = np.unique(labels)
    spread, size = float(labels.std()), float(np.abs(values).max())
    least = max(LEAST_VISIBLE_STEP * spread, STEP_TOLERANCE * size)
    if not spread or len(values) < 2:
        return None
    step = 0.0
    distances = np.append(np.diff(values), np.abs(values[0]))
    for distance in np.unique(distances[distances > 0]):
        larger, smaller = max(step, float(distance)), min(step, float(distance))
        while smaller > least / 2:
            rest = math.remainder(larger, smaller)
            larger, smaller = smaller, abs(rest)
        step = larger
        if step < least:
            return None
    counts = values / step
    if np.abs(counts - np.round(counts)).max() > max(STEP_TOLERANCE, 1e-12 * np.abs(counts).max()):
        return None
    return float(f"{step:.9g}")


def repeated_share(labels: Array) -> float:
    """The share of labels that occur more than once."""
    _, counts = np.unique(labels, return_counts=True)
    return float(counts[counts > 1].sum() / len(labels))


def described(column: Column) -> str | None:
    """A sentence on the kind of an output; None for plain real numbers."""
    if column.target is None:
        return None
    scale = "" if column.transform == "none" else f", on a {column.transform} scale"
    step = ""
    if column.target.step is not None and column.target.kind != "integer":
        step = f", in steps of {column.target.step:g}"
    return f"{column.name!r} holds {column.target.values}{scale}{step}"


def half_step(column: Column, labels: Array) -> float:
    """Half the distance of labels in standardised units, where it is smallest; 0 where they have none."""
    target = column.target
    if target is None or target.step is None:
        return 0.0
    slope = column.link.log_slope(torch.from_numpy(labels)).min().exp()
    return float(0.5 * target.step * slope / column.std)


def dequantised(column: Column, labels: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Labels spread evenly over their cells, standardised: a lower bound of the cells' log probability.

    Uniform dequantisation (Theis et al. 2016): a density that is trained on such labels cannot gain from
    spikes where labels repeat. The cell of a bound ends at an eighth of a step before it, where a logit is
    still moderate.

    Args:
        labels: in double precision, in the caller's units.
        uniform: draws in (0, 1), of the same shape.
    """
    link = column.link
    assert link.step is not None
    lower, upper = labels - 0.5 * link.step, labels + 0.5 * link.step
    if link.scale == "log":
        lower = torch.maximum(lower, 0.5 * labels)
    if link.scale == "logit":
        edge = 0.5 * link.margin
        lower, upper = lower.clamp(min=link.low + edge), upper.clamp(max=link.high - edge)
    return (link.to_scale(lower + (upper - lower) * uniform) - column.mean) / column.std
