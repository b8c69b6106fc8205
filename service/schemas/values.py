"""The forms numbers, pictures and labels take in JSON."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, FailFast, Field, Tag
from typing_extensions import TypeAliasType

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
# Named aliases are schemas of their own in OpenAPI (and hashable, which a bare FailFast is not).
Row = TypeAliasType("Row", Annotated[list[Number], FailFast()])
Rows = TypeAliasType("Rows", Annotated[list[Row], FailFast()])
GreyPictures = TypeAliasType("GreyPictures", Annotated[list[Rows], FailFast()])
ColourPictures = TypeAliasType("ColourPictures", Annotated[list[GreyPictures], FailFast()])
ClassName = Annotated[str, Field(strict=True, max_length=200)]
ClassNames = TypeAliasType("ClassNames", Annotated[list[ClassName], FailFast()])


DType = Literal["float32", "float64", "int64", "uint8"]


class EncodedTensor(BaseModel):
    """Little-endian numbers in row-major order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: DType
    shape: Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1, max_length=4)]
    base64: str = Field(strict=True)


class BinaryTensor(EncodedTensor):
    """The same, beside JSON instead of in it."""

    content: bytes


class EncodedImages(BaseModel):
    """PNG or JPEG files in base64, of any size: they are made grey or RGB and resized for the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: list[Annotated[str, Field(strict=True)]]


def _form(value: Any) -> str:
    """How deep the lists of a value lie, or what its object holds."""
    if isinstance(value, dict):
        return "a-files" if "images" in value else "a-tensor"
    if isinstance(value, EncodedImages | EncodedTensor):
        return "a-files" if isinstance(value, EncodedImages) else "a-tensor"
    depth = 0
    while isinstance(value, list) and depth < 4:
        value, depth = (value[0] if value else None), depth + 1
    return "names" if depth == 1 and isinstance(value, str) else f"{max(depth, 1)}-D"


def _form_of_x(value: Any) -> str:
    form = _form(value)
    return "2-D" if form in ("1-D", "names") else form


def _form_of_labels(value: Any) -> str:
    form = _form(value)
    return form if form in ("2-D", "names", "a-tensor") else "1-D"


X = Annotated[
    Annotated[Rows, Tag("2-D")]
    | Annotated[GreyPictures, Tag("3-D")]
    | Annotated[ColourPictures, Tag("4-D")]
    | Annotated[EncodedTensor, Tag("a-tensor")]
    | Annotated[EncodedImages, Tag("a-files")],
    Discriminator(_form_of_x),
]
"""Rows of features, or pictures."""

Labels = Annotated[
    Annotated[Row, Tag("1-D")]
    | Annotated[Rows, Tag("2-D")]
    | Annotated[ClassNames, Tag("names")]
    | Annotated[EncodedTensor, Tag("a-tensor")],
    Discriminator(_form_of_labels),
]
"""Numbers, rows of numbers for several outputs, the names of classes, or a tensor of numbers."""

UNION_TAGS = frozenset(
    {"1-D", "2-D", "3-D", "4-D", "names", "a-tensor", "a-files", "constrained-str", "constrained-int"}
)
"""Parts of pydantic's error locations that are not in the caller's body."""

Nested = list[list[float]] | list[list[list[float]]] | list[list[list[list[float]]]]
Values = Nested | EncodedTensor | EncodedImages
"""What `X` holds once it is parsed."""

LabelValues = list[float] | list[list[float]] | list[str] | EncodedTensor
"""What `Labels` holds."""
