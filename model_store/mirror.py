"""A mirror: a folder that follows a store elsewhere, so that whoever reads the folder needs no network.

A version is downloaded into a hidden folder and renamed into place, so that readers see all of it or nothing.
They check its digests as those of any version.
"""

import json
import logging
from pathlib import Path

from bmaml.errors import BmamlError
from model_store.remote import RemoteStamp, RemoteStore, Unreachable, VersionId
from model_store.store import Store, draft

STAMP_FILE = ".mirrored"
"""The address from which a version was downloaded, and the state of its files there."""

log = logging.getLogger("model_store.mirror")


class NotAMirror(BmamlError):
    """A folder with versions that were not downloaded from this store."""


class Mirror:
    """A folder that follows a store elsewhere. One process at a time refreshes it.

    Attributes:
        remote: the store that it follows.
        store: the folder as a store.

    Raises:
        NotAMirror: the folder has versions of another store, which following this one would remove.
    """

    def __init__(self, remote: RemoteStore, folder: Path) -> None:
        self.remote, self.store = remote, Store(folder)
        self._rejected: dict[VersionId, RemoteStamp] = {}
        self._here()

    def refresh(self) -> None:
        """Download new and changed versions, and drop those that are gone.

        A listing without any version is taken for a store that cannot be reached, and drops nothing. A bad
        version does not replace a good one.

        Raises:
            Unreachable: the store elsewhere cannot be listed, or a version not be read; the others are.
            OSError: the folder cannot be written.
        """
        offered, here = self.remote.versions(), self._here()
        failure: Unreachable | None = None
        for version_id, stamp in offered.items():
            if here.get(version_id) == stamp or self._rejected.get(version_id) == stamp:
                continue
            try:
                self._fetch(version_id, stamp)
            except Unreachable as error:
                failure = error
        if offered:
            for version_id in here.keys() - offered.keys():
                self.store.remove(*version_id)
                log.info("%s version %d is gone from %s", *version_id, self.remote.address)
        if failure is not None:
            raise failure

    def _here(self) -> dict[VersionId, RemoteStamp]:
        """The versions in the folder, and their states when they were downloaded."""
        found: dict[VersionId, RemoteStamp] = {}
        for name in self.store.names():
            for version in self.store.versions(name):
                folder = self.store.root / name / str(version)
                try:
                    mirrored = json.loads((folder / STAMP_FILE).read_bytes())
                    address, stamp = mirrored["address"], mirrored["files"]
                except (OSError, ValueError, LookupError):
                    address, stamp = "elsewhere", ()
                if address != self.remote.address:
                    raise NotAMirror(
                        f"{folder} is from {address}, and this folder is to follow {self.remote.address}: "
                        "choose an empty folder, or remove this one"
                    )
                found[name, version] = tuple((file, size, mark) for file, size, mark in stamp)
        return found

    def _fetch(self, version_id: VersionId, stamp: RemoteStamp) -> None:
        name, version = version_id
        root = self.store.root
        root.mkdir(parents=True, exist_ok=True)
        with draft(root) as hidden:
            fetched = hidden / name / str(version)
            fetched.mkdir(parents=True)
            self.remote.fetch(version_id, stamp, fetched)
            (fetched / STAMP_FILE).write_text(json.dumps({"address": self.remote.address, "files": stamp}))
            place = root / name / str(version)
            if place.exists():
                if (why := _fault(Store(hidden), version_id)) and not _fault(self.store, version_id):
                    self._rejected[version_id] = stamp
                    log.warning("%s version %d is kept as it was: %s", name, version, why)
                    return
                self.store.remove(name, version)
            place.parent.mkdir(exist_ok=True)
            fetched.rename(place)
        log.info("mirrored %s version %d from %s", name, version, self.remote.address)


def _fault(store: Store, version_id: VersionId) -> str | None:
    """The reason why a version cannot be loaded; None where it can."""
    try:
        store.load(*version_id)
    except BmamlError as error:
        return str(error)
    return None
