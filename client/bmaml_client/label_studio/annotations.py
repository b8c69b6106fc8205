"""Annotations by project, in one SQLite file: rows in the form that is sent, and labels."""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from bmaml_client.label_studio.labelling import Label

SCHEMA = """
CREATE TABLE IF NOT EXISTS annotation (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    project TEXT NOT NULL, id TEXT NOT NULL, task TEXT NOT NULL, row BLOB NOT NULL, label TEXT NOT NULL,
    UNIQUE (project, id)
);
CREATE TABLE IF NOT EXISTS revision (project TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""


class Annotations:
    """The annotations of all projects. It is not safe for use from several threads at once."""

    def __init__(self, path: Path | str) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.executescript(SCHEMA)

    def put(self, project: str, annotation: str, task: str, row: bytes, label: Label) -> None:
        """Store an annotation, in place of its earlier version."""
        with self._database:
            self._delete(project, "id", [annotation])
            self._add(project, annotation, task, row, label)
            self._increment_revision(project)

    def replace(self, project: str, annotations: Iterable[tuple[str, str, bytes, Label]]) -> int:
        """Store annotations (id, task, row, label) in place of all the project's; return their number."""
        stored = list(annotations)
        with self._database:
            self._database.execute("DELETE FROM annotation WHERE project = ?", (project,))
            for each in stored:
                self._add(project, *each)
            self._increment_revision(project)
        return len(stored)

    def delete(self, project: str, annotations: Iterable[str]) -> None:
        """Delete annotations by their ids; unknown ids are no error."""
        with self._database:
            self._delete(project, "id", annotations)
            self._increment_revision(project)

    def delete_tasks(self, project: str, tasks: Iterable[str]) -> None:
        """Delete all annotations of tasks."""
        with self._database:
            self._delete(project, "task", tasks)
            self._increment_revision(project)

    def row(self, project: str, annotation: str) -> bytes | None:
        """The stored row of an annotation; None where the annotation is unknown."""
        found = self._database.execute(
            "SELECT row FROM annotation WHERE project = ? AND id = ?", (project, annotation)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def revision(self, project: str) -> int:
        """The number of changes of a project's annotations so far."""
        row = self._database.execute("SELECT number FROM revision WHERE project = ?", (project,)).fetchone()
        return 0 if row is None else int(row[0])

    def newest(self, project: str, limit: int) -> list[tuple[bytes, Label]]:
        """Row and label of each task's newest annotation: the `limit` newest of them, oldest first."""
        rows = self._database.execute(
            "SELECT row, label FROM annotation WHERE number IN"
            " (SELECT MAX(number) FROM annotation WHERE project = ? GROUP BY task)"
            " ORDER BY number DESC LIMIT ?",
            (project, limit),
        ).fetchall()
        return [(bytes(row), json.loads(label)) for row, label in reversed(rows)]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _add(self, project: str, annotation: str, task: str, row: bytes, label: Label) -> None:
        self._database.execute(
            "INSERT INTO annotation (project, id, task, row, label) VALUES (?, ?, ?, ?, ?)",
            (project, annotation, task, row, json.dumps(label)),
        )

    def _delete(self, project: str, column: str, values: Iterable[str]) -> None:
        self._database.executemany(
            f"DELETE FROM annotation WHERE project = ? AND {column} = ?", [(project, each) for each in values]
        )

    def _increment_revision(self, project: str) -> None:
        self._database.execute(
            "INSERT INTO revision VALUES (?, 1) ON CONFLICT (project) DO UPDATE SET number = number + 1",
            (project,),
        )
