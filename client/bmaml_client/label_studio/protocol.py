"""The bodies that Label Studio posts; fields that the backend does not need are ignored."""

from typing import Any

from pydantic import BaseModel, Field

Identifier = int | str


class Task(BaseModel):
    """A task with its data."""

    id: Identifier | None = None
    data: dict[str, Any]


class PredictBody(BaseModel):
    """The body of `/predict`."""

    tasks: list[Task]
    label_config: str
    project: Identifier | None = None


class SetupBody(BaseModel):
    """The body of `/setup`, without its access token."""

    config: str = Field(alias="schema")
    project: Identifier | None = None


class DeletedObject(BaseModel):
    """A deleted annotation or task."""

    id: Identifier


class Project(BaseModel):
    """The project of an event."""

    id: Identifier
    label_config: str = ""


class Annotation(BaseModel):
    """An annotation; that of a skipped task is cancelled."""

    id: Identifier
    task: Identifier | None = None
    result: list[dict[str, Any]] = []
    was_cancelled: bool = False


class AnnotatedTask(Task):
    """A task of an export, with its annotations."""

    id: Identifier
    annotations: list[Annotation] = []


class TrainBody(BaseModel):
    """The body of `/train`, from versions of Label Studio that do not send the event START_TRAINING."""

    annotations: list[AnnotatedTask]
    label_config: str
    project: Identifier | None = None


class Event(BaseModel):
    """The body of `/webhook`. Newer versions of Label Studio send the task with its annotation."""

    action: str
    project: Project | None = None
    annotation: Annotation | None = None
    task: Task | None = None
    annotations: list[DeletedObject] = []
    tasks: list[DeletedObject] = []


def project_key(project: Identifier | None) -> str:
    """The id of a project, which requests name `id.created` and events by its id."""
    return "" if project is None else str(project).partition(".")[0]
