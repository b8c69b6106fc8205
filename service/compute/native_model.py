"""A published model as native functions take it, and its posteriors in both forms."""

import weakref
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmaml.learners.collapsed import Collapsed
from bmaml.learners.collapsed_posterior import CollapsedPosterior
from bmaml.native import answering, tables
from bmaml.native.tables import Hypotheses, TaskPosterior, array
from bmaml.native.tables import Model as Tables
from model_store import Model
from model_store.model import PRIOR_TOLERANCE

_KNOWN: dict[int, "NativeModel"] = {}
"""The native form of models by their id; a model that is collected is removed."""


@dataclass(frozen=True)
class NativeModel:
    """A model as native functions take it.

    Attributes:
        tables: its constants.
        hypotheses: of the learner.
        own: parameters of all layers of particles, `[1, layer, param]`.
    """

    learner: Collapsed
    tables: Tables
    hypotheses: Hypotheses
    own: Tensor

    @classmethod
    def of(cls, model: Model) -> "NativeModel":
        """The native form of a model, made at its first use."""
        found = _KNOWN.get(id(model))
        if found is None:
            found = _KNOWN[id(model)] = cls._made(model)
            weakref.finalize(model, _KNOWN.pop, id(model), None).atexit = False
        return found

    @classmethod
    def _made(cls, model: Model) -> "NativeModel":
        learner, learned = model.learner, model.learned
        assert isinstance(learner, Collapsed)
        known, network = learner.known, learner.network
        prior = answering.adapted(
            tables.particle_layers(known, learned),
            tables.process_layers(known, learned),
            tables.hypotheses(known, learned),
            np.zeros((0, network.inputs)),
            np.zeros((0, network.outputs)),
            PRIOR_TOLERANCE,
        )
        own = learner.layout.with_noise_levels(learned["initial"].unsqueeze(0))
        whole = tables.Model(
            tables.particle_layers(learner, learned),
            tables.process_layers(learner, learned),
            _units(model),
            prior,
        )
        return cls(learner, whole, tables.hypotheses(learner, learned), own)

    def as_tensors(self, posterior: TaskPosterior, model: Model) -> CollapsedPosterior:
        """A native posterior as the learner's own, which callers keep."""
        learned, learner = model.learned, self.learner
        like, layers = learned["initial"], torch.from_numpy(posterior.layers)

        def tensor(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values).to(like).unsqueeze(0)

        def matrices(values: NDArray[np.float64], width: int = 0) -> Tensor:
            extra = max(0, width - values.shape[2])
            return tensor(np.pad(values, ((0, 0), (0, 0), (0, extra)))).mT.contiguous()

        processes = learner.processes(learned)
        slopes = learned["noise_slopes"].unsqueeze(0) if learner.varying_noise else None
        width = (
            0
            if processes is None
            else processes.features(like.new_zeros(1, 1, learner.network.inputs)).shape[-1]
        )
        return CollapsedPosterior(
            log_weights=tensor(posterior.log_weights),
            owner=torch.from_numpy(posterior.owner).unsqueeze(0),
            scales=tensor(posterior.scales),
            group_weights=tensor(posterior.group_weights),
            particles=self.own[:, layers],
            head=matrices(posterior.heads),
            seen=matrices(posterior.seen),
            spent=matrices(posterior.spent),
            noise_slopes=None if slopes is None else learner.layout.of_own(slopes)[:, layers],
            process_layers=None if processes is None else torch.from_numpy(posterior.processes).unsqueeze(0),
            process_head=None if processes is None else matrices(posterior.process_heads, width),
            process_seen=None if processes is None else matrices(posterior.process_seen, width),
            process_spent=None if processes is None else matrices(posterior.process_spent, width),
            processes=processes,
            log_widening=learned["log_widening"],
            log_prior_widening=learned.get("log_prior_widening", torch.zeros_like(learned["log_widening"])),
        )

    def from_tensors(self, posterior: CollapsedPosterior) -> tuple[Tables, TaskPosterior]:
        """A posterior of one task in native form, and the tables whose layers it counts."""

        def matrices(values: Tensor | None) -> NDArray[np.float64]:
            return np.zeros((0, 0, 0)) if values is None else array(values[0].mT)

        layers, slopes = posterior.particles.shape[1], posterior.noise_slopes
        particles = tables.with_layers(
            self.tables.particles,
            array(posterior.particles[0]),
            np.zeros((layers, 0)) if slopes is None else array(slopes[0]),
        )
        processes = posterior.process_layers
        native = TaskPosterior(
            log_weights=array(posterior.log_weights[0]),
            owner=np.ascontiguousarray(posterior.owner[0].numpy()),
            scales=array(posterior.scales[0]),
            layers=np.arange(layers),
            processes=np.zeros(0, np.int64)
            if processes is None
            else np.ascontiguousarray(processes[0].numpy()),
            heads=matrices(posterior.head),
            seen=matrices(posterior.seen),
            spent=matrices(posterior.spent),
            process_heads=matrices(posterior.process_head),
            process_seen=matrices(posterior.process_seen),
            process_spent=matrices(posterior.process_spent),
            group_weights=array(posterior.group_weights[0]),
            effective=0.0,
            finite=True,
        )
        return self.tables._replace(particles=particles), native


def _units(model: Model) -> tables.Units:
    """The caller's units of a model."""
    outputs = model.manifest.outputs
    return tables.Units(
        shift=np.array([column.mean for column in outputs], np.float64),
        scale=np.array([column.std for column in outputs], np.float64),
        max_noise=array(model.max_noise),
        trained=array(model.standardised_range),
        links=tables.link_rows(model.links),
        plain=model.plain,
    )
