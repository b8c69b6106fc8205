"""A task unlike those of training is told, in numbers and in a sentence; one like them is not."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch

from bmaml.learners.surprise import START_SHARES, Surprise
from bmaml.task import Examples
from bmaml_client import Client
from bmaml_client.in_process import InProcess
from service.settings import Settings
from tests.published import own_rows, publish
from tests.service.conftest import serve
from tests.service.ops.test_observability import values

QUERY = {"x": [[-3.0], [0.0], [2.0]]}
ROWS = 15
UNLIKE = {
    "wide": ("its labels differ more than theirs; are their units right?", {"size": 10.0, "seed": 1}),
    "noisy": ("its rows are noisier than theirs; ", {"noise": 5.0, "seed": 2}),
    "broad": ("no particle explains its rows, ", {}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("surprise")
    publish(root, "surprised", surprise=Surprise(), scales=(0.5, 1.0, 2.0))
    publish(root, "patient", surprise=Surprise(), scales=(0.5, 1.0, 2.0), surprise_threshold=0.5)
    publish(root, "plain")
    return root


@pytest.fixture(scope="module")
def served(store):
    yield from serve(Settings(store=store, device="cpu"))


@pytest.fixture
def model(served):
    return served.app.state.runtime.catalogue.model("surprised")


def rows_of(model, group):
    """A support set that this group of hypotheses explains best."""
    support = own_rows(model, ROWS, **UNLIKE[group][1])
    if group == "broad":
        support["y"] = [10 + 6 * np.sin(3 * x) for (x,) in support["x"]]
    return support


def diagnostics(client, support, path="/adapt-predict", **body):
    whole = {"model": "surprised", "support": support, "query": QUERY, **body}
    reply = client.post(path, json={name: value for name, value in whole.items() if value is not None})
    assert reply.status_code == 200, reply.text
    return reply.json()["diagnostics"]


def unlike(diagnosed):
    return [warning for warning in diagnosed["warnings"] if warning.startswith("this task looks unlike")]


def test_a_task_like_those_of_training_is_not_warned_of(client, model):
    for seed in range(20):
        for rows in (1, 5, ROWS):
            found = diagnostics(client, own_rows(model, rows, seed))
            assert unlike(found) == []
            assert sum(found["surprise"].values()) < 0.1


@pytest.mark.parametrize("group", UNLIKE)
def test_a_task_unlike_them_is_warned_of_by_its_heaviest_group(client, model, group):
    found = diagnostics(client, rows_of(model, group))
    assert max(found["surprise"], key=found["surprise"].get) == group
    (warning,) = unlike(found)
    percent = f"{100 * sum(found['surprise'].values()):.0f}"
    begin = f"this task looks unlike those of training ({percent} % of the weight): {UNLIKE[group][0]}"
    assert warning.startswith(begin)


def test_a_version_s_own_threshold_decides_what_is_warned_of_and_nothing_else(client, model):
    support = own_rows(model, 8, noise=5.0, seed=2)
    found, patient = diagnostics(client, support), diagnostics(client, support, model="patient")
    assert 0.1 < sum(found["surprise"].values()) < 0.5
    assert unlike(found)
    assert unlike(patient) == []
    assert patient["surprise"] == found["surprise"]


def test_the_weights_are_those_of_the_learner_s_posterior(client, model):
    support = rows_of(model, "noisy")
    x, y = np.array(support["x"]), np.array(support["y"])[:, None]
    rows = torch.from_numpy(model.standardised_inputs(x)), torch.from_numpy(model.standardised_targets(y))
    posterior = model.learner.adapt(model.learned, Examples.padded([rows]))
    found = diagnostics(client, support)["surprise"]
    assert list(found.values()) == pytest.approx(posterior.group_weights[0, 1:].tolist(), rel=1e-4)


def test_without_rows_the_weights_are_the_prior_s_and_nothing_is_warned_of(client):
    found = diagnostics(client, {"x": [], "y": []})
    assert list(found["surprise"].values()) == pytest.approx(START_SHARES[1:], rel=1e-5)
    assert unlike(found) == []


def test_a_version_without_such_hypotheses_says_null(client, model):
    found = diagnostics(client, rows_of(model, "broad"), model="plain")
    assert found["surprise"] is None
    assert unlike(found) == []


def test_a_kept_posterior_and_a_choice_tell_the_same(client, model):
    support = rows_of(model, "noisy")
    fresh = diagnostics(client, support)
    reply = client.post("/posteriors", json={"model": "surprised", "support": support}).json()
    again = diagnostics(client, None, posterior=reply["posterior"]["id"])
    chosen = diagnostics(client, support, "/uncertainty", query=None, pool=QUERY)
    for other in (reply["diagnostics"], again, chosen):
        assert other["surprise"] == pytest.approx(fresh["surprise"], rel=1e-4)
        assert other["warnings"] == fresh["warnings"]


def test_neighbours_in_the_batch_do_not_matter(client, model):
    supports = [rows_of(model, group) for group in UNLIKE] + [own_rows(model, rows) for rows in (1, 30)]
    alone = [diagnostics(client, support) for support in supports]
    with ThreadPoolExecutor(len(supports)) as pool:
        together = list(pool.map(lambda support: diagnostics(client, support), supports))
    for one, other in zip(together, alone, strict=True):
        assert one["surprise"] == pytest.approx(other["surprise"], rel=1e-4, abs=1e-9)
        assert one["warnings"] == other["warnings"]


def test_the_client_tells_it_over_http_and_in_process(served, store, model):
    support = rows_of(model, "broad")

    def diagnosed(client, name):
        return client.adapt_predict(name, support["x"], support["y"], QUERY["x"]).diagnostics

    transport = InProcess(store)
    with Client(served.url) as one, Client("http://in-process", transport=transport) as other:
        over_http, in_process = diagnosed(one, "surprised"), diagnosed(other, "surprised")
        assert diagnosed(one, "plain").surprise is diagnosed(other, "plain").surprise is None
    transport.stop()
    assert vars(in_process.surprise) == pytest.approx(vars(over_http.surprise), rel=1e-4)
    assert in_process.warnings == over_http.warnings


def test_warned_tasks_are_counted_by_model_and_group(client: httpx.Client, model):
    def count(group):
        name = f'bmaml_surprises_total{{group="{group}",model="surprised"}}'
        return values(client).get(name, 0)

    before = {group: count(group) for group in UNLIKE}
    diagnostics(client, rows_of(model, "wide"))
    diagnostics(client, own_rows(model, 5))
    after = {group: count(group) for group in UNLIKE}
    assert after == before | {"wide": before["wide"] + 1}
