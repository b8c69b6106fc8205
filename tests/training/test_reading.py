"""Files become typed columns: what was read is right, or a sentence names file, column and row."""

import gzip
import tracemalloc
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from model_store import Store
from tests.closed_form import generator
from training.__main__ import main
from training.config import InvalidConfig, Shots, TableConfig, UpTo
from training.config.table import _column
from training.errors import UnusableTable
from training.families import Table
from training.families.resolved import resolved
from training.families.rows import read_rows
from training.reading import column_names, read
from training.reading.dates import parsed_date, parsed_dates

TASKS, ROWS = 12, 6


def rows_of(tasks=TASKS, rows=ROWS):
    """Tasks u00, u01, … whose reading is 10 × task + hours."""
    return [
        (f"u{task:02d}", float(hour), 10.0 * task + hour) for task in range(tasks) for hour in range(rows)
    ]


def written(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def lines(header, rows, separator=","):
    return "\n".join([separator.join(header), *(separator.join(map(str, row)) for row in rows)]) + "\n"


STEPS = "'reading' holds numbers, in steps of 1"
"""The note on the targets of these tables, whose labels are whole."""


def config(path, **changes):
    settings = {"task": "unit", "x": (("hours", "none"),), "y": ("reading",), "shots": Shots(2, 3)}
    return TableConfig(**{"path": str(path), **settings, **changes})


def table(path, **changes):
    return Table(config(path, **changes), seed=0)


def expected(found):
    """The rows are those of `rows_of`."""
    assert len(found.rows.counts) == TASKS
    assert found.rows.counts.tolist() == [ROWS] * TASKS
    assert found.rows.x[:, 0].tolist() == [hours for _, hours, _ in rows_of()]
    assert found.rows.y[:, 0].tolist() == [reading for _, _, reading in rows_of()]


def test_identifiers_beyond_double_precision_stay_apart(tmp_path):
    header, rows = ("unit", "hours", "reading"), rows_of()
    long = [(f"8901410321111851{int(unit[1:]):04d}", hours, reading) for unit, hours, reading in rows]
    expected(table(written(tmp_path, lines(header, long))))
    zeros = [("0" * int(unit[1:]) + "7", hours, reading) for unit, hours, reading in rows]
    assert len(table(written(tmp_path, lines(header, zeros))).rows.counts) == TASKS


def test_integers_beyond_double_precision_are_names_and_no_numbers(tmp_path):
    unit = [2**60 + int(unit[1:]) for unit, _, _ in rows_of()]
    data = {"unit": unit, "hours": [h for _, h, _ in rows_of()], "reading": [r for *_, r in rows_of()]}
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table(data), path)
    expected(table(path))
    named = TableConfig(str(path), (("unit", "none"),), ("hours",), "reading")
    with pytest.raises(UnusableTable, match=rf"'unit' has {2**60} in row 1.*beyond 2\^53.*--categorical"):
        Table(named, seed=0)
    csv = written(tmp_path, lines(data, zip(*data.values(), strict=True)))
    with pytest.raises(UnusableTable, match=rf"'unit' has {2**60} in line 2.*beyond 2\^53"):
        Table(TableConfig(str(csv), (("unit", "none"),), ("hours",), "reading"), seed=0)
    expected(table(path, order="unit"))
    data["unit"] = [float(each) for each in unit]
    pyarrow.parquet.write_table(pa.table(data), path)
    with pytest.raises(UnusableTable, match="identifiers have lost their last digits"):
        table(path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("word", ["", "NA", "N/A", "null", "None", "NaN"])
def test_missing_means_the_same_in_names_and_numbers_and_in_every_format(tmp_path, name, word):
    data = {
        "unit": [unit for unit, *_ in rows_of()],
        "material": ["steel" if int(unit[1:]) % 2 else "tin" for unit, *_ in rows_of()],
        "hours": [h for _, h, _ in rows_of()],
        "reading": [r for *_, r in rows_of()],
    }
    data["unit"][3], data["material"][10] = word, word
    if name == "t.csv":
        data["hours"][20] = word
        path = written(tmp_path, lines(data, zip(*data.values(), strict=True)))
    else:
        data["hours"][20] = None
        path = tmp_path / name
        pyarrow.parquet.write_table(pa.table(data), path)
    found = table(path, x=(("hours", "none"), ("material", "none")))
    assert [column.name for column in found.inputs] == ["hours", "material=steel", "material=tin"]
    assert found.rows.counts.tolist() == [5, 5, 6, 5, *[6] * 8]
    told = f" (written {word!r})" if word else ""
    assert found.notes[0] == f"left out 1 of 72 rows with no value in 'unit'{told}"
    assert found.notes[1].startswith("left out 1 of 72 rows with no value in 'hours'")
    assert found.notes[2] == f"left out 1 of 72 rows with no value in 'material'{told}"


def test_further_texts_and_numbers_may_stand_for_a_missing_value(tmp_path):
    rows = [list(row) for row in rows_of()]
    rows[4][2], rows[9][0], rows[11][1] = "-99.0", "-", "-99"
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows))
    found = table(path, missing=("-99", "-"))
    assert found.rows.counts.tolist()[:3] == [5, 4, 6]
    assert "left out 1 of 72 rows with no value in 'unit' (written '-')" in found.notes
    assert found.rows.y.min() == 0


