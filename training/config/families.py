"""The options of sine curves, images and worlds; the kinds of families, tables included."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from model_store.images import ImageInput
from training.config.table import TableConfig
from training.config.values import InvalidConfig, Shots, ShotsOption, Switch

DEFAULT_IMAGE_SIZE = 28
"""Pixels along each side of images, where neither the caller nor a backbone says."""
SINUSOID_SHOTS = Shots(10, 10)
IMAGE_SHOTS = Shots(1, 3)


@dataclass(frozen=True)
class SinusoidConfig:
    """The sine curves of Yoon et al. 2018.

    Attributes:
        shots: support points of a task.
        queries: query points of a training task.
        tasks: the number of training tasks; None draws a new one every time.
        resplit: with a finite number of tasks, deal each task's fixed points into support and query
            set anew at every visit, instead of once.
    """

    shots: ShotsOption = SINUSOID_SHOTS
    queries: int = 10
    tasks: int | None = None
    resplit: Switch = False


def _channels(rgb: Annotated[Switch, arg(help_behavior_hint="")] = False) -> int:
    """Channels of an image.

    Args:
        rgb: three colours instead of grey.
    """
    return 3 if rgb else 1


@dataclass(frozen=True)
class ImagesConfig:
    """Images by class.

    Attributes:
        path: a folder per class, a zip of such folders, or an npz.
        size: pixels along each side of the model's input; 0 takes 28, or those of the backbone.
        channels: 1 for grey, 3 for RGB.
        drawing: ink on an even ground; bright paper is inverted.
        split: "folder" (the topmost one names the role), a CSV of class and role, or an array of the npz;
            None splits by class, seeded.
        ways: classes of a training task.
        shots: support images of each class, drawn once for the tasks of a meta-batch.
        queries: query images of each class at the highest number of shots; fewer shots leave more.
        rotations: take a class turned by a quarter of a circle for another class.
        augment: strength of random distortions; 0 for none.
        least: leave out classes with fewer images.
        strict: refuse what would be left out.
        features_of: use the features of this published version, unchanged.
        crop: part of the shorter side that the central square keeps; None takes the backbone's, and without
            one squeezes the whole image to a square.
        backbone: embed images by a pretrained network, unchanged: torchvision:NAME, timm:NAME,
            efficientnet-lite0, or file:PATH of torch.export or TorchScript.
        finetune: blocks at the end of the backbone that are learned with the head; 0 leaves all unchanged.
        mean: of each channel in [0, 1], which is subtracted before the backbone; None takes the weights' own.
        std: of each channel, by which it is divided; None takes the weights' own.

    Raises:
        InvalidConfig: sizes or counts that make no task.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    size: int = 0
    channels: Annotated[int, arg(name="", constructor=_channels)] = 1
    drawing: Switch = False
    split: str | None = None
    ways: Annotated[int, arg(name="classes")] = 60
    shots: ShotsOption = IMAGE_SHOTS
    queries: int = 1
    rotations: Switch = False
    augment: float = 1.0
    least: int = 5
    strict: Switch = False
    features_of: str | None = None
    crop: float | None = None
    backbone: str | None = None
    finetune: int = 0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @classmethod
    def from_manifest(cls, trained: Mapping[str, Any], path: str) -> "ImagesConfig":
        """The configuration in a published version's manifest, for images at another `path`."""
        values = {name: value for name, value in trained.items() if name != "kind"}
        values |= {name: tuple(values[name]) for name in ("mean", "std") if values.get(name)}
        return cls(**{**values, "path": path, "shots": Shots(**trained["shots"])})

    @property
    def image(self) -> ImageInput:
        """The image input of the model."""
        return ImageInput(channels=self.channels, size=self.size, drawing=self.drawing, crop=self.crop)

    def __post_init__(self) -> None:
        if not self.size and self.backbone is None:
            object.__setattr__(self, "size", DEFAULT_IMAGE_SIZE)
        if self.backbone is not None and self.features_of is not None:
            raise InvalidConfig(
                "features are those of a backbone or of a published version: give one of them"
            )
        if self.backbone is None and (self.mean or self.std):
            raise InvalidConfig("--mean and --std are of a backbone: name one")
        if self.finetune < 0:
            raise InvalidConfig(f"--finetune opens a number of blocks; found {self.finetune}")
        if self.finetune and self.backbone is None:
            raise InvalidConfig("--finetune opens the last blocks of a backbone: name one")
        if self.finetune and (self.backbone or "").startswith("file:"):
            raise InvalidConfig(
                f"{self.backbone} cannot be finetuned: a program of torch.export or TorchScript has no "
                "blocks that could be opened. Name the network by its library, such as timm:NAME"
            )
        if self.std is not None and min(self.std) <= 0:
            raise InvalidConfig(f"standard deviations are positive; found {self.std}")
        if self.ways < 2 or self.queries < 1 or self.shots.lowest < 1 or self.least < 2:
            raise InvalidConfig(
                "a task needs two classes with a support and a query image each, a class two images; "
                f"found {self.ways}, {self.shots.lowest}, {self.queries}, {self.least}"
            )
        if not 0 <= self.augment < float("inf"):
            raise InvalidConfig(f"the strength of augmentation cannot be negative; found {self.augment}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InvalidConfig(f"a crop keeps a part in (0, 1] of the shorter side; found {self.crop}")


@dataclass(frozen=True)
class WorldConfig:
    """A world of tasks for policies.

    Attributes:
        world: navigation, ring, or with the extra gym gym:HalfCheetahDir, gym:HalfCheetahVel and gym:ID of
            any Gymnasium environment with continuous actions.
        episodes: episodes of each particle in a round.
        shaped: judge the adapted particles by the denser reward that a simulator knows; they still adapt to
            the world's own.
        vary: what tasks of gym:ID differ by, each NAME=LOW:HIGH: a keyword of gymnasium.make or else an
            attribute of the environment.
        horizon: steps of an episode of gym:ID; None takes the environment's own.

    Raises:
        InvalidConfig: too few episodes for a particle to move, or no step in an episode; a denser reward of
            gym:ID.
    """

    world: Annotated[Positional[str], arg(metavar="WORLD")]
    episodes: int = 10
    shaped: Switch = False
    vary: tuple[str, ...] = ()
    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise InvalidConfig(f"a round needs at least two episodes of a particle; found {self.episodes}")
        if self.horizon is not None and self.horizon < 1:
            raise InvalidConfig(f"an episode has at least one step; found --horizon {self.horizon}")


SupervisedConfig = SinusoidConfig | TableConfig | ImagesConfig
FamilyConfig = SupervisedConfig | WorldConfig
FamilyKind = Literal["sinusoid", "table", "images", "world"]
RecipeKind = Literal["sinusoid", "table", "classes", "new classes", "images", "world"]
"""Kinds of families by their targets: a table may have classes, of fixed meaning or new in every task."""


def support_rows(config: SupervisedConfig) -> Shots:
    """The support rows of a task of this family."""
    return config.support_rows if isinstance(config, TableConfig) else config.shots


def recipe_kind(config: FamilyConfig) -> RecipeKind:
    """The kind of a family that decides which learners fit it, and by which recipe."""
    if not isinstance(config, TableConfig):
        return family_kind(config)
    if config.new_classes:
        return "new classes"
    return "classes" if config.target in ("classes", "ordered") else "table"


def family_kind(config: FamilyConfig) -> FamilyKind:
    """The kind of a family, by its name on the command line."""
    kinds: dict[type, FamilyKind] = {
        SinusoidConfig: "sinusoid",
        TableConfig: "table",
        ImagesConfig: "images",
        WorldConfig: "world",
    }
    return kinds[type(config)]
