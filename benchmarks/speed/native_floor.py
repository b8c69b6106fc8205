"""The least time that an answer of the exact learner needs: its floating-point work at this machine's rates.

Counted are multiplications and additions of the layers that have to be computed, and the elementary functions
(sines, exponentials, distribution functions), each at the rate of numpy's own loops on arrays in the cache.
Not counted are what keeps the numbers apart: sorting, gathering, choosing, and rounds of a search beyond the
first. So no program reaches it.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model_store.model import NEGLIGIBLE_WEIGHT
from service.job import Job, PredictionSpec

QUADRATURE_NODES = 5
"""Logistic functions for the moments of one component of a bounded target, at least."""
SIDE, NUMBERS, REPEATS = 64, 4096, 25


@dataclass(frozen=True)
class Rates:
    """Measured rates of one thread.

    Attributes:
        flops: floating-point operations a second, of a product of small matrices.
        functions: exponentials a second.
    """

    flops: float
    functions: float

    @classmethod
    def measured(cls) -> "Rates":
        """This machine's rates now: the best of many short runs."""
        left, numbers = np.ones((SIDE, SIDE)), np.linspace(-1, 1, NUMBERS)
        product, values = np.empty_like(left), np.empty_like(numbers)
        return cls(
            2 * SIDE**3 / _seconds(lambda: np.matmul(left, left, out=product)),
            NUMBERS / _seconds(lambda: np.exp(numbers, out=values)),
        )


def _seconds(function: Callable[[], object]) -> float:
    """Seconds of a call, the least of many."""
    found = []
    for _ in range(REPEATS):
        started = time.thread_time()
        for _ in range(20):
            function()
        found.append((time.thread_time() - started) / 20)
    return min(found)


def floor_ms(jobs: Sequence[Job], rates: Rates) -> float:
    """Milliseconds of the floor of all jobs, which are of one regression model."""
    flops, functions = np.sum([_work(job) for job in jobs], axis=0)
    return float(1e3 * (flops / rates.flops + functions / rates.functions))


def _work(job: Job) -> tuple[float, float]:
    """Floating-point operations, and elementary functions, of one answer."""
    # Here, because `native_path` says first where their compiled code is kept.
    from bmaml.native import answering
    from service.compute.native_model import NativeModel

    native = NativeModel.of(job.model)
    particles, processes = native.tables.particles, native.tables.processes
    x, y = (np.array(each, np.float64) for each in (job.support_x, job.support_y))
    posterior = answering.adapted(particles, processes, native.hypotheses, x, y, NEGLIGIBLE_WEIGHT)
    support, query = len(x), len(job.query_x)
    widths = [int(each) for each in particles.widths[:-1]]
    hidden_flops = sum(2 * inputs * outputs for inputs, outputs in itertools.pairwise(widths))
    hidden_functions, width = sum(widths[1:]), widths[-1] + 1
    maps = [int(each) for each in processes.widths]
    shared = int(particles.feature_of.max()) + 1
    flops = support * shared * hidden_flops
    functions = float(support * (shared * hidden_functions + sum(maps)))
    for layers, features in ((len(particles.thetas), width), *((1, maps[each]) for each in processes.maps)):
        rank = min(support, features)
        flops += layers * (support * features * rank + rank**3 / 3)  # half of a symmetric product
    kept = [width] * len(posterior.layers) + [maps[processes.maps[each]] for each in posterior.processes]
    per_row = sum(2 * features * (1 + 2 * min(support, features)) for features in kept)
    flops += query * len(posterior.layers) * hidden_flops + (query + support) * per_row
    of_maps = {int(processes.maps[each]) for each in posterior.processes}
    functions += query * (len(posterior.layers) * hidden_functions + sum(maps[each] for each in of_maps))
    count, prior = len(posterior.owner), len(native.tables.prior.owner)
    functions += support * (count + prior)  # the densities of the support labels, after and before
    assert isinstance(job.spec, PredictionSpec)
    functions += 2 * query * len(set(job.spec.levels)) * count
    if not native.tables.units.plain:
        functions += QUADRATURE_NODES * query * count
    return flops, functions
