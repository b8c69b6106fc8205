"""Pretrained networks whose last blocks are learned with the head (`--finetune`).

The network is cut in two where the first of these blocks begins. The part before is frozen, and computed once
for each image. The part behind is an embedding that is trained as our own networks are. After training both
are one network again, with a digest of its own, which is exported and published as any other backbone.
"""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.func import functional_call

from bmaml.blocks import blocks
from bmaml.embedding import PREFIX, Embedding
from bmaml.shapes import Inputs
from model_store.backbone import IMAGES_PER_BLOCK, Backbone
from training.backbones import described, exported, exported_once, kept, program_of, source_of
from training.config import ImagesConfig, InvalidConfig

LEAST_BLOCKS = 3
"""Modules of one class, at least, that are the blocks of a network."""
BATCH_SIZE = torch.ops.aten.sym_size.int


class Tail(Embedding):
    """The part of a network behind the cut, with the parameters that are learned.

    Args:
        module: maps what the frozen part gives, of a `shape` for each image, to vectors.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._module = deepcopy(module)  # whose buffers follow the device of the images
        self._start = {f"{PREFIX}{name}": each.detach() for name, each in module.named_parameters()}

    def initialise(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The pretrained parameters."""
        del generator
        return {name: tensor.clone() for name, tensor in self._start.items()}

    def __call__(
        self, learned: Mapping[str, Tensor], images: Inputs, training: bool = False
    ) -> Float[Tensor, "task row feature"]:
        """Features of images, given as rows of what the frozen part makes of them.

        Normalisation keeps the moments of the pretraining, in training as well.
        """
        del training
        tasks, rows, _ = images.shape
        named = {name[len(PREFIX) :]: learned[name] for name in self._start}
        signal = images.reshape(tasks * rows, *self.shape)
        features: Tensor = functional_call(self._module.to(images.device), named, (signal,))
        return features.unflatten(0, (tasks, rows))


@dataclass(frozen=True)
class OpenedBackbone:
    """A pretrained network, cut in two.

    Attributes:
        config: the images and the name of the network.
        trunk: the frozen part, which maps images to flat maps.
        tail: the part that is learned.
        features: length of the vectors.
    """

    config: ImagesConfig
    trunk: Backbone
    tail: Tail
    features: int
    _network: nn.Module = field(repr=False)

    def features_of(self, rows: Tensor) -> Tensor:
        """Features `[image, feature]` by the pretrained parameters, of rows of flat maps."""
        start = self.tail.initialise(torch.Generator())
        with torch.no_grad():
            parts = blocks(len(rows), IMAGES_PER_BLOCK)
            return torch.cat([self.tail(start, rows[part].unsqueeze(0))[0] for part in parts])

    def closed(self, learned: Mapping[str, Tensor]) -> Backbone:
        """The whole network with learned parameters, as one program."""
        own = {
            name[len(PREFIX) :]: tensor.cpu() for name, tensor in learned.items() if name.startswith(PREFIX)
        }
        network = deepcopy(self._network)
        network.load_state_dict({**network.state_dict(), **own})
        info = self.trunk.info
        name = f"{self.config.backbone} (last {self.config.finetune} blocks finetuned)"
        content = exported(network, info.size)
        crop = 1.0 if info.crop is None else info.crop
        return kept(described(self.config, name, content, info.size, crop, info.mean, info.std))


def opened_backbone(config: ImagesConfig) -> OpenedBackbone:
    """The backbone that a configuration names, with its last `finetune` blocks open.

    Raises:
        MissingBackbone: as `backbone_for`.
        InvalidConfig: as `backbone_for`; also a network of fewer blocks, or one that cannot be cut there.
    """
    source = source_of(config)
    size, network = config.size or source.size, source.network
    graph = program_of(network, size).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    first = _first_node(config, network, graph)
    trunk, tail, shape = _cut(config, graph, first)
    content = exported_once(f"{config.backbone} before its last {config.finetune} blocks", trunk, size)
    frozen = described(config, str(config.backbone), content, size, source.crop, source.mean, source.std)
    with torch.no_grad():
        features = tail(torch.zeros(1, *shape)).shape[1]
    return OpenedBackbone(config, frozen, Tail(tail, shape), features, network)


def block_names(network: nn.Module) -> list[str]:
    """The blocks of a network: its outermost modules of classes that occur three times or more.

    Containers and single layers are none.
    """
    candidates = {
        name: type(module)
        for name, module in network.named_modules()
        if name
        and any(module.children())
        and type(module) not in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    }
    counts = Counter(candidates.values())
    several = {name for name, kind in candidates.items() if counts[kind] >= LEAST_BLOCKS}
    outermost = [
        name for name in several if not any(name.startswith(f"{other}.") for other in several - {name})
    ]
    counts = Counter(candidates[name] for name in outermost)
    return [name for name in candidates if name in outermost and counts[candidates[name]] >= LEAST_BLOCKS]


def _first_node(config: ImagesConfig, network: nn.Module, graph: fx.GraphModule) -> int:
    """The position of the first node of the open blocks."""
    blocks = set(block_names(network))
    starts: dict[str, int] = {}
    for position, node in enumerate(graph.graph.nodes):
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            name = path.removeprefix("L['self'].")
            if name in blocks:
                starts.setdefault(name, position)
    order = sorted(starts.values())
    if len(order) < config.finetune:
        raise InvalidConfig(
            f"{config.backbone} has {len(order)} blocks that could be opened; "
            f"found --finetune {config.finetune}"
        )
    return order[-config.finetune]


def _cut(
    config: ImagesConfig, whole: fx.GraphModule, first: int
) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """The parts of a graph before and from a node, and the shape of what the former gives for an image."""
    nodes = list(whole.graph.nodes)
    before = dict.fromkeys(nodes[:first])
    across = [
        node for node in before if node.op != "get_attr" and any(user not in before for user in node.users)
    ]
    images = next(node for node in nodes if node.op == "placeholder")
    batch = images.meta["val"].shape[0]
    sizes = [node for node in across if node.target is BATCH_SIZE and node.args == (images, 0)]
    maps = [node for node in across if node not in sizes]
    if len(maps) != 1 or maps[0].meta["val"].shape[0] != batch:
        raise InvalidConfig(
            f"{config.backbone} cannot be cut before its last {config.finetune} blocks: they take more from "
            "the blocks before them than one tensor for each image. Open another number of blocks"
        )
    (crossing,) = maps
    trunk = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = trunk.node_copy(node, copies.__getitem__)
    trunk.output(trunk.call_function(torch.flatten, (copies[crossing], 1)))
    tail = fx.Graph()
    copies = {crossing: tail.placeholder("maps")}
    copies |= {node: tail.call_function(BATCH_SIZE, (copies[crossing], 0)) for node in sizes}
    for node in nodes[first:]:
        for each in node.all_input_nodes:
            if each not in copies:
                copies[each] = tail.node_copy(each)
        if node.op != "output":
            copies[node] = tail.node_copy(node, copies.__getitem__)
        else:
            tail.output(copies[node.all_input_nodes[0]])
    frozen = fx.GraphModule(whole, trunk)
    return frozen, fx.GraphModule(whole, tail), tuple(crossing.meta["val"].shape[1:])
