"""Which path answers is a setting and a state, never a guess; no cache, home or right to write is needed."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from bmaml.native.compiling import COMMON_X86
from service.compute import native_path
from service.compute.native_path import NativeUnavailable
from service.runtime import Runtime
from service.settings import Settings
from tests.published import publish

pytestmark = pytest.mark.timeout(1200)  # the first session compiles

ASK = """
import sys
from service.compute import native_path
native_path.begin("require")
print(native_path.state(), native_path._native.module.__name__)
import bmaml.native.example as example
print(sum(sum(each.stats.cache_hits.values()) for each in example.CALLED))
"""


COMPILED_FOR = """
from numba.core.registry import cpu_target
import bmaml.native.mixtures
print(*cpu_target.target_context.codegen().magic_tuple()[1:], sep=",")
"""


@pytest.fixture
def broken(monkeypatch):
    """A machine on which nothing can be compiled."""

    def fail(folder: Path) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(native_path, "_native", native_path._Native())
    monkeypatch.setattr(native_path, "_compiled", fail)


@pytest.mark.parametrize(("mode", "ready"), [("auto", True), ("require", False)])
def test_native_functions_wait_for_the_warm_up_unless_they_are_required(tmp_path, monkeypatch, mode, ready):
    """Their compiler would slow it down."""
    publish(tmp_path)
    runtime = Runtime(Settings(store=tmp_path, device="cpu", engine="thread", native=mode))
    begun: list[bool] = []
    monkeypatch.setattr(native_path, "begin", lambda mode: begun.append(runtime.why_not_ready is None))
    runtime.start()
    runtime.stop()
    assert begun == [ready]


def test_the_interpreter_switches_threads_often_while_the_compiler_runs(tmp_path, monkeypatch):
    seen: list[float] = []
    monkeypatch.setattr(native_path, "_native", native_path._Native())
    monkeypatch.setattr(native_path, "_compiled", lambda folder: seen.append(sys.getswitchinterval()))
    before = sys.getswitchinterval()
    native_path._prepare()
    assert seen == [pytest.approx(native_path.SWITCH_S)]
    assert sys.getswitchinterval() == before


def test_where_nothing_can_be_compiled_tensor_code_answers_and_the_log_says_so(broken, tmp_path, caplog):
    publish(tmp_path)
    with caplog.at_level(logging.INFO):
        runtime = Runtime(Settings(store=tmp_path, device="cpu", engine="thread", native="auto"))
        runtime.start()
        native_path._native.thread.join()
    try:
        assert runtime.why_not_ready is None
        assert native_path.state() == "failed"
        assert "tensor code answers while native functions are compiled" in caplog.text
        assert "native functions cannot be compiled; tensor code answers" in caplog.text
    finally:
        runtime.stop()


def test_a_service_that_requires_them_does_not_start_without_them(broken, tmp_path):
    publish(tmp_path)
    runtime = Runtime(Settings(store=tmp_path, device="cpu", engine="thread", native="require"))
    runtime.start()
    assert runtime.failed
    assert "BMAML_NATIVE is require" in runtime.why_not_ready
    with pytest.raises(NativeUnavailable, match="no compiler"):
        native_path.begin("require")
    runtime.stop()


def test_whichever_function_comes_first_all_are_compiled_for_one_processor():
    """Else code would not be found in the cache that another process has filled."""
    if "NUMBA_CPU_NAME" in os.environ or not binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2, or numba's settings name another")
    asked = subprocess.run([sys.executable, "-c", COMPILED_FOR], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == f"{COMMON_X86},"


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert native_path.cache_folder().parent == native_path.NOWHERE
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native_path.cache_folder().parent == tmp_path / ".cache" / "bmaml"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert native_path.cache_folder().parent == tmp_path / "xdg" / "bmaml"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert native_path.cache_folder().parent == tmp_path / "numba"


def test_a_read_only_cache_without_a_home_is_read(compiled, tmp_path):
    copy = tmp_path / "cache" / native_path.cache_folder().name
    shutil.copytree(native_path.cache_folder(), copy)
    for folder in [*copy.rglob("*/"), copy, copy.parent]:
        folder.chmod(0o555)
    environment = {key: value for key, value in os.environ.items() if key != "HOME"}
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**environment, "NUMBA_CACHE_DIR": str(copy.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    for folder in [copy.parent, copy, *copy.rglob("*/")]:
        folder.chmod(0o755)
    assert asked.stdout.split() == ["ready", "service.compute.native_regression", "4"]
