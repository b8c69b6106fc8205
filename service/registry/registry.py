"""The versions on offer while the service runs: loaded, let go, loaded again, looked up for requests."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

import torch

from bmaml.errors import BmamlError
from model_store import Model, Store, UnknownModel
from service.engine.posterior_cache import PosteriorCache
from service.errors import RequestError
from service.job import Job
from service.ops.metrics import Metrics
from service.registry.catalogue import Catalogue, Place, Shelved
from service.registry.warm_up import warm_up
from service.schemas.cards import VersionCard
from service.settings import Settings

log = logging.getLogger("service.versions")


class Registry:
    """What the store offers, and what of it is loaded.

    Args:
        answer: runs a batch, to warm a version up.

    Attributes:
        device: where versions are loaded to.
    """

    def __init__(
        self,
        settings: Settings,
        posteriors: PosteriorCache,
        metrics: Metrics,
        answer: Callable[[list[Job]], object],
    ) -> None:
        self.settings, self._posteriors, self._metrics, self._answer = settings, posteriors, metrics, answer
        self.device = torch.device("cpu")
        self.catalogue = Catalogue()
        self._changing = threading.Lock()  # of the catalogue
        self._loading: dict[Place, asyncio.Task[Model]] = {}
        self._asked: dict[str, float] = {}  # when a model was last asked for, by its digest

    async def model(self, name: str, version: int | None, posterior: str | None) -> Model:
        """The model of a request: where no version is named, that of its posterior, else the newest.

        Raises:
            UnknownModel: no such name or version.
        """
        if version is None and posterior is not None:
            entry = self._posteriors.get(posterior)
            if entry is not None and entry.job.model.manifest.name == name:
                version = entry.job.model.manifest.version
        try:
            model = self.catalogue.model(name, version)
        except Shelved:
            assert version is not None
            model = await self._unshelved((name, version))
        self._asked[model.sha256] = time.monotonic()
        return model

    async def card(self, name: str, version: int) -> VersionCard:
        """The card of a version; of one that was let go the manifest is read again.

        Raises:
            UnknownModel: no such name or version.
            RequestError: 503 where it cannot be read.
        """
        with contextlib.suppress(Shelved):
            return VersionCard.of(self.catalogue.model(name, version).manifest)
        store = Store(self.settings.store)
        try:
            return await asyncio.to_thread(lambda: VersionCard.of(store.manifest(name, version)))
        except UnknownModel:
            raise
        except BmamlError as error:
            log.error("%s version %d cannot be read again: %s", name, version, error)
            raise RequestError("not-ready", "this version cannot be read again", retry_after_s=1) from None

    async def _unshelved(self, place: Place) -> Model:
        """A version that was let go, loaded again; once, however many ask for it.

        Raises:
            RequestError: 503 where it cannot be loaded.
        """
        loading = self._loading.get(place)
        if loading is None:
            loading = asyncio.create_task(asyncio.to_thread(self._load, place))
            self._loading[place] = loading
            loading.add_done_callback(lambda _: self._loading.pop(place, None))
        try:
            return await asyncio.shield(loading)
        except Exception as error:
            log.error("%s version %d cannot be loaded again: %s", *place, error)
            raise RequestError("not-ready", "this version cannot be loaded again", retry_after_s=1) from None

    def _load(self, place: Place) -> Model:
        model = Store(self.settings.store).load(*place).to(self.device)
        self._prepare(model)
        with self._changing:
            if place in self.catalogue.shelved:
                self.catalogue = self.catalogue.unshelving(model)
        self._metrics.reloads.labels("loaded").inc()
        return model

    def shelve_idle(self) -> None:
        """Let go of versions that nobody has asked for lately, and whose posteriors nobody keeps."""
        now, kept = time.monotonic(), self._posteriors.models()
        with self._changing:
            idle = [
                (name, version)
                for name, versions in self.catalogue.models.items()
                for version, model in versions.items()
                if version != max(versions)
                and model.sha256 not in kept
                and now - self._asked.setdefault(model.sha256, now) > self.settings.idle_s
            ]
            if idle:
                self.catalogue = self.catalogue.shelving(idle)
        for name, version in idle:
            self._metrics.reloads.labels("shelved").inc()
            log.info("%s version %d is idle and let go", name, version)

    def refresh(self) -> bool:
        """Look at the store; whether anything else is served than before."""
        with self._changing:
            before = self.catalogue
            now = before.refreshed(self.settings.store, self.device, self._prepare)
            if now is before:
                return False
            self.catalogue = now  # at once: a request sees the old one or the new one, whole
        for refused in set(now.refused) - set(before.refused):
            self._metrics.reloads.labels("refused").inc()
            log.warning("refused %s version %d: %s", refused.name, refused.version, refused.reason)
        served, gone = set(now.served()), set(before.served())
        for sha in served - gone:
            self._metrics.reloads.labels("loaded").inc()
            log.info("serving %s", now.served()[sha])
        for sha in gone - served:
            self._asked.pop(sha, None)
            self._metrics.reloads.labels("dropped").inc()
            self._posteriors.drop_model(sha)
            log.info("no longer serving %s", before.served()[sha])
        return served != gone

    def _prepare(self, model: Model) -> None:
        if model.learner.particles > self.settings.max_particles:
            raise TooManyParticles(f"it has more than {self.settings.max_particles} particles")
        warm_up(model, self.settings.max_batch_work, self._answer)


class TooManyParticles(BmamlError):
    """A version whose answers would be larger than the service allows."""
