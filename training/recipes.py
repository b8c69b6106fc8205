"""The recipes: default settings of a training run, one for each learner and kind of family.

docs/accuracy.md has the measurements behind them. The learners of the literature keep the paper's network,
ten particles and one inner step.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bmaml.learners import LEARNERS
from bmaml.learners.bfa import BFA
from bmaml.learners.bmaml import BMAML
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.conjugate import Conjugate
from bmaml.learners.emaml import EMAML
from bmaml.learners.laplace import Laplace
from bmaml.learners.maml import MAML
from bmaml.learners.policy import PolicyBMAML, PolicyEMAML, PolicyMAML
from bmaml.learners.pooled import Pooled
from bmaml.learners.surprise import Surprise
from training.config import Optimisation, RecipeKind

HEADS = (BFA.name, BMAML.name, EMAML.name, MAML.name)
"""Learners of numbers that classify with a softmax."""
REGRESSORS = (Collapsed.name, *sorted(set(LEARNERS) - {Collapsed.name, Conjugate.name, Laplace.name}))
LEARNERS_FOR: dict[RecipeKind, tuple[str, ...]] = {
    "sinusoid": REGRESSORS,
    "table": REGRESSORS,
    "classes": (Laplace.name, *HEADS),
    "new classes": (Conjugate.name, *HEADS),
    "images": (Conjugate.name, *HEADS),
    "world": (PolicyBMAML.name, PolicyEMAML.name, PolicyMAML.name),
}
"""The learners of each kind of family; the first is the default."""
NETWORK_RATE = 0.4
"""The inner rate of a whole normalised network: that of Finn et al. 2017 for Omniglot."""
NETWORK_PLAN: dict[str, Any] = {"meta_batch": 4, "learning_rate": 2e-3}
"""The outer loop of whole normalised networks, where it differs from that of heads."""


@dataclass(frozen=True)
class Recipe:
    """Default settings of one kind of run.

    Attributes:
        hidden, activation: the settings of the network.
        settings: the other settings of the learner.
        optimisation: the settings of the outer loop.
    """

    hidden: tuple[int, ...] = (40, 40, 40)
    activation: str = "relu"
    settings: dict[str, Any] = field(default_factory=lambda: {"particles": 10})
    optimisation: Optimisation = field(default_factory=Optimisation)


def recipe_for(learner: str, family: RecipeKind) -> Recipe:
    """The recipe of a learner, by its name, on a kind of family."""
    if family in ("images", "new classes"):
        return _for_new_classes(learner)
    if family == "classes":
        return _for_fixed_classes(learner)
    if family == "world":
        return _for_worlds(learner)
    if learner == MAML.name:
        return Recipe(settings={"particles": 1})
    if learner != Collapsed.name:
        return Recipe()
    decay = {"learning_rate": 3e-3, "final_rate": 0.02, "decay": "cosine"}
    if family == "sinusoid":
        settings = {
            "particles": 128,
            "scales": (0.25, 0.5, 1.0, 2.0, 4.0),
            "bands": (0.47, 2.05),
            "priors": {"noise_start": 5000.0},
            "surprise": asdict(Surprise(lengths=(10.0, 2.5, 0.6), broad_scales=(1.0, 2.0, 4.0))),
        }
        plan = Optimisation(meta_steps=2000, patience=0, **{**decay, "learning_rate": 1e-3})  # type: ignore[arg-type]
        return Recipe((12,), "sine", settings, plan)
    settings = {
        "particles": 32,
        "scales": (0.25, 0.5, 1.0, 2.0, 4.0),
        "pointwise": True,
        "varying_noise": True,
        "correlated": True,
        "surprise": asdict(Surprise()),
        "pooled": asdict(Pooled()),
    }
    plan = Optimisation(meta_steps=6000, evaluate_every=200, **decay)  # type: ignore[arg-type]
    return Recipe((32, 32), "sine", settings, plan)


def _for_fixed_classes(learner: str) -> Recipe:
    """A small network with an output for each class; tables of classes are soon overfitted."""
    if learner == Laplace.name:
        settings = {"particles": 4, "scales": (1.0, 3.0), "effects": 4, "factors": 4, "shrinkage": 2.0}
        plan = Optimisation(
            meta_steps=1500,
            learning_rate=5e-3,
            final_rate=0.02,
            decay="cosine",
            evaluate_every=50,
            patience=8,
        )
        return Recipe((16,), "tanh", settings, plan)
    plan = Optimisation(
        meta_steps=3000, learning_rate=3e-3, final_rate=0.02, decay="cosine", evaluate_every=200
    )
    particles = 1 if learner == MAML.name else 10
    settings = {
        "particles": particles,
        "likelihood": "categorical",
        "fixed_classes": True,
        "step_size": 0.01,
        "learn_step_size": "scalar",
    }
    return Recipe((32, 32), "tanh", settings, plan)


def _for_new_classes(learner: str) -> Recipe:
    """Linear heads on features: of an embedding that is trained with them, or of the caller's own."""
    plan = Optimisation(
        meta_steps=10_000,
        meta_batch=1,
        learning_rate=4e-3,
        final_rate=0.01,
        decay="cosine",
        warmup=50,
        clip=5.0,
        evaluate_every=500,
        patience=0,
    )
    if learner == Conjugate.name:
        return Recipe(
            (), settings={"particles": 8, "ways": (5, 20), "evidence_weights": False}, optimisation=plan
        )
    particles = 1 if learner == MAML.name else 10
    settings = {
        "particles": particles,
        "likelihood": "categorical",
        "step_size": 0.05,
        "mean_gradient": True,
    }
    if learner in (BFA.name, BMAML.name):
        settings |= {"step_size": 0.05 * particles, "fixed_precisions": True}  # SVGD divides by M
    return Recipe((), settings=settings, optimisation=plan)


def for_whole_networks(recipe: Recipe) -> Recipe:
    """The recipe of heads, where the particles are whole normalised networks."""
    divided = (
        recipe.settings["particles"] if "fixed_precisions" in recipe.settings else 1
    )  # SVGD divides by M
    settings = {**recipe.settings, "step_size": NETWORK_RATE * divided}
    return replace(recipe, settings=settings, optimisation=replace(recipe.optimisation, **NETWORK_PLAN))


def _for_worlds(learner: str) -> Recipe:
    """Policies of two small layers, for dense rewards; docs/training.md has the settings for sparse ones."""
    plan = Optimisation(
        meta_steps=100,
        meta_batch=20,
        learning_rate=1e-2,
        final_rate=1.0,
        warmup=0,
        clip=0.0,
        evaluate_every=25,
        patience=1000,
    )
    return Recipe((32, 32), settings={"particles": 1 if learner == PolicyMAML.name else 5}, optimisation=plan)
