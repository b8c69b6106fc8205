"""Everything that a GPU changes, run once; one Markdown file out.

    make gpu-check                                        # on a CUDA machine with torch, into gpu-check.md
    python -m benchmarks.checks.gpu_check --device cpu    # a rehearsal

Packages are those in PYTHONPATH, and wheels in a folder (`--wheels`), which are unpacked without an index.
Every step runs in a process of its own and within its own time, all of them within eight minutes. Its end,
its time and the last of its output are written, whatever they are. The exit status is 1 unless every step
passed; only the served minute may be left out where its packages are absent.
"""

import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks import command_line
from benchmarks.processes import ROOT

TOTAL_S = 470
"""Seconds of all steps together, at most."""
MAX_LINES = 60
"""Lines of a step's output in the file, at most: the last ones."""
SERVED_S = 60
SERVICE = ("fastapi", "uvicorn", "httpx", "PIL")
"""Packages that a served minute needs, beside those of every step."""
Ending = Literal["passed", "rehearsed", "FAILED", "TIMED OUT", "NOT RUN"]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        command: what Python runs.
        limit_s: seconds, at most.
        needs: packages without which it cannot run.
        optional: whether it may be left out where these are absent.
        gpu_only: whether a rehearsal leaves it out.
        proof: text of the output without which an exit status of zero is no success.
        refuted: text of the output with which it is none; empty for none.
    """

    title: str
    command: tuple[str, ...]
    limit_s: float
    needs: tuple[str, ...] = ()
    optional: bool = False
    gpu_only: bool = False
    proof: str = ""
    refuted: str = ""


@dataclass(frozen=True)
class Outcome:
    """The end of a step."""

    step: Step
    ending: Ending
    seconds: float
    told: str

    @property
    def good(self) -> bool:
        """Whether the check as a whole may still pass."""
        return self.ending in ("passed", "rehearsed") or (
            self.ending == "NOT RUN" and (self.step.optional or self.step.gpu_only)
        )


def steps(device: str) -> tuple[Step, ...]:
    """The steps on a device, the surest and shortest first."""
    module, rehearsed = ("-m",), device == "cpu"
    return (
        Step(
            "Parity of the shipped models with the CPU",
            (*module, "benchmarks.checks.device_parity", "--device", device),
            90,
        ),
        Step(
            "Tests marked gpu",
            (*module, "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider", *files_marked_gpu()),
            120,
            needs=("pytest",),
            proof="skipped" if rehearsed else "passed",
            refuted="" if rehearsed else "skipped",
        ),
        Step(
            "A chaser meta-step",
            (*module, "benchmarks.speed.meta_step", "--device", device, "--repeats", "30", "--eager"),
            60,
        ),
        Step(
            "Tasks per second, with and without recordings",
            (*module, "benchmarks.speed.gpu", "--repeats", "10"),
            150,
            gpu_only=True,
        ),
        Step(
            "A served minute of mixed load",
            (*module, "benchmarks.checks.served_minute", "--device", device, "--seconds", str(SERVED_S)),
            SERVED_S + 90,
            needs=SERVICE,
            optional=True,
        ),
    )


def files_marked_gpu() -> list[str]:
    """The test files with a test that needs a GPU."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(each.relative_to(ROOT)) for each in files if "@pytest.mark.gpu" in each.read_text()]


def run(step: Step, left_s: float, path: str, rehearsal: bool) -> Outcome:
    """Run a step in the time that is left.

    Args:
        path: folders of packages, as in PYTHONPATH.
        rehearsal: whether there is no GPU, so that some steps have nothing to run on.
    """
    limit = min(step.limit_s, left_s)
    if rehearsal and step.gpu_only:
        return Outcome(step, "NOT RUN", 0, "It needs a GPU, and this is a rehearsal on the CPU.")
    if absent := [name for name in step.needs if not is_importable(name, path)]:
        return Outcome(step, "NOT RUN", 0, f"It needs {', '.join(absent)}, which cannot be imported here.")
    if limit <= 0:
        return Outcome(step, "TIMED OUT", 0, "The steps before it took all the time.")
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        told = output.read()
    seconds = time.monotonic() - start
    if status is None:
        return Outcome(step, "TIMED OUT", seconds, f"{told}\nIt was ended after {limit:.0f} s.")
    if status == 0 and step.proof not in told:
        return Outcome(step, "FAILED", seconds, f"{told}\nIts output does not say {step.proof!r}.")
    if status == 0 and step.refuted and step.refuted in told:
        return Outcome(step, "FAILED", seconds, f"{told}\nIts output says {step.refuted!r}.")
    success: Ending = "rehearsed" if rehearsal else "passed"
    return Outcome(step, success if status == 0 else "FAILED", seconds, f"{told}\nExit status {status}.")


def is_importable(name: str, path: str) -> bool:
    """Whether a package can be found, in this process's path or in the folders of `path`."""
    if importlib.util.find_spec(name) is not None:
        return True
    return any(Path(folder, name).is_dir() for folder in path.split(os.pathsep))


def unpacked(wheels: Path, folder: Path) -> str:
    """Install the wheels of a folder into another one, without an index; the folder.

    Raises:
        SystemExit: pip cannot install them.
    """
    files = [str(each) for each in sorted(wheels.glob("*.whl"))]
    if not files:
        raise SystemExit(f"{wheels} has no wheels")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    if subprocess.run([*command, str(folder), *files], check=False).returncode:
        raise SystemExit(f"the wheels of {wheels} cannot be installed: see above")
    return str(folder)


def page(outcomes: Sequence[Outcome], device: str, machine: str) -> Iterator[str]:
    """The lines of the Markdown file."""
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else "the CPU: a rehearsal, which says nothing of a GPU"
    )
    yield "# GPU check\n"
    yield f"Run on {name}; {machine}, Python {platform.python_version()}, torch {torch.__version__}."
    yield "\n| step | end | seconds |\n|---|---|---|"
    for each in outcomes:
        yield f"| {each.step.title} | {each.ending} | {each.seconds:.0f} |"
    for each in outcomes:
        yield f"\n## {each.step.title}: {each.ending}\n"
        lines = each.told.strip().splitlines()
        if len(lines) > MAX_LINES:
            yield f"The first {len(lines) - MAX_LINES} lines of output are left out.\n"
        if each.step.command:
            yield f"    python {' '.join(each.step.command)}\n"
        shown = lines[-MAX_LINES:]
        table = each.ending in ("passed", "rehearsed") and any(line.startswith("|") for line in shown)
        yield "\n".join(shown if table else ["```text", *shown, "```"])


def main() -> int:
    """Run all steps and write the file; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a rehearsal")
    arguments.add_argument("--output", type=Path, default=Path("gpu-check.md"), help="the file to write")
    arguments.add_argument("--wheels", type=Path, help="a folder of wheels to unpack first")
    arguments.add_argument("--machine", default=platform.machine(), help="the machine's name in the file")
    options = arguments.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here; --device cpu rehearses the check", file=sys.stderr)
        return 2
    outcomes: list[Outcome] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = [str(ROOT), str(ROOT / "client")]
        path += [unpacked(options.wheels, Path(folder))] if options.wheels else []
        path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        for step in steps(options.device):
            left = TOTAL_S - (time.monotonic() - start)
            outcomes.append(run(step, left, os.pathsep.join(path), options.device == "cpu"))
            print(f"{step.title}: {outcomes[-1].ending}, {outcomes[-1].seconds:.0f} s", flush=True)
            options.output.write_text("\n".join(page(outcomes, options.device, options.machine)) + "\n")
    print(f"written to {options.output}")
    return 0 if all(each.good for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
