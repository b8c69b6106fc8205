"""Convolutional features: their size, running statistics, views, and independence of the batch."""

import pytest
import torch

import bmaml.embedding as embedding_module
from bmaml.embedding import PREFIX, ConvNet, InvalidEmbedding
from tests.closed_form import generator


def net(light=True, channels=1, size=16):
    embedding = ConvNet(channels, size, width=4, light=light)
    noise = generator(1)
    learned = {
        name: value.double() + 0.1 * torch.rand(value.shape, generator=noise, dtype=torch.float64)
        for name, value in embedding.initialise(generator()).items()
    }
    return embedding, learned


@pytest.mark.parametrize(("light", "size"), [(True, 16), (False, 16), (True, 28), (False, 28), (True, 32)])
def test_features_are_as_many_as_announced(light, size):
    embedding, learned = net(light, 3, size)
    found = embedding(learned, torch.rand(2, 3, embedding.inputs))
    assert found.shape == (2, 3, embedding.features)
    assert embedding(learned, torch.rand(2, 0, embedding.inputs)).shape == (2, 0, embedding.features)


@pytest.mark.parametrize("light", [True, False])
def test_an_image_s_features_do_not_depend_on_its_company(light):
    embedding, learned = net(light)
    images = torch.rand(1, 6, embedding.inputs)
    together = embedding(learned, images)
    for row in range(6):
        torch.testing.assert_close(embedding(learned, images[:, row : row + 1])[0, 0], together[0, row])


@pytest.mark.parametrize("light", [True, False])
def test_folding_the_statistics_into_the_kernels_changes_nothing(light):
    embedding, learned = net(light)
    images = torch.rand(1, 4, embedding.inputs)
    signal = images.reshape(4, 1, embedding.size, embedding.size)
    for block in range(4):
        kernel, scale, shift, mean, variance = (
            learned[f"{PREFIX}{block}.{name}"] for name in ("kernel", "scale", "shift", "mean", "variance")
        )
        strided = light and block == 0
        signal = torch.nn.functional.conv2d(signal, kernel, None, 2 if strided else 1, kernel.shape[-1] // 2)
        signal = torch.nn.functional.batch_norm(signal, mean, variance, scale, shift).relu()
        if not strided and not (light and block == 3):
            signal = torch.nn.functional.max_pool2d(signal, 2)
    torch.testing.assert_close(embedding(learned, images)[0], signal.flatten(1))


def test_memory_for_many_images_is_bounded_and_they_are_the_same_as_alone(monkeypatch):
    embedding, learned = net()
    images = torch.rand(2, 5, embedding.inputs)
    together = embedding(learned, images)
    seen = []

    def watched(signal, *rest):
        seen.append(len(signal))
        return torch.nn.functional.conv2d(signal, *rest)

    monkeypatch.setattr(embedding_module, "conv2d", watched)
    monkeypatch.setattr(embedding_module, "MAX_CPU_PIXELS", 3 * embedding.size**2 + 1)
    torch.testing.assert_close(embedding(learned, images), together)
    assert max(seen) == 3


def test_views_are_averaged_once_training_is_over():
    embedding, learned = net()
    images = torch.rand(1, 3, embedding.inputs)
    square = images.view(1, 3, 16, 16)
    three = ConvNet(1, 16, width=4, views=3)
    moved = [square.roll(rows, 2).reshape(1, 3, -1) for rows in (0, 1, -1)]
    expected = torch.stack([embedding(learned, each) for each in moved]).mean(0)
    torch.testing.assert_close(three(learned, images), expected)
    once = embedding(learned, images, training=True)
    torch.testing.assert_close(three(learned, images, training=True), once)
    with pytest.raises(InvalidEmbedding, match="found 6"):
        ConvNet(1, 28, views=6)


def test_training_moves_the_statistics_alone():
    embedding, learned = net()
    before = {name: value.clone() for name, value in learned.items()}
    embedding(learned, torch.rand(1, 4, embedding.inputs), training=True)
    moved = {
        name.removeprefix(PREFIX)[2:] for name in learned if not torch.equal(learned[name], before[name])
    }
    assert moved == {"mean", "variance"}


@pytest.mark.parametrize(("settings", "found"), [((2, 28), "found 2"), ((1, 8), "found 8")])
def test_embeddings_that_cannot_be_built_are_refused(settings, found):
    with pytest.raises(InvalidEmbedding, match=found):
        ConvNet(*settings)
    with pytest.raises(InvalidEmbedding, match="found 3"):
        ConvNet(1, 28, width=3)


def test_in_bfloat16_features_are_of_the_images_precision_near_and_independent_of_their_company():
    embedding, learned = net(channels=3, size=32)
    learned = {name: tensor.float() for name, tensor in learned.items()}
    images = torch.rand(1, 6, embedding.inputs, generator=generator()).float()
    exact = embedding(learned, images)
    with torch.autocast("cpu", torch.bfloat16):
        together = embedding(learned, images)
        alone = [embedding(learned, images[:, row : row + 1]) for row in range(6)]
    assert together.dtype == torch.float32
    assert 1e-4 < float((together - exact).norm() / exact.norm()) < 2e-2
    torch.testing.assert_close(torch.cat(alone, 1), together, rtol=0, atol=0)
