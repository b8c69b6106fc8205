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
from service.engine.posterior_cache import Posteriors
from service.engine.queue import Outcome, Queue, Waiting, rows_of
from service.errors import RequestError
from service.job import Answer, Work
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
        posteriors: Posteriors,
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

    async def submit(self, work: Work) -> Answer:
        """The answer to `work`, once the device has got to it.

        Raises:
            RequestError: 429 when the queue is full, 503 while stopping, 504 when the deadline
                passed before the work was started, 413 for what does not fit into memory.
            Diverged: adaptation left the finite numbers.
        """
        waiting, timer = self.queue.add(work), None
        if not math.isinf(work.deadline):
            timer = waiting.loop.call_later(work.deadline - time.monotonic(), waiting.expire)
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

    def _serve(self, batch: Sequence[Waiting]) -> None:
        """Answer a batch. Whatever happens, nobody is left waiting.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        started, works = time.monotonic(), [waiting.work for waiting in batch]
        outcomes: Sequence[Outcome]
        failure: DeviceFailed | None = None
        try:
            outcomes = self._outcomes(works)
        except DeviceFailed as error:
            failure = error
            outcomes = [RequestError("engine-failed", "the device does not answer any more")] * len(works)
        except Exception as error:
            log.exception("a batch of %d failed", len(works))
            outcomes = [error] * len(works)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Answer):
                outcome = replace(outcome, queue_s=started - waiting.since)
            waiting.settle(outcome)
        elapsed = time.monotonic() - started
        self.queue.took(works, elapsed)
        self._account(batch, outcomes, started, elapsed)
        if failure is not None:
            raise failure

    def _outcomes(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """One outcome per work; what is known, or becomes so in this batch, is not adapted to again."""
        first = {work.key: place for place, work in reversed(list(enumerate(works))) if work.key is not None}
        outcomes: list[Outcome | None] = [None] * len(works)
        now: list[int] = []
        for place, work in enumerate(works):
            if (
                work.key is None
                or work.known is not None
                or (first[work.key] == place and self._posteriors.get(work.key) is None)
            ):
                now.append(place)
        for places in ([p for p in now if works[p].known is None], [p for p in now if works[p].known]):
            answers = self._answers([works[place] for place in places])
            for place, outcome in zip(places, answers, strict=True):
                outcomes[place] = outcome
                self._keep(works[place], outcome)
        later = [place for place in range(len(works)) if outcomes[place] is None]
        if later:
            recalled = [
                self._recalled(works[place], outcomes[first[str(works[place].key)]]) for place in later
            ]
            for place, outcome in zip(later, self._outcomes(recalled), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _keep(self, work: Work, outcome: Outcome) -> None:
        if work.key is None or not isinstance(outcome, Answer) or outcome.kept is None:
            return
        self._metrics.posteriors.labels("miss" if work.known is None else "hit").inc()
        if work.known is None:
            self._posteriors.put(work.key, work, outcome.kept, work.ttl_s)
        else:
            self._posteriors.prolong(work.key, work.ttl_s)

    def _recalled(self, work: Work, leader: Outcome | None) -> Work:
        """The same work with its posterior; without a key where there is none to be had."""
        if isinstance(leader, Answer) and leader.kept is not None:
            return replace(work, known=leader.kept)
        entry = None if work.key is None else self._posteriors.get(work.key)
        return replace(work, key=None) if entry is None else replace(work, known=entry.kept)

    def _answers(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """One outcome per work. A batch that fails as a whole is tried again in parts.

        Raises:
            DeviceFailed: the device does not answer any more.
        """
        if not works:
            return []
        try:
            return self._compute(works, self._threads_for(works))
        except DeviceFailed:
            raise
        except BmamlError as error:
            fault: Exception = error
        except Exception as error:
            fault = error
        if out_of_memory(fault):
            fault.__traceback__ = None  # its frames hold the tensors that there was no room for
            return self._in_halves(works)
        if not isinstance(fault, BmamlError):
            self._check()
        if len(works) > 1:
            self._metrics.retried.labels("error").inc()
            log.warning("a batch of %d failed (%s); trying one by one", len(works), type(fault).__name__)
            return [self._answers([work])[0] for work in works]
        if not isinstance(fault, BmamlError):
            log.error("a task failed", exc_info=fault)
        return [fault]

    def _in_halves(self, works: Sequence[Work]) -> Sequence[Outcome]:
        """What did not fit into memory together, in two parts; a task that does not fit alone fails."""
        free_memory(works[0].model.device)
        log.warning("%d tasks do not fit into memory together", len(works))
        if len(works) == 1:
            detail = "the task does not fit into the device's memory: ask for fewer rows at a time"
            return [RequestError("task-too-large", detail)]
        self._metrics.retried.labels("memory").inc()
        middle = len(works) // 2
        return [*self._answers(works[:middle]), *self._answers(works[middle:])]

    def _threads_for(self, works: Sequence[Work]) -> int:
        """All for pictures and for much work; below that, waking the others takes longer than the work."""
        heavy = works[0].model.embedding is not None or sum(work.cost for work in works) > PARALLEL_WORK
        return self._threads if heavy else 1

    def _account(
        self, batch: Sequence[Waiting], outcomes: Sequence[Outcome], started: float, elapsed: float
    ) -> None:
        metrics, works = self._metrics, [waiting.work for waiting in batch]
        metrics.batch_seconds.observe(elapsed)
        metrics.batch_tasks.observe(len(works))
        real, padded = rows_of(works)
        metrics.rows.labels("real").inc(real)
        metrics.rows.labels("padding").inc(padded - real)
        answered = next((outcome for outcome in outcomes if isinstance(outcome, Answer)), None)
        if answered is not None:
            metrics.adapt_seconds.observe(answered.adapt_s)
            metrics.predict_seconds.observe(answered.predict_s)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            metrics.queue_seconds.observe(started - waiting.since)
            if isinstance(outcome, BaseException):
                reason = "diverged" if isinstance(outcome, Diverged) else "error"
                metrics.failed.labels(reason).inc()
