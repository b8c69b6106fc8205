"""Every version the store offers, loaded onto the device once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bmaml.errors import BmamlError
from model_store import Model, Store, UnknownModel
from service.cards import ColumnCard, ImageCard, ModelList, ModelSummary, Refused, VersionCard

Stamp = tuple[tuple[str, int, int], ...]
Place = tuple[str, int]
"""A name and a version."""


@dataclass(frozen=True)
class Catalogue:
    """Models by name and version; versions that had to be refused, with the reason.

    Attributes:
        stamps: of every version that was looked at, whatever came of it.
    """

    models: dict[str, dict[int, Model]] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    stamps: dict[Place, Stamp] = field(default_factory=dict)

    def refreshed(self, root: Path, device: torch.device, prepare: Callable[[Model], None]) -> "Catalogue":
        """What the store offers now; this very catalogue where nothing has changed.

        A version whose files are as they were is not read again. One that cannot be served is refused,
        and if it could before, what was loaded then goes on answering. A store that has nothing at all
        any more is taken for one that cannot be reached.

        Args:
            prepare: is given every model that is new, before anybody else; may fail.
        """
        store = Store(root)
        stamps = {
            (name, version): store.stamp(name, version)
            for name in store.names()
            for version in store.versions(name)
        }
        if stamps == self.stamps or not stamps:
            return self
        models: dict[str, dict[int, Model]] = {}
        unchanged = {place for place, stamp in stamps.items() if stamp == self.stamps.get(place)}
        refused = [each for each in self.refused if (each.name, each.version) in unchanged]
        for name, version in stamps:
            model = self.models.get(name, {}).get(version)
            if (name, version) not in unchanged:
                try:
                    model = store.load(name, version).to(device)
                    prepare(model)
                except Exception as error:
                    reason = str(error) if isinstance(error, BmamlError) else "it cannot be run"
                    refused.append(Refused(name=name, version=version, reason=reason[:300]))
                    model = self.models.get(name, {}).get(version)
            if model is not None:
                models.setdefault(name, {})[version] = model
        return Catalogue(models, tuple(refused), stamps)

    def model(self, name: str, version: int | None = None) -> Model:
        """A version, the newest by default.

        Raises:
            UnknownModel: no such name or version.
        """
        versions = self.models.get(name)
        if versions is None:
            raise UnknownModel(f"no model of that name; there are {', '.join(sorted(self.models)) or 'none'}")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise UnknownModel(f"model {name} has versions {', '.join(map(str, sorted(versions)))}")
        return versions[version]

    def served(self) -> dict[str, str]:
        """Name and version of every model, by its digest."""
        return {
            model.sha256: f"{name} version {version}"
            for name, versions in self.models.items()
            for version, model in versions.items()
        }

    def listed(self) -> ModelList:
        """The answer to GET /models."""
        return ModelList(
            models=[self.summary(name) for name in sorted(self.models)], refused=list(self.refused)
        )

    def summary(self, name: str) -> ModelSummary:
        """One model and its versions.

        Raises:
            UnknownModel: no such name.
        """
        newest = self.model(name)
        manifest = newest.manifest
        return ModelSummary(
            name=name,
            kind=manifest.kind,
            learner=manifest.learner,
            description=manifest.description,
            inputs=[column.name for column in manifest.inputs],
            outputs=[column.name for column in manifest.outputs],
            versions=sorted(self.models[name]),
        )

    def card(self, name: str, version: int) -> VersionCard:
        """One version's card.

        Raises:
            UnknownModel: no such name or version.
        """
        model = self.model(name, version)
        manifest, image = model.manifest, model.manifest.image
        inputs, outputs = (
            [ColumnCard(name=c.name, transform=c.transform, lower=c.lower, upper=c.upper) for c in columns]
            for columns in (manifest.inputs, manifest.outputs)
        )
        return VersionCard(
            name=name,
            version=version,
            sha256=model.sha256,
            kind=manifest.kind,
            description=manifest.description,
            inputs=inputs,
            outputs=outputs,
            image=None if image is None else ImageCard(**image.model_dump()),
            classes=manifest.classes,
            learner=manifest.learner,
            particles=model.learner.particles,
            steps=model.learner.steps,
            training=manifest.training,
            seed=manifest.seed,
            code_version=manifest.code_version,
            metrics=manifest.metrics,
        )
