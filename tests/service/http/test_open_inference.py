"""The Open Inference Protocol under /v2: the answers of /adapt-predict, bit for bit, in its own form."""

import asyncio
import copy
import hashlib
import json
import random
import struct
import threading
import time
import zlib
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

import service.compute.batch as batch_module
import service.engine.queue as queue_module
from service.errors import RequestError
from service.settings import Settings
from tests.class_tables import publish_class_table
from tests.images import SIZE, publish_classifier
from tests.published import SIZE as SIZE_COLUMN
from tests.published import X, Y, Z, publish, publish_policy
from tests.service.conftest import access_fields, serve

X_ROWS, Y_ROWS, ASKED = [[-2.0], [0.5]], [8.0, 11.5], [[0.1], [1.0], [3.3]]
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    publish(root, "tiny", seed=1)
    publish(root, "tiny", seed=2)
    publish(root, "wide", inputs=(X, SIZE_COLUMN), outputs=(Y, Z), steps=1, step_size=1e-3)
    publish_policy(root)
    publish_classifier(root, "shapes")
    publish_class_table(root, "grades", labels=("low", "mid", "high"), ordered=True)
    yield from serve(Settings(store=root, device="cpu", max_body_bytes=200_000))


@pytest.fixture
def client(served):
    return served.client


def tensor(name, values, datatype="FP64", shape=None):
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(np.shape(values)) if shape is None else shape,
        "data": np.ravel(np.array(values)).tolist(),
    }


def inputs(x=X_ROWS, y=Y_ROWS, asked=ASKED, datatype="FP64", labels="FP64"):
    return [
        tensor("support.x", x, datatype),
        tensor("support.y", y, labels),
        tensor("query.x", asked, datatype),
    ]


def infer(client, body, model="tiny", status=200, **headers):
    reply = client.post(f"/v2/models/{model}/infer", json=body, headers=headers)
    assert reply.status_code == status, reply.text
    return reply.json()


def arrays(answer):
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in answer["outputs"]}


def packed(body, parts):
    """A request with tensors as bytes after its JSON, and its headers."""
    header = json.dumps(body).encode()
    return header + b"".join(parts), {
        LENGTH: str(len(header)),
        "content-type": "application/octet-stream",
    }


def unpacked(reply):
    """The tensors of an answer, those in binary as their bytes say."""
    length = int(reply.headers[LENGTH])
    header, rest = json.loads(reply.content[:length]), reply.content[length:]
    found = {}
    for each in header["outputs"]:
        size = each["parameters"]["binary_data_size"]
        found[each["name"]] = np.frombuffer(rest[:size], "<f4").reshape(each["shape"])
        rest = rest[size:]
    assert rest == b""
    return found