def test_a_column_of_numbers_with_other_cells_is_refused_with_those_cells(tmp_path):
    doses = ["0.5", "1", "2", "5", "100", '"1,000"']
    rows = [(f"r{task}", dose, task) for task in range(TASKS) for dose in doses]
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows))
    with pytest.raises(UnusableTable) as refused:
        table(path)
    told = str(refused.value)
    assert "t.csv: column 'hours' holds numbers, and '1,000' in line 7, '1,000' in line 13" in told
    assert "and 9 more" in told
    named = table(path, categorical=("hours",))
    assert len(named.inputs) == 6
    assert "hours=1,000" in [column.name for column in named.inputs]


@pytest.mark.parametrize("cell", ['"0,5"', "5 %", "$3", "1'000"])
def test_a_column_of_numbers_in_another_form_is_no_column_of_names(tmp_path, cell):
    rows = [(unit, cell if hours else cell.replace("5", "6"), r) for unit, hours, r in rows_of()]
    with pytest.raises(UnusableTable, match="column 'hours' holds numbers, and"):
        table(written(tmp_path, lines(("unit", "hours", "reading"), rows)))


def test_a_column_of_numbers_may_be_names(tmp_path):
    rows = [(unit, f"{int(hours) % 3:02d}", reading) for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows))
    found = table(path, categorical=("hours",))
    assert [column.name for column in found.inputs] == ["hours=00", "hours=01", "hours=02"]
    again = Table(config(path), 0, (found.inputs, found.outputs))  # as the model says, without the option
    assert np.array_equal(again.rows.x, found.rows.x)
    with pytest.raises(InvalidConfig, match="--categorical nothing: there is no such column"):
        config(path, categorical=("nothing",))


def test_truth_values_have_one_name_in_every_format(tmp_path):
    rows = [(unit, str(hours > 2).lower(), reading) for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows))
    assert [column.name for column in table(path).inputs] == ["hours=False", "hours=True"]


DATES = [f"{day:02d}/{month:02d}/2023" for day, month in ((24, 1), (9, 2), (18, 3), (7, 4), (30, 5), (1, 6))]


@pytest.mark.parametrize(
    "dates",
    [
        DATES,
        [date.replace("/", ".") for date in DATES],
        [f"{d[6:]}-{d[3:5]}-{d[:2]}" for d in DATES],
        [f"{d[6:]}-{d[3:5]}-{d[:2]}T10:00:00+02:00" for d in DATES],
        [f"{d[:2]} {['Jan', 'Feb', 'March', 'Apr', 'May', 'June'][int(d[3:5]) - 1]} {d[6:]}" for d in DATES],
        [f"{d[3:5]}/{d[:2]}/{d[6:]} 1:30 PM" for d in DATES],
    ],
)
def test_dates_order_the_rows_whatever_their_form(tmp_path, dates):
    rows = [(unit, dates[int(hours)], hours, reading) for unit, hours, reading in rows_of()]
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    path = written(tmp_path, lines(("unit", "when", "hours", "reading"), shuffled))
    expected(table(path, order="when"))
    found = table(path, x=(("when", "elapsed"),), order="when")
    assert found.inputs[0].name == "when:elapsed"
    assert found.rows.x[:6, 0].tolist() == [0, 16, 53, 73, 126, 128]
    since = table(path, x=(("when", "days(2023-01-01)"),), order="when")
    assert [round(value) for value in since.rows.x[:6, 0]] in (
        [23, 39, 76, 96, 149, 151],
        [24, 40, 77, 97, 150, 152],
    )


