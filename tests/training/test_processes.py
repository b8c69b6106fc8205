"""Several processes train one model: two on the halves of every meta-batch equal one on the whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model_store import Store
from tests.closed_form import full_batch
from tests.faults.conftest import free_port
from training.config import InvalidConfig
from training.processes import Processes

FEW_STEPS = ["--meta-steps", "6"]


def training_arguments(tmp_path, name, *more):
    training = ["-m", "training", "sinusoid", "--name", name, "--learner", "bmaml", "--particles", "3"]
    training += ["--hidden", "6", "--meta-batch", "4", "--evaluate-every", "2", "--shots", "4"]
    training += ["--device", "cpu", "--patience", "0", "--store", str(tmp_path / "store")]
    return [*training, "--runs", str(tmp_path / name), *more]


def command(tmp_path, name, processes, *more):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    training = training_arguments(tmp_path, name, *more)
    return [sys.executable, *(launcher if processes > 1 else []), *training]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"}


def run(*arguments):
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=120)


def weights(tmp_path, name):
    return Store(tmp_path / "store").load(name).learned["initial"]


def test_two_processes_on_two_halves_equal_one_on_the_whole(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        done = run(tmp_path, name, processes, *FEW_STEPS)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("published") == 1
    torch.testing.assert_close(weights(tmp_path, "two"), weights(tmp_path, "one"))


@pytest.mark.slow
def test_two_nodes_of_one_process_equal_one_node_of_two(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--rdzv-id", "nodes", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    arguments = [sys.executable, *launcher, *training_arguments(tmp_path, "nodes", *FEW_STEPS)]
    nodes = [
        subprocess.Popen(
            arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        printed = [node.communicate(timeout=120) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    for node, (_, errors) in zip(nodes, printed, strict=True):
        assert node.returncode == 0, errors
    assert sum(output.count("published") for output, _ in printed) == 1

    one_node = run(tmp_path, "processes", 2, *FEW_STEPS)
    assert one_node.returncode == 0, one_node.stderr
    assert torch.equal(weights(tmp_path, "nodes"), weights(tmp_path, "processes"))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_with_a_reason_and_the_run_resumes(tmp_path):
    steps = ["--meta-steps", "400"]
    arguments = command(tmp_path, "whole", 2, *steps)
    running = subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    while not running.stdout.readline().startswith("step "):
        assert running.poll() is None, running.stderr.read()
    ranks = {}
    for pid in children(running.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks |= {int(each[5:]): pid for each in variables if each.startswith(b"RANK=")}
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "bmaml-train: a process of this run was lost" in errors
    assert "--resume" in errors
    assert not (tmp_path / "store" / "whole").exists()

    resumed = run(tmp_path, "whole", 2, *steps, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert not resumed.stdout.startswith("step 2 ")
    assert run(tmp_path, "unbroken", 2, *steps).returncode == 0
    assert torch.equal(weights(tmp_path, "whole"), weights(tmp_path, "unbroken"))


def test_every_task_of_a_meta_batch_belongs_to_one_process():
    batch = full_batch(tasks=6)
    parts = [Processes(rank, 3).share(batch) for rank in range(3)]
    together = torch.stack([part.query.y for part in parts], 1).flatten(0, 1)
    assert torch.equal(together, batch.query.y)


def test_a_meta_batch_that_cannot_be_dealt_out_evenly_is_refused():
    with pytest.raises(InvalidConfig, match="3 tasks cannot be dealt out evenly to 2"):
        Processes(0, 2).share(full_batch(tasks=3))
