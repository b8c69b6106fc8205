"""Learners trained end to end by a benchmark: classes left out, results kept, labels bought."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.accuracy import paper_images, paper_labelling
from benchmarks.pages import blocks
from model_store import Store
from tests.images import SIZE, random_images
from training.config import ImagesConfig, Shots
from training.families import Images

ROLES = ["train"] * 7 + ["validation"] * 5 + ["test"] * 5
PAGE = "<!-- measured: {0}: begin -->\n<!-- measured: {0}: end -->\n"


@pytest.fixture
def collection(tmp_path):
    images = random_images(len(ROLES), 23)
    labels = np.repeat(np.arange(len(ROLES)), images.shape[1])
    path = tmp_path / "images.npz"
    np.savez(path, images=images.reshape(-1, SIZE, SIZE), label=labels, roles=np.array(ROLES))
    return path


def called(monkeypatch, module, *options):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, options)])
    module.main()


def test_a_smaller_collection_keeps_all_other_classes_and_their_order(collection, tmp_path):
    config = ImagesConfig(str(collection), SIZE, split="roles", ways=5, shots=Shots(1, 1))
    everything = Images(config, 0)
    draws = [paper_images.reduced(everything, 6, seed, tmp_path / f"{seed}.npz") for seed in (0, 0, 1)]
    found = [
        Images(ImagesConfig(str(path), SIZE, split="split", ways=5, shots=Shots(1, 1)), 0) for path in draws
    ]
    for each in found:
        counts = {role: int((each.collection.roles == role).sum()) for role in set(ROLES)}
        assert counts == {"train": 6, "validation": 5, "test": 5}
        np.testing.assert_array_equal(each.of_role("test")[0], everything.of_role("test")[0])
    np.testing.assert_array_equal(found[0].of_role("train")[0], found[1].of_role("train")[0])


def test_the_tables_are_written_from_results_that_are_made_once(collection, tmp_path, monkeypatch):
    monkeypatch.setattr(paper_images, "LEARNERS", (("maml", 1), ("bmaml", 2)))
    monkeypatch.setattr(paper_labelling, "LEARNERS", (("maml", 1), ("bmaml", 2)))
    page, results = tmp_path / "page.md", tmp_path / "results"
    page.write_text(PAGE.format("paper-tiny") + PAGE.format("paper-labelling-tiny"))
    options = [collection, "--name", "tiny", "--split", "roles", "--size", SIZE, "--classes", 6, "--width", 4]
    options += ["--meta-steps", 2, "--episodes", 3, "--results", results, "--page", page]
    called(monkeypatch, paper_images, *options)
    table = next(block for block in blocks(page.read_text()) if block.name == "paper-tiny")
    assert table.sealed
    assert "| bmaml, M = 2 | 6 |" in table.text
    kept = results / "tiny-maml-1-6-0-2.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"minutes": 7.0}))
    called(monkeypatch, paper_images, *options)
    assert "| 7.00 |" in page.read_text()

    shipped = Store(results / "store").load("tiny-bmaml-2-6-0")
    fields = paper_images.published_fields(SimpleNamespace(manifest=shipped.manifest))
    family = fields["training"]["family"] | {"split": "roles"}
    fields["training"] = fields["training"] | {"family": family}
    Store(tmp_path / "shipped").publish("tiny", "# A card\n", shipped.learned, **fields)
    options = ["tiny", collection, "--results", results, "--classes", 6, "--tasks", 2, "--rounds", 2]
    called(monkeypatch, paper_labelling, *options, "--store", tmp_path / "shipped", "--page", page)
    bought = next(block for block in blocks(page.read_text()) if block.name == "paper-labelling-tiny").text
    lines = [line.split("|")[1:3] for line in bought.splitlines() if line.startswith("| ")]
    named = [(first.strip(), second.strip()) for first, second in lines[1:]]
    assert named == [
        ("maml, M = 1", "random"),
        ("maml, M = 1", "entropy"),
        *[("bmaml, M = 2", name) for name in ("random", "entropy", "bald")],
        *[("`tiny` (shipped)", name) for name in ("random", "entropy", "bald")],
    ]
    of_bmaml, of_shipped = (
        [line.split("|", 2)[2] for line in bought.splitlines() if line.startswith(start)]
        for start in ("| bmaml", "| `tiny`")
    )
    assert of_bmaml == of_shipped  # one version under two names, on the same tasks
