"""Every version the store offers: loaded onto the device, or shelved until somebody asks for it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bmaml.errors import BmamlError
from model_store import Model, Store, UnknownModel, Unreadable
from service.schemas.cards import ModelList, ModelSummary, Refused

Stamp = tuple[tuple[str, int, int], ...]
Place = tuple[str, int]
"""A name and a version."""


class Shelved(BmamlError):
    """A version that is offered, and has to be loaded first."""


@dataclass(frozen=True)
class Catalogue:
    """Models by name and version; versions that had to be refused, with the reason.

    Attributes:
        models: those that are loaded; the newest of each name among them.
        shelved: the digests of those that were loaded, found good, and let go.
        stamps: of every version that was looked at, whatever came of it.
    """

    models: dict[str, dict[int, Model]] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    shelved: dict[Place, str] = field(default_factory=dict)
    stamps: dict[Place, Stamp] = field(default_factory=dict)

    def refreshed(self, root: Path, device: torch.device, prepare: Callable[[Model], None]) -> "Catalogue":
        """What the store offers now; this very catalogue where nothing has changed.

        A version whose files are as they were is not read again. One that cannot be served is refused,
        and if it could before, what was loaded then goes on answering. A store that has nothing at all
        any more is taken for one that cannot be reached. Of what is new only the newest of each name stays
        loaded: the others are tried, and shelved.

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
        newest = dict(sorted(stamps))  # version by name
        models: dict[str, dict[int, Model]] = {}
        unchanged = {place for place, stamp in stamps.items() if stamp == self.stamps.get(place)}
        refused = [each for each in self.refused if (each.name, each.version) in unchanged]
        shelved = {place: digest for place, digest in self.shelved.items() if place in unchanged}
        passing: set[Place] = set()  # refused for what may be no fault of theirs: looked at again
        for name, version in stamps:
            model = self.models.get(name, {}).get(version)
            if (name, version) not in unchanged:
                known = model is not None
                try:
                    model = store.load(name, version).to(device)
                    prepare(model)
                    if version < newest[name] and not known:
                        shelved[name, version] = model.sha256
                        model = None
                except Exception as error:
                    refused.append(_refused(name, version, error, root))
                    passing |= _passing(name, version, error)
                    model = self.models.get(name, {}).get(version)
            if model is not None:
                models.setdefault(name, {})[version] = model
        # What is the newest now, because newer ones were taken away, is asked for without its number.
        for name, version in sorted(shelved, reverse=True):
            if version > max(models.get(name, {0: None})):
                del shelved[name, version]
                try:
                    model = store.load(name, version).to(device)
                    prepare(model)
                    models.setdefault(name, {})[version] = model
                except Exception as error:
                    refused.append(_refused(name, version, error, root))
                    passing |= _passing(name, version, error)
        looked_at = {place: stamp for place, stamp in stamps.items() if place not in passing}
        return Catalogue(models, tuple(refused), shelved, looked_at)

    def shelving(self, places: Collection[Place]) -> "Catalogue":
        """The same without these models, which stay on offer."""
        digests = {(name, version): self.models[name][version].sha256 for name, version in places}
        models = {
            name: {version: model for version, model in versions.items() if (name, version) not in digests}
            for name, versions in self.models.items()
        }
        return replace(self, models=models, shelved=self.shelved | digests)

    def unshelving(self, model: Model) -> "Catalogue":
        """The same with this model loaded."""
        name, version = model.manifest.name, model.manifest.version
        models = {**self.models, name: {**self.models.get(name, {}), version: model}}
        shelved = {place: digest for place, digest in self.shelved.items() if place != (name, version)}
        return replace(self, models=models, shelved=shelved)

    def versions(self, name: str) -> list[int]:
        """All that are offered, oldest first."""
        return sorted([*self.models.get(name, ()), *(v for other, v in self.shelved if other == name)])

    def model(self, name: str, version: int | None = None) -> Model:
        """A version, the newest by default.

        Raises:
            UnknownModel: no such name or version.
            Shelved: it has to be loaded first.
        """
        versions = self.models.get(name)
        if not versions:
            raise UnknownModel(f"no model of that name; there are {', '.join(sorted(self.models)) or 'none'}")
        if version is None:
            return versions[max(versions)]
        if (name, version) in self.shelved:
            raise Shelved(f"{name} version {version} is not loaded")
        if version not in versions:
            raise UnknownModel(f"model {name} has versions {_said(self.versions(name))}")
        return versions[version]

    def served(self) -> dict[str, str]:
        """Name and version of everything on offer, by its digest."""
        loaded = {
            model.sha256: f"{name} version {version}"
            for name, versions in self.models.items()
            for version, model in versions.items()
        }
        shelved = {digest: f"{name} version {version}" for (name, version), digest in self.shelved.items()}
        return loaded | shelved

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
            versions=self.versions(name),
        )


def _refused(name: str, version: int, error: Exception, root: Path) -> Refused:
    """Why, without telling where on this machine the store is."""
    reason = str(error).replace(f"{root}/", "") if isinstance(error, BmamlError) else "it cannot be run"
    return Refused(name=name, version=version, reason=reason[:300])


def _passing(name: str, version: int, error: Exception) -> set[Place]:
    """The version, where another time may go better: memory was short, say, or the disk away."""
    lasting = isinstance(error, BmamlError) and not isinstance(error, Unreadable)
    return set() if lasting else {(name, version)}


def _said(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"…, {shown}"
