"""What lives as long as the process: settings, catalogue, engine; from cold to warm to stopped."""

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from functools import partial

import torch

from bmaml.errors import BmamlError
from model_store import Model, Store, UnknownModel
from service.cards import VersionCard
from service.catalogue import Catalogue, Place, Shelved
from service.codec import Codec
from service.decoders import Decoders
from service.device import check, device_for
from service.engine import Engine, compute
from service.fusion import answer_together
from service.intake import Intake
from service.keys import BadKeys, RateLimit, read_keys
from service.metrics import Metrics
from service.posteriors import Posteriors
from service.problems import RequestError
from service.queue import Queue
from service.settings import Settings
from service.tracing import tracing
from service.warming import warm_up
from service.worker import Worker

log = logging.getLogger("service.runtime")


class Runtime:
    """The service behind its routes.

    Attributes:
        draining: it was told to stop; what has been accepted is finished.

    Raises:
        BadKeys: the keys of the settings cannot be read.
        TracingUnavailable: traces are asked for and OpenTelemetry is not installed.
    """

    def __init__(self, settings: Settings, worker: Worker | None = None) -> None:
        self.settings, self._worker = settings, worker
        self.catalogue = Catalogue()
        self.metrics = Metrics()
        secret = settings.secret.get_secret_value().encode() or secrets.token_bytes(32)
        self.posteriors = Posteriors(settings.max_posterior_bytes, secret, self.metrics)
        self.codec = Codec(settings, self.posteriors)
        self.decoders = Decoders()
        self.intake = Intake(settings.max_body_bytes, settings.max_bytes_in_flight, settings.read_s)
        self.queue = Queue(settings.max_queue_work, settings.max_batch_work)
        self.device = torch.device("cpu")
        self.engine = Engine(
            self.queue,
            self.posteriors,
            self.metrics,
            settings.threads or torch.get_num_threads(),
            self._check,
            compute if worker is None else worker.answer,
        )
        if worker is not None:
            self.metrics.watch_process("bmaml_worker", worker.pid)
        self.keys = read_keys(settings.keys.get_secret_value(), settings.keys_file)
        self.rate_limit = RateLimit(settings.rate_per_s, settings.rate_burst)
        self.tracing = tracing()
        self.draining = False
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # of the catalogue
        self._loading: dict[Place, asyncio.Task[Model]] = {}
        self._asked: dict[str, float] = {}  # when a model was last asked for, by its digest
        self._loaded = False
        self._failure: str | None = None
        self._verdict: bool | None = None  # whether it had failed, once it was stopped

    @property
    def failed(self) -> bool:
        """The engine died or could never start: only a restart helps."""
        if self._verdict is not None:
            return self._verdict
        if self._worker is not None and self._worker.failed:
            return True
        return self._failure is not None or self.engine.failed

    @property
    def why_not_open(self) -> str | None:
        """One sentence; None when the store has been looked at and the engine takes work."""
        if self._failure is not None:
            return self._failure
        if self.failed:
            return "the device does not answer any more"
        if self.draining or self._stopping.is_set():
            return "shutting down"
        if not self._loaded:
            return "loading models"
        return None

    @property
    def why_not_ready(self) -> str | None:
        """One sentence; None when models are loaded and warm, too."""
        if self.why_not_open is None and not self.catalogue.models:
            return f"{self.settings.store} holds no version that can be served"
        return self.why_not_open

    def check_ready(self) -> None:
        """Whether to send requests here.

        Raises:
            RequestError: 503, and why not.
        """
        if (why := self.why_not_ready) is not None:
            raise RequestError("not-ready", why, retry_after_s=1)

    def check_able(self, with_a_model: bool = True) -> None:
        """Whether a request that has come all the same can be answered: so it is until the very end.

        Raises:
            RequestError: 503, and why not.
        """
        at_work = self.draining and self.engine.alive
        if not at_work and (with_a_model or self.why_not_open is not None):
            self.check_ready()

    def start(self) -> None:
        """Load every model, run each once, and begin to answer. Blocks until this is done or has failed.

        A store without a good version is looked at again and again: the first one makes the service ready.
        """
        began = time.monotonic()
        try:
            self.device = device_for(self.settings.device)
            self._check()
            self._refresh()
            self.engine.start()
            self._watcher = threading.Thread(target=self._watch, name="store", daemon=True)
            self._watcher.start()
            self._loaded = True
        except Exception as error:
            self._failure = str(error) if isinstance(error, BmamlError) else "the service could not start"
            log.exception("cannot start")
            return
        log.info(
            "%s on %s with %d models after %.1f s",
            "ready" if self.catalogue.models else "waiting for a model",
            self.device,
            len(self.catalogue.models),
            time.monotonic() - began,
        )

    def stop(self) -> None:
        """Finish what was accepted."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(self.settings.drain_s)
        self.engine.stop(self.settings.drain_s)
        self._verdict = self.failed  # what is ended now has not failed
        if self._worker is not None:
            self._worker.stop(at_once=self.engine.busy)
        self.decoders.stop()
        if self.tracing is not None:
            self.tracing.stop()

    async def model(self, name: str, version: int | None, posterior: str | None) -> Model:
        """The model of a request: where no version is named, that of its posterior, else the newest.

        Raises:
            UnknownModel: no such name or version.
        """
        if version is None and posterior is not None:
            entry = self.posteriors.get(posterior)
            if entry is not None and entry.work.model.manifest.name == name:
                version = entry.work.model.manifest.version
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
        self.metrics.reloads.labels("loaded").inc()
        return model

    def _shelve_idle(self) -> None:
        """Let go of versions that nobody has asked for lately, and whose posteriors nobody keeps."""
        now, kept = time.monotonic(), self.posteriors.models()
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
            self.metrics.reloads.labels("shelved").inc()
            log.info("%s version %d is idle and let go", name, version)

    def _watch(self) -> None:
        """Look at the store and the keys again and again; a failure to look is no reason to stop."""
        while not self._stopping.wait(self.settings.reload_s):
            self.posteriors.sweep()
            # What was adapted while its version was dropped has been kept after it.
            for sha in self.posteriors.models() - set(self.catalogue.served()):
                self.posteriors.drop_model(sha)
            try:
                self._refresh()
                self._shelve_idle()
            except Exception:
                log.exception("cannot look at the store")
            self._look_at_keys()

    def _look_at_keys(self) -> None:
        """Take the keys as they are now; where they cannot be read, they stay as they were."""
        try:
            keys = read_keys(self.settings.keys.get_secret_value(), self.settings.keys_file)
        except BadKeys as error:
            log.error("the keys stay as they were: %s", error)
            return
        if keys != self.keys:
            self.keys = keys
            log.info("%d keys", len(keys.owners))

    def _refresh(self) -> None:
        with self._changing:
            before = self.catalogue
            now = before.refreshed(self.settings.store, self.device, self._prepare)
            if now is before:
                return
            self.catalogue = now  # at once: a request sees the old one or the new one, whole
        for refused in set(now.refused) - set(before.refused):
            self.metrics.reloads.labels("refused").inc()
            log.warning("refused %s version %d: %s", refused.name, refused.version, refused.reason)
        served, gone = set(now.served()), set(before.served())
        for sha in served - gone:
            self.metrics.reloads.labels("loaded").inc()
            log.info("serving %s", now.served()[sha])
        for sha in gone - served:
            self._asked.pop(sha, None)
            self.metrics.reloads.labels("dropped").inc()
            self.posteriors.drop_model(sha)
            log.info("no longer serving %s", before.served()[sha])

    def _prepare(self, model: Model) -> None:
        if model.learner.particles > self.settings.max_particles:
            raise TooManyParticles(f"it has more than {self.settings.max_particles} particles")
        threads = torch.get_num_threads()
        answer = answer_together if self._worker is None else partial(self._worker.answer, threads=threads)
        warm_up(model, self.settings.max_batch_work, answer)

    def _check(self) -> None:
        if self._worker is None:
            check(self.device)
        else:
            self._worker.check()


class TooManyParticles(BmamlError):
    """A version whose answers would be larger than the service allows."""
