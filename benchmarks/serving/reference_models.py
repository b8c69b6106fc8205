"""The shipped models as the loop and LitServe use them: a body's rows in, an answer's numbers out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmaml.predictive import Predictive
from model_store import SHIPPED, Model, Store

LEVEL = 0.9


def models() -> dict[str, Model]:
    """The shipped regressions with exact last layers."""
    return {name: Store(SHIPPED).load(name) for name in ("sinusoid", "learning-curves")}


def said(model: Model, belief: Predictive) -> dict[str, Any]:
    """Mean, deviation and interval, in the caller's units."""
    belief = model.in_callers_units(belief)
    lower, upper = belief.interval(LEVEL)
    found = {"mean": belief.mean(), "std": belief.variance().sqrt(), "lower": lower, "upper": upper}
    return {name: each[0, :, 0].tolist() for name, each in found.items()}


def rows_of(model: Model, body: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Support x and y and query x, standardised."""
    x, y = np.array(body["support"]["x"], float), np.array(body["support"]["y"], float)[:, None]
    query = np.array(body["query"]["x"], float)
    return (
        torch.from_numpy(model.standardised_inputs(x)),
        torch.from_numpy(model.standardised_targets(y)),
        torch.from_numpy(model.standardised_inputs(query)),
    )
