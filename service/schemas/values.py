"""The forms of inputs and labels in a request: nested lists, encoded tensors, encoded images."""

from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    GetPydanticSchema,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema
from typing_extensions import TypeAliasType

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
# Named aliases are schemas of their own in OpenAPI (and hashable, which a bare FailFast is not).
Row = TypeAliasType("Row", Annotated[list[Number], FailFast()])
Rows = TypeAliasType("Rows", Annotated[list[Row], FailFast()])
GreyImages = TypeAliasType("GreyImages", Annotated[list[Rows], FailFast()])
ColourImages = TypeAliasType("ColourImages", Annotated[list[GreyImages], FailFast()])
ClassName = Annotated[str, Field(strict=True, max_length=200)]
ClassNames = TypeAliasType("ClassNames", Annotated[list[ClassName], FailFast()])
TruthValues = TypeAliasType("TruthValues", Annotated[list[Annotated[bool, Field(strict=True)]], FailFast()])

DType = Literal["float32", "float64", "int64", "uint8"]
MAX_DIMENSIONS = 4
"""Dimensions of a tensor: RGB images have four."""
MAX_MIXED_ROWS = 20
"""Rows of mixed labels that errors point at."""


class EncodedTensor(BaseModel):
    """A tensor in base64: little-endian numbers in row-major order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: DType
    shape: Annotated[
        list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1, max_length=MAX_DIMENSIONS)
    ]
    base64: str = Field(strict=True)


class BinaryTensor(EncodedTensor):
    """A tensor of a safetensors body; its numbers are `content`."""

    content: bytes


class EncodedImages(BaseModel):
    """Image files in base64, of any size; the service converts and resizes them for the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: list[Annotated[str, Field(strict=True)]]


def list_form(value: Any) -> str:
    """The tag of a JSON list: the kind of its labels, or the depth of its numbers."""
    depth = 0
    while isinstance(value, list) and depth < MAX_DIMENSIONS:
        value, depth = (value[0] if value else None), depth + 1
    if depth == 1 and isinstance(value, str | bool):
        return "class-names" if isinstance(value, str) else "truth-values"
    return f"{max(depth, 1)}-D"


def _form(value: Any) -> str:
    """The tag of a value: the depth of its lists, or the kind of its object."""
    if isinstance(value, dict):
        return "encoded-images" if "images" in value else "encoded-tensor"
    if isinstance(value, EncodedImages | EncodedTensor):
        return "encoded-images" if isinstance(value, EncodedImages) else "encoded-tensor"
    return list_form(value)


def depth_form(value: Any) -> str:
    """The tag of numbers: a list of them, a list of rows, or an encoded tensor."""
    form = _form(value)
    return form if form in ("2-D", "encoded-tensor") else "1-D"


def _input_form(value: Any) -> str:
    form = _form(value)
    return "2-D" if form in ("1-D", "class-names", "truth-values") else form


def _label_form(value: Any) -> str:
    form = _form(value)
    if form == "truth-values" and 2 * sum(isinstance(each, bool) for each in value) <= len(value):
        return "1-D"  # the rarer type is refused, and a truth value beside a number
    return form if form in ("2-D", "class-names", "truth-values", "encoded-tensor") else "1-D"


def _check_one_type(value: Any) -> Any:
    """The labels, unless strings and numbers stand among them.

    Raises:
        ValidationError: at each row of the rarer type; of two as frequent, at those unlike the first row.
    """
    if not isinstance(value, list) or not {str} < set(map(type, value)):
        return value
    strings = [row for row, each in enumerate(value) if isinstance(each, str)]
    numbers = [row for row, each in enumerate(value) if type(each) in (int, float)]
    if len(strings) + len(numbers) < len(value):  # other types are refused by the schema
        return value
    sorts = [(strings, "a string beside numbers"), (numbers, "a number beside strings")]
    if strings[0] == 0:
        sorts.reverse()
    rows, found = min(sorts, key=lambda sort: len(sort[0]))
    error = PydanticCustomError("mixed_labels", "{found}: labels are all of one type", {"found": found})
    raise ValidationError.from_exception_data(
        "labels", [InitErrorDetails(type=error, loc=(row,), input=None) for row in rows[:MAX_MIXED_ROWS]]
    )


def _array_of_rows(value: Any) -> NDArray[np.float64] | None:
    """The array of a list of rows of one length, which hold finite numbers alone; None for all else."""
    if not isinstance(value, list) or set(map(type, value)) != {list} or len(set(map(len, value))) > 1:
        return None
    if not {*map(type, chain.from_iterable(value))} <= {float, int}:
        return None
    try:
        array = np.array(value, dtype=np.float64)
    except OverflowError:  # an integer beyond the largest double
        return None
    return array if np.isfinite(array).all() else None


def _array_or_form(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """The array of regular rows. For other forms, and to name a fault, the schema looks at every number."""
    array = _array_of_rows(value)
    return validate(value) if array is None else array


_INPUT_FORMS = Annotated[
    Annotated[Rows, Tag("2-D")]
    | Annotated[GreyImages, Tag("3-D")]
    | Annotated[ColourImages, Tag("4-D")]
    | Annotated[EncodedTensor, Tag("encoded-tensor")]
    | Annotated[EncodedImages, Tag("encoded-images")],
    Discriminator(_input_form),
]
NestedNumbers = list[list[float]] | list[list[list[float]]] | list[list[list[list[float]]]]
InputValues = NDArray[np.float64] | NestedNumbers | EncodedTensor | EncodedImages
"""A parsed `X`: an array, where it was sent as a list of rows of one length."""
X = Annotated[
    InputValues,
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_wrap_validator_function(_array_or_form, handler(_INPUT_FORMS))
    ),
]
"""Rows of features, or images."""

Labels = Annotated[
    Annotated[Row, Tag("1-D")]
    | Annotated[Rows, Tag("2-D")]
    | Annotated[ClassNames, Tag("class-names")]
    | Annotated[TruthValues, Tag("truth-values")]
    | Annotated[EncodedTensor, Tag("encoded-tensor")],
    Discriminator(_label_form),
    BeforeValidator(_check_one_type),
]
"""Numbers, rows of numbers for several outputs, class names, truth values, or a tensor of numbers."""

UNION_TAGS = frozenset(
    {
        "1-D",
        "2-D",
        "3-D",
        "4-D",
        "class-names",
        "truth-values",
        "encoded-tensor",
        "encoded-images",
        "constrained-str",
        "constrained-int",
        "interval-level",
        "interval-choice",
        "labelled-rows",
        "episodes-of-a-policy",
    }
)
"""Parts of pydantic's error locations that are tags of unions, not keys of the caller's body."""

LabelValues = list[float] | list[list[float]] | list[str] | list[bool] | EncodedTensor
"""Parsed `Labels`."""
