"""The shipped models for servers other than ours: tensors of a JSON body, and the numbers of an answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from torch import Tensor

from bmaml.predictive import Predictive
from model_store import SHIPPED, Model, Store

LEVEL = 0.9
"""Of the central interval in an answer."""
Belief = Callable[[Model, Tensor, Tensor, Tensor], Predictive]
"""A belief about query rows, from the model that a body names and what `standardised_rows` gives."""


def application(belief: Belief) -> FastAPI:
    """The straightforward way to serve: a FastAPI handler that answers one request after the other."""
    app, models = FastAPI(), shipped_models()

    @app.post("/adapt-predict")
    def adapt_predict(body: dict[str, Any]) -> dict[str, list[float]]:
        model = models[body["model"]]
        with torch.no_grad():
            return answer(model, belief(model, *standardised_rows(model, body)))

    return app


def shipped_models() -> dict[str, Model]:
    """The shipped regression models with exact last layers, by name.

    Other servers do without the hypotheses about unlike tasks, which spares them work that ours does.
    """
    return {name: _known(Store(SHIPPED).load(name)) for name in ("sinusoid", "learning-curves")}


def _known(model: Model) -> Model:
    """The model without hypotheses about tasks unlike those of training."""
    learner = model.learner.known
    names = learner.initialise(torch.Generator())
    return replace(model, learner=learner, learned={name: model.learned[name] for name in names})


def standardised_rows(model: Model, body: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Support inputs, support targets and query inputs of a body, standardised, `[row, column]`."""
    x, y = np.array(body["support"]["x"], float), np.array(body["support"]["y"], float)[:, None]
    query = np.array(body["query"]["x"], float)
    return (
        torch.from_numpy(model.standardised_inputs(x)),
        torch.from_numpy(model.standardised_targets(y)),
        torch.from_numpy(model.standardised_inputs(query)),
    )


def answer(model: Model, belief: Predictive) -> dict[str, list[float]]:
    """Mean, standard deviation and 90 % interval of every query row of one task, in the caller's units."""
    answered = model.in_callers_units(belief)
    lower, upper = answered.interval(LEVEL)
    named = {"mean": answered.mean(), "std": answered.variance().sqrt(), "lower": lower, "upper": upper}
    return {name: values.flatten().tolist() for name, values in named.items()}
