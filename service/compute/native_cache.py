"""Where numba finds compiled code: a folder that may be read-only, since images are."""

import contextlib
import os
from typing import Any

from numba.core.caching import UserProvidedCacheLocator


class Folder(UserProvidedCacheLocator):  # type: ignore[misc]
    """The folder of numba's setting, whose name says which sources its code comes from."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "Folder":
        """The folder, created where it can be."""
        found = cls(py_func, py_file)
        with contextlib.suppress(OSError):
            os.makedirs(found.get_cache_path(), exist_ok=True)
        return found

    def get_source_stamp(self) -> str:
        """The same for all functions: the folder's name has the digest of the sources."""
        return "by folder"
