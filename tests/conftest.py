"""Shapes are checked while the tests run: importing `bmaml` goes through jaxtyping and beartype."""

import os
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

from tests.scale import EXPLORE

# Before torch is imported, here and in the processes that tests start: pytest-xdist gives every core work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compiled code of all sessions; services in tests are tensor code unless they ask for more.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".cache"))
os.environ.setdefault("BMAML_NATIVE", "off")

# By the usual deadline a machine that stalls for seconds is an overload, and requests are refused.
os.environ.setdefault("BMAML_DEADLINE_MS", "600000")

# No example has a deadline, which a busy machine would break; the short form always tries the same ones.
settings.register_profile("tests", deadline=None, derandomize=not EXPLORE, database=None)
settings.load_profile("tests")

install_import_hook(["bmaml"], "beartype.beartype").__enter__()