def predicted(client, model="tiny", x=X_ROWS, y=Y_ROWS, asked=ASKED, **more):
    body = {"model": model, "support": {"x": x, "y": y}, "query": {"x": asked}, **more}
    reply = client.post("/v1/adapt-predict", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()["prediction"]


def test_lengths_of_thousands_of_digits_are_a_422(client):
    endless = int("9" * 4000)
    infer(client, {"inputs": [*inputs()[:2], tensor("query.x", [], shape=[endless, endless])]}, status=422)
    body, headers = packed({"inputs": inputs()}, [])
    for digits in ("0" * 18 + "1" * 5000, "1" * 5000):
        reply = client.post("/v2/models/tiny/infer", content=body, headers=headers | {LENGTH: digits})
        assert reply.status_code == 422, reply.text
    zeros = headers | {LENGTH: "0" * 30 + headers[LENGTH]}
    assert client.post("/v2/models/tiny/infer", content=body, headers=zeros).status_code == 200


@pytest.mark.parametrize(
    ("model", "x", "y", "asked"),
    [
        ("tiny", X_ROWS, Y_ROWS, ASKED),
        ("wide", [[-2.0, 16.0], [0.5, 32.0]], [[8.0, -1.0], [11.5, -1.5]], [[0.1, 64.0]]),
    ],
)
def test_numbers_are_those_of_adapt_predict(client, model, x, y, asked):
    told = {"interval": 0.8, "quantiles": [0.1, 0.5]}
    mine = arrays(infer(client, {"inputs": inputs(x, y, asked), "parameters": told}, model))
    theirs = predicted(client, model, x, y, asked, **told)
    assert list(mine) == [
        *("mean", "std", "variance.aleatoric", "variance.epistemic", "lower", "upper", "quantiles")
    ]
    expected = {
        "mean": theirs["mean"],
        "std": theirs["std"],
        "variance.aleatoric": theirs["variance"]["aleatoric"],
        "variance.epistemic": theirs["variance"]["epistemic"],
        "lower": theirs["interval"]["lower"],
        "upper": theirs["interval"]["upper"],
        "quantiles": theirs["quantiles"]["values"],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(mine[name], values, err_msg=name)


@pytest.mark.parametrize("precision", ["FP64", "FP32"])
def test_tensors_as_bytes_give_the_bits_of_json(client, precision):
    as_json = arrays(infer(client, {"inputs": inputs(datatype=precision, labels=precision)}))
    dtype = "<f8" if precision == "FP64" else "<f4"
    parts = [np.array(each, dtype).tobytes() for each in (X_ROWS, Y_ROWS, ASKED)]
    described = inputs(datatype=precision, labels=precision)
    for each, part in zip(described, parts, strict=True):
        del each["data"]
        each["parameters"] = {"binary_data_size": len(part)}
    body, headers = packed({"inputs": described, "parameters": {"binary_data_output": True}}, parts)
    for compression in ("", "deflate"):
        more = {"content-encoding": "deflate"} if compression else {}
        content = zlib.compress(body) if compression else body
        reply = client.post("/v2/models/tiny/infer", content=content, headers=headers | more)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/octet-stream"
        for name, values in unpacked(reply).items():
            np.testing.assert_array_equal(values, as_json[name].astype("<f4"))


def test_classes_of_texts_integers_and_images_are_those_of_adapt_predict(client):
    images = [np.full((SIZE, SIZE), value).tolist() for value in (0.0, 1.0)]
    for labels, datatype in ((["a", "b"], "BYTES"), ([3, 7], "INT64"), ([False, True], "BOOL")):
        mine = infer(client, {"inputs": inputs(images, labels, images, "FP64", datatype)}, "shapes")
        theirs = predicted(client, "shapes", images, labels, images)
        found = {each["name"]: each for each in mine["outputs"]}
        assert list(found) == ["classes", "probabilities", "label"]
        assert (found["classes"]["data"], found["label"]["data"]) == (theirs["classes"], theirs["label"])
        assert found["label"]["datatype"] == datatype
        np.testing.assert_array_equal(arrays(mine)["probabilities"], theirs["probabilities"])


def test_ordered_classes_have_bounds_and_quantiles_and_bytes_come_length_first(client):
    x, y = [[-2.0, 16.0], [0.5, 32.0]], ["low", "high"]
    parameters = {"quantiles": "0.1,0.9"}
    mine = infer(client, {"inputs": inputs(x, y, x, labels="BYTES"), "parameters": parameters}, "grades")
    theirs = predicted(client, "grades", x, y, x, quantiles=[0.1, 0.9])
    assert arrays(mine)["quantiles"].tolist() == theirs["quantiles"]["values"]
    assert arrays(mine)["lower"].tolist() == theirs["interval"]["lower"]
    described = inputs(x, y, x, labels="BYTES")
    del described[1]["data"]
    words = b"".join(struct.pack("<I", len(each)) + each.encode() for each in y)
    described[1]["parameters"] = {"binary_data_size": len(words)}
    wanted = [{"name": "label", "parameters": {"binary_data": True}}]
    body, headers = packed({"inputs": described, "outputs": wanted}, [words])
    reply = client.post("/v2/models/grades/infer", content=body, headers=headers)
    rest = reply.content[int(reply.headers[LENGTH]) :]
    assert rest == b"".join(struct.pack("<I", len(each)) + each.encode() for each in theirs["label"])


def test_only_the_outputs_that_are_asked_for_come_in_their_order_each_in_its_form(client):
    wanted = [{"name": "std", "parameters": {"binary_data": False}}, {"name": "mean"}]
    asked = {"id": "mine", "model_name": "tiny", "inputs": inputs(), "outputs": wanted}
    answer = infer(client, asked)
    assert [each["name"] for each in answer["outputs"]] == ["std", "mean"]
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "tiny", "2")
    body = asked | {"parameters": {"binary_data_output": True}}
    reply = client.post("/v2/models/tiny/infer", json=body)
    header = json.loads(reply.content[: int(reply.headers[LENGTH])])
    assert "data" in header["outputs"][0]
    assert header["outputs"][1]["parameters"] == {"binary_data_size": 4 * len(ASKED)}


def test_a_kept_posterior_is_that_of_the_other_routes(client):
    body = {"inputs": inputs(), "parameters": {"keep_ttl_s": 60.0}}
    first = infer(client, body)
    name = first["parameters"]["posterior"]
    kept = {"model": "tiny", "support": {"x": X_ROWS, "y": Y_ROWS}}
    assert client.post("/v1/posteriors", json=kept).json()["posterior"]["id"] == name
    again = infer(client, {"inputs": [tensor("query.x", ASKED)], "parameters": {"posterior": name}})
    np.testing.assert_allclose(arrays(again)["mean"], arrays(first)["mean"], rtol=1e-5)
    assert "error" in infer(client, body | {"parameters": {"posterior": "post_none"}}, status=404)


def test_versions_and_warnings_are_named(client):
    reply = client.post("/v2/models/tiny/versions/1/infer", json={"inputs": inputs(asked=[[400.0]])})
    answer = reply.json()
    assert answer["model_version"] == "1"
    assert "400" in answer["parameters"]["warnings"]


def test_server_health_and_metadata(client):
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert client.get("/v2/models/tiny/versions/1/ready").status_code == 200
    wide = client.get("/v2/models/wide").json()
    assert wide["versions"] == ["1"]
    assert wide["inputs"][0] == {
        "name": "support.x",
        "datatype": "FP64",
        "shape": [-1, 2],
        "parameters": {"columns": ["x", "size"]},
    }
    assert wide["outputs"][0]["parameters"] == {"columns": ["y", "z"]}
    grades = client.get("/v2/models/grades").json()
    assert {each["name"]: each["datatype"] for each in grades["outputs"]}["label"] == "BYTES"
    assert client.get("/v2/models/tiny").json()["versions"] == ["1", "2"]
    assert client.get("/v2/models/shapes").json()["inputs"][0]["shape"][:1] == [-1]


@pytest.mark.parametrize("model", ["tiny", "wide", "grades"])
def test_answers_are_what_the_metadata_says(client, model):
    described = {each["name"]: each for each in client.get(f"/v2/models/{model}").json()["outputs"]}
    x = [[-2.0], [0.5]] if model == "tiny" else [[-2.0, 16.0], [0.5, 32.0]]
    y = {"tiny": Y_ROWS, "wide": [[8.0, -1.0], [11.5, -1.5]], "grades": ["low", "high"]}[model]
    labels = "BYTES" if model == "grades" else "FP64"
    body = {"inputs": inputs(x, y, x, labels=labels), "parameters": {"quantiles": [0.5]}}
    answer = infer(client, body, model)
    assert [each["name"] for each in answer["outputs"]] == list(described)
    for each in answer["outputs"]:
        told = described[each["name"]]
        assert each["datatype"] == told["datatype"]
        assert len(each["shape"]) == len(told["shape"]), each["name"]
        assert all(want in (-1, got) for want, got in zip(told["shape"], each["shape"], strict=True))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/tiny/versions/9", 404),
        ("GET", "/v2/models/tiny/versions/one/ready", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("POST", "/v2/models/nobody/infer", 404),
        ("GET", "/v2/models/walker", 422),
        ("GET", "/v2/models/walker/ready", 422),
    ],
)
def test_every_failure_is_json_with_one_error(client, method, path, status):
    reply = client.request(method, path, json={"inputs": inputs()} if method == "POST" else None)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    assert "x-request-id" in reply.headers


