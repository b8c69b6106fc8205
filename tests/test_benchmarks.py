"""The benchmarks are in working order; their figures are another matter."""

import importlib
import os
import subprocess
import sys

import httpx
import numpy as np
import pytest
import torch

from bmaml.task import Examples


def test_a_quick_look_trains_scores_and_prints_a_table(tmp_path):
    command = [sys.executable, "benchmarks/accuracy.py", "--quick", "--jobs", "1", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "llama", "GP, kernel"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in ("llama", "GP, kernel learned on the training tasks"):
        assert {f"| {shots} | {name}" for shots in (5, 10, 20)} <= set(map(_head, lines))
    assert "inner rate of llama on sine: 0.0001" in lines


def test_the_shipped_versions_are_scored_from_no_row_on():
    done = subprocess.run(
        [sys.executable, "benchmarks/shipped.py", "--held-out", "10"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = {
        f"| {shots} | `{name}`" for shots in (0, 1, 2, 5, 10, 20) for name in ("sinusoid", "sinusoid-bmaml")
    }
    assert expected == {_head(line) for line in done.stdout.splitlines() if line.count("`") == 2}


def _head(line):
    """The first cells of a row of a table."""
    return "|".join(line.split("|")[:3]).rstrip()


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["sinusoid", "learning-curves"])
@pytest.mark.parametrize("rows", [1, 5, 20])
async def test_the_loop_that_the_service_is_measured_against_gives_its_answers(name, rows, monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    servers = importlib.import_module("servers")
    model, rng = servers.models()[name], np.random.default_rng(rows)
    low, high = model.manifest.inputs[0].lower, model.manifest.inputs[0].upper
    x, query = rng.uniform(low, high, (rows, 1)), rng.uniform(low, high, (7, 1))
    y = rng.normal(model.manifest.outputs[0].mean, model.manifest.outputs[0].std, rows)
    body = {"model": name, "support": {"x": x.tolist(), "y": y.tolist()}, "query": {"x": query.tolist()}}
    transport = httpx.ASGITransport(servers.loop())
    async with httpx.AsyncClient(transport=transport, base_url="http://loop") as client:
        response = await client.post("/adapt-predict", json=body)
    support_x, support_y, query_x = servers.rows_of(model, body)
    with torch.no_grad():
        posterior = model.learner.adapt(model.learned, Examples.full(support_x[None], support_y[None]))
        expected = servers.said(model, model.predict(posterior, query_x[None]))
    assert response.json() == {key: pytest.approx(value, rel=1e-4) for key, value in expected.items()}


def _gpu_benchmark(*options):
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *options],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_there_are_no_figures_of_one():
    done = _gpu_benchmark()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "there is no GPU here\n")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_kernel_by_kernel_and_whole():
    done = _gpu_benchmark("--repeats", "3")
    assert done.returncode == 0, done.stderr
    for learner in ("bfa", "collapsed"):
        assert sum(line.startswith(f"| `{learner}` |") for line in done.stdout.splitlines()) == 7
