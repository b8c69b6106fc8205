"""Versions whose particles are whole convolutional networks, served."""

import numpy as np
import pytest
import torch

from bmaml.task import Examples
from service.settings import Settings
from tests.images import SIZE, png, publish_classifier, random_images
from tests.service.conftest import serve

IMAGES = random_images(3)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    model = publish_classifier(root, "whole", learner="maml", whole=True, steps=2)
    publish_classifier(root, "several", learner="emaml", whole=True)
    publish_classifier(root, "normalised", learner="emaml", whole=True, normalisation="support")
    publish_classifier(root, "published", learner="maml", whole=True, normalisation="query")
    for each in serve(Settings(store=root, device="cpu")):
        yield each.client, model


def asked(client, path="/adapt-predict", **body):
    support = {"x": {"images": [png(one[0]) for one in IMAGES]}, "y": ["a", "b", "c"]}
    reply = client.post(path, json={"support": support, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def pixels(images):
    return torch.from_numpy(images.reshape(1, -1, SIZE**2).astype(np.float32) / 255)


def test_the_service_adapts_the_kernels_of_a_whole_network(served):
    client, model = served
    query = {"x": {"images": [png(one) for one in IMAGES[:, 1:3].reshape(-1, SIZE, SIZE)]}}
    found = asked(client, model="whole", query=query)["prediction"]["probabilities"]
    support = Examples.full(pixels(IMAGES[:, 0]), torch.eye(3).unsqueeze(0))
    adapted = model.learner.adapt(model.learned, support)
    assert not torch.equal(adapted.particles[0, 0, :10], model.learned["initial"][0, :10])
    expected = model.learner.predict(adapted, pixels(IMAGES[:, 1:3].reshape(-1, SIZE, SIZE))).probabilities()[
        0
    ]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["several", "normalised", "published"])
def test_an_image_s_answer_does_not_depend_on_its_company(served, name):
    client, _ = served
    together = [png(one[1]) for one in IMAGES]
    whole = asked(client, model=name, query={"x": {"images": together}})["prediction"]["probabilities"]
    for row, each in enumerate(together):
        alone = asked(client, model=name, query={"x": {"images": [each]}})["prediction"]["probabilities"]
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-5)


@pytest.mark.parametrize("name", ["several", "normalised"])
def test_the_next_image_to_label_is_chosen_by_whole_networks(served, name):
    client, _ = served
    pool = {"x": {"images": [png(one[2]) for one in IMAGES]}}
    chosen = asked(client, "/uncertainty", model=name, pool=pool)["selected"]
    assert len(chosen) == 1
