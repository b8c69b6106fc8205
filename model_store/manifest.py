"""The manifest of a published version."""

import hashlib
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bmaml.errors import BmamlError
from bmaml.learners.interface import Kind
from model_store.backbone import BackboneInfo
from model_store.class_target import ClassTarget, Label
from model_store.columns import Column
from model_store.conformal import Conformal
from model_store.images import ImageInput

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
WEIGHTS_FILE = "particles.safetensors"
CARD_FILE = "MODEL_CARD.md"
MANIFEST_FILE = "manifest.json"
LATER_FIELDS = ("backbone", "conformal", "surprise_threshold", "target")
"""Fields that manifests of earlier revisions do not have."""


class InvalidName(BmamlError, ValueError):
    """A model name that is not a folder, a URL segment and a metric label at once."""


def checked_name(name: str) -> str:
    """The name itself, where it is a model name.

    Raises:
        InvalidName: not 1 to 64 lower-case letters, digits, `-` and `_`, starting with a letter or digit.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidName(
            f"{name!r} is not a model name: use 1 to 64 lower-case letters, digits, '-' and '_', "
            "starting with a letter or digit"
        )
    return name


class ValidationPoint(BaseModel):
    """The losses at one step of training: meta-objective and validation NLL, in standardised units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int
    loss: float
    nll: float


class Manifest(BaseModel):
    """The description of one version of a model.

    Attributes:
        format: format of this file; readers refuse an unknown one.
        kind: kind of its predictions.
        inputs: columns of x with their units, of a policy those of observations; none for images.
        outputs: columns of y with their units, of a policy those of actions; none for classes.
        image: the form of images, where x is an image.
        classes: classes of a task where y is a class: the number of labels of fixed meaning, else the most.
        target: the target of a classifier of tables; None for numbers and for images.
        embedding: settings of the `ConvNet` that embeds images for the learner, and is learned with it; None
            also where the learner's network takes images.
        backbone: the pretrained network that embeds images instead.
        learner, settings: name and settings of the learner, as `learner_from` takes them, or `policy_from`.
        training: the whole configuration of the training run.
        history: the course of training.
        metrics: figures of held-out tasks in the caller's units; NLL in nats per value.
        conformal: calibration of conformal intervals; None where there is none.
        surprise_threshold: the part of the known hypotheses' prior weight that surprising ones gain where an
            answer is warned of; None takes `DEFAULT_THRESHOLD`.
        tensors: shape of each learned tensor in the weights file.
        files: sha256 of each file of the version, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    name: str
    version: int = Field(ge=1)
    kind: Kind = "regression"
    description: str = ""
    inputs: tuple[Column, ...] = ()
    outputs: tuple[Column, ...] = ()
    image: ImageInput | None = None
    classes: int | None = Field(default=None, ge=2)
    target: ClassTarget | None = None
    embedding: dict[str, Any] | None = None
    backbone: BackboneInfo | None = None
    learner: str
    settings: dict[str, Any]
    training: dict[str, Any]
    history: tuple[ValidationPoint, ...] = ()
    seed: int
    code_version: str
    metrics: dict[str, float]
    conformal: Conformal | None = None
    surprise_threshold: float | None = Field(default=None, gt=0, le=1)
    tensors: dict[str, tuple[int, ...]]
    files: dict[str, str]

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return checked_name(name)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        forms = {
            "policy" if self.kind == "policy" else "regression": bool(self.inputs and self.outputs),
            "classification of images": self.image is not None
            and (self.embedding is None or self.backbone is None),
            "classification of a table": bool(self.inputs) and self.target is not None,
        }
        found = [form for form, has_it in forms.items() if has_it]
        with_classes = (self.classes is not None) is (self.kind == "classification")
        if len(found) != 1 or not found[0].startswith(self.kind) or not with_classes:
            raise ValueError(
                "a regression or policy has input and output columns; a classification has a number of "
                "classes, and an image (with an embedding or a backbone, never both) or input columns with a "
                "target; "
                f"this {self.kind} has other things"
            )
        if self.labels is not None and len(self.labels) != self.classes:
            raise ValueError(f"{len(self.labels)} labels are named, and {self.classes} classes")
        if self.conformal is not None and len(self.conformal.outputs) != len(self.outputs):
            raise ValueError("the conformal calibration is of another number of outputs")
        return self

    @field_validator("files")
    @classmethod
    def _plain_files(cls, files: dict[str, str]) -> dict[str, str]:
        if WEIGHTS_FILE not in files:
            raise ValueError(f"the manifest lists no {WEIGHTS_FILE}")
        for name, digest in files.items():
            if "/" in name or "\\" in name or name.startswith(".") or name == MANIFEST_FILE:
                raise ValueError(f"{name!r} is not a plain file name")
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"the digest of {name!r} is not a sha256")
        return files

    def dumped(self) -> bytes:
        """The manifest as bytes of its file.

        Fields of later revisions that a version does not use are left out: its digest stays the same.
        """
        absent = {name for name in LATER_FIELDS if getattr(self, name) is None}
        return self.model_dump_json(indent=2, exclude=absent).encode() + b"\n"

    @property
    def labels(self) -> tuple[Label, ...] | None:
        """Classes that mean the same in every task; None where a task has its own, and for numbers."""
        return None if self.target is None else self.target.labels

    @property
    def sha256(self) -> str:
        """Digest of the manifest, and by the digests in it of the whole version."""
        return hashlib.sha256(self.dumped()).hexdigest()
