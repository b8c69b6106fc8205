"""The options of `bmaml-train` beside those of the task family, and the configuration they describe."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from docstring_parser import parse
from tyro.conf import Positional, arg
from tyro.extras import literal_type_from_choices

from bmaml.conv_classifier import ConvClassifier, Normalisation
from bmaml.embedding import ConvNet
from bmaml.learners import LEARNERS, POLICIES, learner_from
from bmaml.learners.collapsed import Collapsed
from bmaml.learners.conjugate import Conjugate
from bmaml.learners.laplace import Laplace
from bmaml.networks import ACTIVATIONS, MLP
from model_store import Store
from model_store.manifest import checked_name
from training.config import (
    ImagesConfig,
    InvalidConfig,
    Optimisation,
    RecipeKind,
    ShotsOption,
    SupervisedConfig,
    Switch,
    TableConfig,
    TrainingConfig,
    UpToOption,
    recipe_kind,
    support_rows,
)
from training.recipes import LEARNERS_FOR, for_whole_networks, recipe_for

Settings = Mapping[str, dict[str, Any]]
"""The settings that were given, of the "learner" (with its network) and of the "outer_loop"."""
RECIPE_ONLY = frozenset(
    {
        "inputs",
        "outputs",
        "network",
        "priors",
        "likelihood",
        "fixed_classes",
        "seed",
        "resolution",
        "classes",
        "ordered",
    }
)
"""Settings of networks and learners that are no options."""
OPTION_TYPES = {
    "learner": literal_type_from_choices(sorted(LEARNERS)),
    "activation": literal_type_from_choices(sorted(ACTIVATIONS)),
    "bands": tuple[float, float],
    "correlated": bool,
    "surprise": bool,
    "pooled": bool,
}
"""The types of options that differ from their settings'."""
TARGETS: dict[RecipeKind, str] = {
    "sinusoid": "numbers",
    "table": "numbers",
    "classes": "classes of fixed meaning",
    "new classes": "classes of a new meaning in every task",
    "images": "classes of a new meaning in every task",
    "world": "policies",
}
"""What a learner predicts, by the kind of family."""
RULES = {
    ("correlated", True): "where --shots is a range",
    ("prior_widening", False): "where --shots begins at 0",
}
"""Recipes' values that another option decides."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """The options of every command.

    Attributes:
        store: the folder of published versions; $BMAML_STORE, else ./models. A model that is not there is
            looked for among the shipped ones.
    """

    store: Path = field(default_factory=lambda: Path(os.environ.get("BMAML_STORE", "models")))

    def __post_init__(self) -> None:
        Store(self.store)  # refuses an address before anything is trained


@dataclass(frozen=True, kw_only=True)
class RunOptions(StoreOptions):
    """One run.

    Attributes:
        name: the model to publish.
        description: one sentence for the card.
        note: a sentence for the card's limits.
        seed: the seed of parameters, tasks and splits.
        device: where to train; auto takes a GPU where there is one.
        runs: the folder of checkpoints and TensorBoard logs; $BMAML_RUNS, else ./runs.
        resume: go on from the last checkpoint.
        start_from: begin with the parameters of this published version, which has the same shape, or more
            particles: then the heaviest ones.
        compile: compile the meta-objective first, which long runs gain from.
    """

    name: str
    description: str = ""
    note: str = ""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runs: Path = field(default_factory=lambda: Path(os.environ.get("BMAML_RUNS", "runs")))
    resume: Switch = False
    start_from: str | None = None
    compile: Switch = False


@dataclass(frozen=True)
class EmbeddingOptions:
    """The network that embeds images.

    Attributes:
        width: channels of its blocks.
        standard: four pooled blocks, not the lighter ones.
        views: views of an image that are averaged, 1 to 5.
        bfloat16: multiply in bfloat16 while training.
        dimensions: outputs of each projection (conjugate); 0 takes 64, or all features of a backbone.
        adapt: what adapts to a task: the head on shared features, or the whole network (maml, emaml, bfa,
            bmaml).
        normalise: with --adapt network, the images whose moments normalise query images in training: the
            support set, as in every prediction; the query set, as published; or none, on the blocks of the
            heads, with which --start-from may begin.
    """

    width: int = 64
    standard: Switch = False
    views: int = 1
    bfloat16: Switch = False
    dimensions: int = 0
    adapt: Literal["head", "network"] = "head"
    normalise: Normalisation = "support"


@dataclass(frozen=True)
class ProjectionOptions:
    """The projections of new classes.

    Attributes:
        dimensions: outputs of each projection (conjugate).
    """

    dimensions: int = 64


@dataclass(frozen=True, kw_only=True)
class PublishedVersion(StoreOptions):
    """A published version and the data that it is scored on.

    Attributes:
        name: a published model.
        data: "sinusoid", a Parquet or CSV file, or images.
        version: None takes the newest.
        shots: support rows of a task.
        support_until: as in training; None takes the one of training where no shots are given.
        task: the column that names the task; None takes the one of training.
        split: as in training; None takes the one of training. Without that column all tasks are scored.
        order: as in training; None takes the one of training.
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    version: int | None = None
    shots: ShotsOption | None = None
    support_until: UpToOption | None = None
    task: str | None = None
    split: str | None = None
    order: str | None = None


