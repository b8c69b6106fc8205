"""The cards of published versions: what a model maps, its figures, and its limits."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from model_store.backbone import BackboneInfo
from model_store.conformal import Conformal
from training.evaluate import CONFORMAL_LEVEL, Evaluation
from training.evaluate_fixed_classes import class_frequencies
from training.families import BackboneImages, Sinusoid, Table, Vectors
from training.families.image_collection import ImageCollection
from training.families.targets import described as described_target
from training.prior_check import PriorCheck
from training.surprise_threshold import FALSE_WARNINGS, MOST

CARD = """# {name}

{description}

* Learner: `{learner}` with {particles}; {maps}
* Trained with seed {seed} on {code_version}; the whole configuration is in `manifest.json`.

## Measured on {tasks} held-out tasks

{figures}

{reading}

## Limits

{limits}
"""
REGRESSION_METRICS = """Errors and widths are in the outputs' units, `nll` is in nats per value. Each figure
is a mean within a task first, then over tasks. `coverage_90` is the fraction of truths in the central 90 %
interval."""
CELLS = """The `nll` of labels with a step is minus the log probability of the label's cell over its
width; for whole numbers that is minus a log probability."""
REPEATS = """Most labels occur several times, and their `nll` is that of a density: it rewards narrow peaks at
such labels, and cannot be compared with a log probability."""
CONFORMAL = """
## Conformal intervals

`"interval": {{"level": {level}, "method": "conformal"}}` answers mean ± threshold · std{scaled}. The
thresholds are counted on {counted}. Each of them counts once
in n, or where widths part its rows, by its share of rows. For a random row of a new one that is exchangeable
with these, the interval holds the value with at least the probability asked for, and at most that of the last
column.

| output | support rows | std / training's | n | highest level | at {level:.0%}, holds at most |
|---|---|---|---|---|---|
{groups}

This is a guarantee over all tasks of a line of the table, not for each of them, nor for several rows at once.
It does not cover tasks of another kind, other numbers of support rows, other numbers of steps, or rows
outside the training range. The validation tasks also chose the step that was kept and the widths of
predictions, which the bounds leave out: a choice among the {choices} recorded steps that was made to flatter
could take up to about {cost:.0%} from the mean coverage. {held_out}
"""
CLASSIFICATION_METRICS = """Tasks have the given numbers of classes (ways), labelled rows of each (shots)
and up to 15 query rows of each. `half_width` is half the width of the accuracy's 95 % interval, `nll` is
in nats per row, `ece` is the expected calibration error."""
FIXED_CLASS_METRICS = """`nll` is the log loss in nats per row, after so many labelled rows of a task; beside
it stands that of the classes' frequencies in training (`frequencies_nll`), which know no input and no task.
`ece` is the expected calibration error of the most probable class. Each figure is a mean within a task first,
then over tasks."""
MAX_INPUTS_SHOWN = 20
"""Inputs that a card of classes names."""


def regression_card(
    described: dict[str, Any],
    family: Sinusoid | Table,
    evaluation: Evaluation,
    prior: PriorCheck,
    note: str,
) -> str:
    ranges = "; ".join(f"{c.name} in [{c.lower:.4g}, {c.upper:.4g}]" for c in family.inputs)
    return _card(
        described,
        evaluation,
        description="A few-shot regression model.",
        maps=f"{', '.join(c.name for c in family.inputs)} → {', '.join(c.name for c in family.outputs)}",
        reading=_sentences(
            REGRESSION_METRICS,
            CELLS if any(column.link.step is not None for column in family.outputs) else "",
            REPEATS if isinstance(family, Table) and family.has_repeating_labels else "",
        ),
        limits=_sentences(
            *(f"{described}." for described in map(described_target, family.outputs) if described),
            f"Inputs seen in training: {ranges}. Queries far outside are answered with a warning.",
            surprise_sentence(described["surprise_threshold"]),
            _sampling(family),
            prior.sentence,
            note,
        ),
    )


def surprise_sentence(threshold: float | None) -> str:
    """The sentence on when a task is warned of; empty where the model has no surprising hypotheses."""
    if threshold is None:
        return ""
    reached = (
        f"At most about {FALSE_WARNINGS:.0%} of tasks like those of training reach that."
        if threshold < MOST
        else f"More than {FALSE_WARNINGS:.0%} of the validation tasks may reach that: expect false warnings."
    )
    return (
        "Answers warn of a task unlike those of training where hypotheses about such tasks gain "
        f"{threshold:.0%} of the others' weight. {reached}"
    )


def conformal_section(described: dict[str, Any], evaluation: Evaluation, choices: int) -> str:
    conformal: Conformal = described["conformal"]
    held = evaluation.metrics.get("conformal_coverage_90")
    counted = f"{conformal.tasks} validation tasks"
    if conformal.units < conformal.tasks:
        counted = f"{conformal.units} groups of validation tasks ({conformal.tasks} tasks)"
    return CONFORMAL.format(
        level=CONFORMAL_LEVEL,
        counted=counted,
        scaled=", taken on the outputs' scales and transformed"
        if any(column.transform != "none" for column in described["outputs"])
        else "",
        groups="\n".join(_group_lines(conformal, [column.name for column in described["outputs"]])),
        choices=choices,
        # The largest of so many sub-Gaussian coverages, each of variance 1/(4n) or less.
        cost=min(1.0, math.sqrt(math.log(choices) / (2 * conformal.units))),
        held_out=f"On the held-out tasks, which chose nothing, {held:.1%} are held at {CONFORMAL_LEVEL:.0%}."
        if held is not None
        else f"There are too few validation tasks for a level of {CONFORMAL_LEVEL:.0%}.",
    )


def _group_lines(conformal: Conformal, outputs: Sequence[str]) -> Iterator[str]:
    """The rows of the card's table of groups."""
    for name, groups in zip(outputs, conformal.outputs, strict=True):
        low = 0.0
        for each in groups:
            rows = "–".join(map(str, sorted(set(each.support_rows))))
            width = f"from {low:.3g}" if each.width_below is None else f"{low:.3g} to {each.width_below:.3g}"
            bound = "no answer"
            if each.max_level >= CONFORMAL_LEVEL:
                bound = f"{conformal.upper_bound(each, CONFORMAL_LEVEL):.1%}"
            yield f"| {name} | {rows} | {width} | {each.weight:.4g} | {each.max_level:.4f} | {bound} |"
            low = each.width_below or 0.0