def test_a_choice_between_day_and_month_is_told(tmp_path):
    rows = [(unit, DATES[int(hours)], reading) for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("unit", "when", "reading"), rows))
    notes = table(path, x=(("when", "elapsed"),), order="when").notes
    assert notes == ("read 'when' as day/month/year, since 24/01/2023 leaves no other reading", STEPS)


def test_versions_among_which_some_look_like_dates_are_names(tmp_path):
    versions = ("1.2.13", "1.10.2", "2.0", "beta", "1.3.1", "1.11.0")
    rows = [(unit, versions[int(hours)], hours, reading) for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("unit", "firmware", "hours", "reading"), rows))
    found = table(path, x=(("firmware", "none"), ("hours", "none")))
    assert [each.name for each in found.inputs[:-1]] == [f"firmware={each}" for each in sorted(versions)]


@pytest.mark.parametrize(
    ("dates", "told"),
    [
        (("03/04/2020", "05/06/2020"), r"day and month cannot be told apart \(03/04/2020\)"),
        (
            ("24/04/2020", "05/26/2020"),
            r"the day first \(24/04/2020\) and with the month first \(05/26/2020\)",
        ),
        (("24/04/20", "25/04/20"), r"two digits for the year \(24/04/20\)"),
        (("2020-01-01T10:00Z", "2020-01-02T10:00"), "times with a zone and times without one"),
        (("first", "second"), r"orders the rows and holds names \('first'\)"),
        (
            ("2020-01-01", "2020-01-02", "2020-02-30"),
            "holds dates, and '2020-02-30' in line 4.*which are none",
        ),
    ],
)
def test_an_order_that_cannot_be_read_in_one_way_is_refused(tmp_path, dates, told):
    rows = [(unit, dates[int(hours) % len(dates)], hours, r) for unit, hours, r in rows_of()]
    path = written(tmp_path, lines(("unit", "when", "hours", "reading"), rows))
    with pytest.raises(UnusableTable, match=rf"t.csv: column 'when' .*{told}"):
        table(path, order="when")


def test_times_of_day_order_and_dates_need_a_word_as_inputs(tmp_path):
    rows = [(unit, f"{9 + int(hours)}:30", "2020-01-01", hours, r) for unit, hours, r in reversed(rows_of())]
    path = written(tmp_path, lines(("unit", "clock", "day", "hours", "reading"), rows))
    expected(table(path, order="clock"))
    with pytest.raises(UnusableTable, match="'day' holds dates: say day:elapsed for days since"):
        table(path, x=(("day", "none"),))
    with pytest.raises(UnusableTable, match="'clock' holds times of day, which are no dates"):
        table(path, x=(("clock", "elapsed"),))
    with pytest.raises(InvalidConfig, match=r"days\(soon\) needs a date such as"):
        config(path, x=(("day", "days(soon)"),))


def test_elapsed_days_count_from_the_first_row_even_where_another_cell_of_it_is_missing(tmp_path):
    rows = [(u, f"2020-01-0{1 + int(h)}", h, "NA" if u == "u03" and h < 2 else r) for u, h, r in rows_of()]
    path = written(tmp_path, lines(("unit", "when", "hours", "reading"), rows))
    found = table(path, x=(("when", "elapsed"),), support_until=UpTo.parse("when:elapsed<=2.5"))
    assert found.rows.x[:, 0].tolist() == [h for u, h, _ in rows_of() if u != "u03" or h >= 2]
    assert found.rows.early.tolist() == [days <= 2 for days in found.rows.x[:, 0]]


