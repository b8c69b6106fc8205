"""Random tasks from the images of each class."""

import pytest
import torch

from tests.closed_form import generator
from training.families.class_index import ClassIndex


def test_a_draw_has_distinct_classes_and_distinct_images_of_them():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 2, 0, 3])
    index = ClassIndex(labels)
    draw = index.draw(50, 3, 1, 1, generator())
    assert bool((labels[draw.images] == draw.classes.unsqueeze(-1)).all())
    for classes, rows in zip(draw.classes, draw.images, strict=True):
        assert len(set(classes.tolist())) == 3
        assert 3 not in classes  # one image is too few for support and query
        assert len(set(rows.flatten().tolist())) == 6
    with pytest.raises(ValueError, match="3 classes have 2 images; tasks of 4"):
        index.draw(1, 4, 1, 1, generator())
