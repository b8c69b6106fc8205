"""The versions that the store offers: loaded onto the device, or shelved until a request names them."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from bmaml.errors import BmamlError
from model_store import Model, Store, UnknownModel, Unreadable
from model_store.store import newest_versions
from service.schemas.cards import ClassTargetCard, ConformalSummary, ModelList, ModelSummary, Refused

log = logging.getLogger("service.registry")

Stamp = tuple[tuple[str, int, int], ...]
"""Name, size and modification time of each file of a version (`Store.stamp`)."""
VersionId = tuple[str, int]
"""A model's name and version."""

MAX_REASON_LENGTH = 300
"""Characters of the reason for which a version is refused."""


class Shelved(BmamlError):
    """The version is offered but not loaded."""


@dataclass(frozen=True)
class Catalogue:
    """Models by name and version, and the versions that were refused.

    Attributes:
        models: loaded versions; they include the newest of each name.
        refused: versions that cannot be served, and why.
        shelved: digests of the versions that are offered but not loaded; each has been loaded before.
        stamps: of every version that need not be read again while its files stay as they are.
    """

    models: dict[str, dict[int, Model]] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    shelved: dict[VersionId, str] = field(default_factory=dict)
    stamps: dict[VersionId, Stamp] = field(default_factory=dict)

    def refreshed(
        self, root: Path, place: Callable[[Model], Model], prepare: Callable[[Model], None]
    ) -> "Catalogue":
        """The catalogue of the store's present versions; `self` where nothing has changed.

        A version whose files are unchanged is not read again. A version that cannot be served is refused;
        if it was loaded before, that model stays. An empty store is taken for an unreachable one, and
        changes nothing. Of the new versions only the newest of each name stays loaded: the others are
        loaded, prepared and shelved.

        Args:
            place: puts a model of the store onto the device that answers.
            prepare: called with every new model before anything else uses it; may raise.
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
        unchanged = {each for each, stamp in stamps.items() if stamp == self.stamps.get(each)}
        refused = [each for each in self.refused if (each.name, each.version) in unchanged]
        shelved = {each: digest for each, digest in self.shelved.items() if each in unchanged}
        retried: set[VersionId] = set()  # refused for a transient cause, and read again next time

        def load(name: str, version: int) -> Model | None:
            """The version, prepared; None where it had to be refused."""
            try:
                model = place(store.load(name, version))
                prepare(model)
            except Exception as error:
                refusal = _refusal(name, version, error, root)
                if not isinstance(error, BmamlError) and refusal not in self.refused:
                    log.error("%s version %d cannot be run", name, version, exc_info=error)
                refused.append(refusal)
                if _transient(error):
                    retried.add((name, version))
                return None
            return model

        for name, version in stamps:
            model = loaded = self.models.get(name, {}).get(version)
            if (name, version) not in unchanged:
                model = load(name, version) or loaded
                if model is not None and loaded is None and version < newest[name]:
                    shelved[name, version] = model.sha256
                    model = None
            if model is not None:
                models.setdefault(name, {})[version] = model
        # Where newer versions were removed, a shelved one is now the newest, and has to be loaded.
        for name, version in sorted(shelved, reverse=True):
            if version > max(models.get(name, {0: None})):
                del shelved[name, version]
                if (model := load(name, version)) is not None:
                    models.setdefault(name, {})[version] = model
        known_stamps = {each: stamp for each, stamp in stamps.items() if each not in retried}
        return Catalogue(models, tuple(refused), shelved, known_stamps)

    def shelving(self, versions: Collection[VersionId]) -> "Catalogue":
        """The same catalogue with these versions shelved: still offered, no longer loaded."""
        digests = {(name, version): self.models[name][version].sha256 for name, version in versions}
        models = {
            name: {version: model for version, model in loaded.items() if (name, version) not in digests}
            for name, loaded in self.models.items()
        }
        return replace(self, models=models, shelved=self.shelved | digests)

    def unshelving(self, model: Model) -> "Catalogue":
        """The same catalogue with this model loaded."""
        name, version = model.manifest.name, model.manifest.version
        models = {**self.models, name: {**self.models.get(name, {}), version: model}}
        shelved = {each: digest for each, digest in self.shelved.items() if each != (name, version)}
        return replace(self, models=models, shelved=shelved)

    def versions(self, name: str) -> list[int]:
        """All versions of a model, loaded or shelved, oldest first."""
        return sorted([*self.models.get(name, ()), *(v for other, v in self.shelved if other == name)])

    def model(self, name: str, version: int | None = None) -> Model:
        """A loaded version, the newest by default.

        Raises:
            UnknownModel: no such name or version.
            Shelved: the version has to be loaded first.
        """
        versions = self.models.get(name)
        if not versions:
            raise UnknownModel(f"no model of that name; there are {', '.join(sorted(self.models)) or 'none'}")
        if version is None:
            return versions[max(versions)]
        if (name, version) in self.shelved:
            raise Shelved(f"{name} version {version} is not loaded")
        if version not in versions:
            raise UnknownModel(f"model {name} has versions {newest_versions(self.versions(name))}")
        return versions[version]

    def served(self) -> dict[str, str]:
        """Name and version of everything offered, by digest."""
        loaded = {
            model.sha256: f"{name} version {version}"
            for name, versions in self.models.items()
            for version, model in versions.items()
        }
        shelved = {digest: f"{name} version {version}" for (name, version), digest in self.shelved.items()}
        return loaded | shelved

    def model_list(self) -> ModelList:
        """The answer to `GET /models`."""
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
            target=ClassTargetCard.of(manifest.target),
            conformal=ConformalSummary.of_calibration(manifest.conformal),
        )


def _refusal(name: str, version: int, error: Exception, root: Path) -> Refused:
    """The refused version with the reason, which does not reveal the store's path."""
    reason = str(error).replace(f"{root}/", "") if isinstance(error, BmamlError) else "it cannot be run"
    return Refused(name=name, version=version, reason=reason[:MAX_REASON_LENGTH])


def _transient(error: Exception) -> bool:
    """Whether the version may load another time: memory was short, say, or the disk away."""
    return not isinstance(error, BmamlError) or isinstance(error, Unreadable)