def test_typed_dates_are_inputs_and_bounds(tmp_path):
    when = pd.Timestamp("2024-03-01") + pd.to_timedelta([12 * hours for _, hours, _ in rows_of()], unit="h")
    frame = pd.DataFrame(rows_of(), columns=["unit", "hours", "reading"]).assign(when=when)
    path = tmp_path / "t.parquet"
    frame.sample(frac=1, random_state=0).to_parquet(path)
    found = table(path, x=(("when", "elapsed"),), order="when", support_until=UpTo.parse("when<=2024-03-02"))
    assert found.rows.x[:6, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert found.rows.early.tolist() == [True, True, True, False, False, False] * TASKS
    assert found.shots == Shots(1, 3)


def test_what_lies_beyond_the_value_is_never_shown_whatever_comes_first(tmp_path):
    rows = [(unit, hours, -hours, reading) for unit, hours, reading in rows_of(rows=20)]
    path = written(tmp_path, lines(("unit", "hours", "turn", "reading"), rows))
    found = table(path, support_until=UpTo.parse("hours<=4"), order="turn")
    scale, shift = found.inputs[0].std, found.inputs[0].mean
    support = found.batch(60, generator()).support
    assert float((support.x[..., 0] * scale + shift)[support.mask].max()) < 4.1


def test_the_support_set_may_be_all_rows_up_to_a_value(tmp_path):
    rows = [row for row in rows_of(rows=20) if row[0] != "u03" or row[1] >= 5]
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows))
    found = table(path, support_until=UpTo.parse("hours<=4"), order="hours", drop=0.2)
    assert "left out 1 of 12 tasks without rows on both sides of hours<=4" in found.notes
    scale, shift = found.inputs[0].std, found.inputs[0].mean
    for batch in (found.batch(60, generator()), *found.held_out()):
        support, query = (each.x[..., 0] * scale + shift for each in (batch.support, batch.query))
        assert float(support[batch.support.mask].max()) < 4.1
        assert float(query[batch.query.mask].min()) > 4.9
        assert int(batch.support.counts().min()) >= 1
    (held_out,) = found.held_out()
    assert set(held_out.support.counts().tolist()) == {5.0}
    assert set(held_out.query.counts().tolist()) == {15.0}
    with pytest.raises(UnusableTable, match="'hours' holds numbers, and hours<=late needs one"):
        table(path, support_until=UpTo.parse("hours<=late"))
    with pytest.raises(InvalidConfig, match="COLUMN<=VALUE; found 'hours'"):
        UpTo.parse("hours")


def test_line_breaks_in_quoted_cells_beyond_the_first_mebibyte_are_read(tmp_path):
    note = '"' + 'operator: ""A.""\n' * 1500 + '"'
    rows = [(*row, note if place else '"-\n-"') for place, row in enumerate(rows_of())]
    path = written(tmp_path, lines(("unit", "hours", "reading", "notes"), rows))
    assert path.stat().st_size > 1 << 20
    expected(table(path))
    path.write_text(path.read_text().replace("u05,3.0,", "u05,three,", 1))
    with pytest.raises(UnusableTable, match=r"'three' in line 48036, which are none"):
        table(path)


def test_a_column_name_twice_matters_only_where_it_is_used(tmp_path):
    rows = [(unit, hours, reading, "x", hours + 1) for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("unit", "hours", "reading", "other", "other"), rows))
    expected(table(path))
    path = written(tmp_path, lines(("unit", "hours", "reading", "other", "hours"), rows))
    with pytest.raises(UnusableTable, match="column 'hours' is there 2 times, as columns 2 and 5: rename"):
        table(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_letters_are_read_in_every_usual_encoding(tmp_path, encoding):
    rows = [(unit.replace("u", "Zähler "), hours, reading) for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("Gerät", "temp °C", "reading"), rows), encoding=encoding)
    found = table(path, task="Gerät", x=(("temp °C", "none"),))
    expected(found)
    notes = [note for note in found.notes if note != STEPS]
    assert [note for note in notes if "Windows-1252: line 1 has the byte 0xe4" in note] == notes
    assert bool(notes) == (encoding == "cp1252")


def test_bytes_of_no_encoding_are_refused_with_their_lines(tmp_path):
    path = written(
        tmp_path, lines(("unit", "hours", "reading"), rows_of()).encode() + b"caf\xe9,1,2\nx\x81,1,2\n"
    )
    with pytest.raises(UnusableTable, match=r"line 74 has the byte 0xe9.*line 75 has 0x81.*save it as UTF-8"):
        table(path)
    with pytest.raises(UnusableTable, match="is no text: line 1 or a later one has a zero byte"):
        table(written(tmp_path, b"unit,h\0ours,reading\n"))


@pytest.mark.parametrize("name", ["T.CSV", "t.csv.gz", "T.Csv.GZ", "t.tsv.gz", "t.txt"])
def test_names_of_files_may_be_in_capitals_and_files_compressed(tmp_path, name):
    separator = "\t" if "tsv" in name else ","
    text = lines(("unit", "hours", "reading"), rows_of(), separator).encode()
    expected(table(written(tmp_path, gzip.compress(text) if name.lower().endswith("gz") else text, name)))


def test_a_compressed_file_that_is_cut_off_says_so(tmp_path):
    text = gzip.compress(lines(("unit", "hours", "reading"), rows_of()).encode())
    with pytest.raises(UnusableTable, match=r"t.csv.gz cannot be read: Compressed file ended"):
        table(written(tmp_path, text[:-20], "t.csv.gz"))


