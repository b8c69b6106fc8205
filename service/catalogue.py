"""Every version the store offers, loaded onto the device once."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from bmaml.errors import BmamlError
from model_store import Model, Store, UnknownModel
from service.schemas import ColumnCard, ImageCard, ModelList, ModelSummary, Refused, VersionCard


@dataclass(frozen=True)
class Catalogue:
    """Models by name and version; versions that had to be refused, with the reason."""

    models: dict[str, dict[int, Model]] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()

    @classmethod
    def of(cls, root: Path, device: torch.device) -> "Catalogue":
        """Everything in the store that can be served."""
        store, models, refused = Store(root), dict[str, dict[int, Model]](), list[Refused]()
        for name in store.names():
            for version in store.versions(name):
                try:
                    models.setdefault(name, {})[version] = store.load(name, version).to(device)
                except BmamlError as error:
                    refused.append(Refused(name=name, version=version, reason=str(error)[:300]))
        return cls({name: versions for name, versions in models.items() if versions}, tuple(refused))

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

    def everything(self) -> list[Model]:
        """All models."""
        return [model for versions in self.models.values() for model in versions.values()]

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
