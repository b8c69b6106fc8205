"""`bmaml-train sinusoid | table FILE | images PATH | world WORLD | tune … | evaluate NAME DATA | plot …`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import DisallowNone, OmitArgPrefixes, arg
from tyro.extras import subcommand_cli_from_dict

from bmaml.conv_classifier import ConvClassifier
from bmaml.embedding import ConvNet
from bmaml.errors import BmamlError
from bmaml.learners import Policy
from bmaml.learners.conjugate import Conjugate
from training.backbones import backbone_for
from training.config import (
    ImagesConfig,
    InvalidConfig,
    MissingOption,
    SinusoidConfig,
    TableConfig,
    TrainingConfig,
    WorldConfig,
)
from training.errors import UnusableTable
from training.evaluate import evaluate as evaluate_numbers
from training.evaluate_classes import evaluate_classes, evaluate_table_of_classes
from training.families import (
    BackboneImages,
    FinetunedImages,
    ImageFeatures,
    Images,
    Sinusoid,
    Table,
    Vectors,
)
from training.families.resolved import resolved
from training.families.world_tasks import WorldTasks
from training.kind_choice import with_chosen_kinds
from training.loop import Interrupted
from training.opened_backbone import opened_backbone
from training.options import (
    EmbeddingOptions,
    ProjectionOptions,
    PublishedVersion,
    RunOptions,
    Settings,
    configuration,
    learner_name,
    settings_options,
)
from training.policies import evaluate_policy, policy_configuration
from training.published_tasks import (
    image_tasks,
    print_notes,
    regression_tasks,
    table_of_classes,
    world_tasks,
)
from training.run import Run, complete, device_of, print_figures, published_version
from training.tune import SearchOptions, separated
from training.tune import tune as search_options

DEFAULT_DIMENSIONS = 64
"""Outputs of each projection of `conjugate` on an embedding that is learned with it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when done, 1 with a sentence on stderr when not, 130 when interrupted.

    Options and tables that cannot be read exit with 2.
    """
    try:
        run = parsed(separated(sys.argv[1:] if arguments is None else arguments))()
        if isinstance(run, Run):
            complete(run)
    except Interrupted as error:
        print(f"bmaml-train: {error}", file=sys.stderr)
        return 130
    except BmamlError as error:
        print(f"bmaml-train: {error}", file=sys.stderr)
        return 2 if isinstance(error, MissingOption | UnusableTable) else 1
    return 0


def parsed(arguments: Sequence[str]) -> Callable[[], Any]:
    """The command of a command line with its options, ready to be called; nothing is read yet.

    Raises:
        SystemExit: the help was asked for, or the line cannot be read.
    """

    def ready(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
        return wraps(command)(lambda *given, **options: partial(command, *given, **options))

    found: Callable[[], Any] = subcommand_cli_from_dict(
        {command.__name__: ready(command) for command in COMMANDS},
        prog="bmaml-train",
        description="Train on tasks and publish versions; search options; evaluate and draw versions.",
        args=arguments,
        config=(OmitArgPrefixes, DisallowNone),
    )
    return found


def sinusoid(
    family: SinusoidConfig,
    run: RunOptions,
    settings: Annotated[Settings, arg(name="", constructor=settings_options("sinusoid"))],
) -> Run:
    """Train on sine curves, as in the paper."""
    return Run(run, configuration(run, family, settings, (1, 1)), Sinusoid(family, run.seed))


def table(
    family: TableConfig,
    run: RunOptions,
    projection: ProjectionOptions,
    settings: Annotated[
        Settings, arg(name="", constructor=settings_options("table", "classes", "new classes"))
    ],
) -> Run:
    """Train on a Parquet or CSV file with a task column, or with a column of classes."""
    family = resolved(family)
    if family.new_classes:
        return _run_on_vectors(family, run, projection, settings)

    def configured(family: TableConfig, tasks: Table) -> TrainingConfig:
        if family.support_until is not None:
            family = replace(family, shots=tasks.shots)
        columns = (len(tasks.inputs), len(tasks.labels or tasks.outputs))
        return configuration(
            run,
            family,
            settings,
            columns,
            resolution=tasks.resolution,
            training_tasks=tasks.training_tasks,
        )

    family, choices = with_chosen_kinds(family, configured, run.seed, device_of(run.device))
    for choice in choices:
        print(choice, file=sys.stderr)
    note = " ".join([*([run.note] if run.note else []), *(f"{choice}." for choice in choices)])
    tasks = Table(family, run.seed)
    print_notes(tasks)
    print(tasks.summary, file=sys.stderr)
    if tasks.labels and family.resolution:
        raise InvalidConfig("--resolution is of numbers, and the target holds classes")
    for hint in tasks.hints:
        print(hint, file=sys.stderr)
    return Run(replace(run, note=note), configured(tasks.config, tasks), tasks)


def _run_on_vectors(
    family: TableConfig, run: RunOptions, projection: ProjectionOptions, settings: Settings
) -> Run:
    """The run on the classes of a table."""
    tasks = Vectors(family, run.seed)
    print_notes(tasks)
    print(tasks.summary, file=sys.stderr)
    conjugate = learner_name(settings, "new classes") == Conjugate.name
    columns = (len(tasks.inputs), projection.dimensions if conjugate else tasks.size.ways)
    return Run(run, configuration(run, tasks.config, settings, columns), tasks)


def images(
    family: ImagesConfig,
    embedding: EmbeddingOptions,
    run: RunOptions,
    settings: Annotated[Settings, arg(name="", constructor=settings_options("images"))],
) -> Run:
    """Train on images by class."""
    if family.backbone is not None:
        if embedding.adapt == "network":
            raise InvalidConfig("a --backbone stays as it is: --adapt network is for networks of our own")
        _refuse_network_options(embedding, "--backbone")
        if family.rotations:
            raise InvalidConfig("--rotations make further classes of pixels, and a --backbone gives features")
        return _run_on_backbone(family, embedding, run, settings)
    collection = Images(family, run.seed)
    tasks: Images | ImageFeatures = collection
    print_notes(collection)
    network: ConvNet | ConvClassifier
    columns = (0, family.ways)
    if embedding.adapt == "network":
        if family.features_of is not None or embedding.bfloat16 or embedding.views > 1:
            raise InvalidConfig("--adapt network knows no --features-of, --bfloat16 and --views")
        strided = embedding.normalise != "none"
        if strided and embedding.standard:
            raise InvalidConfig("--standard blocks are for heads, and for --normalise none")
        network = ConvClassifier(
            family.channels,
            family.size,
            family.ways,
            embedding.width,
            not embedding.standard,
            strided,
            embedding.normalise,
        )
        return Run(run, configuration(run, family, settings, columns, network), tasks)
    if family.features_of is None:
        light = not embedding.standard
        network = ConvNet(
            family.channels, family.size, embedding.width, light, embedding.bfloat16, embedding.views
        )
    else:
        _refuse_network_options(embedding, "--features-of")
        source = published_version(run.store, family.features_of)[0]
        if not isinstance(source.embedding, ConvNet):
            raise InvalidConfig(
                f"{family.features_of} has no features to use: it is no model of images, or one on a "
                "backbone, which --backbone names"
            )
        network = source.embedding
        if (network.channels, network.size) != (family.channels, family.size):
            raise InvalidConfig(f"{family.features_of} takes other images: see its --size and --rgb")
        tasks = ImageFeatures(collection, network, source.learned)
    conjugate = learner_name(settings, "images") == Conjugate.name
    dimensions = embedding.dimensions or DEFAULT_DIMENSIONS
    columns = (network.features, dimensions if conjugate else family.ways)
    return Run(run, configuration(run, family, settings, columns, network), tasks)


def _refuse_network_options(embedding: EmbeddingOptions, taken: str) -> None:
    """Refuse options of a network of our own beside one that is taken as it is.

    Raises:
        InvalidConfig: one of them is given.
    """
    default = EmbeddingOptions()
    for name in ("width", "standard", "views", "bfloat16"):
        if getattr(embedding, name) != getattr(default, name):
            raise InvalidConfig(
                f"--{name} is for a network that is trained here, and {taken} takes one as it is"
            )


def _run_on_backbone(
    family: ImagesConfig, embedding: EmbeddingOptions, run: RunOptions, settings: Settings
) -> Run:
    """The run of a head on the features of a pretrained network, or of a head and its last blocks."""
    if family.finetune and run.start_from is not None:
        raise InvalidConfig("--finetune begins with the pretrained blocks, and knows no --start-from")
    opened = opened_backbone(family) if family.finetune else None
    backbone = backbone_for(family) if opened is None else opened.trunk
    family = replace(family, size=backbone.size, crop=backbone.info.crop, channels=backbone.channels)
    tasks = (
        BackboneImages(family, run.seed, backbone)
        if opened is None
        else FinetunedImages(family, run.seed, opened)
    )
    print_notes(tasks)
    conjugate = learner_name(settings, "images") == Conjugate.name
    features = backbone.features if opened is None else opened.features
    columns = (features, (embedding.dimensions or features) if conjugate else family.ways)
    return Run(run, configuration(run, family, settings, columns), tasks)


def world(
    family: WorldConfig,
    run: RunOptions,
    settings: Annotated[Settings, arg(name="", constructor=settings_options("world"))],
) -> Run:
    """Train policies on tasks of a world: navigation, ring, or an environment gym:ID of Gymnasium."""
    return Run(run, policy_configuration(run, family, settings), WorldTasks(family, run.seed))


def tune(search: SearchOptions) -> None:
    """Repeat a training with other options, and publish the version that predicts validation tasks best."""
    search_options(search, parsed)


def evaluate(published: PublishedVersion, steps: int | None = None) -> None:
    """Evaluate a published version on any data.

    Args:
        steps: inner steps; None takes the learner's.
    """
    model, _ = published_version(published.store, published.name, published.version)
    if model.manifest.kind != "regression" and published.shots is not None:
        raise InvalidConfig(f"{published.name} is scored at fixed numbers of shots: leave out --shots")
    if isinstance(model.learner, Policy):
        if steps is not None:
            raise InvalidConfig("a policy adapts once a round: leave out --steps")
        print_figures(evaluate_policy(model.learner, model.learned, world_tasks(model, published.data)))
    elif model.manifest.target is not None:
        print_figures(evaluate_table_of_classes(model, table_of_classes(model, published), steps))
    elif model.manifest.kind == "classification":
        print_figures(evaluate_classes(model, image_tasks(model, published), steps=steps))
    else:
        tasks = regression_tasks(model, published)
        groups = tasks.rows.groups[tasks.held_out_tasks()] if isinstance(tasks, Table) else None
        print_figures(evaluate_numbers(model, tasks.held_out(), steps, groups))


def plot(published: PublishedVersion) -> None:
    """Draw a published version: beside its card, or in ./plots for a shipped version."""
    from training import plots, policy_plots  # matplotlib takes a second to load, and only this needs it

    model, store = published_version(published.store, published.name, published.version)
    if model.manifest.kind == "classification":
        raise InvalidConfig(f"{published.name} tells classes apart; plots are of numbers")
    place = store if store == published.store else Path("plots")
    folder = place / model.manifest.name / str(model.manifest.version)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.learner, Policy):
        drawn = policy_plots.draw(model, model.learner, world_tasks(model, published.data), folder)
    else:
        drawn = plots.draw(model, regression_tasks(model, published).held_out(), folder)
    for path in drawn:
        print(path)


COMMANDS: tuple[Callable[..., Run | None], ...] = (
    sinusoid,
    table,
    images,
    world,
    tune,
    evaluate,
    plot,
)

if __name__ == "__main__":
    sys.exit(main())
