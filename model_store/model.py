"""A published model in memory: its manifest, its learner and the learned tensors."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml import extrapolation
from bmaml.categorical import Categorical
from bmaml.conv_classifier import ConvClassifier
from bmaml.embedding import ConvNet
from bmaml.errors import BmamlError
from bmaml.learners import InvalidLearner, Learner, learner_from, policy_from
from bmaml.learners.posterior import Posterior
from bmaml.learners.surprise import GROUPS, SURPRISING
from bmaml.links import Link
from bmaml.predictive import Predictive
from bmaml.task import Examples
from bmaml.transformed import Transformed
from model_store.backbone import Backbone, UnusableBackbone
from model_store.columns import Array, range_of, standardised
from model_store.manifest import Manifest

PRIOR_TOLERANCE = 1e-12
"""Total weight of the hypotheses that the prior leaves out."""

Single = NDArray[np.float32]
"""Standardised values, in the network's precision."""
NEGLIGIBLE_WEIGHT = 1e-8
"""Total weight of the hypotheses that an answer leaves out: far below single precision."""


class CorruptModel(BmamlError):
    """A version that contradicts its manifest."""


@dataclass(frozen=True)
class Model:
    """A version of a model, as the store holds it and the service answers with it.

    Attributes:
        learned: the meta-learned tensors by name, `initial` among them.
        embedding: the embedding of images, learned or pretrained; None where x has columns, or where
            particles are whole convolutional networks.
        bfloat16: whether images are embedded in bfloat16; features are single precision in any case.

    Raises:
        CorruptModel: tensors that do not fit the learner, or are not finite.
    """

    manifest: Manifest
    learner: Learner[Any]
    learned: dict[str, Tensor]
    embedding: ConvNet | Backbone | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        where = f"{self.manifest.name} version {self.manifest.version}"
        fresh = self.learner.initialise(torch.Generator())
        if self.embedding is not None:
            fresh |= self.embedding.initialise(torch.Generator())
        expected = {name: tuple(tensor.shape) for name, tensor in fresh.items()}
        found = {name: tuple(tensor.shape) for name, tensor in self.learned.items()}
        if found != expected:
            raise CorruptModel(f"{where}: its learner needs tensors {expected}, the weights hold {found}")
        for name, tensor in self.learned.items():
            if not bool(tensor.isfinite().all()):
                raise CorruptModel(f"{where}: tensor {name!r} is not finite. Train this model again.")
        if self.learner.kind != self.manifest.kind:
            raise CorruptModel(f"{where}: a {self.manifest.kind} with a learner for {self.learner.kind}")
        network, image = self.learner.network, self.manifest.image
        if self.embedding is not None and image is not None:
            form = (image.channels, image.size)
            if (self.embedding.channels, self.embedding.size) != form:
                raise CorruptModel(f"{where}: the embedding is not made for {form} images")
            if network.inputs != self.embedding.features:
                raise CorruptModel(
                    f"{where}: the network takes {network.inputs} features, "
                    f"the embedding gives {self.embedding.features}"
                )
            return
        if image is not None:
            if not isinstance(network, ConvClassifier) or network.inputs != image.inputs:
                raise CorruptModel(f"{where}: neither an embedding nor a network for its images")
            return
        if self.manifest.target is not None:
            self._check_table_of_classes(where)
            return
        columns = (len(self.manifest.inputs), len(self.manifest.outputs))
        if (network.inputs, network.outputs) != columns:
            raise CorruptModel(
                f"{where}: the network maps {network.inputs} inputs to {network.outputs} outputs, "
                f"the manifest names {columns[0]} and {columns[1]}"
            )

    def _check_table_of_classes(self, where: str) -> None:
        learner, labels = self.learner, self.manifest.labels
        if learner.network.inputs != len(self.manifest.inputs):
            raise CorruptModel(
                f"{where}: the network takes {learner.network.inputs} inputs, "
                f"the manifest names {len(self.manifest.inputs)}"
            )
        if learner.fixed_classes is (labels is None):
            meaning = "of fixed meaning" if learner.fixed_classes else "that every task has of its own"
            raise CorruptModel(f"{where}: the learner is for classes {meaning}, the manifest for others")
        if labels is not None and learner.max_classes not in (None, len(labels)):
            raise CorruptModel(
                f"{where}: the learner tells {learner.max_classes} classes apart, "
                f"the manifest names {len(labels)}"
            )

    @classmethod
    def of(cls, manifest: Manifest, learned: dict[str, Tensor], backbone: bytes | None = None) -> "Model":
        """The model that a manifest describes.

        Args:
            backbone: the file of its backbone, where it has one.

        Raises:
            CorruptModel: the manifest describes no learner, or one that the tensors do not fit.
        """
        try:
            named = policy_from if manifest.kind == "policy" else learner_from
            learner: Learner[Any] = named(manifest.learner, manifest.settings)
            embedding: ConvNet | Backbone | None = None
            if manifest.embedding is not None:
                embedding = ConvNet(**manifest.embedding)
            if manifest.backbone is not None:
                if backbone is None:
                    raise UnusableBackbone(f"the file of the backbone {manifest.backbone.name} is absent")
                embedding = Backbone(manifest.backbone, backbone)
        except (InvalidLearner, ValueError, TypeError) as error:
            raise CorruptModel(f"{manifest.name} version {manifest.version}: {error}") from None
        return cls(manifest, learner, learned, embedding)

    @cached_property
    def sha256(self) -> str:
        """Digest of the version."""
        return self.manifest.sha256

    @property
    def device(self) -> torch.device:
        """The device of the learned tensors."""
        return self.learned["initial"].device

    def to(self, device: torch.device | str, bfloat16: bool = False) -> "Model":
        """The same model with its tensors on another device, which embeds images in bfloat16 or does not."""
        learned = {name: tensor.to(device) for name, tensor in self.learned.items()}
        return replace(self, learned=learned, bfloat16=bfloat16)

    def drawing(self, seed: int) -> "Model":
        """The model whose posteriors are drawn with this seed; itself where nothing is drawn."""
        learner = self.learner.drawing(seed)
        return self if learner is self.learner else replace(self, learner=learner)

    def embedded(self, x: Tensor) -> Tensor:
        """The learner's inputs for rows x `[task, row, input]`: features of images, else x itself."""
        if self.embedding is None:
            return x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.embedding(self.learned, x)

    def standardised_inputs(self, x: Array) -> Single:
        """x `[row, input]` in standardised units, from the caller's; ∞ beyond float32's range.

        Raises:
            OutsideDomain: a value outside the domain of its column's transform.
        """
        return _single(standardised(self.manifest.inputs, x))

    def standardised_targets(self, y: Array) -> Single:
        """y `[row, output]` in standardised units, from the caller's; ∞ beyond float32's range."""
        return _single(standardised(self.manifest.outputs, y))

    def classify(self, posterior: Any, features: Tensor, support: Examples) -> Categorical:
        """The learner's belief about the classes of embedded rows `[task, row, feature]`.

        Classes of fixed meaning return to the prior outside the training range, as numbers do (`predict`).

        Args:
            support: the rows that the posterior was given; only their inputs matter.
        """
        belief = self._classes(posterior, features)
        if not self.returns_to_prior:
            return belief
        trained = self.standardised_range.to(features)
        if extrapolation.all_inside(features, trained):
            return belief
        empty = features[:, :0]
        nothing = Examples(empty, support.y[:, :0].expand(len(features), -1, -1), empty[..., 0] > 0)
        before = self.learner.adapt(self.learned, nothing, 0)
        prior = self._classes(before, _nearest(features, trained))
        return belief.towards(prior, extrapolation.prior_share(features, trained, support))

    def prior_of_classes(self, x: Tensor) -> Tensor:
        """Log probabilities of the classes of fixed meaning before any label, `[row, class]`, at rows x."""
        return self.classify(self.prior_posterior, x.unsqueeze(0), self._no_rows).log_mixture()[0]

    def _classes(self, posterior: Any, features: Tensor) -> Categorical:
        belief = self.learner.predict(posterior, features)
        assert isinstance(belief, Categorical)
        return belief

    @cached_property
    def returns_to_prior(self) -> bool:
        """Whether answers far outside the training range return to the prior: not of new classes."""
        return bool(self.manifest.inputs and (self.manifest.outputs or self.manifest.labels))

    def predict(
        self, posterior: Any, x: Tensor, support: Examples, joint: bool = False, skip_inside: bool = True
    ) -> Predictive:
        """The learner's belief about rows x `[task, row, input]`, honest outside the training range.

        There the answer returns to the prior of the nearest row in the range, except near support rows
        (`bmaml.extrapolation`). The variance of the noise is capped at the square of the labels' range in
        training: a particle that learned to ignore some rows has noise without bound there, which tells a
        caller nothing.

        Args:
            support: the rows that the posterior was given; only their inputs matter.
            joint: also carry what covariances between rows need.
            skip_inside: leave the prior out of it where all rows lie inside; finding out is a host
                synchronisation.
        """
        belief = self._believed(posterior, x, joint)
        trained = self.standardised_range.to(x)
        if skip_inside and extrapolation.all_inside(x, trained):
            return belief
        prior = self.prior(_nearest(x, trained))
        return belief.towards(prior, extrapolation.prior_share(x, trained, support), joint)

    def distance(self, x: Single, support_x: Single) -> Array:
        """The distance of rows x `[row, input]` from training and support rows (`bmaml.extrapolation`)."""
        rows = torch.from_numpy(support_x).unsqueeze(0)
        support = Examples.full(rows, rows[..., :0])
        x_rows = torch.from_numpy(x).unsqueeze(0)
        trained = self.standardised_range.to(x_rows)
        return extrapolation.distance(x_rows, trained, support)[0].double().numpy()

    def prior(self, x: Tensor) -> Predictive:
        """The belief about rows x `[task, row, input]` before any label."""
        return self._believed(self.prior_posterior, x)

    def _believed(self, posterior: Any, x: Tensor, joint: bool = False) -> Predictive:
        belief = self.learner.predict(posterior, x, joint)
        assert isinstance(belief, Predictive)
        return belief.with_noise_at_most(self.max_noise)

    @cached_property
    def max_noise(self) -> Tensor:
        """The square of the range of labels in training, standardised: `[output]`; ∞ where it is empty."""
        low, high = torch.from_numpy(standardised(self.manifest.outputs, self.output_range)).unbind(0)
        return (high - low).square().masked_fill(high <= low, torch.inf).to(self.device)

    @cached_property
    def prior_posterior(self) -> Posterior:
        """The posterior given no rows, of one task that is like those of training."""
        negligible = PRIOR_TOLERANCE if self.device.type == "cpu" else 0.0  # a GPU gains nothing from fewer
        with torch.no_grad():
            posterior: Posterior = self.learner.known.adapt_pruned(self.learned, self._no_rows, negligible, 0)
        return posterior

    @property
    def _no_rows(self) -> Examples:
        """An empty support set; its labels are one-hot where they are classes."""
        network = self.learner.network
        columns = self.manifest.classes or network.outputs
        return Examples.empty(network.inputs, columns, like=self.learned["initial"])

    @cached_property
    def surprising_prior(self) -> float | None:
        """Prior weight of the hypotheses about tasks unlike those of training; None where it has none."""
        prior = self.learner.group_prior(self.learned)
        if prior is None:
            return None
        return float(sum(prior[GROUPS.index(group)].double() for group in SURPRISING))

    @cached_property
    def input_range(self) -> Array:
        """Lowest and highest value of each input in training, in the caller's units, `[2, input]`."""
        return range_of(self.manifest.inputs)

    @cached_property
    def output_range(self) -> Array:
        """Lowest and highest value of each output in training, in the caller's units, `[2, output]`."""
        return range_of(self.manifest.outputs)

    @cached_property
    def trained_rows(self) -> tuple[int, int] | None:
        """The fewest and the most support rows of a task in training.

        None where its record does not say, and where a task has classes of its own.
        """
        shots = self.manifest.training.get("family", {}).get("shots")
        new_classes = self.manifest.kind == "classification" and self.manifest.labels is None
        if new_classes or not isinstance(shots, dict):
            return None
        return int(shots["lowest"]), int(shots["highest"])

    @cached_property
    def standardised_range(self) -> Tensor:
        """`input_range` as the network sees it, on the model's device."""
        return torch.from_numpy(standardised(self.manifest.inputs, self.input_range)).to(self.device)

    def in_callers_units(self, predictive: Predictive) -> Predictive | Transformed:
        """The prediction in the caller's units and the targets' domains, from standardised ones."""
        belief = self.on_own_scale(predictive)
        return belief if self.plain else Transformed(belief, self.links)

    def on_own_scale(self, predictive: Predictive) -> Predictive:
        """The prediction on the scales of the outputs' links, from standardised units."""
        shift, scale = self._units.to(predictive.means).unbind(0)
        return predictive.rescaled(shift, scale)

    def values(self, own_scale: Tensor) -> Tensor:
        """Ends of intervals `[…, output]` in the caller's units, from the scales of the outputs' links.

        Whole numbers are the nearest ones, so that their cells reach into the interval.
        """
        if self.plain:
            return own_scale
        return torch.stack([link.nearest(own_scale[..., i]) for i, link in enumerate(self.links)], -1)

    def labels(self, standardised_y: Tensor) -> Tensor:
        """Labels `[…, output]` in the caller's units, from standardised ones."""
        shift, scale = self._units.to(standardised_y).unbind(0)
        return self.values(standardised_y * scale + shift)

    def values_on_own_scale(self, y: Tensor) -> Tensor:
        """Values `[…, output]` on the scales of the outputs' links, from the caller's units."""
        return torch.stack([link.to_scale(y[..., i]) for i, link in enumerate(self.links)], -1)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The links between the outputs' own scales and their values."""
        return tuple(column.link for column in self.manifest.outputs)

    @cached_property
    def plain(self) -> bool:
        """Whether all outputs are real numbers without a step, on no scale of their own."""
        return all(link.is_identity for link in self.links)

    @cached_property
    def _units(self) -> Tensor:
        """Mean and standard deviation of each output, `[2, output]`."""
        outputs = self.manifest.outputs
        units = torch.tensor([[column.mean, column.std] for column in outputs], dtype=torch.float64)
        return units.mT.to(self.device)


def _nearest(x: Tensor, trained: extrapolation.Range) -> Tensor:
    """The rows of the training range nearest to x, column by column."""
    return torch.minimum(torch.maximum(x, trained[0]), trained[1])


def _single(values: Array) -> Single:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
