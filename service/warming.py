"""The first run of a model: what the first callers would have to wait for otherwise."""

from collections.abc import Callable

import numpy as np

from bmaml.learners.bare import Bare
from model_store import Model
from service.queue import LOOKED_AT
from service.work import PredictAsk, Work

TASKS, ROWS, CLASSES = 4, 8, 8


def warm_up(model: Model, most_work: int, answer: Callable[[list[Work]], object]) -> None:
    """Run the model alone, in company and in the largest batch: no caller waits for code, nor for memory."""
    network, image = model.learner.network, model.manifest.image
    outputs = network.outputs if image is None or isinstance(model.learner, Bare) else CLASSES
    x = np.zeros((ROWS, network.inputs if image is None else image.numbers), np.float32)
    y = np.eye(outputs, dtype=np.float32)[np.arange(ROWS) % outputs]
    ask = PredictAsk((0.05, 0.95) if image is None else ())
    classes = tuple(range(outputs)) if image is not None else ()
    forever = float("inf")
    work = Work(model, x, y, x, model.learner.steps, 0, ask, deadline=forever, classes=classes)
    largest = min(LOOKED_AT, max(TASKS, most_work // work.cost))
    for tasks in sorted({1, TASKS, largest}):
        answer([work] * tasks)
