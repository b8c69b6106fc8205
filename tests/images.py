"""Small classifiers of images, untrained, and images for them."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bmaml.conv_classifier import ConvClassifier, Normalisation
from bmaml.embedding import ConvNet
from bmaml.learners import LEARNERS, settings_of
from bmaml.networks import MLP
from model_store import Model, Store
from model_store.images import ImageInput

SIZE = 16
DIGITS = 6
"""Images of each class."""


def random_images(classes: int, each: int = DIGITS, channels: int = 1, size: int = SIZE, seed: int = 0):
    """Bytes `[class, image, size, size(, 3)]`: a random pattern a class, seen through noise."""
    draw = np.random.default_rng(seed)
    shape = (size, size) if channels == 1 else (size, size, 3)
    patterns = np.kron(draw.random((classes, 4, 4)), np.ones((size // 4, size // 4)))
    patterns = patterns if channels == 1 else np.repeat(patterns[..., None], 3, -1)
    noisy = patterns[:, None] + 0.1 * draw.standard_normal((classes, each, *shape))
    return (255 * noisy.clip(0, 1)).astype(np.uint8)


def png(pixels: np.ndarray, kind: str = "PNG") -> str:
    """One image as a base64 file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def publish_classifier(
    root: Path,
    name: str,
    learner: str = "conjugate",
    channels: int = 1,
    drawing: bool = False,
    whole: bool = False,
    normalisation: Normalisation = "none",
    **settings,
) -> Model:
    """An untrained classifier in a store; with `whole`, its particles are convolutional networks."""
    embedding = ConvNet(channels, SIZE, width=16)
    outputs = 16 if learner == "conjugate" else 5
    if learner != "conjugate":
        settings |= {"likelihood": "categorical", "step_size": 0.1}
    particles = 1 if learner == "maml" else 4
    network: ConvClassifier | MLP = MLP(embedding.features, (), outputs)
    if whole:
        network = ConvClassifier(
            channels, SIZE, outputs, 16, strided=normalisation != "none", normalisation=normalisation
        )
    built = LEARNERS[learner](network, **{"particles": particles, **settings})
    generator = torch.Generator().manual_seed(0)
    learned = built.initialise(generator) | ({} if whole else embedding.initialise(generator))
    return Store(root).publish(
        name,
        "# A card\n",
        learned,
        kind="classification",
        image=ImageInput(channels=channels, size=SIZE, drawing=drawing),
        classes=12 if learner == "conjugate" else outputs,
        embedding=None if whole else dataclasses.asdict(embedding),
        learner=learner,
        settings=settings_of(built),
        training={},
        seed=0,
        code_version="0",
        metrics={"accuracy_5way_1shot": 0.2},
    )
