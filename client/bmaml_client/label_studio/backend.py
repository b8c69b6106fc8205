"""Predictions for tasks, and learning from annotations."""

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bmaml_client import (
    AsyncClient,
    ClassPrediction,
    Posterior,
    PosteriorGone,
    Prediction,
    UnknownPosterior,
)
from bmaml_client.label_studio.annotations import Annotations
from bmaml_client.label_studio.images import Unreadable, shrunk
from bmaml_client.label_studio.labelling import Label, Labelling, NotSupported
from bmaml_client.label_studio.protocol import AnnotatedTask, Event, Task, key_of
from bmaml_client.label_studio.studio import Studio, StudioError
from bmaml_client.model_info import VersionCard

log = logging.getLogger("bmaml_client.label_studio")

EVENTS = (
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATION_DELETED",
    "ANNOTATIONS_DELETED",
    "TASK_DELETED",
    "TASKS_DELETED",
    "PROJECT_DELETED",
    "START_TRAINING",
)
"""That teach something."""
FETCHES = 8
"""Pictures that are fetched at once."""


@dataclass(frozen=True)
class Adapted:
    """A project's particles in the service, and the state of its annotations that they have seen.

    Attributes:
        labels: how many different ones.
    """

    revision: int
    version: int
    posterior: Posterior | None
    labels: int

    def speaks(self, labelling: Labelling) -> bool:
        """Whether it has seen enough: two classes, or for numbers nothing at all (that is the prior)."""
        return labelling.kind == "regression" or self.labels > 1


