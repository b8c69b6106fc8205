"""Backbones whose last blocks are learned with the head: cut, trained, published as one, and refused."""

import numpy as np
import pytest
import torch
from torch import nn

from bmaml.embedding import PREFIX
from model_store import Store
from model_store.backbone import BACKBONE_FILE, network_of
from service.settings import Settings
from tests.images import png, random_images
from tests.service.conftest import serve
from training import backbones
from training.__main__ import main
from training.backbones import Source, backbone_for
from training.config import ImagesConfig, InvalidConfig
from training.families import backbone_images
from training.opened_backbone import block_names, opened_backbone

SIDE, WIDTH, BLOCKS = 16, 4, 4
NORMALISATION = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)


class Block(nn.Module):
    """A residual block, which writes over its input's activation."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps):
        return maps + self.relu(self.norm(self.convolution(maps)))


class Tiny(nn.Module):
    """A stem, blocks, a normalisation and the means over a quarter of the image each."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.stem = nn.Conv2d(3, WIDTH, 4, 4)
            self.stages = nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block()))
            self.last = nn.BatchNorm2d(WIDTH)
            for norm in (each for each in self.modules() if isinstance(each, nn.BatchNorm2d)):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)

    def forward(self, images):
        maps = nn.functional.avg_pool2d(self.last(self.stages(self.stem(images))), 2)
        return maps.reshape(images.shape[0], -1)


class Skipping(Tiny):
    """The same with a connection over all blocks."""

    def forward(self, images):
        stem = self.stem(images)
        return (self.stages(stem) + stem).mean((2, 3))


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("BMAML_BACKBONES", str(tmp_path / "backbones"))
    networks = {"blocks": Tiny, "skipping": Skipping, "layers": lambda: nn.Sequential(nn.Conv2d(3, 2, 16))}
    monkeypatch.setitem(
        backbones._LIBRARIES, "tiny", lambda name: Source(networks[name](), SIDE, 1.0, *NORMALISATION)
    )


def opened(blocks, name="blocks"):
    return opened_backbone(ImagesConfig("x", backbone=f"tiny:{name}", finetune=blocks))


def test_blocks_are_the_modules_of_which_there_are_several():
    assert block_names(Tiny()) == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]


@pytest.mark.parametrize("blocks", [1, BLOCKS])
def test_both_parts_are_the_network_and_the_open_one_has_the_parameters_from_its_first_block_on(blocks):
    cut, images = opened(blocks), torch.rand(5, 3, SIDE, SIDE)
    learned = cut.tail.initialise(torch.Generator())
    names = {name.removeprefix(PREFIX) for name in learned}
    first = block_names(Tiny())[-blocks:]
    expected = {name for name, _ in Tiny().named_parameters() if name.startswith((*first, "last"))}
    assert names == expected
    whole = backbone_for(ImagesConfig("x", backbone="tiny:blocks"))
    rows = cut.trunk.embed(images)
    torch.testing.assert_close(cut.features_of(rows), whole.embed(images))
    assert cut.features == whole.features
    assert torch.equal(rows, cut.trunk.embed(images))


def test_a_closed_backbone_gives_the_features_of_training():
    cut, images = opened(2), torch.rand(6, 3, SIDE, SIDE)
    generator = torch.Generator().manual_seed(1)
    learned = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in cut.tail.initialise(generator).items()
    }
    trained = cut.tail(learned, cut.trunk.embed(images).unflatten(0, (2, 3)), training=True)
    closed = cut.closed({**learned, "initial": torch.zeros(1)})
    torch.testing.assert_close(closed.embed(images), trained.flatten(0, 1), rtol=1e-5, atol=1e-5)
    before = cut.features_of(cut.trunk.embed(images))
    assert (closed.embed(images) - before).abs().max() > 0.1
    assert closed.info.name == "tiny:blocks (last 2 blocks finetuned)"
    assert (closed.info.mean, closed.info.std) == NORMALISATION
    assert closed.info.digest != backbone_for(ImagesConfig("x", backbone="tiny:blocks")).info.digest


