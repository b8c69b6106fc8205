"""How much of the tests that take chance, time or many processes: `BMAML_TEST_SCALE=100` is the long form."""

import os

SCALE = int(os.environ.get("BMAML_TEST_SCALE", "1"))
EXPLORE = SCALE > 1
"""Whether to try something new on every run; the short form always tries the same."""
