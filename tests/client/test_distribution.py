"""The client is a distribution of its own, of the same version as the service."""

import tomllib
from pathlib import Path

import pytest

import bmaml
import bmaml_client

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"


def test_client_and_service_have_one_version():
    assert bmaml_client.__version__ == bmaml.__version__


def test_the_client_needs_three_libraries_and_carries_the_licence():
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["httpx", "numpy", "safetensors"]
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    ("project", "package"),
    [(".", "bmaml"), (".", "model_store"), (".", "training"), (".", "service"), ("client", "bmaml_client")],
)
def test_every_package_says_that_it_is_typed(project, package):
    tool = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["tool"]
    assert "py.typed" in tool["setuptools"]["package-data"][package]
    assert (ROOT / project / package / "py.typed").exists()
