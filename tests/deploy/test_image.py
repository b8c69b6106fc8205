"""The image: what it installs by default, the extras that its build takes, and their pins."""

import re
import subprocess
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([^#=]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def installed(extras: str) -> str:
    """What the build installs of the service, as its shell reads it."""
    (word,) = re.findall(r'pip install --constraint constraints\.txt ("\S+")', DOCKERFILE)
    done = subprocess.run(
        ["sh", "-c", f"echo {word}"], env={"EXTRAS": extras}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_default_image_serves_trains_and_traces_and_a_build_argument_adds_extras():
    assert re.search(r'^ARG EXTRAS=""$', DOCKERFILE, re.MULTILINE)
    assert installed("") == ".[train,tracing]"
    assert installed("s3,heic") == ".[train,tracing,s3,heic]"


def test_pins_allow_the_extra_of_stores_in_s3():
    """Every requirement of the extra, and of what it requires, is pinned to a version that it takes."""
    pytest.importorskip("s3fs")
    waiting, seen = [Requirement(each) for each in EXTRAS["s3"]], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        assert name in PINS, f"{wanted} has no pin in constraints.txt"
        assert wanted.specifier.contains(PINS[name]), f"{wanted} is pinned to {PINS[name]}"
        if name not in seen:
            seen.add(name)
            waiting += [Requirement(each) for each in metadata.requires(name) or []]
