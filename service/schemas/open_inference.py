"""Bodies of the Open Inference Protocol, version 2: tensors by name, in JSON or as bytes after it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from service.schemas.requests import MAX_DEADLINE_MS, MAX_QUANTILE_LEVELS, MAX_TTL_S, Level, Name
from service.schemas.values import (
    MAX_DIMENSIONS,
    ClassNames,
    ColourImages,
    GreyImages,
    Row,
    Rows,
    TruthValues,
    list_form,
)

Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "FP16", "FP32", "FP64", "BYTES"
]
InputName = Literal["support.x", "support.y", "query.x"]
Length = Annotated[int, Field(strict=True, ge=0)]


def _levels(value: Any) -> Any:
    """Levels as a list, also where a parameter can only be a string: `"0.05,0.5,0.95"`."""
    if not isinstance(value, str):
        return value
    try:
        return [float(each) for each in value.split(",")]
    except ValueError:
        return value


Data = Annotated[
    Annotated[Row, Tag("1-D")]
    | Annotated[Rows, Tag("2-D")]
    | Annotated[GreyImages, Tag("3-D")]
    | Annotated[ColourImages, Tag("4-D")]
    | Annotated[ClassNames, Tag("class-names")]
    | Annotated[TruthValues, Tag("truth-values")],
    Discriminator(list_form),
]
"""Elements in row-major order, flat or nested as the shape says."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputParameters(_Part):
    """`content_type` is a hint for codecs of other servers, which changes nothing here."""

    binary_data_size: Length | None = None
    content_type: Name | None = None


class InferInput(_Part):
    """One tensor of a request; its elements are `data`, or bytes after the JSON."""

    name: InputName
    shape: Annotated[list[Length], Field(min_length=1, max_length=MAX_DIMENSIONS)]
    datatype: Datatype
    parameters: InputParameters = InputParameters()
    data: Data | None = None


class OutputParameters(_Part):
    """`binary_data`: whether this output comes as bytes after the JSON; null: as the request says."""

    binary_data: Annotated[bool, Field(strict=True)] | None = None
    content_type: Name | None = None


class InferOutput(_Part):
    """One tensor that is asked for."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Part):
    """Parameters of a request; `timeout` is in microseconds, and 0 means none."""

    interval: Level = 0.9
    interval_method: Literal["mixture", "conformal"] | None = None
    quantiles: Annotated[list[Level], Field(max_length=MAX_QUANTILE_LEVELS), BeforeValidator(_levels)] = []
    posterior: Name | None = None
    keep_ttl_s: Annotated[float, Field(strict=True, gt=0, le=MAX_TTL_S, allow_inf_nan=False)] | None = None
    timeout: Annotated[int, Field(strict=True, ge=0, le=1000 * MAX_DEADLINE_MS)] = 0
    binary_data_output: bool = Field(default=False, strict=True)
    content_type: Name | None = None


class InferRequest(_Part):
    """The JSON of an inference request; KServe's client repeats the name of the path in `model_name`."""

    id: Name | None = None
    model_name: Name | None = None
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=3)]
    outputs: Annotated[list[InferOutput], Field(max_length=20)] = []
