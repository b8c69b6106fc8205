"""The manifest of a published version."""

import hashlib
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bmaml.errors import BmamlError
from bmaml.learners.interface import Kind
from model_store.columns import Column
from model_store.conformal import Conformal
from model_store.images import ImageInput

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
WEIGHTS_FILE = "particles.safetensors"
CARD_FILE = "MODEL_CARD.md"
MANIFEST_FILE = "manifest.json"


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
        inputs, outputs: columns of x and y with their units, of a policy those of observations and actions;
            none for images and classes.
        image: the form of images, where x is an image.
        classes: classes of a task, at most, where y is a class.
        embedding: settings of the `ConvNet` that embeds images for the learner.
        learner, settings: name and settings of the learner, as `learner_from` takes them, or `policy_from`.
        training: the whole configuration of the training run.
        history: the course of training.
        metrics: figures of held-out tasks in the caller's units; NLL in nats per value.
        conformal: calibration of conformal intervals; None where there is none.
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
    embedding: dict[str, Any] | None = None
    learner: str
    settings: dict[str, Any]
    training: dict[str, Any]
    history: tuple[ValidationPoint, ...] = ()
    seed: int
    code_version: str
    metrics: dict[str, float]
    conformal: Conformal | None = None
    tensors: dict[str, tuple[int, ...]]
    files: dict[str, str]

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return checked_name(name)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        columns = bool(self.inputs and self.outputs)
        images = self.image is not None and self.classes is not None and self.embedding is not None
        if (columns, images) != (self.kind != "classification", self.kind == "classification"):
            raise ValueError(
                "a regression or policy has input and output columns, a classification an image, an "
                f"embedding and a number of classes; this {self.kind} has other things"
            )
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

        A version without conformal calibration has no such field: its digest is that of earlier revisions.
        """
        absent = {"conformal"} if self.conformal is None else None
        return self.model_dump_json(indent=2, exclude=absent).encode() + b"\n"

    @property
    def sha256(self) -> str:
        """Digest of the manifest, and by the digests in it of the whole version."""
        return hashlib.sha256(self.dumped()).hexdigest()
