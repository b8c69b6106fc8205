"""Rooms of the benchmarks do not import each other, and nothing imports them but tests."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.benchmarks.running import ROOT

ROOMS = {"accuracy", "serving", "speed", "checks"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "benchmarks").rglob("*.py")
    if path.name != "__init__.py"
}


def imported(path: Path) -> Iterator[str]:
    """The modules of the benchmarks that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def room(module: str) -> str:
    """The room that a module lies in; empty for one that all rooms share."""
    second = module.split(".")[1]
    return second if second in ROOMS else ""


def test_a_room_imports_itself_and_what_all_rooms_share():
    assert {room(module) for module in MODULES} == {"", *ROOMS}
    for module, path in MODULES.items():
        assert {room(name) for name in imported(path)} <= {"", room(module)}, module


def test_no_two_modules_import_each_other():
    order = TopologicalSorter({module: set(imported(path)) for module, path in MODULES.items()})
    assert set(order.static_order()) == set(MODULES)


def test_no_package_imports_a_benchmark():
    for package in ("bmaml", "model_store", "training", "service", "client", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            assert "benchmarks" not in path.read_text(), path
