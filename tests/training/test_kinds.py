"""Tables of counts and proportions, from training to an answer; `auto` takes the kind that predicts best."""

import json

import httpx
import numpy as np
import pytest
import torch

from model_store import Store
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import listening
from training.__main__ import main
from training.kind_choice import best_kind

TASKS, ROWS = 40, 12
SETTINGS = {
    "learner": "collapsed",
    "particles": 3,
    "hidden": 8,
    "meta-steps": 120,
    "meta-batch": 8,
    "evaluate-every": 40,
    "shots": "0:6",
    "device": "cpu",
}


def write(path, columns):
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture
def table(tmp_path):
    """Counts, shares of twenty and positive numbers of forty tasks, each with a level of its own."""
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(TASKS), ROWS)
    level, x = rng.normal(size=TASKS)[task], rng.uniform(-1, 1, TASKS * ROWS)
    z = 0.8 * level + x
    columns = {
        "task": task,
        "x": x,
        "units": rng.poisson(np.exp(1 + z)),
        "share": rng.binomial(20, 1 / (1 + np.exp(-1 - 2 * z))) / 20,
        "flow": np.exp(3 * z + 0.3 * rng.normal(size=len(z))),
        "level": z + 0.3 * rng.normal(size=len(z)),
    }
    path = tmp_path / "rows.csv"
    write(path, columns)
    return path


def train(tmp_path, table, *options, **changes):
    settings = SETTINGS | {"store": tmp_path / "store", "runs": tmp_path / "runs", "name": "m"} | changes
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    columns = ["--task", "task", "--x", "x"]
    assert main(["table", str(table), *columns, *flags, "--no-surprise", "--no-pooled", *options]) == 0
    return Store(tmp_path / "store")


def test_counts_and_shares_are_answered_in_their_domain_from_training_to_the_service(tmp_path, table, capsys):
    store = train(tmp_path, table, "--y", "units:count", "share:logit")
    told = capsys.readouterr().err
    assert "'units' holds whole numbers from 0 up, on a log1p scale" in told
    assert "'share' holds numbers from 0 to 1, on a logit scale, in steps of 0.05" in told
    metrics, card = store.load("m").manifest.metrics, store.card("m")
    for name in ("units", "share"):
        assert 0.8 < metrics[f"{name}.coverage_90"] <= 1
        assert f"| {name}.nll |" in card
    assert "nll" not in metrics
    assert "minus the log probability of the label's cell" in card
    command = [str(table), "--store", str(tmp_path / "store")]
    assert main(["evaluate", "m", *command]) == 0
    scored = dict(line.split() for line in capsys.readouterr().out.splitlines() if ".nll" in line)
    assert {name: float(value) for name, value in scored.items()} == pytest.approx(
        {name: metrics[name] for name in ("units.nll", "share.nll")}, rel=1e-4
    )
    assert main(["plot", "m", *command]) == 0
    for served in listening(create_app(Settings(store=tmp_path / "store", device="cpu"))):
        support = {"x": [[0.5], [-0.5]], "y": [[9, 1.0], [0, 0.35]]}
        for shown in (2, 0):
            own = {key: values[:shown] for key, values in support.items()}
            query = {"x": [[x] for x in (-1.0, 0.0, 1.0)]}
            body = {"model": "m", "support": own, "query": query, "quantiles": [0.01, 0.99]}
            prediction = asked(served.client, body)
            for end in (prediction["interval"]["lower"], prediction["interval"]["upper"]):
                units, share = np.array(end).T
                assert (units >= 0).all()
                assert np.array_equal(units, np.round(units))
                assert ((share >= 0) & (share <= 1)).all()
            assert (np.array(prediction["mean"]) >= 0).all()
        scored = {"x": [[0.0]] * 500, "y": [[count, 0.05 * (count % 21)] for count in range(500)]}
        logs = np.array(asked(served.client, body | {"query": scored, "log_density": True})["log_density"])
        assert np.exp(logs[:, 0]).sum() == pytest.approx(1, abs=1e-3)
        assert 0.05 * np.exp(logs[:21, 1]).sum() == pytest.approx(1, abs=1e-6)


def asked(client: httpx.Client, body):
    reply = client.post("/adapt-predict", content=json.dumps(body))
    assert reply.status_code == 200, reply.text
    return reply.json()["prediction"]


@pytest.mark.parametrize(("column", "kind"), [("flow", "log"), ("level", "real")])
def test_auto_takes_what_predicts_the_validation_tasks_best(tmp_path, table, column, kind, capsys):
    store = train(tmp_path, table, "--y", f"{column}:auto", **{"meta-steps": 400})
    assert f"{column}:auto is {kind}" in capsys.readouterr().err
    manifest = store.load("m").manifest
    assert manifest.training["family"]["kinds"] == [kind]
    assert f"{column}:auto is {kind}" in store.card("m")


def test_the_plain_kind_stays_where_another_is_better_by_chance():
    plain = torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64)
    noise = torch.tensor([0.5, -0.6, 0.4, -0.5], dtype=torch.float64)
    assert best_kind({"real": plain, "log": plain + noise}) == "real"
    assert best_kind({"real": plain, "log": plain - 0.5 - 0.1 * noise}) == "log"
    assert best_kind({"real": plain, "log": plain - 0.5, "logit": plain - 0.6}) == "logit"
    assert best_kind({"real": plain[:1], "log": plain[:1] - 9}) == "real"
