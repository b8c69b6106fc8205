"""The registry of served versions: loads, shelves and reloads them, and looks them up for requests."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

import torch

from bmaml.errors import BmamlError
from model_store import Manifest, Model, Store, UnknownModel
from service.engine.posterior_cache import PosteriorCache
from service.errors import RequestError
from service.job import Job
from service.ops.metrics import Metrics
from service.registry.catalogue import Catalogue, Shelved, VersionId
from service.registry.warm_up import warm_up
from service.settings import Settings

log = logging.getLogger("service.registry")


class Registry:
    """Keeps the catalogue equal to the store, and loads its versions onto the device.

    Args:
        answer: answers a batch; warms a version up.

    Attributes:
        device: the device onto which versions are loaded.
        catalogue: replaced as a whole, so that a request sees either the old one or the new one.
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
        self._lock = threading.Lock()  # held while the catalogue is replaced
        self._loading: dict[VersionId, asyncio.Task[Model]] = {}
        self._last_used: dict[str, float] = {}  # monotonic time of a model's last request, by digest

    async def model(self, name: str, version: int | None, posterior: str | None) -> Model:
        """The model of a request, loaded if it is shelved.

        Where the request names no version, its posterior's version is used, else the newest.

        Raises:
            UnknownModel: no such name or version.
            RequestError: 503 where the version cannot be loaded again.
        """
        entry = None if version is not None or posterior is None else self._posteriors.get(posterior)
        if entry is not None and entry.job.model.manifest.name == name:
            version = entry.job.model.manifest.version
        try:
            model = self.catalogue.model(name, version)
        except Shelved:
            assert version is not None
            model = await self._reload((name, version))
        except UnknownModel:
            if entry is None or version is None:
                raise
            # Dropped as its version was, had a batch not kept it just afterwards: who asks by id is told 410.
            self._posteriors.drop_model(entry.job.model.sha256)
            model = self.catalogue.model(name)
        self._last_used[model.sha256] = time.monotonic()
        return model

    async def manifest(self, name: str, version: int | None) -> Manifest:
        """The manifest of a version, by default the newest; that of a shelved one is read from the store.

        Raises:
            UnknownModel: no such name or version.
            RequestError: 503 where the manifest cannot be read.
        """
        with contextlib.suppress(Shelved):
            return self.catalogue.model(name, version).manifest
        assert version is not None  # the newest is never shelved
        try:
            return await asyncio.to_thread(Store(self.settings.store_folder).manifest, name, version)
        except UnknownModel:
            raise
        except BmamlError as error:
            log.error("%s version %d cannot be read again: %s", name, version, error)
            raise RequestError("not-ready", "this version cannot be read again", retry_after_s=1) from None

    async def _reload(self, version_id: VersionId) -> Model:
        """A shelved version, loaded again; concurrent requests for it share one load.

        Raises:
            RequestError: 503 where it cannot be loaded.
        """
        loading = self._loading.get(version_id)
        if loading is None:
            loading = asyncio.create_task(asyncio.to_thread(self._load, version_id))
            self._loading[version_id] = loading
            loading.add_done_callback(lambda _: self._loading.pop(version_id, None))
        try:
            return await asyncio.shield(loading)
        except Exception as error:
            log.error("%s version %d cannot be loaded again: %s", *version_id, error)
            raise RequestError("not-ready", "this version cannot be loaded again", retry_after_s=1) from None

    def _placed(self, model: Model) -> Model:
        """The model on the device, embedding images in the precision of the settings."""
        return model.to(self.device, bfloat16=self.settings.bfloat16)

    def _load(self, version_id: VersionId) -> Model:
        """Load and warm up a shelved version."""
        model = self._placed(Store(self.settings.store_folder).load(*version_id))
        self._prepare(model)
        with self._lock:
            if self.catalogue.shelved.get(version_id) == model.sha256:  # else it was replaced meanwhile
                self.catalogue = self.catalogue.unshelving(model)
        self._metrics.reloads.labels("loaded").inc()
        return model

    def shelve_idle(self) -> None:
        """Shelve older versions without a kept posterior and without a request for `idle_s` seconds."""
        now, kept = time.monotonic(), self._posteriors.models()
        with self._lock:
            idle = [
                (name, version)
                for name, versions in self.catalogue.models.items()
                for version, model in versions.items()
                if version != max(versions)
                and model.sha256 not in kept
                and now - self._last_used.setdefault(model.sha256, now) > self.settings.idle_s
            ]
            if idle:
                self.catalogue = self.catalogue.shelving(idle)
        for name, version in idle:
            self._metrics.reloads.labels("shelved").inc()
            log.info("%s version %d is idle, and shelved", name, version)

    def refresh(self) -> bool:
        """Update the catalogue from the store; called in one thread, as `shelve_idle`.

        Returns:
            whether the served versions have changed.
        """
        before = self.catalogue
        now = before.refreshed(self.settings.store_folder, self._placed, self._prepare)
        if now is before:
            return False
        with self._lock:  # requests may have loaded shelved versions meanwhile
            for versions in self.catalogue.models.values():
                for version, model in versions.items():
                    if now.shelved.get((model.manifest.name, version)) == model.sha256:
                        now = now.unshelving(model)
            self.catalogue = now
        for refused in set(now.refused) - set(before.refused):
            self._metrics.reloads.labels("refused").inc()
            log.warning("refused %s version %d: %s", refused.name, refused.version, refused.reason)
        served, served_before = set(now.served()), set(before.served())
        for sha in served - served_before:
            self._metrics.reloads.labels("loaded").inc()
            log.info("serving %s", now.served()[sha])
        for sha in served_before - served:
            self._last_used.pop(sha, None)
            self._metrics.reloads.labels("dropped").inc()
            self._posteriors.drop_model(sha)
            log.info("no longer serving %s", before.served()[sha])
        return served != served_before

    def _prepare(self, model: Model) -> None:
        """Warm a model up.

        Raises:
            TooManyParticles: it has more than the settings allow.
        """
        if model.learner.particles > self.settings.max_particles:
            raise TooManyParticles(f"it has more than {self.settings.max_particles} particles")
        warm_up(model, self.settings.max_batch_work, self._answer)


class TooManyParticles(BmamlError):
    """The version has more particles than the settings allow."""
