"""The methods that the accuracy benchmark compares, with their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PAPER = {"hidden": (40, 40, 40), "activation": "relu"}
PERIODIC = {"hidden": (12,), "activation": "sine"}
WIDER = {"hidden": (32, 32), "activation": "sine"}
ON_TABLES = {
    "network": {"inputs": 1, "outputs": 1, **WIDER},
    "particles": 32,
    "bands": None,
    "priors": {},
    "scales": (0.25, 0.5, 1.0, 2.0, 4.0),
    "pointwise": True,
    "varying_noise": True,
}
IN_BANDS = {"particles": 128, "scales": (0.25, 0.5, 1.0, 2.0, 4.0), "priors": {"noise_start": 5000.0}}


@dataclass(frozen=True, eq=False)
class Method:
    """A learner or a baseline, and how it is trained: a row of the table.

    Attributes:
        learner: its registered name, or None for a baseline, which `name` identifies.
        network, settings: of the learner.
        on_curves: settings that differ on learning curves.
        tuned: the inner rate is searched.
        steps: meta-steps on sine curves and on learning curves; 0 where a problem is skipped.
        variable_shots: train on a range of shots, splitting a task's fixed points anew each time.
        everywhere: train with every number of training tasks, not with 1000 alone.
        seeded: the result depends on the seed; otherwise one seed is enough.
        rate_on_curves: the outer rate on learning curves, where it differs.
        fit_weights: also score with Laplace evidence weights whose exponent is fitted afterwards.
    """

    name: str
    learner: str | None = None
    network: Mapping[str, Any] = field(default_factory=lambda: PAPER)
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_curves: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, int] = field(default=(0, 0), repr=False)
    tuned: bool = False
    variable_shots: bool = False
    everywhere: bool = True
    fit_weights: bool = False
    meta_batch: int = 10
    learning_rate: float = 1e-3
    rate_on_curves: float | None = field(default=None, repr=False)
    seeded: bool = field(default=True, repr=False)


FLAGSHIP = "collapsed (shipped recipe)"
METHODS = [
    Method("maml", "maml", settings={"particles": 1}, steps=(5_000, 2_000), tuned=True),
    Method("emaml", "emaml", steps=(3_000, 1_500), tuned=True, fit_weights=True),
    Method("llama", "llama", steps=(3_000, 1_500), tuned=True),
    Method("bfa", "bfa", steps=(3_000, 1_500), tuned=True, fit_weights=True),
    Method(
        "bfa, trained with evidence weights",
        "bfa",
        settings={"evidence_weights": True},
        steps=(3_000, 1_500),
        tuned=True,
        everywhere=False,
    ),
    Method("bmaml", "bmaml", steps=(12_000, 1_500), tuned=True, fit_weights=True),
    Method(
        "collapsed, one particle (ridge head)",
        "collapsed",
        settings={"particles": 1, "evidence_weights": False},
        steps=(2_500, 1_500),
        variable_shots=True,
        everywhere=False,
    ),
    Method(
        "collapsed, equal weights",
        "collapsed",
        settings={"evidence_weights": False},
        steps=(2_500, 1_500),
        variable_shots=True,
        everywhere=False,
    ),
    Method("collapsed, relu, 10 particles", "collapsed", steps=(2_500, 1_500), variable_shots=True),
    Method(
        FLAGSHIP,
        "collapsed",
        network=PERIODIC,
        settings={**IN_BANDS, "bands": (0.47, 2.05)},
        on_curves={**ON_TABLES, "correlated": (3, 10)},
        steps=(200, 2_000),
        variable_shots=True,
        meta_batch=16,
        learning_rate=1e-3,
        rate_on_curves=3e-3,
    ),
    Method(
        "collapsed, rows taken as independent",
        "collapsed",
        on_curves=ON_TABLES,
        steps=(0, 2_000),
        variable_shots=True,
        meta_batch=16,
        rate_on_curves=3e-3,
    ),
    Method(
        "collapsed, bands for any curve (0.1 to 8)",
        "collapsed",
        network=PERIODIC,
        settings={**IN_BANDS, "bands": (0.1, 8.0)},
        steps=(200, 0),
        variable_shots=True,
        everywhere=False,
        meta_batch=16,
    ),
    Method("neural process (CNP)", steps=(6_000, 3_000), variable_shots=True),
    Method("GP, kernel learned on the training tasks", steps=(1, 1)),
    Method("gradient boosting for just this question", steps=(0, 1)),
    Method("GP per task", steps=(1, 1), everywhere=False, seeded=False),
    Method("last value", steps=(0, 1), seeded=False),
    Method("fitted exponential", steps=(0, 1), seeded=False),
]
