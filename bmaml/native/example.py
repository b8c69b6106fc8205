"""A small example that calls every native function once, so that all of them are compiled."""

from collections.abc import Callable

import numpy as np
import torch

from bmaml.learners.collapsed import Collapsed
from bmaml.links import Link
from bmaml.native import answering, tables
from bmaml.networks import MLP

CALLED = (answering.adapted, answering.nll_before, answering.answered, answering.adapted_and_answered)
"""The functions that Python calls."""


def steps() -> list[Callable[[], object]]:
    """Calls of each of these functions, in order."""
    learner = Collapsed(MLP(1, (2,), 1, "sine"), particles=2)
    learned = learner.initialise(torch.Generator().manual_seed(0))
    particles, processes = tables.particle_layers(learner, learned), tables.process_layers(learner, learned)
    hypotheses = tables.hypotheses(learner, learned)
    units = tables.Units(
        shift=np.zeros(1),
        scale=np.ones(1),
        max_noise=np.ones(1),
        trained=np.array([[-1.0], [1.0]]),
        links=tables.link_rows([Link()]),
        plain=True,
    )
    x, no_rows, levels = np.zeros((1, 1)), np.zeros((0, 1)), np.array([0.5])

    def prior() -> tables.TaskPosterior:
        return answering.adapted(particles, processes, hypotheses, no_rows, no_rows, 0.0)

    def model() -> tables.Model:
        return tables.Model(particles, processes, units, prior())

    def answer() -> None:
        task = tables.Task(x, x, x, no_rows, levels, 0.0)
        answering.answered(model(), prior(), task, tables.no_results(1, hypotheses.groups, 1, 1, 0, 0), 0)

    def answer_together() -> None:
        each, count = np.zeros((1, 1, 1)), np.ones(1, np.int64)
        results = tables.no_results(1, hypotheses.groups, 1, 1, 0, 0)
        answering.adapted_and_answered(
            model(),
            hypotheses,
            0.0,
            each,
            each,
            count,
            each,
            count,
            np.zeros((1, 0, 1)),
            levels.reshape(1, 1),
            count,
            0.0,
            results,
            0,
            1,
        )

    return [prior, lambda: answering.nll_before(model(), x, x), answer, answer_together]
