"""The store: versions on disk, `STORE/NAME/VERSION/`, each with a manifest, weights and a card.

Publication is atomic. A version is written to a hidden folder, flushed to the disk, and renamed into place:
before the rename nothing is there, after it everything is. A folder cannot be renamed onto one with files,
so that two publishers never share a version number.
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
from model_store.address import BadAddress, is_address
from model_store.backbone import BACKBONE_FILE, UnusableBackbone, referenced_backbone
from model_store.manifest import CARD_FILE, MANIFEST_FILE, NAME_PATTERN, WEIGHTS_FILE, Manifest, checked_name
from model_store.model import CorruptModel, Model

SHIPPED = Path(__file__).parent / "versions"
"""The versions that are shipped with the project."""

LOCK_SUFFIX = ".lock"
REMOVED_FILE = ".removed"
"""The file of a model that holds the highest number of a version that was removed while it was the newest."""
MAX_FILE_BYTES = 1 << 30
"""Size of a file of a version, at most."""
MAX_LISTED_VERSIONS = 5
"""Versions that an error message names, the newest ones."""


class Unreadable(CorruptModel):
    """A file of a version that exists and cannot be read: permissions, file descriptors, a missing disk."""


class UnknownModel(BmamlError, LookupError):
    """A name or version that is not in the store."""


class Store:
    """A folder of published versions, safe for concurrent readers and publishers.

    Raises:
        BadAddress: the root is an address. A folder of that name would be created instead.
    """

    def __init__(self, root: Path) -> None:
        if is_address(root):
            raise BadAddress(
                f"{root} is an address, where a folder is needed: publish into a folder, and copy the "
                "version with `bmaml-store push NAME --to ADDRESS`"
            )
        self.root = root

    def names(self) -> list[str]:
        """Names of models with at least one version, in alphabetical order.

        Whatever else lies beside them, such as `lost+found` of a volume, is no model.
        """
        named = filter(NAME_PATTERN.fullmatch, self._entries(self.root))
        return [name for name in sorted(named) if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """The published versions of a model, oldest first; none for an unknown name."""
        folder = self.root / checked_name(name)
        return sorted(int(entry) for entry in self._entries(folder) if entry.isdecimal())

    def stamp(self, name: str, version: int) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and modification times of a version's files; equal stamps need no new reading."""
        try:
            with os.scandir(self.root / checked_name(name) / str(version)) as entries:
                files = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError:
            return ()
        return tuple(sorted((file, status.st_size, status.st_mtime_ns) for file, status in files))

    def load(self, name: str, version: int | None = None) -> Model:
        """A version, by default the newest, read and checked against the digests in its manifest.

        Raises:
            UnknownModel: a name or version that is not in the store.
            CorruptModel: an incomplete or altered version, one outside the store, or one whose backbone is
                elsewhere and absent.
        """
        folder, version = self._folder(name, version)
        manifest = self._manifest(folder, name, version)
        contents = {file: self._checked(folder, file, digest) for file, digest in manifest.files.items()}
        try:
            learned = safetensors.load(contents[WEIGHTS_FILE])
        except SafetensorError as error:
            raise CorruptModel(f"{folder / WEIGHTS_FILE}: {error}. Publish this version again.") from None
        shapes = {tensor: tuple(value.shape) for tensor, value in learned.items()}
        if shapes != manifest.tensors:
            raise CorruptModel(
                f"{folder / WEIGHTS_FILE} holds {shapes}, the manifest says {manifest.tensors}. "
                "Publish this version again."
            )
        return Model.of(manifest, learned, self._backbone(folder, manifest, contents))

    def manifest(self, name: str, version: int | None = None) -> Manifest:
        """The manifest of a version, without reading its other files.

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
        if CARD_FILE not in manifest.files:
            return ""
        return self._checked(folder, CARD_FILE, manifest.files[CARD_FILE]).decode()

    def contents(self, name: str, version: int | None = None) -> dict[str, bytes]:
        """The files that the manifest of a version lists, checked against its digests.

        Raises:
            UnknownModel, CorruptModel: as `load`.
        """
        folder, version = self._folder(name, version)
        manifest = self._manifest(folder, name, version)
        return {file: self._checked(folder, file, digest) for file, digest in manifest.files.items()}

    def publish(
        self,
        name: str,
        card: str,
        learned: Mapping[str, Tensor],
        backbone_file: bytes | None = None,
        **described: Any,
    ) -> Model:
        """Publish the next version of `name`, and return it as `load` would.

        Args:
            backbone_file: content of the file of a backbone; it is left out of the version where it is large.
            described: the manifest's other fields (learner, settings, inputs, outputs, …).

        Raises:
            InvalidName: not a model name.
            CorruptModel: tensors that do not fit the described learner, or are not finite.
        """
        home = self.root / checked_name(name)
        home.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in learned.items()}
        contents = {WEIGHTS_FILE: safetensors.save(tensors), CARD_FILE: card.encode()}
        if backbone_file is not None and described["backbone"].inside:
            contents[BACKBONE_FILE] = backbone_file
        with draft(home) as hidden:
            for file, content in contents.items():
                _write(hidden / file, content)
            while True:
                version = max([*self.versions(name), _number_in(home / REMOVED_FILE)]) + 1
                manifest = Manifest(
                    name=name,
                    version=version,
                    tensors={key: tuple(tensor.shape) for key, tensor in tensors.items()},
                    files={file: sha256(content).hexdigest() for file, content in contents.items()},
                    **described,
                )
                written = manifest.dumped()
                model = Model.of(Manifest.model_validate_json(written), tensors, backbone_file)
                _write(hidden / MANIFEST_FILE, written)
                _sync_folder(hidden)
                try:
                    hidden.rename(home / str(version))
                except OSError:
                    if not (home / str(version)).exists():
                        raise
                    continue  # another publisher took this number
                _sync_folder(home)
                return model

    def remove(self, name: str, version: int) -> None:
        """Remove a version atomically; its number is not given again.

        Raises:
            UnknownModel: a name or version that is not in the store.
        """
        folder, _ = self._folder(name, version)
        kept = folder.parent / REMOVED_FILE
        if version == self.versions(name)[-1] and version > _number_in(kept):
            with draft(folder.parent) as hidden:
                _write(hidden / REMOVED_FILE, str(version).encode())
                (hidden / REMOVED_FILE).rename(kept)
        removed = folder.parent / f".removed-{version}-{secrets.token_hex(4)}"
        folder.rename(removed)
        _sync_folder(removed.parent)
        shutil.rmtree(removed)

    def _folder(self, name: str, version: int | None) -> tuple[Path, int]:
        versions = self.versions(name)
        if not versions:
            raise UnknownModel(f"no model {name!r}; the store has {', '.join(self.names()) or 'none'}")
        if version is None:
            version = versions[-1]
        if version not in versions:
            raise UnknownModel(f"model {name!r} has versions {newest_versions(versions)}, not {version}")
        folder = self.root / name / str(version)
        if folder.resolve() != self.root.resolve() / name / str(version):
            raise CorruptModel(f"{folder} leads outside the store; versions are plain folders in it")
        return folder, version

    def _manifest(self, folder: Path, name: str, version: int) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(_read(folder / MANIFEST_FILE))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = "/".join(map(str, first["loc"]))
            raise CorruptModel(
                f"{folder / MANIFEST_FILE}: {where} {first['msg']}. Publish it again."
            ) from None
        if (manifest.name, manifest.version) != (name, version):
            raise CorruptModel(
                f"{folder} holds the manifest of {manifest.name} version {manifest.version}. "
                "Publish this version again."
            )
        return manifest

    @staticmethod
    def _backbone(folder: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> bytes | None:
        """The file of the version's backbone, from inside or from where it is referenced."""
        if manifest.backbone is None or BACKBONE_FILE in contents:
            return contents.get(BACKBONE_FILE)
        try:
            return referenced_backbone(manifest.backbone)
        except UnusableBackbone as error:
            raise Unreadable(f"{folder}: {error}") from None

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


def newest_versions(versions: list[int]) -> str:
    """The newest versions, after an ellipsis where there are more than `MAX_LISTED_VERSIONS`."""
    newest = ", ".join(map(str, versions[-MAX_LISTED_VERSIONS:]))
    return newest if len(versions) <= MAX_LISTED_VERSIONS else f"…, {newest}"


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


def _number_in(path: Path) -> int:
    """The number that a file holds; 0 where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


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
def draft(home: Path) -> Iterator[Path]:
    """A hidden folder to write a version in; it is removed afterwards unless it was renamed.

    A lock file beside it is held meanwhile. Drafts without a held lock are those of killed publishers, and
    are removed first.
    """
    for lock in home.glob(f".draft-*{LOCK_SUFFIX}"):
        _clear_abandoned(lock)
    hidden = home / f".draft-{secrets.token_hex(8)}"
    lock = hidden.with_name(hidden.name + LOCK_SUFFIX)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        hidden.mkdir()
        try:
            yield hidden
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _clear_abandoned(lock: Path) -> None:
    try:
        with lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_name(lock.name.removesuffix(LOCK_SUFFIX)), ignore_errors=True)
            lock.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return
