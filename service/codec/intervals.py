"""The interval that a request asks for: its level and method, and whether the model can answer it."""

import math
from typing import Literal

from model_store import Model
from model_store.conformal import LEVEL_ROUNDING
from service.errors import invalid_at
from service.schemas.requests import IntervalChoice

Method = Literal["mixture", "conformal"]


def interval_choice(
    interval: float | IntervalChoice, model: Model, support_rows: int, steps: int
) -> tuple[float, Method | None]:
    """The level of the interval, and its method where the request names one.

    Args:
        support_rows, steps: what the model is adapted to, and in how many steps.

    Raises:
        RequestError: 422 for a conformal interval that the model cannot answer: it is for classes, has no
            calibration or one of another number of steps, or too few validation tasks for the level.
    """
    if not isinstance(interval, IntervalChoice):
        return interval, None
    if interval.method == "conformal":
        _check_conformal(model, support_rows, interval.level)
        if steps != model.learner.steps:
            raise invalid_at(
                "/interval/method",
                f"conformal intervals are calibrated after {model.learner.steps} steps of adaptation: leave "
                "the steps out, or ask for the mixture's interval",
            )
    return interval.level, interval.method


def conformal_warnings(model: Model, support_rows: int) -> tuple[str, ...]:
    """A warning where no validation task had so many support rows."""
    conformal = model.manifest.conformal
    if conformal is None:
        return ()
    low, high = conformal.support_rows
    if low <= support_rows <= high:
        return ()
    return (
        f"the conformal interval is calibrated on tasks with {low} to {high} support rows and guarantees "
        f"nothing for {support_rows}",
    )


def _check_conformal(model: Model, support_rows: int, level: float) -> None:
    if model.manifest.kind == "classification":
        raise invalid_at("/interval/method", "classes have no conformal prediction sets: leave interval out")
    conformal = model.manifest.conformal
    if conformal is None:
        raise invalid_at(
            "/interval/method",
            "this version has no conformal calibration: ask for the mixture's interval, or train the model "
            "again with bmaml-train, which calibrates every regression",
        )
    groups = [each for of_output in conformal.groups(support_rows) for each in of_output]
    fewest = min(groups, key=lambda each: each.max_level)
    if level > fewest.max_level + LEVEL_ROUNDING:
        most = math.floor(1e4 * fewest.max_level) / 1e4
        raise invalid_at(
            "/interval/level",
            f"{fewest.units} validation {conformal.unit_name} with like support sets give conformal levels "
            f"up to {most:g}: ask for less, ask for the mixture, or train with more validation tasks",
        )
