"""What has been labelled, project by project, in one SQLite file: rows as they are sent, and labels."""

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
    """The newest annotation of every task. One thread at a time may use it."""

    def __init__(self, path: Path | str) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.executescript(SCHEMA)

    def put(self, project: str, annotation: str, task: str, row: bytes, label: Label) -> None:
        """Remember an annotation, in place of what it said before."""
        with self._database:
            self._drop(project, "id", [annotation])
            self._add(project, annotation, task, row, label)
            self._turn(project)

    def replace(self, project: str, found: Iterable[tuple[str, str, bytes, Label]]) -> int:
        """Remember these annotations (id, task, row, label) of a project and no others; how many they are."""
        some = list(found)
        with self._database:
            self._database.execute("DELETE FROM annotation WHERE project = ?", (project,))
            for each in some:
                self._add(project, *each)
            self._turn(project)
        return len(some)

    def drop(self, project: str, annotations: Iterable[str]) -> None:
        """Forget annotations; those that are not there are no failure."""
        with self._database:
            self._drop(project, "id", annotations)
            self._turn(project)

    def drop_tasks(self, project: str, tasks: Iterable[str]) -> None:
        """Forget all annotations of tasks."""
        with self._database:
            self._drop(project, "task", tasks)
            self._turn(project)

    def revision(self, project: str) -> int:
        """A number that grows with every change; 0 before the first."""
        found = self._database.execute("SELECT number FROM revision WHERE project = ?", (project,)).fetchone()
        return 0 if found is None else int(found[0])

    def labelled(self, project: str, most: int) -> list[tuple[bytes, Label]]:
        """The newest annotation of each task, oldest first; of more than `most` the newest."""
        found = self._database.execute(
            "SELECT row, label FROM annotation WHERE number IN"
            " (SELECT MAX(number) FROM annotation WHERE project = ? GROUP BY task)"
            " ORDER BY number DESC LIMIT ?",
            (project, most),
        ).fetchall()
        return [(bytes(row), json.loads(label)) for row, label in reversed(found)]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _add(self, project: str, annotation: str, task: str, row: bytes, label: Label) -> None:
        self._database.execute(
            "INSERT INTO annotation (project, id, task, row, label) VALUES (?, ?, ?, ?, ?)",
            (project, annotation, task, row, json.dumps(label)),
        )

    def _drop(self, project: str, column: str, values: Iterable[str]) -> None:
        self._database.executemany(
            f"DELETE FROM annotation WHERE project = ? AND {column} = ?", [(project, each) for each in values]
        )

    def _turn(self, project: str) -> None:
        self._database.execute(
            "INSERT INTO revision VALUES (?, 1) ON CONFLICT (project) DO UPDATE SET number = number + 1",
            (project,),
        )
