"""`BMAML_BFLOAT16`: nearly the same answers, on a processor that multiplies so; else a refusal."""

import numpy as np
import pytest
import torch

from service.runtime import Runtime
from service.settings import Settings
from tests.images import SIZE, publish_classifier, random_images
from tests.service.conftest import serve


@pytest.fixture
def capable(monkeypatch):
    """Any processor computes in bfloat16, if slowly."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)


def test_an_answer_differs_by_the_rounding_of_its_features(tmp_path, capable):
    publish_classifier(tmp_path, "shapes")
    pictures, found = random_images(2, seed=5) / 255, []
    shown, asked = pictures[:, :3].reshape(6, SIZE, SIZE), pictures[:, 3:].reshape(6, SIZE, SIZE)
    body = {
        "model": "shapes",
        "support": {"x": shown.tolist(), "y": list("aaabbb")},
        "query": {"x": asked.tolist()},
    }
    for coarse in (False, True):
        for served in serve(Settings(store=tmp_path, device="cpu", bfloat16=coarse)):
            reply = served.client.post("/adapt-predict", json=body).raise_for_status().json()
            found.append(np.array(reply["prediction"]["probabilities"]))
    assert 0 < np.abs(found[1] - found[0]).max() < 0.03


def refusal(tmp_path):
    publish_classifier(tmp_path, "shapes")
    runtime = Runtime(Settings(store=tmp_path, device="cpu", bfloat16=True))
    try:
        runtime.start()
        return runtime.why_not_serving
    finally:
        runtime.stop()


def test_a_processor_without_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert refusal(tmp_path) == (
        "BMAML_BFLOAT16 needs a processor with one of avx512_bf16, amx_bf16, bf16, sve_bf16, and this one "
        "has none: leave it out"
    )


def test_beside_a_gpu_it_is_refused(tmp_path, monkeypatch, capable):
    monkeypatch.setattr("service.runtime.device_for", lambda choice: torch.device("meta"))
    monkeypatch.setattr("service.runtime.check", lambda device: None)
    assert "is for images on a CPU" in refusal(tmp_path)