def test_gradients_reach_every_open_parameter():
    cut = opened(3)
    learned = {name: each.requires_grad_() for name, each in cut.tail.initialise(torch.Generator()).items()}
    rows = cut.trunk.embed(torch.rand(4, 3, SIDE, SIDE)).unsqueeze(0)
    cut.tail(learned, rows, training=True).square().sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in learned.values())


@pytest.fixture
def colours(tmp_path):
    path = tmp_path / "colours.npz"
    images = random_images(12, channels=3)
    labels = np.repeat(np.arange(12), images.shape[1])
    split = np.array([0] * 8 + [1] * 2 + [2] * 2)
    np.savez(path, images=images.reshape(-1, SIDE, SIDE, 3), label=labels, split=split)
    return path


def trained(colours, tmp_path, *more):
    options = ["--name", "tiny", "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    options += ["--split", "split", "--classes", "3", "--shots", "1:2", "--evaluate-every", "4"]
    options += ["--meta-steps", "4", "--backbone", "tiny:blocks", "--finetune", "2", "--patience", "0"]
    return main(["images", str(colours), *options, *more])


def test_a_version_holds_the_finetuned_blocks_and_is_served_with_them(colours, tmp_path):
    assert trained(colours, tmp_path, "--learning-rate", "0.01") == 0
    store = tmp_path / "store"
    model, whole = Store(store).load("tiny"), backbone_for(ImagesConfig("x", backbone="tiny:blocks"))
    info = model.manifest.backbone
    assert info.digest != whole.info.digest
    assert (store / "tiny" / "1" / BACKBONE_FILE).exists()
    assert model.manifest.training["family"]["finetune"] == 2
    assert not any(name.startswith(PREFIX) for name in model.learned)
    assert "(last 2 blocks finetuned)`, pretrained and then finetuned" in Store(store).card("tiny")
    held, fresh = network_of(model.embedding.content).state_dict(), Tiny().state_dict()
    moved = {name for name in fresh if not torch.equal(held[name], fresh[name])}
    assert moved == {name for name, _ in Tiny().named_parameters() if name.startswith(("stages.1", "last"))}
    assert main(["evaluate", "tiny", str(colours), "--store", str(store)]) == 0
    images = random_images(3, channels=3, seed=9)
    shown, asked = images[:, 0], images[:, 1:3].reshape(-1, SIDE, SIDE, 3)
    body = {
        "model": "tiny",
        "support": {"x": {"images": [png(each) for each in shown]}, "y": ["a", "b", "c"]},
        "query": {"x": {"images": [png(each) for each in asked]}},
    }
    for served in serve(Settings(store=store, device="cpu")):
        answer = served.client.post("/adapt-predict", json=body)
        assert answer.status_code == 200
        assert len(answer.json()["prediction"]["label"]) == 6


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"backbone": "file:net.pt"}, "has no blocks that could be opened"),
        ({}, "name one"),
        ({"backbone": "tiny:blocks", "finetune": -1}, "a number of blocks"),
    ],
)
def test_options_that_open_nothing_are_refused(config, match):
    with pytest.raises(InvalidConfig, match=match):
        ImagesConfig("x", **{"finetune": 1, **config})


@pytest.mark.parametrize(
    ("name", "blocks", "match"),
    [
        ("blocks", 5, "has 4 blocks that could be opened; found --finetune 5"),
        ("layers", 1, "has 0 blocks"),
        ("skipping", 2, "cannot be cut before its last 2 blocks"),
    ],
)
def test_networks_that_cannot_be_opened_are_refused(name, blocks, match):
    with pytest.raises(InvalidConfig, match=match):
        opened(blocks, name)


def test_maps_that_take_too_much_memory_are_refused(colours, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backbone_images, "MAX_BYTES", 1000)
    assert trained(colours, tmp_path) == 1
    assert "open fewer blocks with --finetune" in " ".join(capsys.readouterr().err.split())


def test_other_starts_are_refused(colours, tmp_path, capsys):
    assert trained(colours, tmp_path, "--start-from", "tiny") == 1
    assert "knows no --start-from" in capsys.readouterr().err