@pytest.mark.parametrize(("separator", "told"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_other_separators_and_decimal_commas_are_read_and_told(tmp_path, separator, told):
    rows = [(unit, f"{hours:.1f}", f"{reading:.2f}") for unit, hours, reading in rows_of()]
    header = ("unit", "hours", "reading")
    found = table(written(tmp_path, lines(header, rows, separator)))
    expected(found)
    assert found.notes == (f"read with columns separated by {told} and decimal points", STEPS)
    commas = [[cell.replace(".", ",") for cell in row] for row in rows]
    found = table(written(tmp_path, "sep=" + separator + "\n" + lines(header, commas, separator)))
    expected(found)
    assert found.notes == (f"read with columns separated by {told} and decimal commas", STEPS)


def test_numbers_whose_marks_contradict_each_other_are_refused(tmp_path):
    rows = [(unit, f"{hours:.1f}".replace(".", ","), f"{reading:.3f}") for unit, hours, reading in rows_of()]
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows, ";"))
    with pytest.raises(
        UnusableTable, match=r"commas \('0,0' in 'hours', line 2\) and points \('0.000' in 'read"
    ):
        table(path)
    rows = [(unit, f"{1000 * (1 + int(hours)):,}", f"{reading:.0f}") for unit, hours, reading in rows_of()]
    with pytest.raises(UnusableTable, match="'1,000' in 'hours', line 2 may be thousands or decimals"):
        table(written(tmp_path, lines(("unit", "hours", "reading"), rows, "\t"), "t.tsv"))


def test_pandas_categories_string_views_and_large_strings_are_names(tmp_path):
    frame = pd.DataFrame(rows_of(), columns=["unit", "hours", "reading"])
    kind = ["7" if int(unit[1:]) % 2 else "8" for unit in frame["unit"]]
    path = tmp_path / "t.parquet"
    frame.assign(unit=frame["unit"].astype("category"), kind=pd.Categorical(kind)).to_parquet(path)
    found = table(path, x=(("hours", "none"), ("kind", "none")))
    expected(found)
    assert [column.name for column in found.inputs[1:]] == ["kind=7", "kind=8"]
    for text in (pa.string_view(), pa.large_string(), pa.binary()):
        data = pa.table(frame)
        unit = pa.array(frame["unit"].tolist(), pa.string()).cast(text)
        pyarrow.parquet.write_table(data.set_column(0, "unit", unit), path)
        expected(table(path))


def test_types_that_are_nothing_to_learn_from_matter_only_where_they_are_used(tmp_path):
    data = {"unit": [u for u, *_ in rows_of()], "hours": [h for _, h, _ in rows_of()]}
    data |= {"reading": [r for *_, r in rows_of()], "tags": [["a"]] * 72}
    path = tmp_path / "t.pq"
    pyarrow.parquet.write_table(pa.table(data), path)
    expected(table(path))
    with pytest.raises(UnusableTable, match=r"t.pq: column 'tags' holds list.*leave it out"):
        table(path, x=(("tags", "none"),))


def test_decimals_are_numbers(tmp_path):
    data = pa.table({"unit": [u for u, *_ in rows_of()], "hours": [h for _, h, _ in rows_of()]})
    reading = pa.array([Decimal(int(r)) for *_, r in rows_of()], pa.decimal128(20, 3))
    pyarrow.parquet.write_table(data.append_column("reading", reading), tmp_path / "t.parquet")
    expected(table(tmp_path / "t.parquet"))


def test_whole_numbers_that_are_missing_are_no_zeros(tmp_path):
    path = tmp_path / "t.parquet"
    rows = rows_of()
    unit, hours, reading = zip(*rows, strict=True)
    whole = pa.array([None if row == 7 else int(each) for row, each in enumerate(reading)], pa.int32())
    pa.parquet.write_table(pa.table({"unit": unit, "hours": hours, "reading": whole}), path)
    found = table(path)
    assert found.rows.counts.tolist() == [ROWS, ROWS - 1] + [ROWS] * (TASKS - 2)
    assert found.rows.y[:, 0].tolist() == [each for row, each in enumerate(reading) if row != 7]
    assert "left out 1 of 72 rows with no value in 'reading'" in found.notes


