"""What the pages tell their readers to type works, in the order of the page, against a real service."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bmaml_client import Client
from model_store import SHIPPED
from service.settings import Settings
from tests.docs.blocks import REASONS, ROOT, Block, blocks, check_output
from tests.faults.conftest import free_port
from tests.service.conftest import PAUSE_S, serve

USUAL = "127.0.0.1:8000"
"""Where the pages say the service is; here it is on a free port."""
COMMANDS = {
    "bmaml-train": "training",
    "bmaml-store": "model_store",
    "bmaml-serve": "service",
    "bmaml-key": "service.keys",
}
ASKING = [
    "README.md",
    "docs/client.md",
    "docs/api.md",
    "docs/uncertainty.md",
    "docs/versioning.md",
    "docs/open-inference.md",
]
"""Pages whose commands ask a service with the shipped versions."""
SERVING = ["docs/security.md"]
"""Pages that start their own."""
TRAINING = ["docs/tutorial.md"]
"""Pages that train a version first."""


class Reader:
    """Types what a page says, in a folder of their own.

    Attributes:
        counts: blocks by what was done with them.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.counts: Counter[str] = Counter()
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._serving: subprocess.Popen[bytes] | None = None
        self._environment = {
            "PATH": f"{_installed(folder)}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "BMAML_PORT": address.rpartition(":")[2],
            "BMAML_DEVICE": "cpu",
        }

    def follow(self, page: Path) -> None:
        """Every block of the page, in order."""
        printed = ""
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            if block.note.startswith("output"):
                check_output(block, printed)
                self.counts["outputs"] += 1
            elif block.unrun:
                _check_unrun(block, where)
                self.counts[f"not run: {block.unrun}"] += 1
            elif block.runnable:
                assert block.note in ("", "runs until the end"), where
                printed = self._run(block, where)
                self.counts["run"] += 1

    def close(self) -> None:
        """Stop what still runs, and let go of what a reader's own process would with its end."""
        for value in self._names.values():
            if isinstance(value, Client):
                value.close()
        if self._serving is not None:
            os.killpg(self._serving.pid, signal.SIGTERM)
            assert self._serving.wait(60) in (0, -signal.SIGTERM)

    def _run(self, block: Block, where: str) -> str:
        text = block.text.replace(USUAL, self.address)
        if block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.chdir(self.folder):
                exec(compile(text, where, "exec"), self._names)
            return output.getvalue()
        command = ["bash", "-euo", "pipefail", "-c", text]
        if block.note:
            self._serving = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
            )
            self._wait_until_ready()
            return ""
        done = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}"
        return done.stdout

    def _wait_until_ready(self) -> None:
        assert self._serving is not None
        with httpx.Client(timeout=60) as client:
            while self._serving.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"http://{self.address}/readyz").status_code == 200:
                        return
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._serving.wait(PAUSE_S)
        raise AssertionError(f"the service ended with {self._serving.returncode}")


def _installed(folder: Path) -> Path:
    """A folder with the project's commands, as an installation would have made them of this very code."""
    bin = folder / ".bin"
    bin.mkdir()
    for name, module in COMMANDS.items():
        (bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore -m {module} "$@"\n')
        (bin / name).chmod(0o755)
    (bin / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin / "python").chmod(0o755)
    return bin


def _check_unrun(block: Block, where: str) -> None:
    assert block.unrun in REASONS, f"{where}: {block.unrun!r} is no reason"
    for command in block.commands():
        assert REASONS[block.unrun].search(command), f"{where}: {command!r} could be run"
        if command.startswith("make "):
            subprocess.run(
                ["make", "--dry-run", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True
            )


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    for served in serve(Settings(store=SHIPPED, device="cpu")):
        yield served.url.removeprefix("http://")


@pytest.fixture(scope="module")
def read() -> Counter[str]:
    """What was done on all pages."""
    return Counter()


@pytest.mark.parametrize("name", ASKING)
def test_every_block_of_a_page_that_asks_a_running_service_works(name, shipped, read, tmp_path, capsys):
    _follow(Reader(tmp_path, shipped), name, read, capsys)


@pytest.mark.parametrize(
    "name", [*SERVING, *(pytest.param(page, marks=pytest.mark.slow) for page in TRAINING)]
)
def test_every_block_of_a_page_that_trains_and_serves_works(name, read, tmp_path, capsys):
    _follow(Reader(tmp_path, f"127.0.0.1:{free_port()}"), name, read, capsys)


def _follow(reader: Reader, name: str, read: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the pages ask with curl: apt-get install curl")
    try:
        reader.follow(ROOT / name)
    finally:
        reader.close()
    read.update(reader.counts)
    told = ", ".join(f"{count} {what}" for what, count in sorted(reader.counts.items()))
    with capsys.disabled():
        print(f"\n{name}: {told}; of all pages so far {read['run']} run")
    assert reader.counts["run"] > 0


def test_other_pages_have_no_block_that_looks_run_and_is_not():
    for page in sorted((ROOT / "docs").glob("*.md")):
        if f"docs/{page.name}" not in ASKING + SERVING + TRAINING:
            for block in blocks(page):
                assert not block.runnable or block.unrun, f"{page.name}:{block.line}"
                if block.unrun:
                    _check_unrun(block, f"{page.name}:{block.line}")
