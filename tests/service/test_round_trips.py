"""Numbers, labels and images survive every form that they may take on the wire, to the last bit."""

import base64
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.numpy import load, save

from model_store.images import ImageInput
from service.codec.bodies import JSON, SAFETENSORS, encoded, parsed
from service.codec.budget import Budget
from service.codec.inputs import image_rows, label_values, number_rows
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings
from tests.scale import SCALE

LOCAL = settings(max_examples=40 * SCALE)
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def rows(draw):
    dtype = draw(DTYPES)
    finite = st.floats(allow_nan=False, allow_infinity=False, width=8 * np.dtype(dtype).itemsize)
    return draw(arrays.arrays(dtype, SHAPES, elements=finite))


def in_base64(array):
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": content}


def read_back(x, y):
    """What the service makes of rows and labels, in each of the three forms."""
    for values, labels in ((x.tolist(), y.tolist()), (in_base64(x), in_base64(y))):
        body = {"model": "m", "support": {"x": values, "y": labels}, "query": {"x": values, "y": labels}}
        yield parsed(json.dumps(body).encode(), JSON, AdaptPredictRequest)
    named = {"support.x": x, "support.y": y, "query.x": x, "query.y": y}
    yield parsed(save(named, metadata={"request": '{"model": "m"}'}), SAFETENSORS, AdaptPredictRequest)


@LOCAL
@given(x=rows(), data=st.data())
def test_rows_and_numeric_labels(x, data):
    finite = st.floats(allow_nan=False, allow_infinity=False)
    y = data.draw(arrays.arrays(np.float64, len(x), elements=finite))
    for request in read_back(x, y):
        for values in (request.support.x, request.query.x):
            np.testing.assert_array_equal(number_rows(values, x.shape[1], "/x", 100), x.astype(np.float64))
        for labels in (request.support.y, request.query.y):
            assert list(label_values(labels, "/y")) == y.tolist()


NAMES = st.one_of(
    st.lists(st.text(max_size=20), min_size=1, max_size=8),
    st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=1, max_size=8),
)


@LOCAL
@given(labels=NAMES)
def test_names_of_classes(labels):
    body = {"model": "m", "support": {"x": [[0.0]], "y": labels}, "query": {"x": [[0.0]]}}
    request = parsed(json.dumps(body).encode(), JSON, AdaptPredictRequest)
    found = list(label_values(request.support.y, "/y"))
    assert found == labels
    assert [isinstance(each, bool) for each in found] == [isinstance(each, bool) for each in labels]


IMAGES = [ImageInput(channels=1, size=5, drawing=False), ImageInput(channels=3, size=5, drawing=False)]


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@LOCAL
@given(data=st.data(), image=st.sampled_from(IMAGES), count=st.integers(1, 3))
def test_images_of_the_model_s_size(data, image, count):
    pixels = data.draw(arrays.arrays(np.uint8, (count, *image.shape)))
    forms = [
        {"images": [as_png(each) for each in pixels]},
        in_base64(pixels),
        (pixels / 255).tolist(),
        in_base64((pixels / 255).astype(np.float32)),
    ]
    found = []
    for form in forms:
        body = {"model": "m", "support": {"x": [], "y": []}, "query": {"x": form}}
        request = parsed(json.dumps(body).encode(), JSON, AdaptPredictRequest)
        found.append(image_rows(request.query.x, image, "/x", 10, Budget(Settings(), math.inf)).raw)
    for each in found:
        np.testing.assert_allclose(each, found[0], atol=1e-7)
        assert each.shape == (count, image.inputs)


@dataclass(frozen=True)
class Interval:
    level: float


@dataclass(frozen=True)
class Prediction:
    mean: np.ndarray[Any, Any]
    interval: Interval


@dataclass(frozen=True)
class Reply:
    prediction: Prediction
    scores: np.ndarray[Any, Any]
    note: str


@LOCAL
@given(mean=rows(), scores=rows(), level=st.floats(0.01, 0.99))
def test_replies(mean, scores, level):
    reply = Reply(Prediction(mean, Interval(level)), scores, "ß")
    said = json.loads(encoded(reply, JSON))
    np.testing.assert_array_equal(np.array(said["prediction"]["mean"], mean.dtype), mean)
    np.testing.assert_array_equal(np.array(said["scores"], scores.dtype), scores)
    assert said["prediction"]["interval"]["level"] == level

    binary = encoded(reply, SAFETENSORS)
    tensors = load(binary)
    length = int.from_bytes(binary[:8], "little")
    rest = json.loads(json.loads(binary[8 : 8 + length])["__metadata__"]["response"])
    np.testing.assert_array_equal(tensors["prediction.mean"], mean)
    np.testing.assert_array_equal(tensors["scores"], scores)
    assert rest == {"prediction": {"interval": {"level": pytest.approx(level)}}, "note": "ß"}
