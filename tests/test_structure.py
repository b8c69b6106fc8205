"""The imports run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "bmaml": {"bmaml"},
    "model_store": {"bmaml", "model_store"},
    "training": {"bmaml", "model_store", "training"},
    "service": {"bmaml", "model_store", "service"},
}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: say where relative imports lead"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported(path) & set(ALLOWED)
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def test_fastapi_stays_in_the_service_and_files_and_clocks_out_of_the_method():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            if package != "service":
                assert not imported(path) & {"fastapi", "starlette", "uvicorn"}, path
            if package == "bmaml":
                assert not imported(path) & {"os", "pathlib", "time", "logging", "pydantic"}, path
