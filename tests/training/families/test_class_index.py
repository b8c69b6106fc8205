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


@pytest.mark.parametrize(
    ("ways", "shots", "share", "queries"),
    [(2, 1, 1.0, 1), (2, 2, 1.0, 1), (3, 1, 0.5, 2), (2, 1, 0.5, 3), (4, 2, 1.0, 0), (2, 4, 1.0, 0)],
)
def test_every_class_with_rows_to_ask_about_takes_part_or_a_share_of_them(ways, shots, share, queries):
    index = ClassIndex(torch.tensor([0] * 9 + [1] * 4 + [2] * 3 + [3] * 2 + [4]))
    found = index.queries(ways, shots, 4, share)
    assert found == queries
    if found:
        drawn = index.draw(200, ways, shots, found, generator()).classes.unique()
        assert len(drawn) >= max(ways, share * int((index.counts > shots).sum()))