def test_reading_takes_few_copies_of_the_columns(tmp_path):
    tasks, rows = 2_000, 50
    path, column = tmp_path / "t.parquet", 8 * tasks * rows
    draw = np.random.default_rng(0)
    columns = {name: draw.normal(size=tasks * rows) for name in ("hours", "reading", "unused")}
    pa.parquet.write_table(pa.table({"unit": np.repeat(np.arange(tasks), rows), **columns}), path)
    read_rows(config(path), 0, None)  # imports are no part of it
    tracemalloc.start()
    try:
        read_rows(config(path), 0, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 11.5 * column  # three are used: as the file has them, as codes in order, and as rows


def test_the_rows_of_a_role_are_those_of_its_tasks(tmp_path):
    rows = rows_of()
    few = [row for row in rows if row[0] not in ("u03", "u07")] + [row for row in rows if row[0] == "u03"][:2]
    found = table(written(tmp_path, lines(("unit", "hours", "reading"), few))).rows
    assert len(found.starts) == TASKS - 2  # u03 has too few rows, and keeps them in x
    for role in ("train", "validation", "test"):
        there = np.zeros(len(found.x), dtype=bool)
        for start, count, each in zip(found.starts, found.counts, found.roles, strict=True):
            there[start : start + count] = each == role
        assert found.of_role(role).tolist() == there.tolist()


@pytest.mark.parametrize("text", ["Jitter:RAP", r"Jitter\:RAP"])
def test_a_column_may_have_a_colon_in_its_name(tmp_path, text):
    path = written(tmp_path, lines(("unit", "Jitter:RAP", "reading"), rows_of()))
    settings = resolved(config(path, x=(_column(text),)))
    expected(Table(settings, seed=0))
    assert settings.x == (("Jitter:RAP", "none"),)
    with pytest.raises(
        InvalidConfig, match=r"unknown transform 'PPQ' of 'Jitter'.*no column of .* 'Jitter:PPQ'"
    ):
        resolved(config(path, x=(_column("Jitter:PPQ"),)))


def test_a_column_that_has_exactly_the_name_goes_before_a_transform(tmp_path):
    path = written(tmp_path, lines(("unit", "hours:log", "reading"), rows_of()))
    expected(Table(resolved(config(path, x=(_column("hours:log"),))), seed=0))
    path = written(tmp_path, lines(("unit", "hours:x", "reading"), [(u, h + 1, r) for u, h, r in rows_of()]))
    found = Table(resolved(config(path, x=(_column(r"hours\:x:log2"),))), seed=0)
    assert (found.inputs[0].name, found.inputs[0].transform) == ("hours:x", "log2")


def test_values_that_only_held_out_tasks_have_are_unknown(tmp_path):
    parts = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    rows = [
        (u, "titanium" if u == "u11" else "tin" if int(h) % 2 else "steel", h, r, parts[int(u[1:])])
        for u, h, r in rows_of()
    ]
    path = written(tmp_path, lines(("unit", "material", "hours", "reading", "part"), rows))
    x = (("hours", "none"), ("material", "none"))
    found = table(path, x=x, split="part")
    assert [column.name for column in found.inputs] == ["hours", "material=steel", "material=tin"]
    told = "6 of 72 rows: 'material' of no training task, 'titanium'"
    assert f"left out {told}" in found.notes
    assert found.rows.roles.tolist().count("test") == 1
    assert found.summary == (
        "8 tasks with 48 rows for training, 2 tasks with 12 rows for validation, "
        "1 tasks with 6 rows for the test"
    )
    hidden = table(path, x=x, split="part", hide=0.3)  # all zeros say that a value is not known
    assert f"takes as unknown {told}" in hidden.notes
    assert hidden.rows.x[-6:, 1:].tolist() == [[0.0, 0.0]] * 6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": (("hours", "none"), ("reading", "none"))}, "'reading' is a target and cannot be an input"),
        ({"x": (("unit", "none"),)}, "'unit' names the task and cannot be an input"),
        ({"y": ("unit",)}, "'unit' names the task and cannot be a target"),
        ({"y": ("reading", "reading")}, "--y names 'reading' twice"),
    ],
)
def test_targets_and_tasks_are_no_inputs(tmp_path, changes, told):
    with pytest.raises(InvalidConfig, match=told):
        config(tmp_path / "t.csv", **changes)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unit,hours,reading\nu,1,2\nu,1\n", "line 3 has 2 cells and the header 3"),
        ("unit,hours,reading\nu,1,2\nu,1,2,3\n", "line 3 has 4 cells and the header 3"),
        ('unit,hours,reading\nu,1,2\n"u,1,2\nu,3,4\n', "line 3 cannot be read: a quoted cell .* has no end"),
        ('unit,hours,reading\nu,1,2\n"a"b,1,2\n', "line 3 cannot be read: a quote inside a quoted cell"),
        ("\n\n", "is empty"),
        ("unit,hours,reading\n", "no row has a value in every column; there are no rows"),
        (
            "unit;hours;other\nu;1;2\n",
            "no column reading; there are unit, hours, other; columns .* semicolons",
        ),
        (
            "unit hours reading\nu 1 2\n",
            "there are unit hours reading, one column: separate columns by commas,",
        ),
        ("u1,1,2\nu1,2,3\n", "no column hours, reading, unit; there are u1, 1, 2"),
        ("PAR1abcdefgh", "holds Parquet: name it .parquet"),
        ("PK\x03\x04abcdef", "is a workbook or a zip archive: save the table as CSV"),
        (lines(("unit", "hours", "reading"), rows_of()) + "u01 ,1,2\n", r"'u01 ' \(line 74\).*spaces"),
        (
            lines(("unit", "hours", "reading"), rows_of()) + "u01,1,lots\n",
            "'reading' holds .*'lots' in line 74",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, text, told):
    path = written(tmp_path, text)
    with pytest.raises(UnusableTable, match=rf"t\.csv.*{told}") as refused:
        table(path)
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(UnusableTable, match="is a folder: name one file in it"):
        table(tmp_path)
    assert column_names(written(tmp_path, "a, b ,c\n")) == ("a", "b", "c")


