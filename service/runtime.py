"""What lives as long as the process: settings, catalogue, engine; from cold to warm to stopped."""

import logging
import secrets
import threading
import time

import numpy as np
import torch

from bmaml.errors import BmamlError
from bmaml.learners.bare import Bare
from model_store import Model
from service.catalogue import Catalogue
from service.codec import Codec
from service.engine import Engine, device_for
from service.fusion import answer_together
from service.metrics import Metrics
from service.posteriors import Posteriors
from service.settings import Settings
from service.work import PredictAsk, Work

log = logging.getLogger("service.runtime")

WARM_TASKS, WARM_ROWS, WARM_CLASSES = (1, 4), 8, 8


class NothingToServe(BmamlError):
    """A store without a single good version."""


class Runtime:
    """The service behind its routes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalogue = Catalogue()
        self.metrics = Metrics()
        secret = settings.secret.get_secret_value().encode() or secrets.token_bytes(32)
        self.posteriors = Posteriors(settings.max_posterior_bytes, secret, self.metrics)
        self.codec = Codec(settings, self.posteriors)
        self.engine = Engine(
            settings.max_queue_work,
            settings.max_batch_work,
            self.posteriors,
            self.metrics,
            settings.threads or torch.get_num_threads(),
        )
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._warm = False
        self._failure: str | None = None

    @property
    def ready(self) -> bool:
        """Models are loaded and warm, and the engine takes work."""
        return self._warm and self.engine.alive

    @property
    def failed(self) -> bool:
        """The engine died or could never start: only a restart helps."""
        return self._failure is not None or (self._warm and not self.engine.alive)

    @property
    def why_not_ready(self) -> str:
        """One sentence for the probe."""
        if self._failure is not None:
            return self._failure
        return "shutting down" if self._warm else "loading models"

    def start(self) -> None:
        """Load every model, run each once, and begin to answer. Blocks until ready or failed."""
        began = time.monotonic()
        try:
            device = device_for(self.settings.device)
            self._refresh(device)
            if not self.catalogue.models:
                raise NothingToServe(f"{self.settings.store} holds no version that can be served")
            self.engine.start()
            self._watcher = threading.Thread(target=self._watch, args=(device,), name="store", daemon=True)
            self._watcher.start()
            self._warm = True
        except Exception as error:
            # Probes must tell: the process stays up, answers 503 and says why in the log.
            self._failure = str(error) if isinstance(error, BmamlError) else "the service could not start"
            log.exception("cannot start")
            return
        log.info(
            "ready on %s with %d models after %.1f s",
            device,
            len(self.catalogue.models),
            time.monotonic() - began,
        )

    def stop(self) -> None:
        """Finish what was accepted."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join(self.settings.drain_s)
        self.engine.stop(self.settings.drain_s)

    def model(self, name: str, version: int | None, posterior: str | None) -> Model:
        """The model of a request: where no version is named, that of its posterior, else the newest.

        Raises:
            UnknownModel: no such name or version.
        """
        if version is None and posterior is not None:
            entry = self.posteriors.get(posterior)
            if entry is not None and entry.work.model.manifest.name == name:
                version = entry.work.model.manifest.version
        return self.catalogue.model(name, version)

    def _watch(self, device: torch.device) -> None:
        """Look at the store again and again; a failure to look is no reason to stop."""
        while not self._stopping.wait(self.settings.reload_s):
            self.posteriors.sweep()
            try:
                self._refresh(device)
            except Exception:
                log.exception("cannot look at the store")

    def _refresh(self, device: torch.device) -> None:
        before = self.catalogue
        now = before.refreshed(self.settings.store, device, _warm_up)
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
            self.metrics.reloads.labels("dropped").inc()
            self.posteriors.drop_model(sha)
            log.info("no longer serving %s", before.served()[sha])


def _warm_up(model: Model) -> None:
    """Run the model once, alone and in company, so that the first caller does not wait for it."""
    network, image = model.learner.network, model.manifest.image
    outputs = network.outputs if image is None or isinstance(model.learner, Bare) else WARM_CLASSES
    x = np.zeros((WARM_ROWS, network.inputs if image is None else image.numbers), np.float32)
    y = np.eye(outputs, dtype=np.float32)[np.arange(WARM_ROWS) % outputs]
    ask = PredictAsk((0.05, 0.95) if image is None else ())
    classes = tuple(range(outputs)) if image is not None else ()
    forever = float("inf")
    work = Work(model, x, y, x, model.learner.steps, 0, ask, deadline=forever, classes=classes)
    for tasks in WARM_TASKS:
        answer_together([work] * tasks)
