"""The target of a classifier of tables: its column, and the labels whose meaning is fixed."""

from collections.abc import Sequence
from typing import Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

Label = bool | int | float | str
"""The name of a class, as callers send it and get it back."""
MAX_FIXED_CLASSES = 50
"""Classes of fixed meaning, at most."""


def label_key(label: Label) -> tuple[str, Label]:
    """What a label is told apart by: `True`, `1` and `"1"` are three labels, `1` and `1.0` one."""
    if isinstance(label, bool | str):
        return type(label).__name__, label
    return "number", label


class ClassTarget(BaseModel):
    """The target of a classifier of tables.

    Attributes:
        name: the column of the table.
        labels: classes that mean the same in every task, in the order of the one-hot columns; None where
            every task has classes of its own.
        ordered: whether the labels stand in an order, from lowest to highest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    labels: tuple[StrictBool | StrictInt | StrictFloat | StrictStr, ...] | None = Field(
        default=None, min_length=2, max_length=MAX_FIXED_CLASSES
    )
    ordered: bool = False

    @model_validator(mode="after")
    def _one_meaning_each(self) -> Self:
        if self.ordered and self.labels is None:
            raise ValueError("an order needs labels of fixed meaning")
        if self.labels is not None:
            if len({label_key(each) for each in self.labels}) < len(self.labels):
                raise ValueError("two labels are alike")
            if len({label_key(each)[0] for each in self.labels}) > 1:
                raise ValueError("labels are all texts, all numbers or all truth values")
            if not self.ordered and any(isinstance(each, float) for each in self.labels):
                raise ValueError("labels without an order are texts, integers or truth values")
        return self


def places_of(labels: Sequence[Label]) -> dict[tuple[str, Label], int]:
    """The place of each label, by its `label_key`."""
    return {label_key(each): place for place, each in enumerate(labels)}