def settings_options(*kinds: RecipeKind) -> Any:
    """The type whose fields are the options of learner and outer loop on kinds of families.

    Types, help and defaults come from the dataclasses and the recipes. An option that is not given is
    absent from the values of this type, and `configuration` takes the recipe's.
    """
    default = LEARNERS_FOR[kinds[0]][0]
    told = "; ".join([default, *(f"{LEARNERS_FOR[kind][0]} for {kind}" for kind in kinds[1:])])
    learner: dict[str, Any] = {"learner": _option("learner", str, "the learner.", f"(default: {told})")}
    for kind in kinds:
        for name in LEARNERS_FOR[kind]:
            recipe = recipe_for(name, kind)
            network = {"hidden": recipe.hidden, "activation": recipe.activation}
            source = POLICIES[name] if kind == "world" else LEARNERS[name]
            own = _options(MLP, network, name) | _options(source, recipe.settings, name)
            learner |= {key: option for key, option in own.items() if key not in learner}
    outer_loop = _options(Optimisation, asdict(recipe_for(default, kinds[0]).optimisation), default)
    groups = {"learner": learner, "outer_loop": outer_loop}
    types = {name: TypedDict(name, options, total=False) for name, options in groups.items()}  # type: ignore[operator]
    return TypedDict("Settings", types)  # type: ignore[operator]


def _options(source: type, values: Mapping[str, Any], learner: str) -> dict[str, Any]:
    """The fields of a dataclass as options; the hint of each tells the value in a learner's recipe."""
    bases = reversed(source.__mro__)
    helps = {each.arg_name: each.description for base in bases for each in parse(base.__doc__ or "").params}
    return {
        each.name: _option(
            each.name,
            each.type,
            helps.get(each.name) or "",
            f"(default of {learner}: {_written(each.name, values.get(each.name, each.default))})",
        )
        for each in fields(source)
        if each.name not in RECIPE_ONLY
    }


def _option(name: str, kind: Any, text: str, hint: str) -> Any:
    text = " ".join(text.split())
    return Annotated[OPTION_TYPES.get(name, kind), arg(help=text, help_behavior_hint=hint)]


