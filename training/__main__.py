"""`bmaml-train sinusoid | table FILE | evaluate NAME DATA | plot NAME DATA`: tasks in, versions out."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from bmaml.errors import BmamlError
from bmaml.learners import learner_from
from model_store import SHIPPED, Model, Store
from model_store.columns import Transform
from training.calibrate import calibrated
from training.config import ImagesConfig, InvalidConfig, Shots, SinusoidConfig, TableConfig, TrainingConfig
from training.evaluate import Evaluation, evaluate
from training.evaluate_classes import evaluate_classes
from training.families import Featured, Images, Sinusoid, Table
from training.loop import Interrupted, train
from training.options import configuration, images_options, training_options
from training.processes import joined
from training.publish import publish

TRANSFORMS = {"standardise": "none", **{name: name for name in get_args(Transform)}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 when done, 1 with a sentence on stderr when not, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except Interrupted as error:
        print(f"bmaml-train: {error}", file=sys.stderr)
        return 130
    except BmamlError as error:
        print(f"bmaml-train: {error}", file=sys.stderr)
        return 1
    return 0


def _train_sinusoid(options: argparse.Namespace) -> None:
    config = SinusoidConfig(Shots.parse(options.shots), options.queries, options.tasks, options.resplit)
    _run(options, configuration(options, config, (1, 1)), Sinusoid(config, options.seed))


def _train_table(options: argparse.Namespace) -> None:
    config = TableConfig(
        path=options.file,
        task=options.task,
        x=tuple(_column(text) for each in options.x for text in each),
        y=tuple(name for each in options.y for name in each),
        split=options.split,
        group=options.group,
        order=options.order,
        shots=Shots.parse(options.shots),
        queries=options.queries,
        drop=options.drop,
        hide=options.hide,
    )
    family = Table(config, options.seed)
    for note in family.notes:
        print(note, file=sys.stderr)
    columns = (len(family.inputs), len(family.outputs))
    _run(options, configuration(options, config, columns), family)


def _train_images(options: argparse.Namespace) -> None:
    family_config = ImagesConfig(
        path=options.path,
        size=options.size,
        channels=3 if options.rgb else 1,
        drawing=options.drawing,
        split=options.split,
        ways=options.classes,
        shots=Shots.parse(options.shots),
        queries=options.queries,
        rotations=options.rotations,
        augment=options.augment,
        least=options.least,
        strict=options.strict,
        features_of=options.features_of,
    )
    family = Images(family_config, options.seed)
    for note in family.notes:
        print(note, file=sys.stderr)
    if options.features_of is None:
        _run(options, configuration(options, family_config), family)
        return
    source = Store(options.store).load(options.features_of)
    if source.embedding is None:
        raise InvalidConfig(f"{options.features_of} has no features to use: it is no model of pictures")
    if (source.embedding.channels, source.embedding.size) != (family_config.channels, family_config.size):
        raise InvalidConfig(f"{options.features_of} takes other pictures: see its --size and --rgb")
    config = configuration(options, family_config, embedding=source.embedding)
    _run(options, config, Featured(family, source.embedding, source.learned))


def _run(
    options: argparse.Namespace, config: TrainingConfig, family: Sinusoid | Table | Images | Featured
) -> None:
    learner = learner_from(config.learner, config.settings)
    folder = options.runs / config.name
    start = Store(options.store).load(config.start_from).learned if config.start_from else None
    with joined(_device(options.device)) as (processes, device):
        trained = train(
            config, family, learner, folder, options.resume, device, processes, options.compile, start
        )
    if not processes.leads:
        return
    learned = calibrated(learner, trained.learned, family, config.trained_embedding)
    trained = replace(trained, learned=learned)
    model, evaluation = publish(Store(options.store), config, family, learner, trained, options.description)
    _print(evaluation)
    print(f"published {model.manifest.name} version {model.manifest.version} in {options.store}")


def _evaluate(options: argparse.Namespace) -> None:
    model = Store(options.store).load(options.name, options.version)
    if model.manifest.kind == "classification":
        trained = model.manifest.training.get("family", {})
        config = ImagesConfig.recalled(trained, options.data)
        split = options.split or config.split
        _print(evaluate_classes(model, Images(replace(config, split=split), model.manifest.seed)))
        return
    held_out = _held_out(model, options)
    _print(evaluate(model, held_out, options.steps))


def _plot(options: argparse.Namespace) -> None:
    from training import plots  # matplotlib takes a second to load, and only this needs it

    store = Store(options.store)
    model = store.load(options.name, options.version)
    if model.manifest.kind == "classification":
        raise InvalidConfig(f"{options.name} tells classes of pictures apart; plots are of numbers")
    folder = options.store / model.manifest.name / str(model.manifest.version)
    for path in plots.draw(model, _held_out(model, options), folder):
        print(path)


def _held_out(model: Model, options: argparse.Namespace) -> Any:
    if options.data == "sinusoid":
        config = SinusoidConfig(shots=Shots.parse(options.shots or "10"))
        return Sinusoid(config, model.manifest.seed).held_out()
    trained = model.manifest.training.get("family", {})

    def remembered(name: str) -> Any:
        given = getattr(options, name)
        return trained.get(name) if given is None else given

    if remembered("task") is None:
        raise InvalidConfig(f"{options.name} was not trained on a table: name its --task column")
    recalled = trained.get("x") or [(column.name, "none") for column in model.manifest.inputs]
    config_x = tuple((name, transform) for name, transform in recalled)
    shots = (
        Shots.parse(options.shots)
        if options.shots
        else Shots(**trained.get("shots", {"lowest": 3, "highest": 10}))
    )
    table = TableConfig(
        path=options.data,
        task=remembered("task"),
        x=config_x,
        y=tuple(column.name for column in model.manifest.outputs),
        split=remembered("split"),
        group=trained.get("group"),
        order=remembered("order"),
        shots=shots,
    )
    family = Table(table, model.manifest.seed, (model.manifest.inputs, model.manifest.outputs))
    for note in family.notes:
        print(note, file=sys.stderr)
    return family.held_out()


def _device(choice: str) -> str:
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choice


def _column(text: str) -> tuple[str, Transform]:
    name, _, transform = text.partition(":")
    if (transform or "standardise") not in TRANSFORMS:
        raise InvalidConfig(f"unknown transform {transform!r} of {name!r}: {', '.join(TRANSFORMS)}")
    return name, TRANSFORMS[transform or "standardise"]


def _print(evaluation: Evaluation) -> None:
    print(f"{evaluation.tasks} held-out tasks")
    for name, value in evaluation.metrics.items():
        print(f"  {name:<20} {value: .5g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bmaml-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--store",
        type=Path,
        default=Path(os.environ.get("BMAML_STORE", SHIPPED)),
        help="where versions are published (default: $BMAML_STORE, else the shipped versions)",
    )
    training = [store, training_options()]

    sinusoid = commands.add_parser("sinusoid", parents=training, help="sine curves, as in the paper")
    sinusoid.add_argument("--shots", default="10", help="support points: K or LOWEST:HIGHEST")
    sinusoid.add_argument("--queries", type=int, default=10, help="query points of a training task")
    sinusoid.add_argument("--tasks", type=int, help="training tasks; default: a new one every time")
    sinusoid.add_argument("--resplit", action="store_true", help="deal fixed points anew at every visit")
    sinusoid.set_defaults(command=_train_sinusoid)

    table = commands.add_parser("table", parents=training, help="a Parquet or CSV file with a task column")
    table.add_argument("file", metavar="FILE")
    table.add_argument("--task", required=True, help="the column that names the task")
    table.add_argument(
        "--x",
        nargs="+",
        action="append",
        required=True,
        metavar="COLUMN[:log|log2]",
        help="input columns; all are standardised, after a logarithm where one is named",
    )
    table.add_argument("--y", nargs="+", action="append", required=True, metavar="COLUMN")
    table.add_argument(
        "--split", help="column that says train, validation or test (default: by task, seeded)"
    )
    table.add_argument("--group", help="column that keeps tasks together where the seed splits them")
    table.add_argument("--order", help="support sets are prefixes in this column (default: random rows)")
    table.add_argument("--shots", default="3:10", help="support rows: K or LOWEST:HIGHEST")
    table.add_argument("--queries", type=int, default=64, help="at most so many query rows a task")
    table.add_argument("--drop", type=float, default=0.0, help="part of a task's rows each visit leaves out")
    table.add_argument("--hide", type=float, default=0.0, help="part of the visits that do not tell a text")
    table.set_defaults(command=_train_table)

    images = commands.add_parser("images", parents=[*training, images_options()], help="pictures by class")
    images.set_defaults(command=_train_images)

    published = [store, _published_options()]
    scoring = commands.add_parser("evaluate", parents=published, help="score a published version on any data")
    scoring.add_argument("--steps", type=int, help="inner steps (default: the learner's)")
    scoring.set_defaults(command=_evaluate)

    plot = commands.add_parser("plot", parents=published, help="draw a published version, beside its card")
    plot.set_defaults(command=_plot)
    return parser


def _published_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("name", metavar="NAME")
    options.add_argument("data", metavar="DATA", help="'sinusoid', a Parquet or CSV file, or pictures")
    options.add_argument("--version", type=int, help="default: the newest")
    options.add_argument("--shots", help="support rows: K or LOWEST:HIGHEST")
    for name in ("task", "split", "order"):
        options.add_argument(f"--{name}", help="as in training (default: as the model was trained)")
    return options


if __name__ == "__main__":
    sys.exit(main())
