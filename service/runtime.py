"""The runtime: the parts of the service that live as long as the process, from cold to warm to stopped."""

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
from service.compute import native_path
from service.compute.batch import answer_batch, compute
from service.compute.cuda_graphs import GraphCache
from service.compute.device import check, check_bfloat16, device_for
from service.engine.engine import DEVICE_FAILED, Engine
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
from service.registry.mirroring import Mirroring
from service.registry.registry import Registry
from service.settings import Settings

log = logging.getLogger("service.runtime")


class Runtime:
    """The parts behind the routes, and the state of the service.

    Attributes:
        draining: whether a signal asked the process to end; accepted requests are still answered.

    Raises:
        BadKeys: the keys of the settings cannot be read.
        BadAddress, NotAMirror: a store elsewhere cannot be followed.
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
            graphs = GraphCache(on_event=lambda event: self.metrics.graphs.labels(event).inc())
        threads = settings.threads or min(usable_cores(), torch.get_num_threads())
        self.engine = Engine(
            self.queue,
            self.posteriors,
            self.metrics,
            threads,
            self._check_device,
            partial(compute, graphs=graphs) if worker_pool is None else worker_pool.answer,
        )
        warm: Callable[[list[Job]], object] = partial(answer_batch, graphs=graphs)
        trimmers = [HeapTrimmer(os.getpid(), trim_heap)]
        if worker_pool is not None:
            self.metrics.watch_workers([worker.pid for worker in worker_pool.workers])
            trimmers += [HeapTrimmer(worker.pid, worker.trim_heap) for worker in worker_pool.workers]
            warm = partial(worker_pool.warm_up, threads=threads)
        self.registry = Registry(settings, self.posteriors, self.metrics, warm)
        self.keys = KeyRing(settings.keys.get_secret_value(), settings.keys_file)
        self.housekeeping = Housekeeping(
            settings.reload_s, self.posteriors, self.registry, self.keys, trimmers
        )
        self._mirroring = None
        if isinstance(settings.store, str):
            self._mirroring = Mirroring(settings.store, settings.store_folder, settings.mirror_s)
        self.rate_limit = RateLimit(settings.rate_per_s, settings.rate_burst)
        self.tracing = tracing_from_environment()
        self.draining = False
        self._loaded = False
        self._failure: str | None = None
        self._failed_before_stop: bool | None = None  # None until `stop`

    @property
    def catalogue(self) -> Catalogue:
        """The versions that are served."""
        return self.registry.catalogue

    @property
    def device(self) -> torch.device:
        """The device that holds the models."""
        return self.registry.device

    @property
    def failed(self) -> bool:
        """Whether the engine died or could not start, so that only a restart helps."""
        if self._failed_before_stop is not None:
            return self._failed_before_stop
        if self._worker_pool is not None and self._worker_pool.failed:
            return True
        return self._failure is not None or self.engine.failed

    @property
    def why_not_serving(self) -> str | None:
        """The reason why new requests should go elsewhere, models aside; None where there is none."""
        if self._failure is not None:
            return self._failure
        if self.failed:
            return DEVICE_FAILED
        if self.draining or self.housekeeping.stopping:
            return "shutting down"
        if not self._loaded:
            return "loading models"
        return None

    @property
    def why_not_ready(self) -> str | None:
        """The reason why requests cannot be answered; None where models are loaded and warm, too."""
        if self.why_not_serving is None and not self.catalogue.models:
            why = None if self._mirroring is None else self._mirroring.failure
            return why or f"{self.settings.store} holds no version that can be served"
        return self.why_not_serving

    @property
    def mirror_age_s(self) -> float | None:
        """Seconds since the store elsewhere last answered; None where the store is a folder."""
        return None if self._mirroring is None else self._mirroring.age_s

    def check_ready(self) -> None:
        """Refuse where the process is not ready: a load balancer should send requests elsewhere.

        Raises:
            RequestError: 503 with the reason.
        """
        if (why := self.why_not_ready) is not None:
            raise RequestError("not-ready", why, retry_after_s=1)

    def check_alive(self) -> None:
        """Refuse where only a restart of the process helps.

        Raises:
            RequestError: 503.
        """
        if self.failed:
            raise RequestError("engine-failed", "the engine does not run")

    def check_serving(self, needs_model: bool = True) -> None:
        """Refuse a request that cannot be answered; while draining, those that arrive still can.

        Raises:
            RequestError: 503 with the reason.
        """
        alive = self._loaded and self.engine.alive  # never before the probe says so
        serving = alive and (self.draining or bool(self.catalogue.models))
        if not serving and (needs_model or self.why_not_serving is not None):
            self.check_ready()

    def start(self) -> None:
        """Load and warm up every model, and start the engine; block until this is done or has failed.

        Where the store holds no version that can be served, housekeeping makes the service ready later.
        A second call does nothing: who starts it before the server does may leave the server's call in place.
        """
        if self._loaded or self._failure is not None:
            return
        began = time.monotonic()
        try:
            self.registry.device = device_for(self.settings.device)
            self._check_device()
            if self.settings.bfloat16:
                check_bfloat16(self.device)
            if self._mirroring is not None:
                self._mirroring.start()
            native = self.settings.native if self.device.type == "cpu" else "off"
            if native == "require":
                native_path.begin(native)
            self.housekeeping.refresh()
            self.engine.start()
            self.housekeeping.start()
            self._loaded = True
            if native != "require":  # after the warm-up, which the compiler would slow down
                native_path.begin(native)
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
        """End all threads and processes; jobs that still wait are answered within `drain_s`."""
        deadline = time.monotonic() + self.settings.drain_s
        if self._mirroring is not None:
            self._mirroring.stop()
        self.housekeeping.stop(self.settings.drain_s)
        self.engine.stop(max(0.0, deadline - time.monotonic()))
        self._failed_before_stop = self.failed  # processes ended below have not failed
        if self._worker_pool is not None:
            self._worker_pool.stop(at_once=self.engine.busy)
        self.decoding_threads.stop()
        if self.tracing is not None:
            self.tracing.stop()

    def _check_device(self) -> None:
        if self._worker_pool is None:
            check(self.device)
        else:
            self._worker_pool.check()
