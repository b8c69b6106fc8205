"""The options of a training run, and the configuration they describe."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, get_args

from bmaml.learners import LEARNERS, LearnedRate, learner_from
from bmaml.networks import ACTIVATIONS
from model_store.manifest import checked_name
from training.config import Optimisation, SinusoidConfig, TableConfig, TrainingConfig
from training.families import Family
from training.recipes import recipe_for

OF_THE_LEARNER = (
    "particles",
    "steps",
    "step_size",
    "learn_step_size",
    "leader_steps",
    "occam",
    "evidence_weights",
    "spread",
    "scales",
    "bands",
    "pointwise",
    "varying_noise",
)
OF_THE_PLAN = [field.name for field in dataclasses.fields(Optimisation)]


def configuration(
    options: argparse.Namespace, family_config: SinusoidConfig | TableConfig, family: Family
) -> TrainingConfig:
    """The run that options describe; what they leave out is the recipe's.

    Raises:
        InvalidLearner, InvalidConfig, InvalidName: settings that make no sense.
    """
    recipe = recipe_for(options.learner, "table" if isinstance(family_config, TableConfig) else "sinusoid")

    def given(names: Any) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(options, name)) is not None}

    network = {
        "inputs": len(family.inputs),
        "hidden": tuple(options.hidden or recipe.hidden),
        "outputs": len(family.outputs),
        "activation": options.activation or recipe.activation,
    }
    settings = {"network": network, **recipe.settings, **given(OF_THE_LEARNER)}
    for several in {"scales", "bands"} & settings.keys():
        settings[several] = tuple(settings[several])
    plan = given(OF_THE_PLAN)
    if "clip" in plan:
        plan["clip"] = plan["clip"] or None
    learner = learner_from(options.learner, settings)
    return TrainingConfig(
        checked_name(options.name),
        family_config,
        learner.name,
        settings,
        dataclasses.replace(recipe.optimisation, **plan),
        options.seed,
    )


def training_options() -> argparse.ArgumentParser:
    """A parent parser; options without a default are the recipe's to fill in."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--name", required=True, help="of the model to publish")
    options.add_argument("--description", default="", help="one sentence for the card")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_argument(
        "--runs",
        type=Path,
        default=Path(os.environ.get("BMAML_RUNS", "runs")),
        help="checkpoints and TensorBoard logs (default: $BMAML_RUNS, else ./runs)",
    )
    options.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options.add_argument(
        "--compile", action="store_true", help="compile the meta-objective first: worth it for long runs"
    )

    learner = options.add_argument_group("learner", "defaults depend on the learner and the family")
    learner.add_argument("--learner", choices=sorted(LEARNERS), default="collapsed")
    learner.add_argument("--particles", type=int)
    learner.add_argument("--hidden", type=int, nargs="+", metavar="UNITS")
    learner.add_argument("--activation", choices=sorted(ACTIVATIONS))
    learner.add_argument("--steps", type=int, help="inner steps")
    learner.add_argument("--step-size", type=float, help="inner rate")
    learner.add_argument(
        "--learn-step-size",
        choices=get_args(LearnedRate),
        help="meta-learn the inner rate: one number, or one per parameter (default: none)",
    )
    learner.add_argument("--leader-steps", type=int, help="of the chaser loss (bmaml)")
    learner.add_argument("--occam", type=float, help="weight of the log volume in the loss (llama)")
    switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": None}
    learner.add_argument(
        "--evidence-weights",
        **switch,
        help="weight particles by their evidence: Laplace's (emaml, bfa, bmaml) or exact (collapsed: on)",
    )
    learner.add_argument(
        "--spread", type=float, help="e-fold range of the particles' first precisions (collapsed)"
    )
    learner.add_argument(
        "--scales", type=float, nargs="+", help="sizes at which each particle is held (collapsed)"
    )
    learner.add_argument(
        "--bands",
        type=float,
        nargs=2,
        metavar=("LOWEST", "HIGHEST"),
        help="frequencies of the first layer, a band for each particle (collapsed, sine activations)",
    )
    learner.add_argument("--pointwise", **switch, help="score each query row on its own (collapsed)")
    learner.add_argument("--varying-noise", **switch, help="let the noise depend on x (collapsed)")

    plan = options.add_argument_group("outer loop", "defaults depend on the learner and the family")
    plan.add_argument("--meta-steps", type=int)
    plan.add_argument("--meta-batch", type=int)
    plan.add_argument("--learning-rate", type=float)
    plan.add_argument("--final-rate", type=float, help="fraction of the learning rate left at the end")
    plan.add_argument("--optimiser", choices=["adam", "muon"])
    plan.add_argument("--matrix-rate", type=float, help="of Muon, for matrices between hidden layers")
    plan.add_argument("--decay", choices=["exponential", "cosine"])
    plan.add_argument("--warmup", type=int)
    plan.add_argument("--clip", type=float, help="meta-gradient norm; 0 for no limit")
    plan.add_argument("--evaluate-every", type=int)
    plan.add_argument("--patience", type=int, help="0: run to the end and keep the last parameters")
    return options
