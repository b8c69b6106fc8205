"""Files with one row per observation: Parquet, and text with separators in any usual encoding."""

import codecs
import csv
import gzip
import io
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from training.errors import UnusableTable
from training.reading import parquet
from training.reading.cells import Cells, CellsOfFile, TextCells
from training.reading.header import places_of
from training.reading.names import Names

if TYPE_CHECKING:
    import _csv

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_PARQUET = (".parquet", ".pq")
_TEXT = (".csv", ".tsv", ".txt", ".tab")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_OTHER_FORMATS = {
    b"PAR1": "holds Parquet: name it .parquet",
    b"PK\x03\x04": "is a workbook or a zip archive: save the table as CSV",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook: save the table as CSV",
    b"BZh": "is compressed by bzip2: unpack it",
    b"\xfd7zXZ": "is compressed by xz: unpack it",
    b"(\xb5/\xfd": "is compressed by zstd: unpack it",
}
_PIECE = 1 << 20


def column_names(path: Path) -> tuple[str, ...]:
    """The names of a file's columns, in order.

    Raises:
        UnusableTable: the file cannot be read.
    """
    return read_cells(path, (), rows=False).header


def read_cells(path: Path, wanted: Sequence[str], rows: bool = True) -> CellsOfFile:
    """The wanted columns of a Parquet file, or of a text file whose first row names the columns.

    Args:
        rows: whether to read rows, or the header alone.

    Raises:
        UnusableTable: the file cannot be read, a wanted column is absent or there twice, or a row has
            another number of cells than the header.
    """
    suffixes = [each.lower() for each in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    suffix = "".join(suffixes[-2:-1] if compressed else suffixes[-1:])
    if path.is_dir():
        raise UnusableTable(f"{path} is a folder: name one file in it")
    if not path.exists():
        raise UnusableTable(f"there is no file {path}")
    if suffix in _PARQUET and not compressed:
        return parquet.read_cells(path, wanted, rows)
    if suffix in _TEXT:
        return _read_text(path, wanted, rows, suffix in (".tsv", ".tab"))
    raise UnusableTable(
        f"{path}: tables are .parquet files, or .csv, .tsv and .txt files, which may be compressed (.gz)"
    )


def _read_text(path: Path, wanted: Sequence[str], rows: bool, tabs_first: bool) -> CellsOfFile:
    try:
        encoding, notes = _encoding(path)
        with _opened(path) as binary, io.TextIOWrapper(binary, encoding, newline="") as text:
            return _read_rows(path, text, wanted, rows, tabs_first, notes)
    except UnicodeError as error:
        raise UnusableTable(f"{path} cannot be read: {error}; save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UnusableTable(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where they are compressed by gzip, whatever its name."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast(IO[bytes], unpacked)


def _encoding(path: Path) -> tuple[str, list[str]]:
    """UTF-8, UTF-16 with its mark, or Windows-1252, and a note on the last.

    Raises:
        UnusableTable: the bytes are no text in any of them.
    """
    with _opened(path) as file:
        start = file.read(8)
        for magic, told in _OTHER_FORMATS.items():
            if start.startswith(magic):
                raise UnusableTable(f"{path} {told}")
        if start.startswith(_UTF16):
            return "utf-16", []
        line, pieces = 1, start
        foreign: tuple[int, int] | None = None
        undefined: tuple[int, int] | None = None
        decoder = codecs.getincrementaldecoder("utf-8")()
        while pieces:
            if b"\0" in pieces:
                raise UnusableTable(f"{path} is no text: line {line} or a later one has a zero byte")
            if foreign is None:
                try:
                    decoder.decode(pieces)
                except UnicodeDecodeError as error:
                    bad = error.object[: error.start].count(b"\n")
                    foreign = (line + bad, error.object[error.start])
            undefined = undefined or _undefined_byte(pieces, line)
            line += pieces.count(b"\n")
            pieces = file.read(_PIECE)
        if foreign is None:
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                foreign = (line, error.object[error.start])
    if foreign is None:
        return "utf-8-sig", []
    where = f"line {foreign[0]} has the byte {foreign[1]:#04x}, which is no UTF-8"
    if undefined is not None:
        raise UnusableTable(
            f"{path}: {where}, and line {undefined[0]} has {undefined[1]:#04x}, which is no Windows-1252: "
            "save it as UTF-8"
        )
    return "cp1252", [f"read as Windows-1252: {where}; save it as UTF-8 if its letters are others"]


def _undefined_byte(piece: bytes, line: int) -> tuple[int, int] | None:
    try:
        piece.decode("cp1252")
    except UnicodeDecodeError as error:
        return line + piece[: error.start].count(b"\n"), piece[error.start]
    return None


def _read_rows(
    path: Path, text: IO[str], wanted: Sequence[str], rows: bool, tabs_first: bool, notes: list[str]
) -> CellsOfFile:
    first, lines_before, separator = _first_line(text)
    if separator is None:
        separator = _separator(first, wanted, tabs_first)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(_with_first(first, text), delimiter=separator, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise UnusableTable(f"{path}: the header cannot be read: {error}") from None
        header = [name.strip() for name in header]
        if not any(header):
            raise UnusableTable(f"{path} is empty: its first row names the columns")
        told = f"; columns are separated by {SEPARATORS.get(separator, repr(separator))}"
        if len(header) == 1:
            told = f", one column: separate columns by {', '.join(SEPARATORS.values())}"
        places = places_of(path, header, wanted, told)
        if not rows:
            return CellsOfFile(path, tuple(header), {}, 0)
        cells, lines = _collected(path, reader, header, places, lines_before)
    finally:
        csv.field_size_limit(limit)
    return CellsOfFile(path, tuple(header), cells, len(lines), lines, separator, tuple(notes))


def _first_line(text: IO[str]) -> tuple[str, int, str | None]:
    """The line with the header, the lines before it, and the separator where a line `sep=;` says it."""
    first, before = text.readline(), 0
    separator = None
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
        separator, first, before = first[4], text.readline(), 1
    while first and not first.strip():
        first, before = text.readline(), before + 1
    return first, before, separator


def _with_first(first: str, rest: IO[str]) -> Iterator[str]:
    yield first
    yield from rest


def _separator(first: str, wanted: Sequence[str], tabs_first: bool) -> str:
    """The separator whose columns include the wanted ones; without one, that of the most columns."""
    candidates = sorted(SEPARATORS, key=lambda each: tabs_first and each != "\t")
    columns = {}
    for each in candidates:
        try:
            columns[each] = [name.strip() for name in next(csv.reader([first], delimiter=each), [])]
        except csv.Error:
            columns[each] = []
    fitting = [each for each in candidates if wanted and set(wanted) <= set(columns[each])]
    return max(fitting or candidates, key=lambda each: len(columns[each]))


def _collected(
    path: Path,
    reader: "_csv.Reader",
    header: Sequence[str],
    places: dict[str, int],
    lines_before: int,
) -> tuple[dict[str, Cells], NDArray[np.int64]]:
    known: list[dict[str, int]] = [{} for _ in places]
    codes = [array("q") for _ in places]
    columns = list(zip(places.values(), known, codes, strict=True))
    lines, width = array("q"), len(header)
    begun = reader.line_num + lines_before + 1
    try:
        for row in reader:
            if row:
                if len(row) != width:
                    row = _of_width(path, row, width, begun)
                for place, seen, code in columns:
                    code.append(seen.setdefault(row[place], len(seen)))
                lines.append(begun)
            begun = reader.line_num + lines_before + 1
    except csv.Error as error:
        told = "a quoted cell that begins there has no end"
        if "end of data" not in str(error):
            told = "a quote inside a quoted cell is written twice"
        raise UnusableTable(f"{path}: line {begun} cannot be read: {told}") from None
    cells: dict[str, Cells] = {
        name: TextCells(Names(tuple(seen), np.array(code, dtype=np.int64)))
        for name, seen, code in zip(places, known, codes, strict=True)
    }
    return cells, np.array(lines, dtype=np.int64)


def _of_width(path: Path, row: list[str], width: int, line: int) -> list[str]:
    """The row without further cells that are empty.

    Raises:
        UnusableTable: the row has fewer cells than the header, or more with something in them.
    """
    if len(row) < width or any(cell.strip() for cell in row[width:]):
        raise UnusableTable(
            f"{path}: line {line} has {len(row)} cells and the header {width}: a cell with a separator or a "
            "line break in it needs quotes around it"
        )
    return row[:width]