class Backend:
    """What Label Studio asks of a backend.

    A prediction's score is a certainty in [0, 1], because Label Studio shows the tasks of the lowest score
    first where it samples by uncertainty. For classes it is 1 − H / log(classes) with the entropy H, for
    numbers 1 / (1 + s / range) with the epistemic standard deviation s and the range of training. Both
    order tasks as the service's default acquisitions do.
    """

    def __init__(
        self, model: str, client: AsyncClient, studio: Studio, annotations: Annotations, batch: int = 32
    ) -> None:
        self._model, self._client, self._studio = model, client, studio
        self._annotations, self._batch = annotations, batch
        self._adapted: dict[str, Adapted] = {}
        self._adapting = asyncio.Lock()
        self._fetching = asyncio.Semaphore(FETCHES)

    async def version(self, project: str, config: str) -> str:
        """What predictions of now are named: it changes with every label.

        Raises:
            NotSupported: the model does not fit the project.
            ClientError: the service refuses, or cannot be asked.
        """
        card = await self._card(Labelling.of(config))
        return self._named(card, project)

    async def predict(
        self, project: str, config: str, tasks: Sequence[Task]
    ) -> tuple[list[dict[str, Any]], str]:
        """A prediction for every task, in order, and what they are named.

        A task whose data cannot be read has an empty result, no score, and says why under `error`; so have
        all tasks before two classes have been labelled, with the score 0 and without an error.

        Raises:
            NotSupported, ClientError: as `version`.
        """
        labelling = Labelling.of(config)
        card = await self._card(labelling)
        rows = await asyncio.gather(*(self._row(labelling, card, each.data) for each in tasks))
        said = await self._answered(project, labelling, card, [row for row in rows if isinstance(row, bytes)])
        name, answers = self._named(card, project), iter(said)
        results: list[dict[str, Any]] = []
        for row in rows:
            if isinstance(row, bytes):
                label, score = next(answers)
                result = [] if label is None else labelling.result(label)
                results.append({"result": result, "score": score, "model_version": name})
            else:
                results.append({"result": [], "score": None, "error": str(row), "model_version": name})
        return results, name

    async def learn(self, event: Event) -> bool:
        """Take an event of Label Studio; False where it is none that teaches anything.

        Raises:
            NotSupported: the project is none of ours, or the event lacks what its action needs.
            StudioError, Unreadable: an annotated task cannot be read.
            ClientError: the service refuses, or cannot be asked.
        """
        if event.action not in EVENTS:
            return False
        if event.project is None:
            raise NotSupported("the event names no project: let the webhook send its payload")
        project = key_of(event.project.id)
        if event.action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            await self._annotated(project, event.project.label_config, event)
        elif event.action == "START_TRAINING":
            tasks = await self._studio.annotated(project)
            await self.learn_all(project, event.project.label_config, tasks)
        elif event.action == "PROJECT_DELETED":
            self._annotations.replace(project, [])
        else:
            gone = [event.annotation] if event.annotation is not None else event.annotations
            self._annotations.drop(project, [str(each.id) for each in gone])
            self._annotations.drop_tasks(project, [str(each.id) for each in event.tasks])
        return True

    async def learn_all(self, project: str, config: str, tasks: Sequence[AnnotatedTask]) -> None:
        """Take these annotations in place of those known so far.

        Raises:
            NotSupported, Unreadable, StudioError, ClientError: as `learn`.
        """
        labelling = Labelling.of(config)
        card = await self._card(labelling)
        found: list[tuple[str, str, bytes, Label]] = []
        for task in tasks:
            for annotation in task.annotations:
                label = labelling.label(annotation.result)
                if label is not None and not annotation.was_cancelled:
                    row = await self._read(labelling, card, task.data)
                    found.append((str(annotation.id), str(task.id), row, label))
        count = self._annotations.replace(project, found)
        log.info("project %s: %d annotations", project, count)

    async def _annotated(self, project: str, config: str, event: Event) -> None:
        labelling, annotation = Labelling.of(config), event.annotation
        if annotation is None:
            raise NotSupported("the event has no annotation: let the webhook send its payload")
        label = None if annotation.was_cancelled else labelling.label(annotation.result)
        if label is None:
            self._annotations.drop(project, [str(annotation.id)])
            return
        number = annotation.task if event.task is None or event.task.id is None else event.task.id
        if number is None:
            raise NotSupported("the annotation names no task")
        data = await self._studio.task(number) if event.task is None else event.task.data
        row = await self._read(labelling, await self._card(labelling), data)
        self._annotations.put(project, str(annotation.id), str(number), row, label)

    async def _card(self, labelling: Labelling) -> VersionCard:
        newest = (await self._client.model(self._model)).versions[-1]
        card = await self._client.version(self._model, newest)
        if card.kind != labelling.kind:
            raise NotSupported(f"the project asks for {labelling.kind}, {self._model} does {card.kind}")
        if len(card.outputs) > 1:
            raise NotSupported(f"{self._model} has {len(card.outputs)} outputs; a Number tag holds one")
        return card

    async def _row(
        self, labelling: Labelling, card: VersionCard, data: Mapping[str, Any]
    ) -> bytes | Exception:
        try:
            return await self._read(labelling, card, data)
        except (StudioError, Unreadable) as error:
            log.warning("a task cannot be read: %s", error)
            return error

    async def _read(self, labelling: Labelling, card: VersionCard, data: Mapping[str, Any]) -> bytes:
        """A task's data as a row: a picture's file, or the model's inputs in their order."""
        if labelling.kind == "classification":
            async with self._fetching:
                content = await self._studio.picture(data.get(labelling.source))
            return await asyncio.to_thread(shrunk, content)
        numbers = []
        for column in card.inputs:
            try:  # tables that were imported from text hold numbers as strings
                number = float(data[column.name])
            except (KeyError, TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise Unreadable(f"the task's data have no number {column.name!r}")
            numbers.append(number)
        return json.dumps(numbers).encode()

    def _named(self, card: VersionCard, project: str) -> str:
        return f"{card.name}@{card.version}+{self._annotations.revision(project)}"

    async def _answered(
        self, project: str, labelling: Labelling, card: VersionCard, rows: Sequence[bytes]
    ) -> list[tuple[Label | None, float]]:
        """Label and certainty of each row, by the service."""
        said: list[tuple[Label | None, float]] = []
        for start in range(0, len(rows), self._batch):
            part = _sent(labelling, rows[start : start + self._batch])
            adapted = await self._adapt(project, labelling, card)
            if not adapted.speaks(labelling):
                return [(None, 0.0)] * len(rows)
            try:
                answer = await self._ask(adapted, part)
            except (PosteriorGone, UnknownPosterior):  # dropped by the service: adapt once more
                self._adapted.pop(project, None)
                answer = await self._ask(await self._adapt(project, labelling, card), part)
            said += _said(answer, card)
        return said

    async def _ask(self, adapted: Adapted, part: Any) -> Prediction | ClassPrediction:
        shown: dict[str, Any] = {"x": [], "y": []}
        if adapted.posterior is not None:
            # By its id alone: all rows at once may be more than a request may hold.
            shown = {"posterior": adapted.posterior.id}
        return await self._client.adapt_predict(self._model, query=part, version=adapted.version, **shown)

    async def _adapt(self, project: str, labelling: Labelling, card: VersionCard) -> Adapted:
        """The project's particles, adapted to all labels so far, a batch of rows at a time."""
        async with self._adapting:
            revision = self._annotations.revision(project)
            known = self._adapted.get(project)
            if known is not None and (known.revision, known.version) == (revision, card.version):
                return known
            most = (await self._client.limits()).support_rows
            labelled = self._annotations.labelled(project, most)
            posterior: Posterior | None = None
            for start in range(0, len(labelled), self._batch):
                part = labelled[start : start + self._batch]
                x, y = _sent(labelling, [row for row, _ in part]), [label for _, label in part]
                before = None if posterior is None else posterior.id
                posterior = await self._client.keep(self._model, x, y, version=card.version, posterior=before)
            labels = len({label for _, label in labelled})
            self._adapted[project] = Adapted(revision, card.version, posterior, labels)
            return self._adapted[project]


def _sent(labelling: Labelling, rows: Sequence[bytes]) -> Any:
    return list(rows) if labelling.kind == "classification" else [json.loads(row) for row in rows]


def _said(answer: Prediction | ClassPrediction, card: VersionCard) -> list[tuple[Label | None, float]]:
    if isinstance(answer, ClassPrediction):
        certainty = 1 - answer.entropy.total / math.log(len(answer.classes))
        return list(zip(answer.label, certainty.clip(0, 1).tolist(), strict=True))
    span = card.outputs[0].upper - card.outputs[0].lower
    certainty = 1 / (1 + np.sqrt(answer.variance.epistemic) / span)
    return list(zip(answer.mean.tolist(), certainty.tolist(), strict=True))
