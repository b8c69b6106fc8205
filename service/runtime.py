"""What lives as long as the process: settings, versions, engine; from cold to warm to stopped."""

import logging
import os
import secrets
import time
from collections.abc import Callable
from functools import partial

import torch

from bmaml.errors import BmamlError
from service.codec.bodies import BodyReader
from service.codec.decode import Decoder
from service.codec.images import DecodingThreads
from service.compute.batch import answer_batch, compute
from service.compute.cuda_graphs import Graphs
from service.compute.device import check, device_for
from service.engine.engine import Engine
from service.engine.posterior_cache import PosteriorCache
from service.engine.queue import Queue
from service.engine.worker_pool import WorkerPool
from service.errors import RequestError
from service.housekeeping import Housekeeping
from service.job import Job
from service.keys import KeyRing, RateLimit
from service.ops.cpus import usable_cores
from service.ops.memory import HeapTrimmer, trim_heap
from service.ops.metrics import Metrics
from service.ops.tracing import tracing_from_environment
from service.registry.catalogue import Catalogue
from service.registry.registry import Registry
from service.settings import Settings

log = logging.getLogger("service.runtime")


class Runtime:
    """The service behind its routes.

    Attributes:
        draining: it was told to stop; what has been accepted is finished.

    Raises:
        BadKeys: the keys of the settings cannot be read.
        TracingUnavailable: traces are asked for and OpenTelemetry is not installed.
    """

    def __init__(self, settings: Settings, worker_pool: WorkerPool | None = None) -> None:
        self.settings, self._worker_pool = settings, worker_pool
        self.metrics = Metrics()
        secret = settings.secret.get_secret_value().encode() or secrets.token_bytes(32)
        self.posteriors = PosteriorCache(settings.max_posterior_bytes, secret, self.metrics)
        self.decoder = Decoder(settings, self.posteriors)
        self.decoding_threads = DecodingThreads()
        self.body_reader = BodyReader(settings.max_body_bytes, settings.max_bytes_in_flight, settings.read_s)
        processes = 1 if worker_pool is None else len(worker_pool)
        self.queue = Queue(settings.max_queue_work, settings.max_batch_work, processes)
        graphs = None
        if worker_pool is None and settings.graphs and settings.device != "cpu" and torch.cuda.is_available():
            graphs = Graphs(tell=lambda event: self.metrics.graphs.labels(event).inc())
        threads = settings.threads or min(usable_cores(), torch.get_num_threads())
        self.engine = Engine(
            self.queue,
            self.posteriors,
            self.metrics,
            threads,
            self._check,
            partial(compute, graphs=graphs) if worker_pool is None else worker_pool.answer,
        )
        warm: Callable[[list[Job]], object] = partial(answer_batch, graphs=graphs)
        trimmers = [HeapTrimmer(os.getpid(), trim_heap)]
        if worker_pool is not None:
            self.metrics.watch_workers([worker.pid for worker in worker_pool.workers])
            trimmers += [HeapTrimmer(worker.pid, worker.trim_heap) for worker in worker_pool.workers]
            warm = partial(worker_pool.answer_each, threads=threads)
        self.registry = Registry(settings, self.posteriors, self.metrics, warm)
        self.keys = KeyRing(settings.keys.get_secret_value(), settings.keys_file)
        self.housekeeping = Housekeeping(
            settings.reload_s, self.posteriors, self.registry, self.keys, trimmers
        )
        self.rate_limit = RateLimit(settings.rate_per_s, settings.rate_burst)
        self.tracing = tracing_from_environment()
        self.draining = False
        self._loaded = False
        self._failure: str | None = None
        self._verdict: bool | None = None  # whether it had failed, once it was stopped

    @property
    def catalogue(self) -> Catalogue:
        """The versions on offer."""
        return self.registry.catalogue

    @property
    def device(self) -> torch.device:
        """That the models live on."""
        return self.registry.device

    @property
    def failed(self) -> bool:
        """The engine died or could never start: only a restart helps."""
        if self._verdict is not None:
            return self._verdict
        if self._worker_pool is not None and self._worker_pool.failed:
            return True
        return self._failure is not None or self.engine.failed

    @property
    def why_not_open(self) -> str | None:
        """One sentence; None when the store has been looked at and the engine takes work."""
        if self._failure is not None:
            return self._failure
        if self.failed:
            return "the device does not answer any more"
        if self.draining or self.housekeeping.stopping:
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

    def check_serving(self, needs_model: bool = True) -> None:
        """Whether a request that has come all the same can be answered: so it is until the very end.

        Raises:
            RequestError: 503, and why not.
        """
        at_work = self.engine.alive and (self.draining or bool(self.catalogue.models))
        if not at_work and (needs_model or self.why_not_open is not None):
            self.check_ready()

    def start(self) -> None:
        """Load every model, run each once, and begin to answer. Blocks until this is done or has failed.

        A store without a good version is looked at again and again: the first one makes the service ready.
        """
        began = time.monotonic()
        try:
            self.registry.device = device_for(self.settings.device)
            self._check()
            self.housekeeping.refresh()
            self.engine.start()
            self.housekeeping.start()
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
        self.housekeeping.stop(self.settings.drain_s)
        self.engine.stop(self.settings.drain_s)
        self._verdict = self.failed  # what is ended now has not failed
        if self._worker_pool is not None:
            self._worker_pool.stop(at_once=self.engine.busy)
        self.decoding_threads.stop()
        if self.tracing is not None:
            self.tracing.stop()

    def _check(self) -> None:
        if self._worker_pool is None:
            check(self.device)
        else:
            self._worker_pool.check()
