"""Small untrained models, published into a store of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bmaml.densities import weights_of
from bmaml.learners import LEARNERS, POLICIES, settings_of
from bmaml.networks import MLP
from model_store import Column, Model, Store
from model_store.columns import Target
from model_store.conformal import Conformal, ConformalGroup
from model_store.manifest import ValidationPoint

X = Column(name="x", lower=-5.0, upper=5.0)
SIZE = Column(name="size", transform="log2", mean=6.0, std=2.0, lower=16.0, upper=4096.0)
Y = Column(name="y", mean=10.0, std=3.0, lower=0.0, upper=20.0)
Z = Column(name="z", mean=-1.0, std=0.5, lower=-2.0, upper=0.0)
FLOW = Column(
    name="flow",
    transform="log",
    mean=2.0,
    std=1.5,
    lower=0.1,
    upper=400.0,
    target=Target(kind="positive", low=0.0),
)
SHARE = Column(
    name="share",
    transform="logit",
    mean=0.5,
    std=1.2,
    lower=0.0,
    upper=1.0,
    target=Target(kind="bounded", low=0.0, high=1.0, margin=0.005),
)
UNITS = Column(
    name="units",
    transform="log1p",
    mean=1.5,
    std=0.8,
    lower=0.0,
    upper=60.0,
    target=Target(kind="integer", low=0.0, step=1.0),
)
POINTS = Column(name="points", mean=6.0, std=2.0, lower=0.0, upper=12.0, target=Target(kind="real", step=0.5))
KINDS = {"flow": FLOW, "share": SHARE, "units": UNITS, "points": POINTS}
"""An output of each kind that is no plain real number."""


def conformal(outputs: int = 1, tasks: int = 39) -> Conformal:
    """Thresholds 1, 2 and 3 at levels .5, .9 and tasks/(tasks + 1); 1 to 10 support rows, three times as
    much for rows wider than half the std in training.
    """

    def group(width_below: float | None, factor: float) -> ConformalGroup:
        return ConformalGroup(
            support_rows=(1, 10),
            width_below=width_below,
            units=tasks,
            weight=tasks,
            max_level=tasks / (tasks + 1),
            atom=1 / tasks,
            scores=(factor, 2 * factor, 3 * factor),
        )

    groups = group(0.5, 1.0), group(None, 3.0)
    return Conformal(tasks=tasks, units=tasks, levels=(0.5, 0.9), outputs=(groups,) * outputs)


def publish(
    root: Path,
    name: str = "tiny",
    learner: str = "collapsed",
    inputs: tuple[Column, ...] = (X,),
    outputs: tuple[Column, ...] = (Y,),
    seed: int = 0,
    history: tuple[ValidationPoint, ...] = (),
    hidden: tuple[int, ...] = (6, 5),
    conformal: Conformal | None = None,
    surprise_threshold: float | None = None,
    training: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Model:
    built = LEARNERS[learner](MLP(len(inputs), hidden, len(outputs), "tanh"), **{"particles": 4, **settings})
    generator = torch.Generator().manual_seed(seed)
    learned = built.initialise(generator)
    learned["initial"] += 0.3 * torch.randn(learned["initial"].shape, generator=generator)
    if "correlation" in learned:
        learned["correlation"] = torch.tensor(0.7)
    return Store(root).publish(
        name,
        "# A card\n",
        learned,
        inputs=inputs,
        outputs=outputs,
        learner=learner,
        settings=settings_of(built),
        training=training or {},
        history=history,
        seed=seed,
        code_version="0",
        metrics={"nll": 1.5},
        conformal=conformal,
        surprise_threshold=surprise_threshold,
    )


def publish_policy(
    root: Path,
    name: str = "walker",
    learner: str = "bmaml",
    world: str = "navigation",
    episodes: int = 10,
    units: tuple[float, float] = (0.0, 1.0),
    **settings: Any,
) -> Model:
    """A small policy for places in the plane, as training publishes it.

    Args:
        units: mean and standard deviation of all its columns.
    """
    mean, std = units
    built = POLICIES[learner](MLP(2, (6,), 2, "tanh"), **{"particles": 4, **settings})
    learned = built.initialise(torch.Generator().manual_seed(0))
    places = tuple(Column(name=axis, mean=mean, std=std, lower=-2.0, upper=2.0) for axis in "xy")
    moves = tuple(Column(name=f"d{axis}", mean=mean, std=std, lower=-1.0, upper=1.0) for axis in "xy")
    return Store(root).publish(
        name,
        "# A policy\n",
        learned,
        kind="policy",
        inputs=places,
        outputs=moves,
        learner=learner,
        settings=settings_of(built),
        training={"family": {"kind": "world", "world": world, "episodes": episodes, "shaped": False}},
        seed=0,
        code_version="0",
        metrics={"return_1": -12.0},
    )


def own_rows(
    model: Model, rows: int, seed: int = 0, noise: float = 1.0, size: float = 1.0
) -> dict[str, list[Any]]:
    """A support set drawn from the prior of the model's first particle.

    Args:
        noise: factor on the standard deviation of the noise.
        size: factor on the labels, standardised.
    """
    random, particle, network = (
        np.random.default_rng(seed),
        model.learned["initial"][0],
        model.learner.network,
    )
    x = random.uniform(-5, 5, (rows, 1))
    hidden, mean = network.features_and_outputs(
        weights_of(particle[None, None]), torch.from_numpy(model.standardised_inputs(x))[None]
    )
    features = np.column_stack([hidden[0, 0].numpy(), np.ones(rows)]) / np.sqrt(network.feature_size + 1)
    noise_precision, weight_precision = np.exp(particle[-2:].numpy())
    layer = random.standard_normal(features.shape[1]) / np.sqrt(weight_precision)
    error = noise / np.sqrt(noise_precision) * random.standard_normal(rows)
    y = size * (mean[0, 0, :, 0].numpy() + features @ layer + error)
    column = model.manifest.outputs[0]
    return {"x": x.tolist(), "y": (column.mean + column.std * y).tolist()}