def test_empty_cells_beyond_the_header_and_empty_lines_are_nothing(tmp_path):
    text = "\n" + lines(("unit", "hours", "reading"), [(*row, "") for row in rows_of()]).replace("\n", "\n\n")
    expected(table(written(tmp_path, text)))


def test_lines_are_those_of_the_file(tmp_path):
    path = written(tmp_path, '\n"unit","hours"\n"u\n1",1\n\nu2,2\n')
    columns, _ = read(path, ["hours"])
    assert [columns.place(row) for row in range(len(columns))] == ["line 3", "line 6"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1970-01-02", 86_400_000_000),
        ("2 Sept 1970", 244 * 86_400_000_000),
        ("February 1, 1970", 31 * 86_400_000_000),
        ("1970-01-01T00:00:01.5-00:30", 1_801_500_000),
        ("1970-01-01 12:00 am", 0),
        ("1970-02", 31 * 86_400_000_000),
        ("1970-13-01", None),
        ("1970-01-01 25:00", None),
        ("01/02/1970", None),
        ("12:00", None),
        ("1 Foo 1970", None),
    ],
)
def test_a_date_is_read_or_is_none(text, found):
    assert parsed_date(text) == found


def test_times_of_day_count_from_midnight():
    assert parsed_dates(["00:00:01", "13:00"]).microseconds == (1_000_000, 46_800_000_000)


def train(path, tmp_path, *more):
    where = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs"), "--name", "t"]
    command = ["table", str(path), "--task", "unit", "--x", "hours", "--y", "reading", *where]
    return main([*command, "--meta-steps", "2", "--particles", "2", "--hidden", "4", "--shots", "2", *more])


def test_the_log_says_what_was_used_what_was_kept_and_what_widths_rest_on(tmp_path, capsys):
    rows = [list(row) for row in rows_of()]
    rows[0][2] = "NA"
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows))
    assert train(path, tmp_path) == 0
    told = capsys.readouterr().err
    assert "left out 1 of 72 rows with no value in 'reading' (written 'NA')" in told
    assert "1 tasks with 6 rows for validation, 2 tasks with 12 rows for the test" in told
    assert "kept the parameters of step 2; the run ended after all 2 steps" in told
    assert "warning: the step that is kept and the widths of predictions rest on 1 validation task" in told
    assert f"BMAML_STORE={tmp_path / 'store'} bmaml-serve" in told


def test_a_run_that_stops_early_says_at_which_step_and_why(tmp_path, capsys):
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows_of()))
    steps = ["--meta-steps", "50", "--evaluate-every", "1", "--patience", "1", "--learning-rate", "10"]
    assert train(path, tmp_path, *steps) == 0
    told = capsys.readouterr().err
    assert "kept the parameters of step" in told
    assert "of 50, since 1 evaluations had not improved the validation NLL" in told


def test_a_table_that_cannot_be_read_ends_the_command_with_2(tmp_path, capsys):
    path = written(tmp_path, lines(("unit", "hours", "reading"), [(u, "x", r) for u, _, r in rows_of()]))
    assert train(tmp_path / "no.csv", tmp_path) == 2
    assert train(path, tmp_path, "--order", "hours") == 2
    assert "bmaml-train: " in capsys.readouterr().err


