"""Stores elsewhere: published versions under an address of fsspec, such as `s3://bucket/models`.

A version lies in `STORE/NAME/VERSION/`, as in a folder. The publisher claims the number with a file that only
one can create, uploads the weights and the card, and creates the manifest last. A version without a manifest
is not offered.
"""

import re
from pathlib import Path
from typing import Any

from bmaml.errors import BmamlError
from model_store.address import ADDRESS, BadAddress
from model_store.manifest import MANIFEST_FILE, checked_name
from model_store.store import MAX_FILE_BYTES, Store, UnknownModel

FILE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
CLAIM_FILE = "claimed"
"""The file by which a publisher takes a number. It stays, so that no number is given twice."""
MARKS = ("ETag", "etag", "generation", "blob_id", "mtime", "LastModified", "last_modified", "created")
"""Fields of a file's description, in order of preference, that change with its content."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf"}
"""Extras of this distribution, by protocol."""
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": TIMEOUTS},
    "s3a": {"config_kwargs": TIMEOUTS},
    "file": {"auto_mkdir": True},
}
"""Options of the file systems, by protocol."""

VersionId = tuple[str, int]
"""A model's name and version."""
RemoteStamp = tuple[tuple[str, int, str], ...]
"""Name, size and mark of each file of a version."""


class Unreachable(BmamlError):
    """A store elsewhere that does not answer, or refuses."""


class RemoteStore:
    """A store at an address of fsspec.

    Raises:
        BadAddress: the protocol is unknown, or its package is not installed.
    """

    def __init__(self, address: str) -> None:
        import fsspec  # torch needs it anyway; folders do not

        found = ADDRESS.match(address)
        if found is None:
            raise BadAddress(f"{address!r} is no address of a store; they look like s3://bucket/models")
        protocol = found["protocol"]
        try:
            self._files, root = fsspec.url_to_fs(
                address, skip_instance_cache=True, **OPTIONS.get(protocol, {})
            )
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            advice = f"pip install 'bmaml-service[{extra}]'" if extra else str(error)
            raise BadAddress(f"{address}: the file system {protocol!r} is not installed: {advice}") from None
        except ValueError as error:
            raise BadAddress(f"{address}: {error}") from None
        self.address, self._root = address.rstrip("/"), str(root).rstrip("/")

    def versions(self) -> dict[VersionId, RemoteStamp]:
        """The versions that are whole, and the state of their files.

        Raises:
            Unreachable: the store cannot be listed.
        """
        folders: dict[VersionId, list[tuple[str, int, str]]] = {}
        for (name, version, file), described in self._listed().items():
            mark = next((str(described[each]) for each in MARKS if each in described), "")
            folders.setdefault((name, version), []).append((file, int(described.get("size") or 0), mark))
        return {
            each: tuple(sorted(files))
            for each, files in sorted(folders.items())
            if any(file == MANIFEST_FILE for file, _, _ in files)
        }

    def fetch(self, version_id: VersionId, stamp: RemoteStamp, folder: Path) -> None:
        """Download the files of a version into a folder.

        Raises:
            Unreachable: a file cannot be read, or is larger than `MAX_FILE_BYTES`.
        """
        for file, size, _ in stamp:
            if file == CLAIM_FILE:
                continue
            if size > MAX_FILE_BYTES:
                raise Unreachable(f"{self._path(version_id, file)} is larger than {MAX_FILE_BYTES} bytes")
            try:
                self._files.get_file(self._path(version_id, file), str(folder / file))
            except Exception as error:  # each file system has errors of its own
                raise self._unreachable(error) from error

    def publish(self, store: Store, name: str, version: int | None = None) -> int:
        """Upload a version of a folder's store under the next number here, and return that number.

        Raises:
            UnknownModel, CorruptModel: as `Store.load`.
            Unreachable: the upload failed. A number may then be claimed and is not given again.
        """
        model = store.load(name, version)
        contents = store.contents(name, model.manifest.version)
        try:
            number = self._claim(name)
            for file, content in contents.items():
                self._files.pipe_file(self._path((name, number), file), content)
            manifest = model.manifest.model_copy(update={"version": number}).dumped()
            self._create((name, number), MANIFEST_FILE, manifest)
        except Unreachable:
            raise
        except Exception as error:
            raise self._unreachable(error) from error
        return number

    def remove(self, name: str, version: int) -> None:
        """Remove a version, its manifest first. Its number is not given again.

        Raises:
            UnknownModel: a name or version that is not offered.
            Unreachable: the store does not answer, or refuses.
        """
        stamp = self.versions().get((name, version))
        if stamp is None:
            raise UnknownModel(f"{self.address} has no {name} version {version}")
        files = sorted((file for file, _, _ in stamp if file != CLAIM_FILE), key=MANIFEST_FILE.__ne__)
        try:
            for file in files:
                self._files.rm_file(self._path((name, version), file))
        except Exception as error:
            raise self._unreachable(error) from error

    def _claim(self, name: str) -> int:
        """Take the next number of a model."""
        taken = (number for known, number, _ in self._listed() if known == checked_name(name))
        number = max(taken, default=0) + 1
        while True:
            try:
                self._create((name, number), CLAIM_FILE, b"a publisher has taken this number\n")
                return number
            except FileExistsError:  # another publisher took it
                number += 1

    def _create(self, version_id: VersionId, file: str, content: bytes) -> None:
        """Create a file where there is none.

        Raises:
            FileExistsError: there is one.
        """
        with self._files.open(self._path(version_id, file), "xb") as created:
            created.write(content)

    def _listed(self) -> dict[tuple[str, int, str], dict[str, Any]]:
        """The descriptions of all files that lie where those of versions do, by name, version and file."""
        try:
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        except Exception as error:
            raise self._unreachable(error) from error
        listed = {}
        for path, described in found.items():
            parts = str(path).removeprefix(self._root).strip("/").split("/")
            if len(parts) == 3 and parts[1].isdecimal() and FILE_NAME.fullmatch(parts[2]):
                try:
                    listed[checked_name(parts[0]), int(parts[1]), parts[2]] = described
                except BmamlError:
                    continue  # a folder of something else
        return listed

    def _path(self, version_id: VersionId, file: str) -> str:
        name, version = version_id
        return f"{self._root}/{name}/{version}/{file}"

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(f"{self.address} fails: {error or type(error).__name__}")
