"""The adapted particles of a kept policy as safetensors: what a program needs to act without the service."""

import numpy as np
import orjson
import torch
from pydantic import TypeAdapter
from safetensors.numpy import save
from torch import Tensor

from bmaml.learners import Policy
from bmaml.learners.policy_posterior import PolicyParticles
from model_store.columns import Column
from service.codec.encode import posterior_card
from service.engine.posterior_cache import Entry
from service.errors import invalid_at
from service.schemas.responses import PosteriorCard

CARD = TypeAdapter(PosteriorCard)


def policy_weights(entry: Entry) -> bytes:
    """Layers, σ, weights and returns of each particle, with the description of the posterior as metadata.

    Layers take observations and give actions in the caller's units: the units of the columns are folded
    into the first and the last one.

    Raises:
        RequestError: 422 for the posterior of another kind of model, and for columns with a transform.
    """
    model, posterior = entry.job.model, entry.kept.posterior
    manifest = model.manifest
    if not isinstance(posterior, PolicyParticles) or not isinstance(model.learner, Policy):
        raise invalid_at(
            "",
            f"only the posterior of a policy is given as weights, and this one is of a model of kind "
            f"{manifest.kind}: accept application/json for its description",
        )
    if any(column.transform != "none" for column in (*manifest.inputs, *manifest.outputs)):
        raise invalid_at("", "a column of this policy has a transform, which no layer can hold: post to act")
    learner = model.learner
    weights, log_std = learner.parts(posterior.particles[0].double().cpu().unsqueeze(0))
    layers = [(weight[0], bias[0, :, 0]) for weight, bias in learner.network.unpack(weights)]
    shift, scale = _units(manifest.inputs)
    first, bias = layers[0]
    layers[0] = first / scale.unsqueeze(-1), bias - (shift / scale) @ first
    shift, scale = _units(manifest.outputs)
    last, bias = layers[-1]
    layers[-1] = last * scale, bias * scale + shift
    tensors = {
        "std": log_std[0].exp() * scale,
        "weights": posterior.log_weights[0].exp(),
        "returns": posterior.returns[0],
        "episodes": posterior.episodes[0],
    }
    for depth, (weight, bias) in enumerate(layers):
        tensors |= {f"layers.{depth}.weight": weight, f"layers.{depth}.bias": bias}
    low, high = model.output_range
    described = {
        "posterior": CARD.dump_python(posterior_card(entry), mode="json"),
        "particles": learner.particles,
        "sizes": [learner.network.inputs, *learner.network.hidden, learner.network.outputs],
        "activation": learner.network.activation,
        "observations": [column.name for column in manifest.inputs],
        "actions": [column.name for column in manifest.outputs],
        "lower": low,
        "upper": high,
        "rounds": int(posterior.rounds[0]),
        "best": int(posterior.best()[0]),
        "next_particle": int(posterior.next_particle()[0]),
    }
    response = orjson.dumps(described, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return save({name: _single(each) for name, each in tensors.items()}, metadata={"response": response})


def _units(columns: tuple[Column, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column."""
    units = torch.tensor([[column.mean, column.std] for column in columns], dtype=torch.float64)
    shift, scale = units.unbind(-1)
    return shift, scale


def _single(values: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.ascontiguousarray(values.detach().cpu().numpy(), np.float32)
