"""Many tasks of one model, adapted and predicted together: padded, masked, then taken apart.

Tensor work only, on whatever device the model lives on. A task's answer does not depend on its
company beyond rounding, and a task that diverges fails alone. On a CPU a large batch is done in parts:
more tasks at a time would be no faster, and need more memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from bmaml.blocks import blocks
from bmaml.learners import Diverged
from service.compute.classification import classify_batch
from service.compute.cuda_graphs import Graphs
from service.compute.device import out_of_memory
from service.compute.graphed_regression import answer_with_graphs
from service.compute.regression import predict_batch
from service.job import Answer, BatchTimes, Job

MAX_CPU_NUMBERS = 1 << 22
"""Numbers in the features of the rows of one part on a CPU, and in its tasks' own particles."""
ROWS_PER_SUPPORT_ROW = 3
"""Memory of a support row, in rows: more is kept of it, in float64."""


def answer_batch(jobs: Sequence[Job], graphs: Graphs | None = None) -> list[Answer | Diverged]:
    """The answers to jobs of one group, in order; a diverged task gets its error in place of one.

    Args:
        graphs: recorded computations, which are tried first.
    """
    classification = jobs[0].model.manifest.kind == "classification"
    together = classify_batch if classification else predict_batch
    answers: dict[int, Answer | Diverged] = {}
    total = BatchTimes()
    if graphs is not None:
        recorded, total = answer_with_graphs(jobs, graphs)
        answers |= recorded
    left = [place for place in range(len(jobs)) if place not in answers]
    # Without steps nothing is differentiated, and tensors need not remember how they came to be.
    with torch.no_grad() if jobs[0].steps else torch.inference_mode():
        for places in _parts(jobs, left):
            some, times = together([jobs[place] for place in places])
            answers |= zip(places, some, strict=True)
            total += times
    return [
        replace(answer, times=total, batched_tasks=len(jobs)) if isinstance(answer, Answer) else answer
        for answer in map(answers.__getitem__, range(len(jobs)))
    ]


def _parts(jobs: Sequence[Job], places: Sequence[int]) -> Iterator[Sequence[int]]:
    """Places in parts whose numbers stay within `MAX_CPU_NUMBERS` on a CPU; on a GPU all together."""
    most = MAX_CPU_NUMBERS if jobs[0].model.device.type == "cpu" else None
    for part in blocks(len(places), most, _numbers([jobs[place] for place in places])):
        yield places[part]


def _numbers(jobs: Sequence[Job]) -> int:
    """Numbers of one task that is padded to the longest of the jobs."""
    if not jobs:
        return 0
    learner, learned = jobs[0].model.learner, jobs[0].model.learned
    support, query = map(max, zip(*(job.shape for job in jobs), strict=True))
    rows = max(1, ROWS_PER_SUPPORT_ROW * support + query)
    moved = learned["initial"].numel() if jobs[0].steps else 0
    return int(learner.particles * rows * learner.network.feature_size + moved)


Compute = Callable[[Sequence[Job], int], Sequence[Answer | Diverged]]


def compute(jobs: Sequence[Job], threads: int, graphs: Graphs | None = None) -> list[Answer | Diverged]:
    """`answer_batch`, on so many threads of the CPU at most."""
    torch.set_num_threads(threads)
    if graphs is None:
        return answer_batch(jobs)
    try:
        return answer_batch(jobs, graphs)
    except Exception as error:
        if out_of_memory(error):
            graphs.clear()  # it is tried again in halves, with the memory that they held
        raise
