"""The meta-objective as a function, compiled on request."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bmaml.embedding import Embedding
from bmaml.learners import Learned, Learner
from bmaml.task import TaskBatch

Objective = Callable[[Learned, TaskBatch], Tensor]


def objective(
    learner: Learner[Any],
    compile_it: bool = False,
    device: str = "cpu",
    embedding: Embedding | None = None,
) -> Objective:
    """The learner's loss as a function of meta-parameters and tasks, after the embedding of images.

    Compilation fuses passes over memory and, on a GPU, captures the step as a CUDA graph; the result
    differs by rounding alone. It happens at the first call and takes half a minute. Where it fails, for
    example without a C++ compiler, the reason is printed and the plain function is used.
    """

    def of_images(learned: Learned, batch: TaskBatch) -> Tensor:
        assert embedding is not None
        return learner.loss(learned, embedding.embedded(learned, batch, training=True))

    plain = learner.loss if embedding is None else of_images
    if not compile_it:
        return plain
    mode = "reduce-overhead" if device.startswith("cuda") else "default"
    return _Compiled(plain, torch.compile(plain, mode=mode))


class _Compiled:
    def __init__(self, plain: Objective, compiled: Objective) -> None:
        self._plain, self._call, self._proven = plain, compiled, False

    def __call__(self, learned: Learned, batch: TaskBatch) -> Tensor:
        if self._proven:
            return self._call(learned, batch)
        try:
            loss = self._call(learned, batch)
        except (
            Exception
        ) as error:  # whatever keeps a compiler from working: the plain function shows the rest
            reason = str(error).strip().splitlines()[0]
            print(f"not compiled, going on without ({type(error).__name__}: {reason})", file=sys.stderr)
            self._call = self._plain
            loss = self._call(learned, batch)
        self._proven = True
        return loss
