"""The backend: predictions for tasks, and adaptation to annotations."""

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
from bmaml_client.answer_warnings import merged_warnings
from bmaml_client.label_studio.annotations import Annotations
from bmaml_client.label_studio.images import shrink
from bmaml_client.label_studio.labelling import Label, Labelling, NotSupported, UnreadableTask
from bmaml_client.label_studio.protocol import AnnotatedTask, Event, Task, project_key
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
"""Events that change annotations."""
CONCURRENT_FETCHES = 8
"""Images that are fetched from Label Studio at once."""


@dataclass(frozen=True)
class ProjectPosterior:
    """A project's kept posterior, and the revision of its annotations that the posterior has seen.

    Attributes:
        revision: of the annotations.
        version: of the model.
        posterior: None before the first label.
        labels: number of distinct labels.
    """

    revision: int
    version: int
    posterior: Posterior | None
    labels: int

    def can_predict(self, labelling: Labelling) -> bool:
        """Whether it can predict: numbers always (from the prior), classes once two have been labelled."""
        return labelling.kind == "regression" or self.labels > 1


@dataclass(frozen=True)
class LeftOut:
    """A task that was left out of a training, and the reason."""

    task: str
    error: str


class Backend:
    """The operations that Label Studio asks of a backend.

    A prediction's score is a certainty in [0, 1]: Label Studio's uncertainty sampling shows the lowest
    score first. For classes the score is 1 − H / log(classes), with the entropy H in nats. For numbers it
    is 1 / (1 + s / range), with the epistemic standard deviation s and the range of training. The order of
    tasks is that of the acquisitions `entropy` and `epistemic_variance`.

    Args:
        model: name of the model that answers.
        batch: rows of one request to the service.
    """

    def __init__(
        self, model: str, client: AsyncClient, studio: Studio, annotations: Annotations, batch: int = 32
    ) -> None:
        self._model, self._client, self._studio = model, client, studio
        self._annotations, self._batch = annotations, batch
        self._posteriors: dict[str, ProjectPosterior] = {}
        self._adapting = asyncio.Lock()
        self._fetching = asyncio.Semaphore(CONCURRENT_FETCHES)

    async def prediction_name(self, project: str, config: str) -> str:
        """The name of the project's current predictions, `model@version+revision`.

        Raises:
            NotSupported: the model does not fit the project.
            ClientError: the service refuses the request, or does not answer.
        """
        card = await self._card(Labelling.parse(config))
        return self._prediction_name(card, project)

    async def predict(
        self, project: str, config: str, tasks: Sequence[Task]
    ) -> tuple[list[dict[str, Any]], str]:
        """A prediction for every task, in order, and the name of the predictions.

        A task whose data cannot be read has an empty result, no score, and the reason under `error`.
        Before two classes have been labelled every result is empty, with the score 0.

        Raises:
            NotSupported, ClientError: as `prediction_name`.
        """
        labelling = Labelling.parse(config)
        card = await self._card(labelling)
        rows = await asyncio.gather(*(self._row(labelling, card, each.data) for each in tasks))
        readable = [row for row in rows if isinstance(row, bytes)]
        answers = iter(await self._answers(project, labelling, card, readable))
        name = self._prediction_name(card, project)
        results: list[dict[str, Any]] = []
        for row in rows:
            if isinstance(row, bytes):
                label, score = next(answers)
                result = [] if label is None else labelling.result(label)
                results.append({"result": result, "score": score, "model_version": name})
            else:
                results.append({"result": [], "score": None, "error": str(row), "model_version": name})
        return results, name

    async def learn(self, event: Event) -> list[LeftOut] | None:
        """Take an event of Label Studio; return the tasks that were left out of a training.

        Events that do not change annotations return None.

        Raises:
            NotSupported: the model does not fit the project, or the event lacks a field.
            StudioError, UnreadableTask: an annotated task cannot be read.
            ClientError: the service refuses the request, or does not answer.
        """
        if event.action not in EVENTS:
            return None
        if event.project is None:
            raise NotSupported("the event names no project: let the webhook send its payload")
        project, left_out = project_key(event.project.id), []
        if event.action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            await self._store(project, event.project.label_config, event)
        elif event.action == "START_TRAINING":
            tasks = await self._studio.annotated(project)
            left_out = await self.learn_all(project, event.project.label_config, tasks)
        elif event.action == "PROJECT_DELETED":
            self._annotations.replace(project, [])
        else:
            deleted = [event.annotation] if event.annotation is not None else event.annotations
            self._annotations.delete(project, [str(each.id) for each in deleted])
            self._annotations.delete_tasks(project, [str(each.id) for each in event.tasks])
        return left_out

    async def learn_all(self, project: str, config: str, tasks: Sequence[AnnotatedTask]) -> list[LeftOut]:
        """Replace the project's annotations by those of these tasks; return the tasks that were left out.

        A task that cannot be read, for example because its image is lost, keeps the row that was stored
        with its annotation before. Without one it is left out.

        Raises:
            UnreadableTask: every task was left out; the stored annotations stay.
            NotSupported, StudioError, ClientError: as `learn`.
        """
        labelling = Labelling.parse(config)
        card = await self._card(labelling)
        found: list[tuple[str, str, bytes, Label]] = []
        left_out: list[LeftOut] = []
        for task in tasks:
            labels = [(each, labelling.label(each.result)) for each in task.annotations]
            labelled = [
                (each, label) for each, label in labels if label is not None and not each.was_cancelled
            ]
            if not labelled:
                continue
            read = await self._row(labelling, card, task.data)
            for annotation, label in labelled:
                row = (
                    self._annotations.row(project, str(annotation.id))
                    if isinstance(read, Exception)
                    else read
                )
                if row is not None:
                    found.append((str(annotation.id), str(task.id), row, label))
                elif not left_out or left_out[-1].task != str(task.id):
                    left_out.append(LeftOut(str(task.id), str(read)))
        if left_out and not found:
            first = f"task {left_out[0].task}: {left_out[0].error}"
            raise UnreadableTask(f"none of {len(left_out)} annotated tasks can be read; {first}")
        count = self._annotations.replace(project, found)
        log.info("project %s: %d annotations, %d tasks left out", project, count, len(left_out))
        return left_out

    async def _store(self, project: str, config: str, event: Event) -> None:
        labelling, annotation = Labelling.parse(config), event.annotation
        if annotation is None:
            raise NotSupported("the event has no annotation: let the webhook send its payload")
        label = None if annotation.was_cancelled else labelling.label(annotation.result)
        if label is None:
            self._annotations.delete(project, [str(annotation.id)])
            return
        number = annotation.task if event.task is None or event.task.id is None else event.task.id
        if number is None:
            raise NotSupported("the annotation names no task")
        data = await self._studio.task(number) if event.task is None else event.task.data
        card = await self._card(labelling)
        try:
            row = await self._read(labelling, card, data)
        except (StudioError, UnreadableTask) as error:
            raise UnreadableTask(f"task {number} cannot be learnt from: {error}") from None
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
        except (StudioError, UnreadableTask) as error:
            log.warning("a task cannot be read: %s", error)
            return error

    async def _read(self, labelling: Labelling, card: VersionCard, data: Mapping[str, Any]) -> bytes:
        """A task's data as a row: an image file, or the model's inputs in their order as JSON."""
        if labelling.kind == "classification":
            async with self._fetching:
                content = await self._studio.image(data.get(labelling.image_key))
            return await asyncio.to_thread(shrink, content)
        numbers = []
        for column in card.inputs:
            try:  # tables imported from text have numbers as strings
                number = float(data[column.name])
            except (KeyError, TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise UnreadableTask(f"the task's data have no number {column.name!r}")
            numbers.append(number)
        return json.dumps(numbers).encode()

    def _prediction_name(self, card: VersionCard, project: str) -> str:
        return f"{card.name}@{card.version}+{self._annotations.revision(project)}"

    async def _answers(
        self, project: str, labelling: Labelling, card: VersionCard, rows: Sequence[bytes]
    ) -> list[tuple[Label | None, float]]:
        """Label and certainty of each row."""
        answers: list[tuple[Label | None, float]] = []
        warnings: list[tuple[int, Sequence[str]]] = []
        for start in range(0, len(rows), self._batch):
            batch = rows[start : start + self._batch]
            query = _request_rows(labelling, batch)
            adapted = await self._adapt(project, labelling, card)
            if not adapted.can_predict(labelling):
                return [(None, 0.0)] * len(rows)
            try:
                answer = await self._ask(adapted, query)
            except (PosteriorGone, UnknownPosterior):  # dropped by the service: adapt once more
                self._posteriors.pop(project, None)
                answer = await self._ask(await self._adapt(project, labelling, card), query)
            answers += _labels_and_scores(answer, card)
            warnings.append((len(batch), answer.diagnostics.warnings))
        for each in merged_warnings(warnings):
            log.warning("project %s: %s", project, each)
        return answers

    async def _ask(self, adapted: ProjectPosterior, query: Any) -> Prediction | ClassPrediction:
        support: dict[str, Any] = {"x": [], "y": []}
        if adapted.posterior is not None:
            # The id alone: all rows together may exceed the limits of a request.
            support = {"posterior": adapted.posterior.id}
        return await self._client.adapt_predict(self._model, query=query, version=adapted.version, **support)

    async def _adapt(self, project: str, labelling: Labelling, card: VersionCard) -> ProjectPosterior:
        """The posterior of all the project's labels, adapted a batch of rows at a time."""
        async with self._adapting:
            revision = self._annotations.revision(project)
            known = self._posteriors.get(project)
            if known is not None and (known.revision, known.version) == (revision, card.version):
                return known
            limit = (await self._client.limits()).support_rows
            labelled = self._annotations.newest(project, limit)
            posterior: Posterior | None = None
            for start in range(0, len(labelled), self._batch):
                part = labelled[start : start + self._batch]
                x, y = _request_rows(labelling, [row for row, _ in part]), [label for _, label in part]
                known_id = None if posterior is None else posterior.id
                posterior = await self._client.keep(
                    self._model, x, y, version=card.version, posterior=known_id
                )
            labels = len({label for _, label in labelled})
            self._posteriors[project] = ProjectPosterior(revision, card.version, posterior, labels)
            return self._posteriors[project]


def _request_rows(labelling: Labelling, rows: Sequence[bytes]) -> Any:
    return list(rows) if labelling.kind == "classification" else [json.loads(row) for row in rows]


def _labels_and_scores(
    answer: Prediction | ClassPrediction, card: VersionCard
) -> list[tuple[Label | None, float]]:
    if isinstance(answer, ClassPrediction):
        certainty = 1 - answer.entropy.total / math.log(len(answer.classes))
        return list(zip(answer.label, certainty.clip(0, 1).tolist(), strict=True))
    span = card.outputs[0].upper - card.outputs[0].lower
    certainty = 1 / (1 + np.sqrt(answer.variance.epistemic) / span)
    return list(zip(answer.mean.tolist(), certainty.tolist(), strict=True))
