"""Shapes are checked while the tests run: importing `bmaml` goes through jaxtyping and beartype."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

# Before torch is imported, here and in the processes that tests start: pytest-xdist gives every core work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compiled code of all sessions; services in tests are tensor code unless they ask for more.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".cache"))
os.environ.setdefault("BMAML_NATIVE", "off")

install_import_hook(["bmaml"], "beartype.beartype").__enter__()