def test_a_file_without_the_split_column_is_scored_whole(tmp_path, capsys):
    parts = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    rows = [(*row, parts[int(row[0][1:])]) for row in rows_of()]
    path = written(tmp_path, lines(("unit", "hours", "reading", "part"), rows))
    assert train(path, tmp_path, "--split", "part") == 0
    other = written(tmp_path, lines(("unit", "hours", "reading"), rows_of(tasks=5)), "other.csv")
    store = ["--store", str(tmp_path / "store")]
    capsys.readouterr()
    assert main(["evaluate", "t", str(other), *store]) == 0
    printed = capsys.readouterr()
    assert "5 held-out tasks" in printed.out
    assert "no column 'part': every task is scored" in printed.err
    assert main(["evaluate", "t", str(other), "--split", "part", *store]) == 2
    tests = written(tmp_path, lines(("unit", "hours", "reading", "part"), rows[-12:]), "tests.csv")
    assert main(["evaluate", "t", str(tests), *store]) == 0


def test_another_file_than_that_of_training_is_scored_whole(tmp_path, capsys):
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows_of()))
    assert train(path, tmp_path) == 0
    published = Store(tmp_path / "store").load("t").manifest
    store = ["--store", str(tmp_path / "store")]
    capsys.readouterr()
    assert main(["evaluate", "t", str(path), *store]) == 0
    printed = capsys.readouterr()
    assert (
        dict(line.split() for line in printed.out.splitlines()[1:])["rmse"]
        == f"{published.metrics['rmse']:.5g}"
    )
    assert "is scored" not in printed.err
    for tasks in (TASKS + 1, 1):
        other = written(tmp_path, lines(("unit", "hours", "reading"), rows_of(tasks)), "grown.csv")
        assert main(["evaluate", "t", str(other), *store]) == 0
        printed = capsys.readouterr()
        assert f"{tasks} held-out tasks" in printed.out
        assert "grown.csv is not the file of training: every task is scored" in printed.err


def test_the_bound_of_support_sets_is_that_of_training_where_nothing_else_is_said(tmp_path, capsys):
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows_of()))
    assert train(path, tmp_path, "--support-until", "hours<=2") == 0
    store = ["--store", str(tmp_path / "store")]
    published = Store(tmp_path / "store").load("t").manifest
    assert published.training["family"]["support_until"] == {"column": "hours", "value": "2"}
    capsys.readouterr()
    assert main(["evaluate", "t", str(path), *store]) == 0
    rmse = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])["rmse"]
    assert float(rmse) == pytest.approx(published.metrics["rmse"], rel=1e-4)
    assert main(["evaluate", "t", str(path), "--shots", "2", *store]) == 0


def test_versions_are_published_into_the_working_folder_and_shipped_ones_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BMAML_STORE", raising=False)
    path = written(tmp_path, lines(("unit", "hours", "reading"), rows_of()))
    command = ["table", str(path), "--task", "unit", "--x", "hours", "--y", "reading", "--name", "t"]
    assert main([*command, "--meta-steps", "1", "--particles", "2", "--hidden", "4", "--shots", "2"]) == 0
    assert (tmp_path / "models" / "t" / "1").is_dir()
    assert main(["evaluate", "t", str(path)]) == 0
    monkeypatch.setattr("training.families.sinusoid.HELD_OUT_TASKS", 5)
    assert main(["evaluate", "sinusoid", "sinusoid", "--shots", "4"]) == 0
    assert main(["evaluate", "nobody", "sinusoid"]) == 1
    assert "no model 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "target", "kind", "taken"),
    [
        ((0, 1), "auto", "real", "classes"),
        ((0, 1), "numbers", "real", "numbers"),
        ((0, 1), "auto", "count", "numbers"),
        ((0, 1, 2), "auto", "real", "numbers"),
        ((1, 2), "auto", "real", "numbers"),
    ],
)
def test_nothing_but_0_and_1_is_a_yes_or_no_unless_numbers_are_asked_for(
    tmp_path, labels, target, kind, taken
):
    lines = [f"t{task},{row},{labels[row % len(labels)]}" for task in range(12) for row in range(8)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["task,x,y", *lines]))
    asked = TableConfig(str(path), task="task", x=(("x", "none"),), y=("y",), target=target, kinds=(kind,))
    rows = read_rows(asked, seed=0, model_inputs=None)
    note = "'y' holds 0 and 1 alone, taken as two classes; --target numbers takes numbers"
    assert rows.target == taken
    assert (note in rows.notes) is (taken == "classes")
    assert rows.labels == ((0, 1) if taken == "classes" else ())
