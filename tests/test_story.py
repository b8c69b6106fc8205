"""The whole line in one test: a table is trained on, published, served, and asked."""

import json
import subprocess
import sys

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from model_store import SHIPPED, Store
from service.settings import Settings
from tests.service.conftest import serve
from training.__main__ import main

ROWS, TASKS = 12, 60


def saturation(draw):
    """A level, a rate: the kind of curve a machine, a patient or a classifier follows."""
    size = 2.0 ** np.arange(4, 4 + ROWS)
    level, drop, rate = draw.uniform(0.5, 1), draw.uniform(0.1, 0.4), draw.uniform(0.2, 0.8)
    return size, level - drop * np.exp(-rate * np.arange(ROWS)) + 0.005 * draw.normal(size=ROWS)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    draw = np.random.default_rng(0)
    rows = [
        (f"curve{task:02d}", *point) for task in range(TASKS) for point in zip(*saturation(draw), strict=True)
    ]
    names, sizes, values = zip(*rows, strict=True)
    path = tmp_path_factory.mktemp("data") / "curves.parquet"
    pyarrow.parquet.write_table(pa.table({"curve": names, "train_size": sizes, "accuracy": values}), path)
    return path


def test_train_publish_serve_ask(table, tmp_path):
    store = tmp_path / "store"
    arguments = (
        f"table {table} --task curve --x train_size:log2 --y accuracy --order train_size --shots 3:6 "
        f"--learner collapsed --pointwise --name curves --hidden 16 16 --particles 6 --meta-steps 400 "
        f"--meta-batch 8 --learning-rate 5e-3 --evaluate-every 100 --store {store} "
        f"--runs {tmp_path / 'runs'} --device cpu"
    )
    assert main(arguments.split()) == 0
    metrics = Store(store).load("curves").manifest.metrics
    assert metrics["rmse"] < 0.1
    assert 0.75 < metrics["coverage_90"] <= 1

    size, truth = saturation(np.random.default_rng(99))
    body = {
        "model": "curves",
        "support": {"x": size[:5, None].tolist(), "y": truth[:5].tolist()},
        "query": {"x": size[5:, None].tolist()},
    }
    for running in serve(Settings(store=store, device="cpu")):
        answer = running.client.post("/adapt-predict", json=body).json()
        error = np.array(answer["prediction"]["mean"]) - truth[5:]
        assert np.abs(error).max() < 0.2
        assert np.abs(error).max() < np.abs(truth[5:] - truth[:5].mean()).max()
        assert answer["diagnostics"]["support_nll"]["after"] < answer["diagnostics"]["support_nll"]["before"]
        asked = {"model": "curves", "support": body["support"], "pool": body["query"]}
        choice = running.client.post(
            "/uncertainty", json={**asked, "acquisition": "epistemic_variance"}
        ).json()
        variance = answer["prediction"]["variance"]["epistemic"]
        assert choice["selected"][0]["index"] == int(np.argmax(variance))


def test_every_shipped_version_is_whole_and_calibrated():
    store = Store(SHIPPED)
    curves = ["learning-curves", "learning-curves-by-classifier"]
    first = ["contraception", "grocery", *curves, "navigation", "omniglot", "pass-rates", "ring"]
    assert store.names() == [*first, "sinusoid", "sinusoid-bmaml"]
    for name in store.names():
        for version in store.versions(name):
            model = store.load(name, version)
            size = sum(file.stat().st_size for file in (SHIPPED / name / str(version)).iterdir())
            assert size < 3 << 20
            assert store.card(name, version).startswith(f"# {name}")
            if model.learner.name == "collapsed":
                assert 0.85 < model.manifest.metrics["coverage_90"] < 0.96
    assert store.load("omniglot").manifest.metrics["accuracy_5way_1shot"] > 0.985
    women, pass_rates = store.load("contraception").manifest, store.load("pass-rates").manifest
    assert women.metrics["nll_3rows"] < women.metrics["frequencies_nll_3rows"]
    assert women.target is not None
    assert women.target.labels == ("N", "Y")
    assert store.load("navigation").manifest.metrics["chosen_2"] > -3.5
    assert store.load("ring").manifest.metrics["chosen_3"] > 10
    (share,) = pass_rates.outputs
    assert share.target is not None
    assert (share.target.low, share.target.high) == (0, 100)
    assert store.load("sinusoid").learner.name == "collapsed"
    assert store.load("sinusoid-bmaml").learner.name == "bmaml"


def test_the_installed_command_serves_the_shipped_versions_and_stops_on_sigterm():
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env={
            "BMAML_PORT": "0",
            "BMAML_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(SHIPPED.parent.parent),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url, ready = "", False
        for line in process.stdout:
            message = json.loads(line)["message"]
            ready = ready or message.startswith("ready on")
            if "running on http" in message.lower():
                url = message.split()[3]
            if url and ready:
                break
        reply = httpx.post(
            f"{url}/adapt-predict",
            json={
                "model": "sinusoid",
                "support": {"x": [[0.5], [1.0]], "y": [0.5, 0.8]},
                "query": {"x": [[2.0]]},
            },
            timeout=60,
        )
        assert reply.status_code == 200
    finally:
        process.terminate()
        rest = process.communicate()[0]
    assert process.returncode == 0
    assert '"route": "/adapt-predict", "status": 200' in rest
