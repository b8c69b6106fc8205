"""The client is a distribution of its own: installed without the service, it works and is typed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bmaml
import bmaml_client
from service.settings import Settings
from tests.docs.blocks import blocks
from tests.published import publish
from tests.service.conftest import serve
from tests.test_structure import imported

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
EXTRAS = {
    "base_estimator.py": {"sklearn"},
    "estimators.py": {"sklearn"},
    "activeml.py": {"sklearn", "skactiveml"},
    "photographs.py": {"PIL"},
    "label_studio": {"fastapi", "PIL", "pydantic", "pydantic_settings", "starlette", "uvicorn"},
}
"""Files and folders that may import the libraries of an extra."""
LOCAL = {"__pycache__", "build", "versions"}
SCRIPT = '''\
"""A user's script."""

import numpy as np

from bmaml_client import ClassPrediction, Client, Refused

client = Client("http://127.0.0.1:8000", retries=0)
try:
    answer = client.adapt_predict("sinusoid", np.zeros((3, 1)), [0.1, 0.2, 0.3], query=[[1.0]])
    if not isinstance(answer, ClassPrediction):
        print(float(answer.mean[0]), answer.interval.level, answer.posterior)
    print(client.uncertainty("sinusoid", [], [], pool=[[0.0], [1.0]]).indices.tolist())
except Refused as error:
    print(error.status, [each.pointer for each in error.errors])
'''


def test_client_and_service_have_one_version():
    assert bmaml_client.__version__ == bmaml.__version__


def test_the_client_needs_three_libraries_and_carries_the_licence():
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["httpx", "numpy", "safetensors"]
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_tested_version_of_every_dependency_is_pinned_within_what_the_metadata_allow():
    pins = dict(re.findall(r"^([^#=]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    tested = {canonicalize_name(name): version for name, version in pins.items()}
    for folder in (ROOT, CLIENT):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for each in map(Requirement, project["dependencies"]):
            assert each.specifier.contains(tested[canonicalize_name(each.name)]), each


def test_every_module_imports_the_libraries_of_its_extra_alone():
    used: dict[str, set[str]] = {}
    for path in (CLIENT / "bmaml_client").rglob("*.py"):
        part = path.relative_to(CLIENT / "bmaml_client").parts[0]
        used.setdefault(part, set()).update(imported(path) - sys.stdlib_module_names - {"bmaml_client"})
    for part, libraries in used.items():
        assert libraries <= {"httpx", "numpy", "safetensors"} | EXTRAS.get(part, set()), part
    assert all(used[part] >= libraries for part, libraries in EXTRAS.items())


def wheel(project: Path, folder: Path, *parts: str) -> Path:
    """The wheel of a project, built from a copy of these parts of it."""
    source = folder / "source"
    for part in parts:
        copy = shutil.copytree if (project / part).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(project / part, source / part, **({"ignore": ignored} if copy is shutil.copytree else {}))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


def ignored(_folder: str, names: list[str]) -> set[str]:
    return {each for each in names if each in LOCAL or each.endswith(".egg-info")}


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel(
        CLIENT, tmp_path_factory.mktemp("client"), "pyproject.toml", "README.md", "LICENSE", "bmaml_client"
    )


@pytest.fixture(scope="module")
def python(client_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the client, its extra `sklearn`, what they require, and no more."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    zipfile.ZipFile(client_wheel).extractall(site)
    (metadata,) = site.glob("bmaml_client-*.dist-info/METADATA")
    needed = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)
    for name in required(needed, extras={"", "sklearn"}):
        for top in {path.parts[0] for path in distribution(name).files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(distribution(name).locate_file(top))
    return folder / "bin" / "python"


def required(needed: list[str], extras: set[str]) -> set[str]:
    """The distributions that these requirements lead to, as they are installed here."""
    found: set[str] = set()
    for each in map(Requirement, needed):
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
            name = canonicalize_name(each.name)
            found |= {name} | required(distribution(name).requires or [], {"", *each.extras})
    return found


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder, without `PYTHONPATH`."""
    environment = {each: os.environ[each] for each in ("PATH", "HOME") if each in os.environ}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def test_the_installed_client_brings_neither_torch_nor_the_service(python, tmp_path):
    absent = ["torch", "service", "bmaml", "model_store", "training", "fastapi", "pydantic"]
    lines = [
        "import bmaml_client, importlib.util",
        f"found = [each for each in {absent} if importlib.util.find_spec(each)]",
        "print(bmaml_client.__version__, found)",
        "from bmaml_client.in_process import CannotServe, InProcess",
        "try: InProcess()",
        "except CannotServe as error: print(error)",
    ]
    done = run([python, "-c", "\n".join(lines)], tmp_path)
    first, *more = done.stdout.splitlines()
    assert first == f"{bmaml.__version__} []", done.stderr
    assert "pip install 'bmaml-client[local]'" in more[0]


def test_the_readmes_python_runs_in_a_folder_that_has_a_service_package_of_its_own(python, tmp_path):
    publish(tmp_path / "store", "learning-curves")
    folder = tmp_path / "project"
    (folder / "service").mkdir(parents=True)
    (folder / "service" / "__init__.py").write_text("raise ImportError('the service of somebody else')")
    (text,) = (block.text for block in blocks(ROOT / "README.md") if block.kind == "python")
    for served in serve(Settings(store=tmp_path / "store", device="cpu")):
        (folder / "script.py").write_text(text.replace("http://127.0.0.1:8000", served.url))
        done = run([python, "script.py"], folder)
    assert done.stdout.count("[") == 4, done.stderr  # an array of three intervals


@pytest.mark.slow
def test_a_users_script_is_type_checked_against_the_installed_client(python, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    mypy += ["--cache-dir", tmp_path / "cache", "--python-executable", python, "script.py"]
    assert run(mypy, tmp_path).stdout == "Success: no issues found in 1 source file\n"
    (tmp_path / "script.py").write_text(SCRIPT.replace("answer.mean[0]", "answer.middle[0]"))
    assert '"Prediction" has no attribute "middle"' in run(mypy, tmp_path).stdout


@pytest.mark.slow
def test_every_package_says_in_its_wheel_that_it_is_typed(client_wheel, tmp_path):
    packages = "bmaml", "model_store", "training", "service"
    service_wheel = wheel(ROOT, tmp_path, "pyproject.toml", "README.md", "LICENSE", *packages)
    for built, expected in ((client_wheel, {"bmaml_client"}), (service_wheel, set(packages))):
        names = zipfile.ZipFile(built).namelist()
        assert {name.split("/")[0] for name in names if name.endswith("/py.typed")} == expected
        assert {name.split("/")[0] for name in names if ".dist-info" not in name} == expected