def test_heads_that_are_too_long_are_refused_in_this_form_too(client):
    reply = client.get("/v2", headers={"x-long": "a" * 40_000})
    assert (reply.status_code, list(reply.json())) == (431, ["error"])


def test_policies_are_refused_with_the_way_to_ask_them(client):
    body = {"inputs": [tensor("query.x", [[0.0, 0.0]])], "parameters": {"posterior": "post_x"}}
    refused = client.post("/v2/models/walker/infer", json=body)
    assert refused.status_code in (404, 422)
    body["inputs"] += [tensor("support.x", [[0.0, 0.0]]), tensor("support.y", [[0.0, 0.0]])]
    del body["parameters"]
    assert "episodes" in infer(client, body, "walker", 422)["error"]


def changed(**changes):
    body = {"inputs": inputs(), "parameters": {}}
    for path, value in changes.items():
        at, *way = path.split("__")
        node = body["inputs"][int(at[1:])] if way else body
        keys = way or [at]
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
    return body


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (changed(i0__shape=[3, 1]), "2 elements where the shape takes 3"),
        (changed(i0__shape=[2]), "[rows, 1] is wanted"),
        (changed(i0__shape=[2, 1, 0]), "elements"),
        (changed(i0__shape=[-1, 1]), "greater than or equal to 0"),
        (changed(i0__shape=[2**70, 1]), "elements"),
        (changed(i0__datatype="FP8"), "datatype"),
        (changed(i0__datatype="INT64"), "integers of INT64"),
        (changed(i0__datatype="BOOL"), "inputs are numbers"),
        (changed(i0__datatype="BYTES"), "strings"),
        (changed(i1__data=[1e39, 0.0], i1__datatype="FP32"), "not finite as FP32"),
        (changed(i1__data=["a", "b"]), "FP64 are wanted"),
        (changed(i1__data=["a", "b"], i1__datatype="BYTES"), "predicts numbers"),
        (changed(i1__data=[True, False]), "FP64 are wanted"),
        (changed(i1__data=[[1.0], [2.0, 3.0]]), "differ in length"),
        (changed(i1__data=None), "data is needed"),
        (changed(i1__name="support.z"), "name"),
        (changed(i1__name="query.x"), "given twice"),
        (changed(inputs=inputs()[:2]), "query.x is needed"),
        (changed(inputs=inputs()[1:]), "together"),
        (changed(inputs=inputs()[2:]), "one of support and posterior"),
        (changed(inputs=[]), "/inputs"),
        (changed(model_name="wide"), "another model than that of the path"),
        (changed(outputs=[{"name": "mode"}]), "the outputs are mean"),
        (changed(outputs=[{"name": "mean"}] * 2), "asked for twice"),
        (changed(outputs=[{"name": "quantiles"}]), "parameter quantiles"),
        (changed(parameters={"interva": 0.9}), "/parameters/interva"),
        (changed(parameters={"quantiles": "a,b"}), "/parameters/quantiles"),
        (changed(parameters={"quantiles": [0.0]}), "/parameters/quantiles/0"),
        (changed(parameters={"timeout": -1}), "/parameters/timeout"),
        (changed(parameters={"interval_method": "conformal"}), "conformal"),
        (changed(i0__parameters={"binary_data_size": 16}), "exclude each other"),
        (changed(i2__data=[1.0] * 3, i2__shape=[1, 3]), "query.x"),
    ],
)
def test_what_is_wrong_is_said(client, body, told):
    assert told in infer(client, body, status=422)["error"]


