"""The same rows in any form are the same task; what is in no form is told where it stands."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from bmaml.learners.collapsed import Precisions
from model_store import SHIPPED
from service.codec.inputs import MAX_STANDARDISED
from service.settings import Settings
from tests.images import SIZE, png, publish_classifier
from tests.published import X, Y, publish
from tests.service.conftest import serve

X_ROWS, QUERY = [[-2.0], [0.5], [2.0]], {"x": [[0.0], [1.0]]}
PATTERN = np.kron(np.arange(16).reshape(4, 4) % 2, np.ones((SIZE // 4, SIZE // 4))) * 200
TURNED = np.tril(np.full((SIZE, SIZE), 250.0))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    root = tmp_path_factory.mktemp("forms")
    publish(root, "tiny", seed=1)
    publish(root, "bare", learner="bmaml", step_size=1e-3)
    publish(root, "exact", priors=Precisions(noise_start=5000.0))
    publish(root, "wide", inputs=(X,), outputs=(Y, Y.model_copy(update={"name": "z"})), learner="collapsed")
    ages = [X.model_copy(update={"name": "age", "lower": 49.0, "upper": 85.0, "mean": 67.0, "std": 10.0})]
    ages += [X.model_copy(update={"name": f"voice {number}"}) for number in range(10)]
    publish(root, "ages", inputs=tuple(ages))
    publish_classifier(root, "shapes")
    for served in serve(Settings(store=root, device="cpu")):
        yield served.client


def asked(client, path="/adapt-predict", status=200, **body):
    reply = client.post(path, json={"model": "tiny", **body})
    assert reply.status_code == status, reply.text
    return reply.json()


def contradiction(client, model, *readings):
    """The diagnostics of answers to pairs of readings at one place."""
    return [
        asked(client, model=model, query=QUERY, support={"x": [[1.0], [1.0]], "y": pair})["diagnostics"]
        for pair in readings
    ]


def kept(client, y, model="tiny", x=X_ROWS):
    body = {"model": model, "support": {"x": x, "y": y}}
    return asked(client, "/posteriors", 200, **body)["posterior"]["id"]


def tensor(values, dtype):
    array = np.asarray(values, dtype)
    content = base64.b64encode(array.tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": content}


@pytest.mark.parametrize("length", [2**40, int("9" * 4000)])
def test_a_tensor_of_endless_length_is_a_422(client, length):
    endless = {"dtype": "float32", "shape": [length, length], "base64": ""}
    for field, path in (("support", "x"), ("query", "x")):
        body = {"support": {"x": [[1.0]], "y": [8.0]}, "query": QUERY}
        body[field] = body[field] | {path: endless}
        (error, *_) = asked(client, status=422, **body)["errors"]
        assert (error["pointer"], error["detail"]) == (
            f"/{field}/x/base64",
            "0 bytes where shape and dtype take far more",
        )


def test_labels_of_one_output_have_one_id_in_every_form(client):
    forms = [
        [8, 11, 9],
        [8.0, 11.0, 9.0],
        [[8.0], [11.0], [9.0]],
        tensor([8, 11, 9], "int64"),
        tensor([[8], [11], [9]], "float32"),
    ]
    assert len({kept(client, form) for form in forms}) == 1


@pytest.mark.parametrize("first", [[8.0, 11.0, 9.0], [[8.0], [11.0], [9.0]]])
@pytest.mark.parametrize("then", [[7.5], [[7.5]], tensor([7], "int64")])
def test_rows_are_added_to_a_posterior_in_either_form(client, first, then):
    name = kept(client, first)
    added = asked(client, posterior=name, support={"x": [[1.5]], "y": then}, query=QUERY)
    again = asked(client, posterior=added["posterior"]["id"], query=QUERY)
    label = 7.0 if isinstance(then, dict) else 7.5
    whole = asked(client, support={"x": [*X_ROWS, [1.5]], "y": [8.0, 11.0, 9.0, label]}, query=QUERY)
    np.testing.assert_allclose(again["prediction"]["mean"], whole["prediction"]["mean"], rtol=1e-5)
    assert again["prediction"]["interval"] == added["prediction"]["interval"]
    chosen = asked(client, "/uncertainty", posterior=added["posterior"]["id"], pool=QUERY)
    assert len(chosen["selected"]) == 1


def test_rows_of_two_outputs_are_added_to_a_posterior(client):
    name = kept(client, [[8.0, 9.0], [11.0, 10.0], [9.0, 12.0]], model="wide")
    more = {"x": [[1.5]], "y": [[7.5, 11.0]]}
    added = asked(client, model="wide", posterior=name, support=more, query=QUERY)
    again = asked(client, model="wide", posterior=added["posterior"]["id"], query=QUERY)
    assert again["prediction"] == added["prediction"]


def pointers(problem):
    return [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("support", "pointer"),
    [
        ({"x": [[1.5]], "y": ["a"]}, "/support/y/0"),
        ({"x": [[1.5]], "y": [[7.5, 8.0]]}, "/support/y/0"),
        ({"x": [[1.5]], "y": [1e300]}, "/support/y/0"),
        ({"x": [[1e300]], "y": [7.5]}, "/support/x/0"),
        ({"x": [[1.5, 2.0]], "y": [7.5]}, "/support/x/0"),
    ],
)
def test_what_is_wrong_with_new_rows_is_told_where_the_caller_sent_it(client, support, pointer):
    name = kept(client, [8.0, 11.0, 9.0])
    assert pointers(asked(client, posterior=name, support=support, query=QUERY, status=422)) == [pointer]


def image_rows(*each):
    return {"images": [png(values.astype(np.uint8)) for values in each]}


def test_classes_added_to_a_posterior_are_of_its_kind(client):
    name = kept(client, ["a", "b"], model="shapes", x=image_rows(PATTERN, TURNED))
    wrong = {"x": image_rows(PATTERN), "y": [1]}
    query = {"x": image_rows(PATTERN)}
    problem = asked(client, model="shapes", posterior=name, support=wrong, query=query, status=422)
    assert (pointers(problem), problem["errors"][0]["detail"]) == (
        ["/support/y"],
        "the classes of the posterior are strings",
    )
    more = {"x": image_rows(TURNED), "y": ["c"]}
    added = asked(client, model="shapes", posterior=name, support=more, query=query)
    assert added["prediction"]["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize("label", [2**53, 2**60, -(2**53)])
@pytest.mark.parametrize("form", [list, lambda labels: tensor(labels, "int64")])
def test_integers_that_json_may_round_are_no_classes(client, label, form):
    support = {"x": image_rows(PATTERN, TURNED), "y": form([label, 0])}
    problem = asked(client, model="shapes", support=support, query={"x": image_rows(PATTERN)}, status=422)
    assert pointers(problem) == ["/support/y/0"]
    assert "strings" in problem["errors"][0]["detail"]


def probabilities(client, image):
    support = {"x": image_rows(PATTERN, TURNED, TURNED.T), "y": [0, 1, 2]}
    body = {"model": "shapes", "support": support, "query": {"x": {"images": [image]}}}
    return asked(client, **body)["prediction"]["probabilities"][0]


def test_an_image_of_sixteen_bits_is_seen_as_one_of_eight(client):
    deep = png((TURNED * 257).astype(np.uint16))
    np.testing.assert_allclose(
        probabilities(client, deep), probabilities(client, png(TURNED.astype(np.uint8)))
    )


def test_an_image_is_turned_as_its_camera_says(client):
    file, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 6  # turn it clockwise by a quarter
    Image.fromarray(np.rot90(TURNED).astype(np.uint8)).save(file, "PNG", exif=tags)
    said = probabilities(client, base64.b64encode(file.getvalue()).decode())
    np.testing.assert_allclose(said, probabilities(client, png(TURNED.astype(np.uint8))))


@pytest.mark.parametrize("shape", [[0, 10**21], [0, 2**62], [0, 2**40, 2**40]])
@pytest.mark.parametrize(("part", "axis"), [("query", "x"), ("support", "x"), ("support", "y")])
def test_an_empty_tensor_of_an_absurd_shape_is_refused(client, shape, part, axis):
    empty = {"dtype": "float32", "shape": shape, "base64": ""}
    body = {"support": {"x": [], "y": []}, "query": QUERY}
    body[part] = {**body[part], axis: empty}
    assert pointers(asked(client, status=422, **body)) == [f"/{part}/{axis}/shape"]


def test_safetensors_without_metadata_lack_a_model(client):
    body = save({"query.x": np.zeros((1, 1), np.float32)})
    size = int.from_bytes(body[:8], "little")
    header = json.dumps(json.loads(body[8 : 8 + size]) | {"__metadata__": None}).encode()
    content = len(header).to_bytes(8, "little") + header + body[8 + size :]
    headers = {"content-type": "application/vnd.safetensors"}
    reply = client.post("/adapt-predict", content=content, headers=headers)
    assert (reply.status_code, pointers(reply.json())[0]) == (422, "/model")


@pytest.mark.parametrize("name", [10**30, 2**63, -(2**63) - 1])
def test_integer_ids_that_json_libraries_do_not_take_are_refused(client, name):
    support, pool = {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}, {"ids": [name, 1], "x": [[0.1], [3.0]]}
    problem = asked(client, "/uncertainty", support=support, pool=pool, status=422)
    assert pointers(problem)[0] == "/pool/ids/0"


@pytest.mark.parametrize("name", [2**63 - 1, -(2**63)])
def test_integer_ids_come_back_as_they_were_sent(client, name):
    support, pool = {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}, {"ids": [name], "x": [[0.1]]}
    assert asked(client, "/uncertainty", support=support, pool=pool)["selected"][0]["id"] == name


@pytest.mark.parametrize("body", [{"pool": {"ids": [1.5, 2], "x": [[0.1], [3.0]]}}, {"exclude": [0.0]}])
def test_what_is_no_id_is_told_where_it_stands(client, body):
    whole = {"support": {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}, "pool": QUERY} | body
    problem = asked(client, "/uncertainty", status=422, **whole)
    assert set(pointers(problem)) == {"/exclude/0" if "exclude" in body else "/pool/ids/0"}


@pytest.mark.parametrize("named", [{"quantiles": [1e-7]}, {"interval": 0.9999999999999999}])
def test_levels_that_leave_no_tail_are_refused(client, named):
    support = {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}
    assert asked(client, support=support, query=QUERY, status=422, **named)["errors"]


def test_the_most_extreme_levels_have_finite_quantiles_in_order(client):
    levels = [1e-6, 0.5, 1 - 1e-6]
    said = asked(client, support={"x": X_ROWS, "y": [8.0, 11.0, 9.0]}, query=QUERY, quantiles=levels)
    values = np.array(said["prediction"]["quantiles"]["values"])
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=0) > 0).all()


@pytest.mark.parametrize("model", ["tiny", "bare"])
def test_the_farthest_rows_are_answered_and_do_not_spoil_the_others(client, model):
    support = {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}
    far = asked(client, model=model, support=support, query={"x": [[0.0], [1e30], [-3e37]]})
    near = asked(client, model=model, support=support, query={"x": [[0.0]]})
    np.testing.assert_allclose(far["prediction"]["mean"][0], near["prediction"]["mean"][0], rtol=1e-4)
    assert np.isfinite(far["prediction"]["mean"]).all()
    assert np.isfinite(far["prediction"]["std"]).all()
    assert "2 of 3 query rows are far" in far["diagnostics"]["warnings"][0]


def test_rows_beyond_all_others_are_chosen_with_finite_gains(client):
    pool = {"x": [[0.0], [1e30], [-2e30]]}
    batch = {"size": 3, "strategy": "k_centre"}
    said = asked(client, "/uncertainty", support={"x": X_ROWS, "y": [8.0, 11.0, 9.0]}, pool=pool, batch=batch)
    assert np.isfinite([each["gain"] for each in said["selected"]]).all()
    assert float(MAX_STANDARDISED) ** 2 < 3e38


def test_labels_and_support_rows_in_other_units_are_warned_of(client):
    def warnings(y, x=X_ROWS):
        return asked(client, support={"x": x, "y": y}, query=QUERY)["diagnostics"]["warnings"]

    assert warnings([8.0, 11.0, 9.0]) == []
    assert "3 of 3 labels are far" in warnings([8000.0, 11000.0, 9000.0])[0]
    assert "1 of 3 support rows are far" in warnings([8.0, 11.0, 9.0], [[-2.0], [0.5], [1e6]])[0]


AGE, VOICE = "(training: 49 to 85)", "(training: -5 to 5)"
TO_THE_PRIOR = "there the answer returns to the model's prior"
BY_SUPPORT = "there the model is untested; the answer rests on support rows nearby and the other columns"


def patient(age, **odd):
    return [age, *(odd.get(f"v{number}", 0.0) for number in range(10))]


def told(client, support, path="/adapt-predict", **rows):
    body = {"support": {"x": support, "y": [9.0] * len(support)}}
    body |= {name: {"x": values} for name, values in rows.items()}
    return asked(client, path, model="ages", **body)["diagnostics"]["warnings"]


def test_warnings_name_each_column_its_farthest_row_and_the_range_that_it_left(client):
    rows = [patient(60), patient(1000, v3=-90), patient(-2000, v3=80.5)]
    assert told(client, [patient(60)], query=rows) == [
        f"2 of 3 query rows are far from what training saw: age is -2000 in row 2 {AGE}, "
        f"voice 3 is -90 in row 1 {VOICE}; {TO_THE_PRIOR}"
    ]
    odd = patient(60, **{f"v{number}": 1e4 for number in range(10)})
    (many,) = told(client, [patient(60)], query=[odd])
    assert many.endswith(f"voice 7 is 10000 in row 0 {VOICE}, and 2 more columns; {TO_THE_PRIOR}")


def test_one_odd_column_among_many_is_named_and_does_not_undo_the_others(client):
    assert told(client, [patient(60)], query=[patient(60, v9=9.0)]) == [
        f"1 of 1 query rows are far from what training saw: voice 9 is 9 in row 0 {VOICE}; {BY_SUPPORT}"
    ]


@pytest.mark.parametrize(("path", "part"), [("/adapt-predict", "query"), ("/uncertainty", "pool")])
def test_support_rows_as_far_away_are_not_thrown_away(client, path, part):
    said = told(client, [patient(20), patient(22)], path, **{part: [patient(21), patient(60), patient(200)]})
    assert said == [
        f"1 of 3 {part} rows are far from what training saw: age is 200 in row 2 {AGE}; {TO_THE_PRIOR}",
        f"1 of 3 {part} rows are far from what training saw: age is 21 in row 0 {AGE}; {BY_SUPPORT}",
        f"2 of 2 support rows are far from what training saw: age is 20 in row 0 {AGE}; "
        "are their units right?",
    ]


def test_the_answer_at_support_rows_far_from_training_is_theirs(client):
    """Labels of two patients of 20 move the answer for a third, and hardly that at 200."""
    body = {"model": "ages", "query": {"x": [patient(20), patient(200)]}}
    support = [patient(20), patient(20.5), patient(21)]
    low, high = (
        np.array(asked(client, **body, support={"x": support, "y": [y] * 3})["prediction"]["mean"])
        for y in (5.0, 15.0)
    )
    moved = high - low
    assert moved[0] > 2
    assert abs(moved[1]) < 0.9 * moved[0]


def test_labels_that_nothing_explains_are_warned_of(client):
    """Two readings at one place that contradict each other, asked of a model that knows hardly any noise."""
    told = contradiction(client, "exact", [8.0, 8.0001], [7.0, 9.0])
    assert told[0]["warnings"] == []
    assert told[0]["support_nll"]["after"] < told[0]["support_nll"]["before"]
    assert told[1]["support_nll"]["after"] > told[1]["support_nll"]["before"]
    assert "its certainty means little" in told[1]["warnings"][0]


def test_labels_that_no_particle_explains_are_warned_of():
    """The same, of a version whose hypotheses about unlike tasks explain the readings."""
    for served in serve(Settings(store=SHIPPED, device="cpu")):
        told = contradiction(served.client, "sinusoid", [2.0, 2.01], [2.0, -2.0])
        assert told[0]["warnings"] == []
        assert all(each["support_nll"]["after"] < each["support_nll"]["before"] for each in told)
        assert "no particle explains its rows" in told[1]["warnings"][0]


def test_targets_far_from_what_training_saw_are_warned_of(client):
    support = {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}
    said = asked(client, "/uncertainty", support=support, pool=QUERY, target={"x": [[1000.0]]})
    assert "1 of 1 target rows are far" in said["diagnostics"]["warnings"][0]


def test_a_list_where_a_number_is_wanted_is_called_one(client):
    problem = asked(client, support={"x": [[[1.0]]], "y": [8.0]}, query=QUERY, status=422)
    assert (pointers(problem), problem["errors"][0]["detail"]) == (
        ["/support/x/0/0"],
        "a list where a number is wanted",
    )


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/vnd.safetensors;q=0, application/json", "application/json"),
        ("application/vnd.safetensors; q=0.5, application/json", "application/vnd.safetensors"),
    ],
)
def test_a_form_that_the_caller_rules_out_is_not_sent(client, accept, kind):
    body = {"model": "tiny", "support": {"x": X_ROWS, "y": [8.0, 11.0, 9.0]}, "query": QUERY}
    reply = client.post("/adapt-predict", json=body, headers={"accept": accept})
    assert reply.headers["content-type"].startswith(kind)
