"""Versions on disk: `STORE/NAME/VERSION/` with a manifest, weights and a card. Whole or not at all.

A version is written aside under a name that starts with a dot, flushed to the disk, and renamed
into place. The rename is the publication: before it nothing is there, after it everything is. A
directory cannot be renamed onto one that has files, so two publishers never share a number.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from bmaml.errors import BmamlError
from model_store.manifest import CARD, MANIFEST, WEIGHTS, Manifest, checked_name
from model_store.model import CorruptModel, Model

SHIPPED = Path(__file__).parent / "versions"
"""The versions that come with the project."""

LOCK = ".lock"
MAX_FILE_BYTES = 1 << 30


class Unreadable(CorruptModel):
    """A file of a version is there and cannot be read: no rights, no descriptors, a disk that is away."""


class UnknownModel(BmamlError, LookupError):
    """No such name or version in the store."""


class Store:
    """A folder of published versions; safe for many readers and publishers at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Every model with at least one version, in alphabetical order."""
        return [name for name in sorted(self._entries(self.root)) if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """The published versions of a model, oldest first; none for a name that is not there."""
        folder = self.root / checked_name(name)
        return sorted(int(entry) for entry in self._entries(folder) if entry.isdecimal())

    def stamp(self, name: str, version: int) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of a version's files: whether it is worth reading again."""
        try:
            with os.scandir(self.root / checked_name(name) / str(version)) as entries:
                files = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError:
            return ()
        return tuple(sorted((file, status.st_size, status.st_mtime_ns) for file, status in files))

    def load(self, name: str, version: int | None = None) -> Model:
        """Read a version, the newest by default.

        Every byte that is used is first hashed and compared with the manifest.

        Raises:
            UnknownModel: no such name or version.
            CorruptModel: incomplete, altered, or outside the store.
        """
        folder, version = self._folder(name, version)
        manifest = self._manifest(folder, name, version)
        contents = {file: self._checked(folder, file, digest) for file, digest in manifest.files.items()}
        try:
            learned = safetensors.load(contents[WEIGHTS])
        except SafetensorError as error:
            raise CorruptModel(f"{folder / WEIGHTS}: {error}. Publish this version again.") from None
        shapes = {tensor: tuple(value.shape) for tensor, value in learned.items()}
        if shapes != manifest.tensors:
            raise CorruptModel(
                f"{folder / WEIGHTS} holds {shapes}, the manifest says {manifest.tensors}. "
                "Publish this version again."
            )
        return Model.of(manifest, learned)

    def manifest(self, name: str, version: int | None = None) -> Manifest:
        """What is said of a version, without looking at its other files.

        Raises:
            UnknownModel, CorruptModel: as `load`.
        """
        folder, version = self._folder(name, version)
        return self._manifest(folder, name, version)

    def card(self, name: str, version: int | None = None) -> str:
        """The model card, as Markdown.

        Raises:
            UnknownModel, CorruptModel: as `load`.
        """
        folder, version = self._folder(name, version)
        manifest = self._manifest(folder, name, version)
        if CARD not in manifest.files:
            return ""
        return self._checked(folder, CARD, manifest.files[CARD]).decode()

    def publish(self, name: str, card: str, learned: Mapping[str, Tensor], **described: Any) -> Model:
        """Write the next version of `name` and return it as it can be loaded.

        Args:
            described: the manifest's other fields (learner, settings, inputs, outputs, …).

        Raises:
            InvalidName: a name the store cannot hold.
            CorruptModel: weights that do not fit what the manifest says of them.
        """
        home = self.root / checked_name(name)
        home.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in learned.items()}
        contents = {WEIGHTS: safetensors.save(tensors), CARD: card.encode()}
        with _aside(home) as draft:
            for file, content in contents.items():
                _write(draft / file, content)
            while True:
                version = max(self.versions(name), default=0) + 1
                manifest = Manifest(
                    name=name,
                    version=version,
                    tensors={key: tuple(tensor.shape) for key, tensor in tensors.items()},
                    files={file: sha256(content).hexdigest() for file, content in contents.items()},
                    **described,
                )
                written = manifest.dumped()
                model = Model.of(Manifest.model_validate_json(written), tensors)
                _write(draft / MANIFEST, written)
                _sync_folder(draft)
                try:
                    draft.rename(home / str(version))
                except OSError:
                    if not (home / str(version)).exists():
                        raise
                    continue  # another publisher took this number
                _sync_folder(home)
                return model

    def remove(self, name: str, version: int) -> None:
        """Take a version away, at once and whole.

        Raises:
            UnknownModel: no such version.
        """
        folder, _ = self._folder(name, version)
        grave = folder.parent / f".removed-{version}-{secrets.token_hex(4)}"
        folder.rename(grave)
        _sync_folder(grave.parent)
        shutil.rmtree(grave)

    def _folder(self, name: str, version: int | None) -> tuple[Path, int]:
        versions = self.versions(name)
        if not versions:
            raise UnknownModel(f"no model {name!r}; the store has {', '.join(self.names()) or 'none'}")
        if version is None:
            version = versions[-1]
        if version not in versions:
            raise UnknownModel(f"model {name!r} has versions {_listed(versions)}, not {version}")
        folder = self.root / name / str(version)
        if folder.resolve() != self.root.resolve() / name / str(version):
            raise CorruptModel(f"{folder} leads outside the store; versions are plain folders in it")
        return folder, version

    def _manifest(self, folder: Path, name: str, version: int) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(_read(folder / MANIFEST))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = "/".join(map(str, first["loc"]))
            raise CorruptModel(f"{folder / MANIFEST}: {where} {first['msg']}. Publish it again.") from None
        if (manifest.name, manifest.version) != (name, version):
            raise CorruptModel(
                f"{folder} holds the manifest of {manifest.name} version {manifest.version}. "
                "Publish this version again."
            )
        return manifest

    def _checked(self, folder: Path, file: str, digest: str) -> bytes:
        content = _read(folder / file)
        if (found := sha256(content).hexdigest()) != digest:
            raise CorruptModel(
                f"{folder / file} hashes to {found[:12]}, the manifest says {digest[:12]}. "
                "Publish this version again."
            )
        return content

    @staticmethod
    def _entries(folder: Path) -> list[str]:
        if not folder.is_dir():
            return []
        return [entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."]


def _listed(versions: list[int]) -> str:
    shown = ", ".join(map(str, versions[-5:]))
    return shown if len(versions) <= 5 else f"…, {shown}"


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise CorruptModel(f"{path} is missing. Publish this version again.") from None
    except OSError as error:
        kind = CorruptModel if error.errno == errno.ELOOP else Unreadable
        raise kind(f"{path} cannot be read: {error.strerror}") from None
    try:
        with os.fdopen(handle, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise CorruptModel(f"{path} is larger than {MAX_FILE_BYTES} bytes")
            return file.read()
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _aside(home: Path) -> Iterator[Path]:
    """A hidden folder to write in; gone afterwards unless it was renamed.

    Its owner holds a lock beside it, so that what a killed publisher left can be told from what a
    living one is writing, and is cleared away.
    """
    for lock in home.glob(f".draft-*{LOCK}"):
        _clear_abandoned(lock)
    draft = home / f".draft-{secrets.token_hex(8)}"
    lock = draft.with_name(draft.name + LOCK)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        draft.mkdir()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _clear_abandoned(lock: Path) -> None:
    try:
        with lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_name(lock.name.removesuffix(LOCK)), ignore_errors=True)
            lock.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return