def table_of_classes_card(
    described: dict[str, Any], family: Table | Vectors, evaluation: Evaluation, note: str
) -> str:
    inputs, target = family.inputs, described["target"]
    names = ", ".join(c.name for c in inputs[:MAX_INPUTS_SHOWN])
    names += f" and {len(inputs) - MAX_INPUTS_SHOWN} more inputs" if len(inputs) > MAX_INPUTS_SHOWN else ""
    ranges = "; ".join(f"{c.name} in [{c.lower:.4g}, {c.upper:.4g}]" for c in inputs[:MAX_INPUTS_SHOWN])
    if isinstance(family, Vectors):
        trained = int((family.rows.roles == "train").sum())
        return _card(
            described,
            evaluation,
            description="A few-shot classifier of vectors.",
            maps=f"{names} → any classes, up to {described['classes']}",
            reading=CLASSIFICATION_METRICS,
            limits=_sentences(
                f"It learned from {trained} classes of {target.name!r}. A row of no class in the support set "
                "is assigned to one of them, with more uncertainty than a row that belongs to it.",
                f"Inputs seen in training: {ranges}.",
                note,
            ),
        )
    frequencies = class_frequencies(family)
    shares = ", ".join(f"{each!r} {p:.1%}" for each, p in zip(family.labels, frequencies, strict=True))
    order = ", in this order" if target.ordered else ""
    return _card(
        described,
        evaluation,
        description="A few-shot classifier whose classes mean the same in every task.",
        maps=f"{names} → {target.name}, one of {len(family.labels)} classes{order}",
        reading=FIXED_CLASS_METRICS,
        limits=_sentences(
            f"Classes and their shares of the training rows: {shares}.",
            f"Inputs seen in training: {ranges}. Queries far outside are answered with a warning.",
            _sampling(family),
            note,
        ),
    )


def _sampling(family: Sinusoid | Table) -> str:
    """The sentence on the tasks that figures rest on; empty where these are all."""
    sentence = family.sampling if isinstance(family, Table) else ""
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def classification_card(
    described: dict[str, Any], family: ImageCollection, evaluation: Evaluation, note: str
) -> str:
    image, trained = family.image, int((family.collection.roles == "train").sum())
    colour = "grey" if image.channels == 1 else "RGB"
    return _card(
        described,
        evaluation,
        description="A few-shot classifier of images.",
        maps=f"{colour} images of {image.size} × {image.size} → any classes, up to {described['classes']}",
        reading=CLASSIFICATION_METRICS,
        limits=_sentences(
            _backbone_sentences(family.backbone.info, trained, family.config.finetune)
            if isinstance(family, BackboneImages)
            else f"Features come from {trained} training classes. An image of no class in the support set is "
            "assigned to one of them, with more uncertainty than an image that belongs to it.",
            note,
        ),
    )


def _backbone_sentences(info: BackboneInfo, classes: int, finetuned: int) -> str:
    """The backbone of a card, and where its file is."""
    place = "is part of this version" if info.inside else "is referenced, and must be in BMAML_BACKBONES"
    origin = "pretrained and then finetuned on these classes" if finetuned else "pretrained and unchanged"
    return (
        f"Features are those of `{info.name}`, {origin}; its file of {info.bytes:,} bytes "
        f"(sha256 {info.digest[:12]}) {place}. Its licence is its authors'. The head learned from {classes} "
        "training classes. An image of no class in the support set is assigned to one of them."
    )


def _sentences(*sentences: str) -> str:
    """The sentences that are there, in a row."""
    return " ".join(sentence for sentence in sentences if sentence)


def _card(
    described: dict[str, Any],
    evaluation: Evaluation,
    description: str,
    maps: str,
    reading: str,
    limits: str,
) -> str:
    particles = described["settings"]["particles"]
    return CARD.format(
        name=described["name"],
        description=described["description"] or description,
        learner=described["learner"],
        particles="1 particle" if particles == 1 else f"{particles} particles",
        maps=maps,
        seed=described["seed"],
        code_version=described["code_version"],
        tasks=evaluation.tasks,
        figures="\n".join(_figures(evaluation)),
        reading=reading,
        limits=limits,
    )


def _figures(evaluation: Evaluation) -> Iterator[str]:
    """The card's table of figures, with standard errors where there are some."""
    errors = evaluation.standard_errors
    yield "| figure | value | standard error |" if errors else "| figure | value |"
    yield "|---|---|---|" if errors else "|---|---|"
    for name, value in evaluation.metrics.items():
        error = errors.get(name, math.nan)
        told = "" if not errors else " – |" if math.isnan(error) else f" {error:.2g} |"
        yield f"| {name} | {value:.4g} |{told}"
