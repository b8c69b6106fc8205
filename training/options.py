"""The options of a training run, and the configuration they describe."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, get_args

from bmaml.embedding import ConvNet
from bmaml.learners import LEARNERS, LearnedRate, learner_from
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.conjugate import Conjugate
from bmaml.networks import ACTIVATIONS
from model_store.manifest import checked_name
from training.config import (
    FamilyConfig,
    ImagesConfig,
    InvalidConfig,
    Optimisation,
    TrainingConfig,
    kind_of,
)
from training.recipes import CLASSIFIERS, REGRESSORS, recipe_for

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
    "prior_widening",
    "correlated",
    "ways",
)
SEVERAL = {"scales", "bands", "ways"}
OF_THE_PLAN = [field.name for field in dataclasses.fields(Optimisation)]


def configuration(
    options: argparse.Namespace,
    family_config: FamilyConfig,
    columns: tuple[int, int] | None = None,
    embedding: ConvNet | None = None,
) -> TrainingConfig:
    """The run that options describe; what they leave out is the recipe's.

    Args:
        columns: how many of x and of y there are; None for pictures and classes.
        embedding: of a version whose features are used; else the options describe one.

    Raises:
        InvalidLearner, InvalidConfig, InvalidEmbedding, InvalidName: settings that make no sense.
    """
    kind = kind_of(family_config)
    name = options.learner or (Conjugate.name if kind == "images" else Collapsed.name)
    if name not in (CLASSIFIERS if kind == "images" else REGRESSORS):
        raise InvalidConfig(f"{name} is no learner for {'classes' if kind == 'images' else 'numbers'}")
    recipe = recipe_for(name, kind)

    def given(names: Any) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(options, name, None)) is not None}

    if isinstance(family_config, ImagesConfig):
        picture = (family_config.channels, family_config.size)
        light, half = not options.standard, options.bfloat16
        embedding = embedding or ConvNet(*picture, options.width, light, half, options.views)
        outputs = options.dimensions if name == Conjugate.name else family_config.ways
        columns = (embedding.features, outputs)
    assert columns is not None
    network = {
        "inputs": columns[0],
        "hidden": tuple(recipe.hidden if options.hidden is None else options.hidden),
        "outputs": columns[1],
        "activation": options.activation or recipe.activation,
    }
    settings = {"network": network, **recipe.settings, **given(OF_THE_LEARNER)}
    if network["activation"] != recipe.activation and options.bands is None:
        settings.pop("bands", None)  # the recipe's, which are for its own activation
    if settings.pop("correlated", False) and settings.get("evidence_weights", True):
        shots = family_config.shots
        settings["correlated"] = (shots.lowest, shots.highest) if shots.lowest < shots.highest else None
    if name == Collapsed.name and family_config.shots.lowest == 0:
        settings.setdefault("prior_widening", True)
    for several in SEVERAL & settings.keys():
        settings[several] = tuple(settings[several])
    plan = given(OF_THE_PLAN)
    if "clip" in plan:
        plan["clip"] = plan["clip"] or None
    learner = learner_from(name, settings)
    return TrainingConfig(
        checked_name(options.name),
        family_config,
        learner.name,
        settings,
        dataclasses.replace(recipe.optimisation, **plan),
        options.seed,
        None if embedding is None else dataclasses.asdict(embedding),
        options.start_from,
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
        "--start-from",
        metavar="NAME",
        help="begin with the parameters of a published version of the same shape",
    )
    options.add_argument(
        "--compile", action="store_true", help="compile the meta-objective first: worth it for long runs"
    )

    learner = options.add_argument_group("learner", "defaults depend on the learner and the family")
    learner.add_argument(
        "--learner", choices=sorted(LEARNERS), help="default: collapsed; for images conjugate"
    )
    learner.add_argument("--particles", type=int)
    learner.add_argument("--hidden", type=int, nargs="*", metavar="UNITS")
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
    learner.add_argument(
        "--prior-widening",
        **switch,
        help="find out how wide to predict where rows say nothing (collapsed); on where --shots begins at 0",
    )
    learner.add_argument(
        "--correlated",
        **switch,
        help="find out how alike the errors of a task's rows are (collapsed)",
    )

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


def images_options() -> argparse.ArgumentParser:
    """What pictures, which tasks of them, and the network that embeds them."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("path", metavar="PATH", help="a folder per class, a zip of such folders, or an npz")
    pictures = options.add_argument_group("pictures")
    pictures.add_argument("--size", type=int, default=28, help="pixels a side (default: 28)")
    pictures.add_argument("--rgb", action="store_true", help="three colours (default: grey)")
    pictures.add_argument("--drawing", action="store_true", help="ink on an even ground, bright or dark")
    pictures.add_argument(
        "--split",
        help="'folder' (the topmost names the role), a CSV of class and role, or an array of the npz "
        "(default: by class, seeded)",
    )
    pictures.add_argument("--least", type=int, default=5, help="leave out classes with fewer pictures")
    pictures.add_argument("--strict", action="store_true", help="refuse what would be left out")
    tasks = options.add_argument_group("tasks")
    tasks.add_argument("--classes", type=int, default=60, help="of a training task (default: 60)")
    tasks.add_argument("--shots", default="1:3", help="pictures shown of each class: K or LOWEST:HIGHEST")
    tasks.add_argument("--queries", type=int, default=1, help="pictures asked of each class")
    tasks.add_argument("--ways", type=int, nargs="*", help="smaller tasks that each is scored as (conjugate)")
    tasks.add_argument("--rotations", action="store_true", help="quarter turns make other classes")
    tasks.add_argument("--augment", type=float, default=1.0, help="strength of distortions; 0 for none")
    network = options.add_argument_group("embedding")
    network.add_argument("--width", type=int, default=64, help="channels of its blocks")
    network.add_argument("--standard", action="store_true", help="four pooled blocks, not the lighter ones")
    network.add_argument("--views", type=int, default=1, help="of a picture, averaged: 1 to 5 (default: 1)")
    network.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16 while training")
    network.add_argument("--dimensions", type=int, default=64, help="of each projection (conjugate)")
    network.add_argument(
        "--features-of", metavar="NAME", help="use a published version's features as they are"
    )
    return options