def _written(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return "True"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return RULES.get((name, value), str(value))


def learner_name(settings: Settings, kind: RecipeKind) -> str:
    """The learner that settings name, or the default of the kind of family.

    Raises:
        InvalidConfig: a learner of another kind.
    """
    name: str = settings["learner"].get("learner", LEARNERS_FOR[kind][0])
    if name not in LEARNERS_FOR[kind]:
        raise InvalidConfig(
            f"{name} is no learner for {TARGETS[kind]}; these are {', '.join(LEARNERS_FOR[kind])}"
        )
    return name


BACKBONE_PLAN = Optimisation(
    meta_steps=50, meta_batch=1, learning_rate=1e-5, final_rate=0.1, decay="cosine", evaluate_every=25
)
"""The outer loop of `conjugate` on a backbone, which begins with discriminants in closed form."""


def configuration(
    run: RunOptions,
    family: SupervisedConfig,
    settings: Settings,
    columns: tuple[int, int],
    embedding: ConvNet | ConvClassifier | None = None,
    resolution: float = 0.0,
    training_tasks: int = 1,
) -> TrainingConfig:
    """The configuration that options describe; settings that are not given are the recipe's.

    Args:
        columns: the numbers of inputs and outputs of the learner's network.
        embedding: the network that embeds images, or that the particles parametrise from pixels on.
        resolution: of labels, standardised.
        training_tasks: the number of training tasks, which divides the shrinkage of `laplace`.

    Raises:
        InvalidLearner, InvalidConfig, InvalidName: settings that make no sense.
    """
    kind, shots = recipe_kind(family), support_rows(family)
    name = learner_name(settings, kind)
    recipe = recipe_for(name, kind)
    given = {key: value for key, value in settings["learner"].items() if key != "learner"}
    network: dict[str, Any] = {
        "inputs": columns[0],
        "hidden": given.pop("hidden", recipe.hidden),
        "outputs": columns[1],
        "activation": given.pop("activation", recipe.activation),
    }
    if isinstance(embedding, ConvClassifier):
        if name == Conjugate.name:
            raise InvalidConfig("conjugate adapts no network: see --adapt, or choose another --learner")
        recipe = for_whole_networks(recipe) if embedding.normalised else recipe
        network, embedding = asdict(embedding), None
    defaults = dict(recipe.settings)
    if name == Conjugate.name and isinstance(family, ImagesConfig) and family.backbone is not None:
        defaults |= {"particles": 1, "own_scatter": True}
        recipe = replace(recipe, optimisation=BACKBONE_PLAN)
    chosen = {"network": network, **defaults, **given}
    if network.get("activation", recipe.activation) != recipe.activation and "bands" not in given:
        chosen.pop("bands", None)  # the recipe's bands are for its own activation
    if chosen.pop("correlated", False) and chosen.get("evidence_weights", True):
        chosen["correlated"] = (shots.lowest, shots.highest) if shots.lowest < shots.highest else None
    if name == Collapsed.name and shots.lowest == 0:
        chosen.setdefault("prior_widening", True)
    if name == Collapsed.name and resolution:
        chosen["resolution"] = resolution
    if isinstance(chosen.get("surprise"), bool):
        chosen["surprise"] = recipe.settings.get("surprise") if chosen["surprise"] else None
    if isinstance(chosen.get("pooled"), bool):
        chosen["pooled"] = {} if chosen["pooled"] else None
    if not chosen.get("evidence_weights", True):
        chosen.pop("surprise", None)
        chosen.pop("pooled", None)
    if name == Laplace.name:
        assert isinstance(family, TableConfig)
        network["outputs"], most = (1, 1) if family.target == "ordered" else (columns[1], columns[1] - 1)
        chosen |= {"classes": columns[1], "ordered": family.target == "ordered"}
        chosen["factors"] = min(chosen["factors"], most)
        chosen["shrinkage"] /= max(training_tasks, 1)
    learner = learner_from(name, chosen)
    return TrainingConfig(
        checked_name(run.name),
        family,
        learner.name,
        chosen,
        replace(recipe.optimisation, **settings["outer_loop"]),
        run.seed,
        None if embedding is None else asdict(embedding),
        run.start_from,
    )
