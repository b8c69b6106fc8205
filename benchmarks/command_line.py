"""The parser and the options that benchmarks share."""

import argparse
import platform
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_page(arguments: argparse.ArgumentParser, default: Path | None = None) -> None:
    """Add `--page` and `--machine`: where the measured tables go, and which machine they are of."""
    where = f"page to write; by default {default}" if default else "page to write; by default none"
    arguments.add_argument("--page", type=Path, default=default, help=where)
    arguments.add_argument("--machine", default=platform.machine(), help="the machine's name on the page")
