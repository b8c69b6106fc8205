"""The columns of a Parquet file, by their types."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from training.errors import UnusableTable
from training.reading.cells import (
    Cells,
    CellsOfFile,
    Instants,
    NumberCells,
    OtherCells,
    TextCells,
    TruthCells,
    VectorCells,
)
from training.reading.header import places_of
from training.reading.names import Names

MAX_LENGTHS_SHOWN = 3
TRUTH = ("False", "True")
"""The names of truth values, as Python and pandas write them."""


def read_cells(path: Path, wanted: Sequence[str], rows: bool) -> CellsOfFile:
    """The wanted columns of a Parquet file; see `training.reading.files.read_cells`.

    Raises:
        UnusableTable: the file cannot be read, or a wanted column is absent or there twice.
    """
    try:
        with parquet.ParquetFile(path) as file:
            header = tuple(file.schema_arrow.names)
            places_of(path, header, wanted)
            if not rows:
                return CellsOfFile(path, header, {}, 0)
            cells = {name: _read_column(file, name) for name in wanted}
            return CellsOfFile(path, header, cells, file.metadata.num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UnusableTable):
            raise
        told = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UnusableTable(f"{path} cannot be read as Parquet: {told}") from None


def _read_column(file: parquet.ParquetFile, name: str) -> Cells:
    """One column, copied out of Arrow's memory, which is given back before the next."""
    cells = _cells(file.read(columns=[name], use_pandas_metadata=False)[name])
    pa.default_memory_pool().release_unused()
    return cells


def _cells(column: pa.ChunkedArray) -> Cells:
    kind = column.type
    if pa.types.is_dictionary(kind):
        inner = _cells(column.cast(kind.value_type))
        return TextCells(inner.names, declared=True) if isinstance(inner, TextCells) else inner
    if pa.types.is_null(kind):
        return TextCells(Names((), np.full(len(column), -1, dtype=np.int64)))
    if _is_text(kind):
        return TextCells(_names(column))
    missing = np.asarray(column.is_null())
    if pa.types.is_boolean(kind):
        truth = np.asarray(column.fill_null(False)).astype(np.int64)
        return TruthCells(Names(TRUTH, np.where(missing, -1, truth)))
    if pa.types.is_integer(kind):
        whole = np.asarray(column.fill_null(0))
        whole = whole.astype(np.uint64 if kind == pa.uint64() else np.int64)
        return NumberCells(whole, missing, str(kind))
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        floats = np.asarray(column.cast(pa.float64()).fill_null(np.nan), dtype=np.float64).copy()
        return NumberCells(floats, np.isnan(floats), str(kind))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        moments = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(0)
        return Instants(np.asarray(moments, dtype=np.int64), missing)
    if pa.types.is_time(kind):
        of_day = column.cast(pa.time64("us"), safe=False).cast(pa.int64()).fill_null(0)
        return Instants(np.asarray(of_day, dtype=np.int64), missing, of_day=True)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(column)
    return OtherCells(str(kind))


def _lists(column: pa.ChunkedArray) -> VectorCells | OtherCells:
    """Lists of as many numbers each; other lists are no vectors."""
    inner = column.type.value_type
    if not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        return OtherCells(str(column.type))
    present = column.drop_null()
    lengths = np.unique(np.asarray(pc.list_value_length(present)))
    if len(lengths) != 1 or lengths[0] < 1:
        found = ", ".join(map(str, lengths[:MAX_LENGTHS_SHOWN].tolist())) or "none"
        return OtherCells(f"{column.type} of several lengths ({found})")
    flat = pc.list_flatten(present).cast(pa.float64()).fill_null(np.nan)
    values = np.full((len(column), int(lengths[0])), np.nan)
    values[~np.asarray(column.is_null())] = np.asarray(flat).reshape(len(present), -1)
    return VectorCells(values)


def _is_text(kind: Any) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _names(column: pa.ChunkedArray) -> Names:
    """Texts; bytes are texts in UTF-8."""
    if column.type != pa.large_string():
        column = column.cast(pa.large_string())
    encoded = pc.dictionary_encode(column.combine_chunks())
    codes = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
    return Names(tuple(encoded.dictionary.to_pylist()), codes)
