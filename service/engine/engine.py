"""The engine: the thread that owns the device, takes batches off the queue and answers them.

A batch starts as soon as the device is free; no job waits for others to join it. A task whose posterior is
kept is not adapted to again, and jobs with the same rows share one adaptation (single flight). A batch that
does not fit into memory is split. A task that fails, fails alone. A device that stops answering ends the
engine.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from service.compute import native_path
from service.compute.batch import Compute, compute
from service.compute.device import DeviceFailed, free_memory, out_of_memory
from service.compute.surprise import surprising_group
from service.engine.posterior_cache import PosteriorCache
from service.engine.queue import Outcome, Queue, QueuedJob, settle
from service.errors import RequestError
from service.job import Answer, Job, row_counts
from service.ops.metrics import Metrics

log = logging.getLogger("service.engine")

DEVICE_FAILED = "the device does not answer any more"
"""Detail of the problem that callers get once the device has failed."""
MIN_PARALLEL_WORK = 1_000_000
"""Work of a batch, in particles × rows × (steps + 1), above which several threads are faster than one."""


class Engine:
    """The engine: adapts and predicts in its own thread.

    Args:
        queue: the jobs to answer.
        posteriors: the cache of posteriors.
        threads: most threads for the computation of a batch.
        check: raises `DeviceFailed` where the device does not answer; called after every fault.
        compute: computes a batch, in this process or in a worker pool.
    """

    def __init__(
        self,
        queue: Queue,
        posteriors: PosteriorCache,
        metrics: Metrics,
        threads: int = 1,
        check: Callable[[], None] = lambda: None,
        compute: Compute = compute,
    ) -> None:
        self.queue = queue
        self._posteriors, self._metrics, self._threads = posteriors, metrics, threads
        self._check, self._compute = check, compute
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Refuse new jobs, answer the queued ones, and end the thread.

        Args:
            timeout_s: seconds to wait for that.
        """
        self.queue.close("the service is shutting down")
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and accepts jobs."""
        return self._thread.is_alive() and self.queue.open

    @property
    def busy(self) -> bool:
        """Whether the thread runs, even if it has been asked to stop."""
        return self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the thread has ended because of a fault; no job is answered any more."""
        return self._failed

    async def submit(self, job: Job, waited_s: float = 0.0) -> Answer:
        """Queue the job, and wait for its answer.

        Args:
            waited_s: seconds that its request has waited before.

        Raises:
            RequestError: 429 where the queue is full, 503 while the engine stops, 504 where the deadline
                passes before the job starts, 413 where the task does not fit into memory.
            Diverged: adaptation left the finite numbers.
        """
        queued, timer = self.queue.add(job, waited_s), None
        if not math.isinf(job.deadline):
            timer = queued.loop.call_later(job.deadline - time.monotonic(), queued.expire)
        try:
            return await queued.future
        finally:
            if timer is not None:
                timer.cancel()
            # An error holds this frame, and the future the error: the cycle would outlive the reply.
            del queued, timer

    def _run(self) -> None:
        """Answer batches until the queue is closed and empty, or the device has failed."""
        try:
            while (batch := self.queue.next_batch()) is not None:
                self._serve(batch)
        except BaseException as error:
            log.critical("the engine ends", exc_info=error)
            self._failed = True
            self.queue.close(DEVICE_FAILED)
            self.queue.fail_all(RequestError("engine-failed", DEVICE_FAILED))

    def _serve(self, batch: Sequence[QueuedJob]) -> None:
        """Answer a batch. Every job is settled, whatever fails.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        started, jobs = time.monotonic(), [queued.job for queued in batch]
        outcomes: Sequence[Outcome]
        failure: DeviceFailed | None = None
        try:
            outcomes = self._outcomes(jobs)
        except DeviceFailed as error:
            failure = error
            outcomes = [RequestError("engine-failed", DEVICE_FAILED)] * len(jobs)
        except Exception as error:
            log.exception("a batch of %d failed", len(jobs))
            outcomes = [error] * len(jobs)
        timed = [
            replace(outcome, queue_s=started - queued.queued_at) if isinstance(outcome, Answer) else outcome
            for queued, outcome in zip(batch, outcomes, strict=True)
        ]
        elapsed = time.monotonic() - started
        try:  # before the replies: who has one finds it in the metrics
            self.queue.record_batch(jobs, elapsed)
            self._update_metrics(batch, outcomes, started, elapsed)
        finally:
            settle(batch, timed)
        if failure is not None:
            raise failure

    def _outcomes(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """One outcome per job. A posterior that is kept, or becomes so in this batch, is used again."""
        first = {job.key: index for index, job in reversed(list(enumerate(jobs))) if job.key is not None}
        outcomes: list[Outcome | None] = [None] * len(jobs)
        adapted: list[int] = []
        recalled: list[int] = []  # jobs that came with a kept posterior
        for index, job in enumerate(jobs):
            if job.kept is not None:
                recalled.append(index)
            elif job.key is None or (first[job.key] == index and self._posteriors.get(job.key) is None):
                adapted.append(index)
        for indices in (adapted, recalled):
            computed = self._computed([jobs[index] for index in indices])
            for index, outcome in zip(indices, computed, strict=True):
                outcomes[index] = outcome
                self._keep_posterior(jobs[index], outcome)
        followers = [index for index, outcome in enumerate(outcomes) if outcome is None]
        if followers:
            again = [self._following(jobs[i], outcomes[first[str(jobs[i].key)]]) for i in followers]
            for index, outcome in zip(followers, self._outcomes(again), strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _keep_posterior(self, job: Job, outcome: Outcome) -> None:
        """Keep a new posterior, or extend the time of one that is kept; it may have gone meanwhile."""
        if job.key is None or not isinstance(outcome, Answer) or outcome.kept is None:
            return
        self._metrics.posteriors.labels("miss" if job.kept is None else "hit").inc()
        if job.kept is not None and (self._posteriors.extend(job.key, job.ttl_s) or not job.ttl_s):
            return
        self._posteriors.put(job.key, job, outcome.kept, job.ttl_s)

    def _following(self, job: Job, leader: Outcome | None) -> Job:
        """The job with the posterior of its leader, the first job of the batch with the same key.

        Without a key where there is no posterior: then it is adapted to alone.
        """
        if isinstance(leader, Answer) and leader.kept is not None:
            return replace(job, kept=leader.kept)
        entry = None if job.key is None else self._posteriors.get(job.key)
        return replace(job, key=None) if entry is None else replace(job, kept=entry.kept)

    def _computed(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """One computed outcome per job. A batch that fails as a whole is tried again in parts.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        if not jobs:
            return []
        try:
            return self._compute(jobs, self._threads_for(jobs))
        except DeviceFailed:
            raise
        except BmamlError as error:
            fault: Exception = error
        except Exception as error:
            fault = error
        if out_of_memory(fault):
            fault.__traceback__ = None  # its frames hold the tensors that filled the memory
            return self._computed_in_halves(jobs)
        if not isinstance(fault, BmamlError):
            self._check()
        if len(jobs) > 1:
            self._metrics.retried.labels("error").inc()
            log.warning("a batch of %d failed (%s); trying one by one", len(jobs), type(fault).__name__)
            return [self._computed([job])[0] for job in jobs]
        if not isinstance(fault, BmamlError):
            log.error("a task failed", exc_info=fault)
        return [fault]

    def _computed_in_halves(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """The outcomes of a batch that did not fit into memory; a task that does not fit alone fails."""
        free_memory(jobs[0].model.device)
        log.warning("%d tasks do not fit into memory together", len(jobs))
        if len(jobs) == 1:
            detail = "the task does not fit into the device's memory: ask for fewer rows at a time"
            return [RequestError("task-too-large", detail)]
        self._metrics.retried.labels("memory").inc()
        middle = len(jobs) // 2
        return [*self._computed(jobs[:middle]), *self._computed(jobs[middle:])]

    def _threads_for(self, jobs: Sequence[Job]) -> int:
        """Threads for a batch: all for images, much work and native functions, which give each its tasks.

        Else one, as waking others for parts of an operation takes longer.
        """
        apart = jobs[0].model.manifest.image is not None or native_path.serves(jobs)
        return self._threads if apart or sum(job.cost for job in jobs) > MIN_PARALLEL_WORK else 1

    def _update_metrics(
        self, batch: Sequence[QueuedJob], outcomes: Sequence[Outcome], started: float, elapsed: float
    ) -> None:
        metrics, jobs = self._metrics, [queued.job for queued in batch]
        metrics.batch_seconds.observe(elapsed)
        metrics.batch_tasks.observe(len(jobs))
        real, padded = row_counts(jobs)
        metrics.rows.labels("real").inc(real)
        metrics.rows.labels("padding").inc(padded - real)
        answered = next((outcome for outcome in outcomes if isinstance(outcome, Answer)), None)
        if answered is not None:
            metrics.adapt_seconds.observe(answered.times.adapt_s)
            metrics.predict_seconds.observe(answered.times.predict_s)
        for queued, outcome in zip(batch, outcomes, strict=True):
            metrics.queue_seconds.observe(started - queued.queued_at)
            if isinstance(outcome, Answer):
                if group := surprising_group(queued.job, outcome):
                    metrics.surprises.labels(queued.job.model.manifest.name, group).inc()
            else:
                reason = "diverged" if isinstance(outcome, Diverged) else "error"
                metrics.failed.labels(reason).inc()
