"""bmaml-train images: classifiers trained, published, evaluated, and begun from published versions."""

import pytest
import torch

from bmaml.task import Examples
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


def test_a_classifier_is_evaluated_after_the_steps_that_are_asked_for(arrays, tmp_path, capsys):
    store = str(tmp_path / "store")
    options = ["--name", "shapes", "--store", store, "--runs", str(tmp_path / "runs"), "--size", str(SIZE)]
    options += ["--split", "split", "--classes", "2", "--width", "4", "--shots", "1:2", "--learner", "maml"]
    assert main(["images", str(arrays), *options, "--meta-steps", "6", "--evaluate-every", "6"]) == 0
    capsys.readouterr()

    def figures(*more):
        assert main(["evaluate", "shapes", str(arrays), "--store", store, *more]) == 0
        return capsys.readouterr().out

    own = Store(tmp_path / "store").load("shapes").learner.steps
    assert figures("--steps", str(own)) == figures()
    assert figures("--steps", "0") != figures()


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


def test_a_whole_network_is_trained_from_a_head_on_shared_features(arrays, tmp_path, capsys):
    store, runs = str(tmp_path / "store"), str(tmp_path / "runs")
    shared = ["--store", store, "--runs", runs, "--size", str(SIZE), "--split", "split", "--shots", "1"]
    shared += ["--evaluate-every", "6", "--learner", "maml", "--width", "4", "--learn-step-size", "scalar"]
    assert (
        main(["images", str(arrays), "--name", "base", "--classes", "3", "--meta-steps", "6", *shared]) == 0
    )
    shared[-1] = "parameter"
    more = ["--name", "whole", "--adapt", "network", "--start-from", "base", "--classes", "2"]
    more += ["--meta-steps", "1", "--learning-rate", "1e-9"]
    assert main(["images", str(arrays), *more, *shared]) == 1
    assert "base has heads on shared features, which a normalised network cannot" in capsys.readouterr().err
    more += ["--normalise", "none"]
    assert main(["images", str(arrays), *more, *shared]) == 0
    base, whole = (Store(tmp_path / "store").load(name) for name in ("base", "whole"))
    assert whole.embedding is None
    assert whole.manifest.embedding is None
    images = torch.rand(1, 3, SIZE**2)
    support = Examples.full(images[:, :2], torch.eye(2).unsqueeze(0))
    wide = Examples.full(images[:, :2], torch.eye(2, 3).unsqueeze(0))
    found = whole.learner.predict(whole.learner.adapt(whole.learned, support, 0), images).probabilities()
    embedded = Examples.full(base.embedded(wide.x), wide.y)
    posterior = base.learner.adapt(base.learned, embedded, 0)
    expected = base.learner.predict(posterior, base.embedded(images)).probabilities()
    torch.testing.assert_close(found, expected[..., :2], atol=1e-5, rtol=0)
    rates, of_heads = whole.learned["log_step_size"].exp(), base.learned["log_step_size"].exp()
    torch.testing.assert_close(rates[[0, -1]], torch.stack([0.01 * of_heads, of_heads]), rtol=1e-4, atol=0)
    assert main(["evaluate", "whole", str(arrays), "--store", store]) == 0
    assert "accuracy_2way_1shot" in capsys.readouterr().out
    assert main(["images", str(arrays), *more, *shared, "--width", "6"]) == 1
    assert "base cannot be folded into one network: block 0 has kernels" in capsys.readouterr().err


@pytest.mark.parametrize("learner", ["emaml", "bfa", "bmaml"])
def test_particles_may_be_whole_networks(arrays, tmp_path, learner):
    options = ["--name", "whole", "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    options += ["--size", str(SIZE), "--split", "split", "--shots", "1", "--classes", "2", "--width", "4"]
    options += ["--meta-steps", "3", "--evaluate-every", "3", "--learner", learner, "--particles", "2"]
    assert main(["images", str(arrays), *options, "--adapt", "network"]) == 0
    built = Store(tmp_path / "store").load("whole").learner
    assert built.particles == 2
    assert (built.network.strided, built.network.normalisation) == (True, "support")


def test_a_folder_of_roles_trains_as_the_manual_says_of_cifar_fs(folder, tmp_path, capsys):
    options = ["images", str(folder), "--name", "cifar-fs", "--rgb", "--size", "32", "--split", "folder"]
    options += ["--augment", "0", "--learner", "bmaml", "--particles", "5", "--classes", "2", "--shots", "1"]
    options += ["--queries", "2", "--meta-batch", "4", "--steps", "5", "--width", "4", "--meta-steps", "4"]
    options += ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    assert main(options) == 0
    model = Store(tmp_path / "store").load("cifar-fs")
    assert (model.manifest.image.channels, model.learner.particles) == (3, 5)
    assert model.learner.mean_gradient
    assert model.learner.fixed_precisions
    assert "12 classes (2 test, 8 train, 2 validation)" in capsys.readouterr().err


def test_conjugate_particles_are_no_whole_networks(arrays, tmp_path, capsys):
    options = ["--name", "whole", "--store", str(tmp_path), "--size", str(SIZE), "--split", "split"]
    assert main(["images", str(arrays), *options, "--classes", "2", "--adapt", "network"]) == 1
    assert "conjugate adapts no network" in capsys.readouterr().err
    more = ["--learner", "maml", "--adapt", "network", "--views", "2"]
    assert main(["images", str(arrays), *options, "--classes", "2", *more]) == 1
    assert "--adapt network knows no" in capsys.readouterr().err
    more = ["--learner", "maml", "--adapt", "network", "--standard"]
    assert main(["images", str(arrays), *options, "--classes", "2", *more]) == 1
    assert "--standard blocks are for heads, and for --normalise none" in capsys.readouterr().err


def test_other_images_than_those_of_training_are_scored_whole(arrays, folder, tmp_path, capsys):
    store = tmp_path / "store"
    command = ["images", str(arrays), "--name", "shapes", "--split", "split", "--size", "16", "--least", "2"]
    command += ["--classes", "4", "--shots", "1:2", "--meta-steps", "1", "--store", str(store)]
    assert main([*command, "--runs", str(tmp_path / "runs")]) == 0
    capsys.readouterr()
    assert main(["evaluate", "shapes", str(folder), "--store", str(store)]) == 0
    printed = capsys.readouterr()
    assert "other images than images.npz: every class is scored" in printed.err
    assert "12 classes (12 test)" in printed.err
    assert main(["evaluate", "shapes", str(folder), "--shots", "3", "--store", str(store)]) == 1
    assert "shapes is scored at fixed numbers of shots: leave out --shots" in capsys.readouterr().err
