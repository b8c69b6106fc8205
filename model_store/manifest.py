"""What a published version says about itself."""

import hashlib
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bmaml.errors import BmamlError
from bmaml.learners.interface import Kind
from model_store.columns import Column
from model_store.images import ImageInput

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
WEIGHTS = "particles.safetensors"
CARD = "MODEL_CARD.md"
MANIFEST = "manifest.json"


class InvalidName(BmamlError, ValueError):
    """A model name that could not be a folder, a URL segment and a metric label at once."""


def checked_name(name: str) -> str:
    """`name`, if it is one.

    Raises:
        InvalidName: anything but 1–64 lower-case letters, digits, `-` and `_`, starting with a
            letter or digit.
    """
    if not NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} is not a model name: use 1 to 64 lower-case letters, digits, '-' and '_', "
            "starting with a letter or digit"
        )
    return name


class Look(BaseModel):
    """One look at the validation tasks during training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int
    loss: float
    nll: float


class Manifest(BaseModel):
    """One version of one model.

    Attributes:
        format: of this file; a reader refuses a format it does not know.
        kind: what the model predicts.
        inputs, outputs: columns of x and y, with their units; none for pictures and classes.
        image: what pictures look like, where x is one.
        classes: the most classes a task may have, where y is one.
        embedding: of pictures, before the learner sees them: the settings of a `ConvNet`.
        learner, settings: which learner, and everything needed to build it again.
        training: the whole configuration that produced it.
        history: how training went: the meta-objective and the validation NLL, in standardised units.
        metrics: measured on held-out tasks, in the caller's units; NLL in nats per value.
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
    history: tuple[Look, ...] = ()
    seed: int
    code_version: str
    metrics: dict[str, float]
    tensors: dict[str, tuple[int, ...]]
    files: dict[str, str]

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return checked_name(name)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        numbers = bool(self.inputs and self.outputs)
        pictures = self.image is not None and self.classes is not None and self.embedding is not None
        if (numbers, pictures) != (self.kind == "regression", self.kind == "classification"):
            raise ValueError(
                "a regression has input and output columns, a classification an image, an embedding and "
                f"a number of classes; this {self.kind} has other things"
            )
        return self

    @field_validator("files")
    @classmethod
    def _plain_files(cls, files: dict[str, str]) -> dict[str, str]:
        if WEIGHTS not in files:
            raise ValueError(f"the manifest lists no {WEIGHTS}")
        for name, digest in files.items():
            if "/" in name or "\\" in name or name.startswith(".") or name == MANIFEST:
                raise ValueError(f"{name!r} is not a plain file name")
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"the digest of {name!r} is not a sha256")
        return files

    def dumped(self) -> bytes:
        """The manifest as it lies in the store."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @property
    def sha256(self) -> str:
        """Of the manifest, which holds the digest of every other file: of the version."""
        return hashlib.sha256(self.dumped()).hexdigest()
