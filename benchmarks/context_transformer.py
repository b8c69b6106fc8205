"""A transformer that predicts query rows from support rows in its context, without adaptation.

A transformer neural process (Nguyen & Grover 2022) without causal order: every row is a token, all tokens
attend to the support rows alone, and a query row becomes a mixture of Gaussians. Each component's mean is an
average of the support labels by its own attention, plus an offset. Offsets and standard deviations share a
scale, which each query row has of its own. No position is encoded, so the order of rows does not matter.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bmaml.predictive import Predictive
from bmaml.task import Examples, TaskBatch

LABEL_CHANNELS = 16
"""Channels in which a component of a query row attends to the support labels."""
CLIP = 1.0
"""The largest norm of a gradient."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network.

    Attributes:
        inner: width of the hidden layer after each attention.
        components: of each query row's mixture.
        smallest_std: a floor under the standard deviations, in standardised units.
        attention: False weighs all support rows alike: a deep set (Zaheer et al. 2017) of the same layers.
    """

    inputs: int = 1
    width: int = 64
    heads: int = 4
    layers: int = 3
    inner: int = 128
    components: int = 8
    smallest_std: float = 0.003
    attention: bool = True


@dataclass(frozen=True)
class Recipe:
    """Settings of AdamW with a linear warm-up and cosine decay to zero.

    Attributes:
        queries: query rows of a training task that are scored, at random where there are more.
        averaging: share of the moving average of the weights that a step keeps; the average is what is kept.
        looks: at the validation tasks.
    """

    steps: int
    meta_batch: int = 32
    queries: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.05
    warmup: int = 200
    averaging: float = 0.998
    looks: int = 30


@dataclass(frozen=True)
class Look:
    """The state of a training: mean NLL per task in standardised units."""

    step: int
    cpu_minutes: float
    training_nll: float
    validation_nll: float


class Block(nn.Module):
    """A pre-norm layer in which all tokens attend to the first tokens of their task."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        width = architecture.width
        self.heads, self.attention = architecture.heads, architecture.attention
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, architecture.inner), nn.GELU(), nn.Linear(architecture.inner, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The next tokens `[task, token, width]`.

        Args:
            mask: which of the first tokens, the context, are real, `[task, context]`.
        """
        normal = self.before(tokens)

        def by_head(each: Tensor) -> Tensor:
            return each.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        keys, values = (by_head(each) for each in self.key_value(normal[:, : mask.shape[1]]).chunk(2, -1))
        queries = by_head(self.query(normal)) if self.attention else None
        read = (attention(queries, keys, mask) @ values).expand(-1, -1, tokens.shape[1], -1)
        tokens = tokens + self.drop(self.join(read.transpose(1, 2).flatten(2)))
        return tokens + self.drop(self.inner(self.between(tokens)))


class ContextTransformer(nn.Module):
    """The network: support rows and query inputs to a mixture for each query row."""

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        self.embedding = nn.Sequential(
            nn.Linear(architecture.inputs + 2, width), nn.GELU(), nn.Linear(width, width)
        )
        self.nothing = nn.Parameter(torch.zeros(width))
        """The token that stands before the support rows, so that an empty set has one."""
        self.blocks = nn.ModuleList(Block(architecture, dropout) for _ in range(architecture.layers))
        self.normal = nn.LayerNorm(width)
        count = architecture.components
        self.label_queries = nn.Linear(width, count * LABEL_CHANNELS)
        self.label_keys = nn.Linear(width, count * LABEL_CHANNELS, bias=False)
        self.head = nn.Linear(width, 3 * count + 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[count : 2 * count] = torch.linspace(-1, 1, count)

    def forward(self, support: Examples, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and standard deviations, each `[task, query, component]`."""
        known = torch.cat([support.x, support.y, torch.ones_like(support.y)], -1)
        asked = nn.functional.pad(x, (0, 2))
        rows = self.embedding(torch.cat([known, asked], 1))
        tokens = torch.cat([self.nothing.expand(len(rows), 1, -1), rows], 1)
        mask = nn.functional.pad(support.mask, (1, 0), value=True)
        for block in self.blocks:
            tokens = block(tokens, mask)
        tokens = self.normal(tokens)
        context, queries = tokens[:, : mask.shape[1]], tokens[:, mask.shape[1] :]
        logs, offset, spread, size = self.head(queries).split([self.architecture.components] * 3 + [1], -1)
        means = self._labels(context, queries, support.y, mask) + size.exp() * offset
        std = self.architecture.smallest_std + size.exp() * nn.functional.softplus(spread)
        return logs.log_softmax(-1), means, std

    def belief(self, support: Examples, x: Tensor) -> Predictive:
        """The mixtures as a `Predictive`; see `belief`."""
        return belief(self(support, x))

    def _labels(self, context: Tensor, queries: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """Averages of the support labels by each component's attention, `[task, query, component]`."""

        def by_component(each: Tensor) -> Tensor:
            return each.unflatten(-1, (self.architecture.components, -1)).transpose(1, 2)

        keys = by_component(self.label_keys(context))
        reads = by_component(self.label_queries(queries)) if self.architecture.attention else None
        labels = nn.functional.pad(y, (0, 0, 1, 0)).unsqueeze(1)
        return (attention(reads, keys, mask) @ labels).squeeze(-1).transpose(1, 2)

    @property
    def parameters_count(self) -> int:
        """The number of trained numbers."""
        return sum(each.numel() for each in self.parameters())


def attention(queries: Tensor | None, keys: Tensor, mask: Tensor) -> Tensor:
    """The weights of the context `[task, head, query, context]`, zero where the mask is False.

    Args:
        queries: `[task, head, query, channel]`; None weighs the real context alike, for one query.
        keys: `[task, head, context, channel]`.
        mask: `[task, context]`.
    """
    if queries is None:
        logits = keys.new_zeros(*keys.shape[:2], 1, keys.shape[2])
    else:
        logits = queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1])
    return logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)


