"""A batch: many tasks of one model, padded, adapted and predicted together on the model's device.

A task's answer does not depend on the other tasks of its batch, beyond rounding, and a task that diverges
fails alone. On a CPU a large batch is computed in parts: more tasks at a time would be no faster, and need
more memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from bmaml.blocks import blocks
from bmaml.learners import Diverged
from bmaml.learners.interface import Kind
from service.compute.classification import classify_batch
from service.compute.cuda_graphs import GraphCache
from service.compute.device import out_of_memory
from service.compute.graphed_regression import answer_with_graphs
from service.compute.native_path import predict_numbers
from service.compute.policies import act_batch
from service.job import Answer, BatchTimes, Job

Compute = Callable[[Sequence[Job], int], Sequence[Answer | Diverged]]
"""Computes the jobs of one group on at most so many threads: see `compute`."""

ANSWERS: dict[Kind, Callable[[Sequence[Job]], tuple[Sequence[Answer | Diverged], BatchTimes]]] = {
    "regression": predict_numbers,
    "classification": classify_batch,
    "policy": act_batch,
}
"""The answers to a part of a batch and their times, by kind of model."""

MAX_CPU_NUMBERS = 1 << 22
"""Numbers in the rows' features and the tasks' own particles, for one part of a batch on a CPU."""
ROWS_PER_SUPPORT_ROW = 3
"""Memory of a support row relative to a query row: more is stored of it, in float64."""


def answer_batch(jobs: Sequence[Job], graphs: GraphCache | None = None) -> list[Answer | Diverged]:
    """The answers to jobs of one group, in order; a diverged task has its error in place of one.

    Args:
        graphs: recorded computations, which are tried first.
    """
    answer_part = ANSWERS[jobs[0].model.manifest.kind]
    answers: dict[int, Answer | Diverged] = {}
    total = BatchTimes()
    if graphs is not None:
        recorded, total = answer_with_graphs(jobs, graphs)
        answers |= recorded
    remaining = [index for index in range(len(jobs)) if index not in answers]
    # Steps need gradients, which tensors of inference mode cannot have.
    with torch.no_grad() if jobs[0].steps else torch.inference_mode():
        for indices in _parts(jobs, remaining):
            part_answers, times = answer_part([jobs[index] for index in indices])
            answers |= zip(indices, part_answers, strict=True)
            total += times
    return [
        replace(answer, times=total, batched_tasks=len(jobs)) if isinstance(answer, Answer) else answer
        for answer in map(answers.__getitem__, range(len(jobs)))
    ]


def _parts(jobs: Sequence[Job], indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """The indices in parts whose numbers stay within `MAX_CPU_NUMBERS`; in one part on a GPU."""
    max_numbers = MAX_CPU_NUMBERS if jobs[0].model.device.type == "cpu" else None
    for part in blocks(len(indices), max_numbers, _numbers_per_task([jobs[index] for index in indices])):
        yield indices[part]


def _numbers_per_task(jobs: Sequence[Job]) -> int:
    """Numbers of one task, padded to the longest of the jobs."""
    if not jobs:
        return 0
    learner, learned = jobs[0].model.learner, jobs[0].model.learned
    support, query = map(max, zip(*(job.shape for job in jobs), strict=True))
    rows = max(1, ROWS_PER_SUPPORT_ROW * support + query)
    own_particles = learned["initial"].numel() if jobs[0].steps else 0
    return int(learner.particles * rows * learner.network.numbers_per_row + own_particles)


def compute(jobs: Sequence[Job], threads: int, graphs: GraphCache | None = None) -> list[Answer | Diverged]:
    """`answer_batch` on at most `threads` CPU threads.

    Raises:
        Exception: any error of the computation. Where memory was short, the graphs have been dropped.
    """
    torch.set_num_threads(threads)
    if graphs is None:
        return answer_batch(jobs)
    try:
        return answer_batch(jobs, graphs)
    except Exception as error:
        if out_of_memory(error):
            graphs.clear()  # the batch is tried again in halves, with the memory of the graphs
        raise
