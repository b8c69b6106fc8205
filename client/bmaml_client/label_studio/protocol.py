"""The bodies that Label Studio posts, as far as they are read; everything else in them is passed over."""

from typing import Any

from pydantic import BaseModel, Field

Identifier = int | str


class Task(BaseModel):
    """A task: its data are what the labelling configuration refers to."""

    id: Identifier | None = None
    data: dict[str, Any]


class PredictBody(BaseModel):
    """What `/predict` is asked."""

    tasks: list[Task]
    label_config: str
    project: Identifier | None = None


class SetupBody(BaseModel):
    """What `/setup` is told of a project; the access token that comes with it is not used."""

    config: str = Field(alias="schema")
    project: Identifier | None = None


class Named(BaseModel):
    """Something that is gone."""

    id: Identifier


class Project(BaseModel):
    """The project of an event."""

    id: Identifier
    label_config: str = ""


class Annotation(BaseModel):
    """An annotation; skipped tasks have cancelled ones."""

    id: Identifier
    task: Identifier | None = None
    result: list[dict[str, Any]] = []
    was_cancelled: bool = False


class AnnotatedTask(Task):
    """A task of an export."""

    id: Identifier
    annotations: list[Annotation] = []


class TrainBody(BaseModel):
    """What `/train` is told, where Label Studio does not send the event START_TRAINING instead."""

    annotations: list[AnnotatedTask]
    label_config: str
    project: Identifier | None = None


class Event(BaseModel):
    """What `/webhook` is told. Newer versions of Label Studio send the task with its annotation."""

    action: str
    project: Project | None = None
    annotation: Annotation | None = None
    task: Task | None = None
    annotations: list[Named] = []
    tasks: list[Named] = []


def key_of(project: Identifier | None) -> str:
    """Requests name a project `id.created`, events by its id alone."""
    return "" if project is None else str(project).partition(".")[0]
