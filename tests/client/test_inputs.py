"""Rows and labels in the forms that callers have them."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from safetensors.numpy import load, save

from bmaml_client import BadReply, InvalidInput
from bmaml_client.bodies import BINARY, JSON, decode, encode
from bmaml_client.inputs import (
    ImageFiles,
    column_order,
    concatenate_labels,
    concatenate_rows,
    to_labels,
    to_rows,
)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("bmaml_client", ["torch", "fastapi", "pydantic", "PIL", "sklearn", "pandas"]),
        ("bmaml_client.in_process", ["torch", "fastapi", "pydantic", "sklearn"]),
        ("bmaml_client.estimators", ["torch", "fastapi", "pydantic", "bmaml", "model_store"]),
    ],
)
def test_importing_the_client_loads_neither_torch_nor_the_service(module, heavy):
    told = f"import sys, {module}; print([each for each in {heavy} if each in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("binary", [True, False])
def test_data_frames_are_matched_by_the_models_names(client, small, binary):
    rows = np.array([[0.0, 64.0], [1.0, 128.0], [-1.0, 512.0]])
    frame = pd.DataFrame({"note": ["a", "b", "c"], "size": rows[:, 1], "x": rows[:, 0]})
    labels = pd.Series([9.0, 11.0, 10.0], index=[5, 6, 7])
    expected = client.adapt_predict("sized", rows, labels.to_numpy(), rows[:1])
    numbers = frame.drop(columns="note")
    for version in (None, 1):
        found = client.adapt_predict("sized", numbers, labels, numbers.head(1), version=version)
        np.testing.assert_array_equal(found.mean, expected.mean)
    chosen = client.uncertainty("sized", numbers, labels, pool=numbers, target=numbers)
    assert chosen.scores.shape == (3,)


def test_a_frame_that_lacks_a_column_is_refused_by_name(client):
    frame = pd.DataFrame({"x": [0.0], "length": [64.0]})
    with pytest.raises(InvalidInput, match="x lacks the columns size; the model takes x, size"):
        client.adapt_predict("sized", frame, [9.0], frame)


def test_names_that_say_nothing_to_the_model_go_by_place():
    assert column_order(["a", "b"], ["x", "size"]) is None
    assert column_order(["size", "a", "x"], ["x", "size"]) == [2, 0]
    with pytest.raises(InvalidInput, match="more than once"):
        column_order(["x", "x", "size"], ["x", "size"])


class PolarsFrame:
    """A data frame as polars has it: `columns` is a list, and a column converts to an array."""

    def __init__(self, content):
        self.content, self.columns = pd.DataFrame(content), list(content)

    def __getitem__(self, name):
        return pa.array(self.content[name])

    def to_numpy(self):
        return self.content.to_numpy()


FRAMES = [pd.DataFrame, pa.table, lambda content: pa.table(content).to_batches()[0], PolarsFrame]


@pytest.mark.parametrize("frame", FRAMES)
def test_every_kind_of_frame_is_taken_by_name(client, frame):
    content = {"note": ["a", "b", "c"], "size": [64, 128, 512], "x": [0.0, 1.0, -1.0]}
    rows, labels = np.c_[content["x"], content["size"]], [9.0, 11.0, 10.0]
    table = frame(content)
    expected = client.adapt_predict("sized", rows, labels, rows)
    np.testing.assert_array_equal(client.adapt_predict("sized", table, labels, table).mean, expected.mean)
    np.testing.assert_array_equal(client.uncertainty("sized", table, labels, table).indices.shape, (1,))
    with pytest.raises(
        InvalidInput, match="x has Size where size is meant, X where x is meant: column names"
    ):
        client.keep("sized", frame({"Size": [64.0], "X": [0.0]}), [9.0])


@pytest.mark.parametrize("frame", FRAMES)
def test_every_kind_of_frame_may_have_columns_of_texts(frame):
    content = {"wet": [True, False], "note": ["a", "b"], "material": ["tin", "steel"], "size": [0.5, 2.0]}
    np.testing.assert_array_equal(
        to_rows(frame(content), INPUTS, "x"), [[0.5, 0, 1, 0, 1], [2.0, 1, 0, 1, 0]]
    )
    with pytest.raises(InvalidInput, match="x has no material in row 1"):
        to_rows(frame(content | {"material": ["tin", None]}), INPUTS, "x")
    with pytest.raises(InvalidInput, match="x has Material where material is meant"):
        to_rows(
            frame({"Material" if name == "material" else name: content[name] for name in content}),
            INPUTS,
            "x",
        )


def test_categories_of_arrow_are_texts_and_dates_are_no_numbers():
    table = pa.table({"wet": [True], "material": pa.array(["tin"]).dictionary_encode(), "size": [2]})
    np.testing.assert_array_equal(to_rows(table, INPUTS, "x"), [[2, 0, 1, 0, 1]])
    dates = pd.DataFrame({"x": [1.0], "day": pd.to_datetime(["2026-01-01"])})
    with pytest.raises(InvalidInput, match=r"not a number|not of real numbers"):
        to_rows(dates, ("x", "day"), "x")


INPUTS = ("size", "material=steel", "material=tin", "wet=False", "wet=True")


@pytest.mark.parametrize("frame", [pd.DataFrame, lambda content: pd.DataFrame(content).convert_dtypes()])
def test_a_column_of_texts_stands_for_one_input_per_value(frame):
    content = {"wet": [True, False], "note": ["a", "b"], "material": ["tin", "steel"], "size": [0.5, 2.0]}
    rows = to_rows(frame(content), INPUTS, "x")
    np.testing.assert_array_equal(rows, [[0.5, 0, 1, 0, 1], [2.0, 1, 0, 1, 0]])
    spelled = pd.DataFrame([[0.5, 0, 1, 0, 1], [2.0, 1, 0, 1, 0]], columns=list(INPUTS))
    np.testing.assert_array_equal(to_rows(spelled, INPUTS, "x"), rows)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("gold", "query has material=gold in row 1; the model knows material=steel, material=tin"),
        (1.0, "query has material=1.0 in row 1"),
        ("tin ", "query has material=tin  in row 1"),
        ("o" * 5000, f"query has material={'o' * 51} in row 1"),
        (None, "query has no material in row 1"),
        (np.nan, "query has no material in row 1"),
        (pd.NA, "query has no material in row 1"),
    ],
)
def test_a_text_that_training_did_not_see_is_refused_by_name(value, told):
    content = {"wet": [True, False], "material": ["tin", value], "size": [0.5, 2.0]}
    with pytest.raises(InvalidInput, match=re.escape(told)):
        to_rows(pd.DataFrame(content), INPUTS, "query")


def test_the_models_own_columns_go_before_those_of_texts():
    frame = pd.DataFrame([[0.5, 0, 1, 0, 1, 7.0]], columns=[*INPUTS, "material"])
    np.testing.assert_array_equal(to_rows(frame, INPUTS, "x"), [[0.5, 0, 1, 0, 1]])
    some = pd.DataFrame({"size": [0.5], "material=steel": [1], "material": ["tin"], "wet": [True]})
    np.testing.assert_array_equal(to_rows(some, INPUTS, "x"), [[0.5, 1, 1, 0, 1]])


def test_texts_may_be_numbers_beside_any_other_column():
    frame = pd.DataFrame({"code": [1, 22], "size": [0.5, 2.0]})
    np.testing.assert_array_equal(
        to_rows(frame, ("size", "code=1", "code=22", "code=2"), "x"), [[0.5, 1, 0, 0], [2.0, 0, 1, 0]]
    )


def test_a_frame_of_texts_may_have_no_rows_and_must_have_every_column():
    frame = pd.DataFrame({"size": [], "material": [], "wet": []})
    assert to_rows(frame, INPUTS, "x").shape == (0, 5)
    with pytest.raises(InvalidInput, match="x lacks the columns size; the model takes"):
        to_rows(frame.drop(columns="size"), INPUTS, "x")
    twice = pd.DataFrame([["tin", "tin", True, 1.0]], columns=["material", "material", "wet", "size"])
    with pytest.raises(InvalidInput, match="the columns material more than once"):
        to_rows(twice, INPUTS, "x")


def test_a_name_that_only_starts_alike_stands_for_nothing():
    frame = pd.DataFrame({"size": [0.5], "mat": ["tin"], "wet": [True]})
    with pytest.raises(InvalidInput, match="x lacks the columns material=steel, material=tin"):
        to_rows(frame, INPUTS, "x")


def test_a_series_is_a_column():
    assert to_rows(pd.Series([1, 2, 3]), (), "x").shape == (3, 1)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([[1, 2]], "int64"),
        ([[1.0, 2]], "float64"),
        (np.ones((1, 2), np.float32), "float32"),
        (np.ones((1, 2), np.float16), "float64"),
        (np.ones((1, 2), ">f8"), ">f8"),
        (np.ones((1, 2), np.int32), "int64"),
        (np.array([[True, False]]), "float64"),
        (np.array([[1.5, 2]], object), "float64"),
        (np.zeros((2, 4, 4), np.uint8), "uint8"),
    ],
)
def test_numbers_keep_their_precision_or_gain_some(value, dtype):
    assert to_rows(value, (), "x").dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1.0, 2.0], "reshape"),
        ([[1.0], [2.0, 3.0]], "ragged"),
        ([[1.0], [np.nan]], "not finite in row 1"),
        ([[np.inf]], "not finite in row 0"),
        ([["a"]], "not of real numbers"),
        ([[1j]], "not of real numbers"),
        (b"png", "single value"),
        (np.array([b"png"]), "list of bytes"),
        (np.zeros((1, 1, 1, 1, 1)), "5 dimensions"),
        (np.array([[None]], object), "not finite|not a number"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_a_sentence(value, why):
    with pytest.raises(InvalidInput, match=why):
        to_rows(value, (), "x")


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (["b", "a"], ["b", "a"]),
        (np.array(["b", "a"]), ["b", "a"]),
        (pd.Series(["b", "a"], dtype="category"), ["b", "a"]),
        (np.array(["b", "a"], object), ["b", "a"]),
        ([2, 1], [2, 1]),
        (np.array([2, 1], object), [2, 1]),
        (np.array([2, 1], np.uint8), [2, 1]),
        ([0.5, 1], [0.5, 1.0]),
        ([True, False], [True, False]),
        (np.array([True, False]), [True, False]),
        ([], []),
    ],
)
def test_labels_are_strings_integers_numbers_or_truth_values(value, sent):
    found = to_labels(value)
    listed = found if isinstance(found, list) else found.tolist()
    assert listed == sent
    assert [isinstance(each, bool) for each in listed] == [isinstance(each, bool) for each in sent]


def test_labels_of_two_types_are_not_joined():
    assert concatenate_labels([True], [False]) == [True, False]
    for other in (np.array([1]), ["a"]):
        with pytest.raises(InvalidInput):
            concatenate_labels([True], other)


@pytest.mark.parametrize(
    "value",
    [
        [True, 0.5],
        [1, True],
        [[True], [False]],
        ["a", 1],
        ["a", True],
        np.array(["a", 1], object),
        "ab",
        [[["a"]]],
        [1, np.nan],
    ],
)
def test_other_labels_are_refused(value):
    with pytest.raises(InvalidInput):
        to_labels(value)


@pytest.mark.parametrize(
    ("labels", "told"),
    [([1, "1", 2, "b"], "strings in row 1, 3"), (["1", 1, "2"], "something else in row 1")],
)
def test_numbers_beside_strings_are_told_by_their_rows(labels, told):
    with pytest.raises(InvalidInput, match=f"y mixes strings with something else: {told}$"):
        to_labels(labels)


def test_rows_and_labels_must_be_as_many(client):
    with pytest.raises(InvalidInput, match="2 labels for 1 rows"):
        client.keep("tiny", [[1.0]], [1.0, 2.0])
    with pytest.raises(InvalidInput, match="go together"):
        client.keep("tiny", [[1.0]])
    with pytest.raises(InvalidInput, match="show labelled rows"):
        client.keep("tiny")
    with pytest.raises(InvalidInput, match="query is missing"):
        client.adapt_predict("tiny", [[1.0]], [1.0])
    with pytest.raises(InvalidInput, match="pool is missing"):
        client.uncertainty("tiny", [[1.0]], [1.0])
    with pytest.raises(InvalidInput, match="JSON"):
        client.uncertainty("tiny", [[1.0]], [1.0], [[2.0]], ids=[object()])


def test_files_and_arrays_do_not_mix():
    files = to_rows([b"one", bytearray(b"two")], (), "x")
    assert concatenate_rows(files, ImageFiles((b"three",))).contents == (b"one", b"two", b"three")
    with pytest.raises(InvalidInput):
        concatenate_rows(files, np.zeros((1, 4, 4)))


def test_small_bodies_are_json_and_large_ones_are_not():
    few, many = np.zeros((10, 2)), np.zeros((2000, 2))
    assert encode({"query": {"x": few}}, None)[1] == JSON
    content, kind = encode({"model": "m", "query": {"x": many}, "support": {"x": [], "y": ["a"]}}, None)
    assert kind == BINARY == "application/vnd.safetensors"
    assert len(content) < many.nbytes + 400
    with pytest.raises(BadReply, match="cannot be read as that"):
        decode(content[:20], kind)


def test_tensors_of_any_layout_and_byte_order_arrive_with_their_values():
    table = np.arange(6.0).reshape(2, 3)
    body = {"support": {"x": table[:, ::2], "y": table.T.astype(">f8")}, "query": {"x": np.zeros((0, 3))}}
    content, kind = encode(body, True)
    assert kind == BINARY
    found = load(content)
    assert set(found) == {"support.x", "support.y"}
    np.testing.assert_array_equal(found["support.x"], table[:, ::2])
    np.testing.assert_array_equal(found["support.y"], table.T)


@pytest.mark.parametrize("metadata", [None, {"request": "{}"}, {"response": "["}])
def test_tensors_without_the_rest_of_a_reply_are_no_reply(metadata):
    content = save({"scores": np.zeros(3, np.float32)}, metadata=metadata)
    with pytest.raises(BadReply, match="cannot be read as that"):
        decode(content, BINARY)


def test_strings_and_numbers_never_become_one_list_of_labels():
    for one, other in ((["a"], np.array([1])), (np.array([1.5]), ["a"])):
        with pytest.raises(InvalidInput, match="mix strings with others"):
            concatenate_labels(one, other)


def test_pixels_of_bytes_and_of_shares_meet_in_one_scale():
    images = np.full((2, 4, 4), 51, np.uint8)
    found = concatenate_rows(images, np.full((1, 4, 4), 0.5))
    assert found[:, 0, 0].tolist() == [0.2, 0.2, 0.5]
    assert concatenate_rows(images, images).dtype == np.uint8


def test_unsigned_integers_beyond_the_signed_ones_do_not_wrap_round():
    large = np.array([2**64 - 1, 3], np.uint64)
    assert to_rows(large[:, None], (), "x").tolist() == [[float(2**64)], [3.0]]
    assert to_labels(large[1:]).tolist() == [3]
    with pytest.raises(InvalidInput, match="beyond 64 bits with a sign: give them as strings"):
        to_labels(large)