@pytest.mark.parametrize("text", [b"", b"{", b"nonsense", b'{"inputs": NaN}', b"\xff\xfe"])
def test_what_is_not_json_is_a_400(client, text):
    reply = client.post("/v2/models/tiny/infer", content=text)
    assert reply.status_code in (400, 422)
    assert list(reply.json()) == ["error"]


@pytest.mark.parametrize(
    ("header", "told"), [("x", "number of bytes"), ("-1", "number"), ("99999999999999999999", "within")]
)
def test_a_wrong_length_of_the_json_is_said(client, header, told):
    content, headers = packed({"inputs": inputs()}, [])
    reply = client.post("/v2/models/tiny/infer", content=content, headers=headers | {LENGTH: header})
    assert reply.status_code == 422
    assert told in reply.json()["error"]


def test_bytes_without_the_length_of_the_json_are_refused(client):
    headers = {"content-type": "application/octet-stream"}
    reply = client.post("/v2/models/tiny/infer", content=b"{}", headers=headers)
    assert (reply.status_code, LENGTH in reply.json()["error"]) == (422, True)


def test_whatever_is_sent_is_answered_or_refused_in_this_form(client):
    chance = random.Random(0)
    parts = [np.array(each, "<f8").tobytes() for each in (X_ROWS, Y_ROWS, ASKED)]
    whole = inputs()
    for each, part in zip(whole, parts, strict=True):
        del each["data"]
        each["parameters"] = {"binary_data_size": len(part)}
    junk = [
        None,
        -1,
        0,
        3,
        2**70,
        1.5,
        "a",
        [],
        {},
        [1],
        [[1, 2], [3]],
        True,
        "BYTES",
        "BOOL",
        "FP32",
        "UINT8",
    ]
    statuses = set()
    for _ in range(400):
        body, now = {"inputs": copy.deepcopy(whole)}, list(parts)
        if chance.random() < 0.8:
            at = chance.randrange(3)
            node = body["inputs"][at]
            key = chance.choice(["name", "datatype", "shape", "parameters", "data"])
            node[key] = chance.choice(junk)
        if chance.random() < 0.3:
            at = chance.randrange(3)
            filled = np.frombuffer(now[at], "<f8").copy()
            filled[0] = chance.choice([np.nan, np.inf, -np.inf, 1e300])
            now[at] = filled.tobytes()
        content, headers = packed(body, now)
        if chance.random() < 0.3:
            content = content[: chance.randrange(len(content))]
        if chance.random() < 0.2:
            headers[LENGTH] = str(chance.randrange(2 * len(content) + 1))
        reply = client.post("/v2/models/tiny/infer", content=content, headers=headers)
        statuses.add(reply.status_code)
        assert reply.status_code in (200, 400, 422), reply.text
        if reply.status_code != 200:
            assert list(reply.json()) == ["error"]
            assert "Traceback" not in reply.text
    assert statuses >= {200, 422}


