"""The tasks that a published version is scored on, or drawn on: those of its training's test, or others.

Without a split column the roles of training come back from its seed, but only in the same file. In any other
all tasks are scored, and training tasks among them would flatter the version.
"""

import sys
from dataclasses import replace
from pathlib import Path

from model_store import Model
from model_store.backbone import Backbone
from training.config import ImagesConfig, InvalidConfig, Shots, SinusoidConfig, TableConfig, UpTo, WorldConfig
from training.families import BackboneImages, Images, Sinusoid, Table, Vectors
from training.families.world_tasks import WorldTasks
from training.fingerprint import digest_of_file
from training.options import PublishedVersion
from training.reading import column_names

FEWEST_IMAGES = 2
"""Images of a class that is scored on its own: one to show, and one to ask."""


def regression_tasks(model: Model, published: PublishedVersion) -> Sinusoid | Table:
    """Tasks of numbers: sine curves, or those of a file."""
    if published.data == "sinusoid":
        shots = published.shots or Shots(10, 10)
        return Sinusoid(SinusoidConfig(shots), model.manifest.seed)
    config, all_held_out = _table_config(model, published)
    columns = (model.manifest.inputs, model.manifest.outputs)
    tasks = Table(config, model.manifest.seed, columns, all_held_out=all_held_out)
    print_notes(tasks)
    print(tasks.summary, file=sys.stderr)
    return tasks


def table_of_classes(model: Model, published: PublishedVersion) -> Table | Vectors:
    """Tasks of classes from a file, of new ones or of fixed meaning."""
    config, all_held_out = _table_config(model, published)
    manifest = model.manifest
    tasks: Table | Vectors
    if manifest.labels is None:
        tasks = Vectors(config, manifest.seed, manifest.inputs, all_held_out)
    else:
        tasks = Table(
            config, manifest.seed, (manifest.inputs, ()), all_held_out=all_held_out, labels=manifest.labels
        )
    print_notes(tasks)
    print(tasks.summary, file=sys.stderr)
    return tasks


def image_tasks(model: Model, published: PublishedVersion) -> Images | BackboneImages:
    """Tasks of images; all classes of another file or folder than that of training are scored."""
    trained = model.manifest.training.get("family", {})
    config = ImagesConfig.from_manifest(trained, published.data)
    config = replace(config, split=published.split or config.split)
    all_held_out = published.split is None and Path(published.data).name != trained.get("path")
    if all_held_out:
        print(_EVERY.format(what="class", why=f"other images than {trained.get('path')}"), file=sys.stderr)
        config = replace(config, split=None, least=FEWEST_IMAGES)
    seed, backbone = model.manifest.seed, model.embedding
    tasks: Images | BackboneImages
    if isinstance(backbone, Backbone):
        tasks = BackboneImages(config, seed, backbone, all_held_out)
    else:
        tasks = Images(config, seed, all_held_out)
    print_notes(tasks)
    return tasks


def world_tasks(model: Model, world: str) -> WorldTasks:
    """Tasks of a world, with the options of training where it is the same."""
    trained = model.manifest.training.get("family", {})
    own = trained if trained.get("world") == world else {}
    config = WorldConfig(
        world, trained.get("episodes", 10), vary=tuple(own.get("vary", ())), horizon=own.get("horizon")
    )
    return WorldTasks(config, model.manifest.seed)


def print_notes(tasks: Table | Vectors | Images | BackboneImages) -> None:
    """What was found and left out, on standard error."""
    for note in tasks.notes:
        print(note, file=sys.stderr)


_EVERY = "{why}: every {what} is scored; those of training would flatter the model"


def _table_config(model: Model, published: PublishedVersion) -> tuple[TableConfig, bool]:
    """The configuration of a published version's data, and whether every task of it is held out."""
    trained = model.manifest.training.get("family", {})
    given = {name: getattr(published, name) for name in ("task", "split", "order", "support_until")}
    if published.shots is None and given["support_until"] is None and trained.get("support_until"):
        given["support_until"] = UpTo(**trained["support_until"])
    given |= {name: trained.get(name) for name in ("task", "split", "order") if given[name] is None}
    target = model.manifest.target
    new_classes = target is not None and target.labels is None
    if given["task"] is None and not new_classes:
        raise InvalidConfig(f"{published.name} was not trained on a table: name its --task column")
    x = trained.get("x") or [(column.name, "none") for column in model.manifest.inputs]
    config = TableConfig(
        path=published.data,
        x=tuple((name, transform) for name, transform in x),
        y=tuple(column.name for column in model.manifest.outputs) if target is None else (target.name,),
        target="numbers" if target is None else "ordered" if target.ordered else "classes",
        new_classes=new_classes,
        kinds=tuple(trained.get("kinds", ())),
        group=trained.get("group"),
        shots=published.shots or Shots(**trained.get("shots", {"lowest": 3, "highest": 10})),
        missing=tuple(trained.get("missing", ())),
        categorical=tuple(trained.get("categorical", ())),
        hide=trained.get("hide", 0.0),
        **given,
    )
    path = Path(config.path)
    why = None
    if published.split is None and config.split is not None and config.split not in column_names(path):
        why = f"no column {config.split!r}"
    elif config.split is None and trained.get("sha256") not in (None, digest_of_file(path)):
        why = f"{path.name} is not the file of training"
    if why is not None:
        print(_EVERY.format(what="task", why=why), file=sys.stderr)
    return config, why is not None
