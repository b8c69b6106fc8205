"""The requests that compare engines are ones that the service takes."""

import pytest

from benchmarks.serving.engines import CLASSES, MODELS, messages
from service.codec import bodies
from service.schemas.requests import AdaptPredictRequest


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_sent_whole_requests(model):
    sent = messages(model, count=3)
    assert len(set(sent)) == 3
    for message in sent:
        head, _, content = message.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(content)}".encode() in head
        body = bodies.parsed(content, bodies.JSON, AdaptPredictRequest)
        assert body.model == model
        assert body.support is not None
        if model == "omniglot":
            assert body.support.x.shape == body.query.x.shape == [CLASSES, 28, 28]