def test_too_much_is_a_413(client):
    assert "error" in infer(client, {"inputs": inputs(asked=[[0.0]] * 60_000)}, status=413)


def test_a_timeout_that_passes_while_the_device_is_busy_is_a_504(served, monkeypatch):
    reached, opened, whole = threading.Event(), threading.Event(), batch_module.answer_batch
    now = time.monotonic()  # the queue's clock stands still: what the machine takes plays no part
    monkeypatch.setattr(queue_module, "time", SimpleNamespace(monotonic=lambda: now))

    def gated(jobs):
        reached.set()
        opened.wait(60)
        return whole(jobs)

    async def story():
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            path, body = "/v2/models/tiny/infer", {"inputs": inputs()}
            long = body | {"parameters": {"timeout": 60_000_000}}
            first = asyncio.create_task(client.post(path, json=long))
            try:
                await asyncio.to_thread(reached.wait, 60)
                late = await client.post(path, json=body | {"parameters": {"timeout": 300_000}})
                assert not first.done()
            finally:
                opened.set()
            return late, await first

    monkeypatch.setattr(batch_module, "answer_batch", gated)
    late, first = asyncio.run(story())
    assert (late.status_code, list(late.json())) == (504, ["error"])
    assert first.status_code == 200
    assert first.json()["outputs"]


def test_keys_are_asked_for_but_not_by_probes(served, tmp_path):
    digest = hashlib.sha256(b"key-of-the-lab").hexdigest()
    publish(tmp_path, "tiny", seed=1)
    for locked in serve(Settings(store=tmp_path, device="cpu", keys=f"lab:{digest}")):
        assert locked.client.get("/v2/health/ready").status_code == 200
        for path in ("/v2", "/v2/models/tiny"):
            reply = locked.client.get(path)
            assert (reply.status_code, list(reply.json())) == (401, ["error"])
        header = {"authorization": "Bearer key-of-the-lab"}
        infer(locked.client, {"inputs": inputs()}, **header)


def test_a_full_queue_is_a_429_before_the_body_is_parsed(served, monkeypatch):
    queue, asked = served.app.state.runtime.queue, []

    def full(model, within_s, work=1, waited_s=0.0):
        asked.append((model, within_s + waited_s))
        raise RequestError("queue-full", "too much work is waiting", retry_after_s=2)

    monkeypatch.setattr(queue, "check_admission", full)
    monkeypatch.setattr(type(queue), "drain_s", 1.0)
    body = {"inputs": inputs(), "parameters": {"timeout": 7_000_000}}
    reply = served.client.post("/v2/models/tiny/infer", json=body)
    assert (reply.status_code, list(reply.json())) == (429, ["error"])
    assert reply.headers["retry-after"] == "2"
    newest = served.app.state.runtime.catalogue.models["tiny"][2]
    assert asked == [(newest.sha256, pytest.approx(7.0))]


def test_metrics_and_log_name_the_template(served, caplog):
    caplog.set_level("INFO", "service.access")
    reply = served.client.post("/v2/models/tiny/versions/1/infer", json={"inputs": inputs()})
    named = reply.headers["x-request-id"]
    fields = access_fields(caplog, named)
    assert fields["route"] == "/v2/models/{name}/versions/{version}/infer"
    assert (fields["model"], fields["version"], fields["rows"]) == ("tiny", 1, [2, 3])


def test_the_path_has_no_other_prefix(client):
    assert client.get("/v1/v2").status_code == 404
