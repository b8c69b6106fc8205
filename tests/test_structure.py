"""The imports run one way."""

import ast
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