def log_density(mixture: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
    """Log density of y `[task, query, 1]` under the mixtures, `[task, query]`."""
    logs, means, std = mixture
    standard = (y - means) / std
    return (logs - 0.5 * standard.square() - std.log() - 0.5 * math.log(2 * math.pi)).logsumexp(-1)


def belief(mixture: tuple[Tensor, Tensor, Tensor]) -> Predictive:
    """The mixtures as a `Predictive` with a task for each query row, since the weights differ by row."""
    logs, means, std = (each.flatten(0, 1) for each in mixture)
    means = means[..., None, None]
    return Predictive(means, std.square()[..., None, None], torch.zeros_like(means), logs)


def mean_nll(network: ContextTransformer, batch: TaskBatch) -> Tensor:
    """NLL of the query rows: the mean of each task first."""
    mask = batch.query.mask
    logs = log_density(network(batch.support, batch.query.x), batch.query.y)
    return -(torch.where(mask, logs, 0).sum(1) / mask.sum(1).clamp_min(1)).mean()


def at_most(query: Examples, rows: int) -> Examples:
    """The first real query rows of each task, moved to the front."""
    order = query.mask.logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, :rows]
    x, y = (each.gather(1, order[..., None].expand(-1, -1, each.shape[-1])) for each in (query.x, query.y))
    return Examples(x, y, query.mask.gather(1, order))


def train(
    draw: Callable[[int, torch.Generator], TaskBatch],
    validation: Callable[[], Iterator[TaskBatch]],
    architecture: Architecture,
    recipe: Recipe,
    seed: int,
    report: Callable[[ContextTransformer, Look], None] = lambda network, look: None,
) -> tuple[ContextTransformer, list[Look]]:
    """The network as it was at its best look at the validation tasks, and all looks."""
    started = time.process_time()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = ContextTransformer(architecture, recipe.dropout)
    optimiser = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / recipe.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    every = max(1, recipe.steps // recipe.looks)
    average = copy.deepcopy(network).eval()
    checked, looks, losses = list(validation()), [], []
    best, best_nll = network.state_dict(), math.inf
    for step in range(1, recipe.steps + 1):
        batch = draw(recipe.meta_batch, generator)
        loss = mean_nll(network, TaskBatch(batch.support, at_most(batch.query, recipe.queries)))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            kept = min(recipe.averaging, step / (step + 10))
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - kept)
        losses.append(float(loss.detach()))
        if step % every == 0 or step == recipe.steps:
            with torch.no_grad():
                tasks = sum(len(part) for part in checked)
                found = sum(float(mean_nll(average, part)) * len(part) for part in checked) / tasks
            minutes = (time.process_time() - started) / 60
            looks.append(Look(step, minutes, sum(losses) / len(losses), found))
            losses = []
            if found < best_nll:
                best_nll = found
                best = {name: value.clone() for name, value in average.state_dict().items()}
            report(average, looks[-1])
    network.load_state_dict(best)
    return network.eval(), looks


def save(path: Path, network: ContextTransformer, recipe: Recipe, looks: list[Look]) -> None:
    """Write the network, its recipe and its looks to one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        "architecture": asdict(network.architecture),
        "recipe": asdict(recipe),
        "looks": [asdict(look) for look in looks],
        "weights": network.state_dict(),
    }
    torch.save(kept, path)


def load(path: Path) -> tuple[ContextTransformer, Recipe, list[Look]]:
    """What `save` wrote."""
    kept = torch.load(path, weights_only=True)
    network = ContextTransformer(Architecture(**kept["architecture"]))
    network.load_state_dict(kept["weights"])
    return network.eval(), Recipe(**kept["recipe"]), [Look(**look) for look in kept["looks"]]
