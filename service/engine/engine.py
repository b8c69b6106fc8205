"""The one owner of the device: one thread that takes batches off the queue and answers them.

Whatever waits when the device is free goes next; nobody waits for company. What has been adapted to
before is not adapted to again, and of several that come together with the same rows one is (single
flight). A batch that does not fit into memory is split; a task that fails, fails alone; a device that
does not answer any more ends the engine.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bmaml.errors import BmamlError
from bmaml.learners import Diverged
from service.compute.batch import Compute, compute
from service.compute.device import DeviceFailed, free_memory, out_of_memory
from service.engine.posterior_cache import PosteriorCache
from service.engine.queue import Outcome, Queue, QueuedJob, rows_of
from service.errors import RequestError
from service.job import Answer, Job
from service.ops.metrics import Metrics

log = logging.getLogger("service.engine")

PARALLEL_WORK = 1_000_000
"""Work of a batch, in particles × rows × (steps + 1), from which several threads pay."""


class Engine:
    """Adapts and predicts in its own thread.

    Args:
        queue: what to do.
        posteriors: where posteriors are kept, and looked for before adapting.
        threads: of tensor work, at most.
        check: raises `DeviceFailed` where the device does not answer; asked after every fault.
        compute: does it, here or elsewhere.
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
        """Begin to take work off the queue."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish what was accepted, then end the thread; new work is refused from now on."""
        self.queue.close("the service is shutting down")
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes work."""
        return self._thread.is_alive() and self.queue.open

    @property
    def busy(self) -> bool:
        """Whether the thread runs still, told to stop or not."""
        return self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether it ended because of a fault: nothing will be answered any more."""
        return self._failed

    async def submit(self, job: Job) -> Answer:
        """The answer to `work`, once the device has got to it.

        Raises:
            RequestError: 429 when the queue is full, 503 while stopping, 504 when the deadline
                passed before the work was started, 413 for what does not fit into memory.
            Diverged: adaptation left the finite numbers.
        """
        waiting, timer = self.queue.add(job), None
        if not math.isinf(job.deadline):
            timer = waiting.loop.call_later(job.deadline - time.monotonic(), waiting.expire)
        try:
            return await waiting.future
        finally:
            if timer is not None:
                timer.cancel()
            # An error holds this frame, and its future the error: the request would outlive its reply.
            del waiting, timer

    def _run(self) -> None:
        try:
            while (batch := self.queue.next_batch()) is not None:
                self._serve(batch)
        except BaseException as error:
            log.critical("the engine ends", exc_info=error)
            self._failed = True
            self.queue.close("the device does not answer any more")
            self.queue.abandon(RequestError("engine-failed", "the device does not answer any more"))

    def _serve(self, batch: Sequence[QueuedJob]) -> None:
        """Answer a batch. Whatever happens, nobody is left waiting.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        started, jobs = time.monotonic(), [waiting.job for waiting in batch]
        outcomes: Sequence[Outcome]
        failure: DeviceFailed | None = None
        try:
            outcomes = self._outcomes(jobs)
        except DeviceFailed as error:
            failure = error
            outcomes = [RequestError("engine-failed", "the device does not answer any more")] * len(jobs)
        except Exception as error:
            log.exception("a batch of %d failed", len(jobs))
            outcomes = [error] * len(jobs)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Answer):
                outcome = replace(outcome, queue_s=started - waiting.since)
            waiting.settle(outcome)
        elapsed = time.monotonic() - started
        self.queue.took(jobs, elapsed)
        self._account(batch, outcomes, started, elapsed)
        if failure is not None:
            raise failure

    def _outcomes(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """One outcome per work; what is known, or becomes so in this batch, is not adapted to again."""
        first = {job.key: place for place, job in reversed(list(enumerate(jobs))) if job.key is not None}
        outcomes: list[Outcome | None] = [None] * len(jobs)
        now: list[int] = []
        for place, job in enumerate(jobs):
            if (
                job.key is None
                or job.known is not None
                or (first[job.key] == place and self._posteriors.get(job.key) is None)
            ):
                now.append(place)
        for places in ([p for p in now if jobs[p].known is None], [p for p in now if jobs[p].known]):
            answers = self._answers([jobs[place] for place in places])
            for place, outcome in zip(places, answers, strict=True):
                outcomes[place] = outcome
                self._keep(jobs[place], outcome)
        later = [place for place in range(len(jobs)) if outcomes[place] is None]
        if later:
            recalled = [self._recalled(jobs[place], outcomes[first[str(jobs[place].key)]]) for place in later]
            for place, outcome in zip(later, self._outcomes(recalled), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _keep(self, job: Job, outcome: Outcome) -> None:
        if job.key is None or not isinstance(outcome, Answer) or outcome.kept is None:
            return
        self._metrics.posteriors.labels("miss" if job.known is None else "hit").inc()
        if job.known is None:
            self._posteriors.put(job.key, job, outcome.kept, job.ttl_s)
        else:
            self._posteriors.prolong(job.key, job.ttl_s)

    def _recalled(self, job: Job, leader: Outcome | None) -> Job:
        """The same work with its posterior; without a key where there is none to be had."""
        if isinstance(leader, Answer) and leader.kept is not None:
            return replace(job, known=leader.kept)
        entry = None if job.key is None else self._posteriors.get(job.key)
        return replace(job, key=None) if entry is None else replace(job, known=entry.kept)

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """One outcome per work. A batch that fails as a whole is tried again in parts.

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
            fault.__traceback__ = None  # its frames hold the tensors that there was no room for
            return self._in_halves(jobs)
        if not isinstance(fault, BmamlError):
            self._check()
        if len(jobs) > 1:
            self._metrics.retried.labels("error").inc()
            log.warning("a batch of %d failed (%s); trying one by one", len(jobs), type(fault).__name__)
            return [self._answers([job])[0] for job in jobs]
        if not isinstance(fault, BmamlError):
            log.error("a task failed", exc_info=fault)
        return [fault]

    def _in_halves(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """What did not fit into memory together, in two parts; a task that does not fit alone fails."""
        free_memory(jobs[0].model.device)
        log.warning("%d tasks do not fit into memory together", len(jobs))
        if len(jobs) == 1:
            detail = "the task does not fit into the device's memory: ask for fewer rows at a time"
            return [RequestError("task-too-large", detail)]
        self._metrics.retried.labels("memory").inc()
        middle = len(jobs) // 2
        return [*self._answers(jobs[:middle]), *self._answers(jobs[middle:])]

    def _threads_for(self, jobs: Sequence[Job]) -> int:
        """All for pictures and for much work; below that, waking the others takes longer than the work."""
        heavy = jobs[0].model.embedding is not None or sum(job.cost for job in jobs) > PARALLEL_WORK
        return self._threads if heavy else 1

    def _account(
        self, batch: Sequence[QueuedJob], outcomes: Sequence[Outcome], started: float, elapsed: float
    ) -> None:
        metrics, jobs = self._metrics, [waiting.job for waiting in batch]
        metrics.batch_seconds.observe(elapsed)
        metrics.batch_tasks.observe(len(jobs))
        real, padded = rows_of(jobs)
        metrics.rows.labels("real").inc(real)
        metrics.rows.labels("padding").inc(padded - real)
        answered = next((outcome for outcome in outcomes if isinstance(outcome, Answer)), None)
        if answered is not None:
            metrics.adapt_seconds.observe(answered.times.adapt_s)
            metrics.predict_seconds.observe(answered.times.predict_s)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            metrics.queue_seconds.observe(started - waiting.since)
            if isinstance(outcome, BaseException):
                reason = "diverged" if isinstance(outcome, Diverged) else "error"
                metrics.failed.labels(reason).inc()
