"""The imports run one way: between the packages, and between the rooms of the service.

A room is a folder of the service, or a module beside the folders.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "client/bmaml_client": {"bmaml_client"},
    "bmaml": {"bmaml"},
    "model_store": {"bmaml", "model_store"},
    "training": {"bmaml", "model_store", "training"},
    "service": {"bmaml", "model_store", "service"},
}
OURS = {path.rpartition("/")[2] for path in ALLOWED}
LAZY = {("client/bmaml_client/in_process.py", "InProcess.__init__"): {"service"}}
"""Imports that only the named function may do, when it is called: they stand behind an extra."""


def imported(path: Path) -> set[str]:
    """The top packages that a file imports anywhere, less what `LAZY` lets its functions import."""
    return _imported(ast.parse(path.read_text()), path.relative_to(ROOT).as_posix(), "")


def _imported(node: ast.AST, file: str, where: str) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{file}: say where relative imports lead"
        return {(node.module or "").split(".")[0]}
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        where = f"{where}.{node.name}".removeprefix(".")
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        found |= _imported(child, file, where)
    return found - LAZY.get((file, where), set())


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported(path) & OURS
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def test_fastapi_stays_in_the_service_and_files_and_clocks_out_of_the_method():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            if package != "service" and "label_studio" not in path.parts:
                assert not imported(path) & {"fastapi", "starlette", "uvicorn"}, path
            if package == "bmaml":
                assert not imported(path) & {"os", "pathlib", "time", "logging", "pydantic"}, path


ROOMS = {
    "__main__": {"app", "http", "engine", "compute", "keys", "ops", "settings"},
    "ray": {"app", "http", "runtime", "ops", "settings"},
    "app": {"http", "runtime", "engine", "settings"},
    "http": {
        "runtime",
        "registry",
        "codec",
        "engine",
        "compute",
        "keys",
        "ops",
        "job",
        "schemas",
        "errors",
        "settings",
    },
    "runtime": {
        "housekeeping",
        "registry",
        "codec",
        "engine",
        "compute",
        "keys",
        "ops",
        "job",
        "errors",
        "settings",
    },
    "housekeeping": {"registry", "engine", "compute", "keys", "ops"},
    "registry": {"engine", "compute", "ops", "job", "schemas", "errors", "settings"},
    "codec": {"engine", "compute", "job", "schemas", "errors", "settings"},
    "engine": {"compute", "ops", "job", "errors"},
    "compute": {"job", "schemas"},
    "keys": {"errors"},
    "job": {"schemas"},
    "ops": set(),
    "schemas": set(),
    "errors": set(),
    "settings": set(),
}
"""The rooms of the service, and the rooms that each may import. No two rooms import each other."""
LONGEST_CHAIN = (
    "__main__",
    "app",
    "http",
    "runtime",
    "housekeeping",
    "registry",
    "engine",
    "compute",
    "job",
    "schemas",
)


def rooms_imported(path: Path) -> set[str]:
    """The rooms of the service that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("service.")}
    return found


def test_rooms_of_the_service_import_only_what_the_table_says_and_nothing_in_it_is_idle():
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in (ROOT / "service").rglob("*.py"):
        inside = path.relative_to(ROOT / "service")
        if inside.parts == ("__init__.py",):
            continue
        arrows[inside.parts[0].removesuffix(".py")] |= rooms_imported(path)
    assert {room: found - {room} for room, found in arrows.items()} == ROOMS


@cache
def chain(room: str) -> tuple[str, ...]:
    """The longest chain of imports that begins at a room; a circle would recurse for ever."""
    return (room, *max(map(chain, sorted(ROOMS[room])), key=len, default=()))


def test_the_longest_chain_of_rooms_is_no_longer_than_it_has_to_be():
    longest = max(map(chain, ROOMS), key=len)
    assert longest == LONGEST_CHAIN


def test_a_worker_process_imports_neither_queue_nor_cache_nor_metrics_nor_http():
    code = "import sys, service.engine.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    unwanted = {
        "engine.queue",
        "engine.posterior_cache",
        "engine.engine",
        "ops.metrics",
        "http",
        "codec",
        "registry",
    }
    assert not imported & {f"service.{name}" for name in unwanted}
