"""Shapes are checked while the tests run: importing `bmaml` goes through jaxtyping and beartype."""

import os

from jaxtyping import install_import_hook

# Before torch is imported, here and in the processes that tests start: pytest-xdist gives every core work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

install_import_hook(["bmaml"], "beartype.beartype").__enter__()
