"""bmaml-train images: classifiers trained, published, evaluated, and begun from published versions."""

import pytest
import torch

from model_store import Store
from tests.images import SIZE
from training.__main__ import main


@pytest.mark.parametrize("learner", ["conjugate", "bmaml", "bfa", "emaml", "maml"])
def test_every_learner_trains_and_publishes_a_classifier(arrays, tmp_path, learner, capsys):
    store = tmp_path / "store"
    options = ["--name", "shapes", "--store", str(store), "--runs", str(tmp_path / "runs")]
    options += ["--size", str(SIZE), "--split", "split", "--classes", "2", "--width", "4", "--shots", "1:2"]
    options += ["--meta-steps", "12", "--evaluate-every", "6", "--learner", learner, "--dimensions", "8"]
    options += ["--note", "It has seen shapes alone."]
    assert main(["images", str(arrays), *options]) == 0
    assert "published shapes version 1" in capsys.readouterr().out
    model = Store(store).load("shapes")
    assert model.manifest.kind == "classification"
    assert model.manifest.classes == (100 if learner == "conjugate" else 2)
    assert "16 × 16 → any classes" in Store(store).card("shapes")
    assert Store(store).card("shapes").rstrip().endswith("that belongs to it. It has seen shapes alone.")
    assert main(["evaluate", "shapes", str(arrays), "--store", str(store)]) == 0
    assert main(["plot", "shapes", str(arrays), "--store", str(store)]) == 1


def test_a_head_is_trained_on_the_features_of_a_published_version(arrays, tmp_path):
    store, runs = str(tmp_path / "store"), str(tmp_path / "runs")
    shared = ["--store", store, "--runs", runs, "--size", str(SIZE), "--split", "split", "--classes", "2"]
    shared += ["--meta-steps", "6", "--evaluate-every", "6", "--shots", "1"]
    assert main(["images", str(arrays), "--name", "base", "--width", "4", *shared]) == 0
    head = ["--learner", "bfa", "--features-of", "base", "--rotations"]
    assert main(["images", str(arrays), "--name", "head", *head, *shared]) == 0
    base, built = Store(tmp_path / "store").load("base"), Store(tmp_path / "store").load("head")
    assert built.embedding == base.embedding
    for name, tensor in base.learned.items():
        if name.startswith("embedding."):
            assert torch.equal(tensor, built.learned[name])


def test_training_remembers_the_statistics_it_normalises_by(arrays, tmp_path):
    store = tmp_path / "store"
    options = [
        "--name",
        "shapes",
        "--store",
        str(store),
        "--runs",
        str(tmp_path / "runs"),
        "--split",
        "split",
    ]
    options += ["--size", str(SIZE), "--classes", "3", "--width", "4", "--meta-steps", "30", "--shots", "1"]
    assert main(["images", str(arrays), *options]) == 0
    learned = Store(store).load("shapes").learned
    for block in range(4):
        assert not torch.equal(
            learned[f"embedding.{block}.mean"], torch.zeros_like(learned[f"embedding.{block}.mean"])
        )


def test_a_learner_for_numbers_is_refused_for_images(arrays, tmp_path, capsys):
    options = ["--name", "shapes", "--store", str(tmp_path), "--size", str(SIZE), "--split", "split"]
    assert main(["images", str(arrays), *options, "--classes", "2", "--learner", "collapsed"]) == 1
    assert "collapsed is no learner for classes" in capsys.readouterr().err


def test_a_run_may_start_from_a_published_version_of_its_shape(arrays, tmp_path, capsys):
    store, runs = str(tmp_path / "store"), str(tmp_path / "runs")
    shared = ["--store", store, "--runs", runs, "--size", str(SIZE), "--split", "split", "--classes", "2"]
    shared += ["--evaluate-every", "6", "--shots", "1", "--dimensions", "4"]
    assert main(["images", str(arrays), "--name", "base", "--width", "4", "--meta-steps", "6", *shared]) == 0
    more = ["--name", "more", "--start-from", "base", "--meta-steps", "1", "--learning-rate", "1e-9"]
    assert main(["images", str(arrays), "--width", "4", *more, *shared]) == 0
    base, further = (Store(tmp_path / "store").load(name) for name in ("base", "more"))
    torch.testing.assert_close(further.learned["initial"], base.learned["initial"], atol=1e-6, rtol=0)
    assert further.manifest.training["start_from"] == "base"
    assert main(["images", str(arrays), "--width", "6", *more, *shared]) == 1
    assert "base has other parameters than this run" in capsys.readouterr().err
