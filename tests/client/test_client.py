"""The contract as a caller in Python sees it, against a real server."""

import asyncio
import base64
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from bmaml_client import (
    AsyncClient,
    ClassPrediction,
    Client,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Prediction,
    Refused,
    UnknownModel,
    Unreachable,
)
from bmaml_client.in_process import URL, CannotServe, InProcess, shared, stop_shared
from tests.images import png, random_images

X, Y = [[-2.0], [0.5], [3.0]], [8.0, 11.5, 9.0]
QUERY = [[0.0], [1.0], [2.0]]


def raw(small, path, **body):
    reply = small.client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_prediction_of_numbers_is_what_the_service_said(client, small):
    answer = client.adapt_predict("tiny", X, Y, QUERY, quantiles=[0.1, 0.9], interval=0.8, particles=True)
    assert isinstance(answer, Prediction)
    said = raw(
        small,
        "/adapt-predict",
        model="tiny",
        support={"x": X, "y": Y},
        query={"x": QUERY},
        quantiles=[0.1, 0.9],
        interval=0.8,
        particles=True,
    )
    told = said["prediction"]
    np.testing.assert_allclose(answer.mean, told["mean"], rtol=1e-5)
    np.testing.assert_allclose(answer.variance.epistemic, told["variance"]["epistemic"], rtol=1e-4)
    np.testing.assert_allclose(answer.interval.upper, told["interval"]["upper"], rtol=1e-5)
    assert (answer.interval.level, answer.quantiles.levels) == (0.8, (0.1, 0.9))
    assert answer.quantiles.values.shape == (2, 3)
    assert answer.particles.mean.shape == (4, 3)
    assert answer.model.version == said["model"]["version"] == 2
    assert answer.diagnostics.support_nll.after == pytest.approx(said["diagnostics"]["support_nll"]["after"])
    assert answer.timing_ms.total > 0
    assert answer.posterior is None
    with pytest.raises(FrozenInstanceError):
        answer.mean = None


@pytest.mark.parametrize("binary", [False, True])
def test_targets_are_scored_by_the_very_answer(small, binary):
    targets = [9.0, 12.0, 1e25]
    with Client(small.url, binary=binary) as client:
        answer = client.adapt_predict("tiny", X, Y, QUERY, query_y=targets)
        assert client.adapt_predict("tiny", X, Y, QUERY).log_density is None
        kept = client.keep("tiny", X, Y)
        client.forget(kept)  # its rows are sent again, and the targets with them
        again = client.adapt_predict("tiny", query=QUERY, query_y=np.array(targets)[:, None], posterior=kept)
    said = raw(
        small,
        "/adapt-predict",
        model="tiny",
        support={"x": X, "y": Y},
        query={"x": QUERY, "y": targets},
        log_density=True,
    )["prediction"]["log_density"]
    assert np.isfinite(said).all()
    np.testing.assert_array_equal(answer.log_density, said)
    np.testing.assert_allclose(again.log_density, said, rtol=1e-4)


def test_the_asynchronous_client_scores_targets_too(small):
    async def ask():
        async with AsyncClient(small.url) as client:
            return await client.adapt_predict("tiny", X, Y, QUERY, query_y=[9.0, 12.0, 8.0])

    with Client(small.url) as client:
        expected = client.adapt_predict("tiny", X, Y, QUERY, query_y=[9.0, 12.0, 8.0])
    np.testing.assert_array_equal(asyncio.run(ask()).log_density, expected.log_density)


def test_targets_of_another_number_than_the_rows_are_not_sent(client):
    with pytest.raises(InvalidInput, match="2 targets in query_y for 3 rows of query"):
        client.adapt_predict("tiny", X, Y, QUERY, query_y=[9.0, 12.0])


def test_classes_are_scored_by_the_log_of_their_probability(client):
    images = random_images(2)
    answer = client.adapt_predict("shapes", images[:, 0], ["a", "b"], images[:, 1], query_y=["b", "b"])
    assert isinstance(answer, ClassPrediction)
    np.testing.assert_allclose(answer.log_density, np.log(answer.probabilities[:, 1]), atol=1e-5)
    with pytest.raises(InvalidRequest, match="does not have"):
        client.adapt_predict("shapes", images[:, 0], ["a", "b"], images[:, 1], query_y=["b", "c"])


def test_levels_of_quantiles_may_be_an_array(client):
    answer = client.adapt_predict("tiny", X, Y, QUERY, quantiles=np.array([0.1, 0.9]))
    assert answer.quantiles.levels == (0.1, 0.9)
    assert client.adapt_predict("tiny", X, Y, QUERY, quantiles=np.array([])).quantiles.levels == ()


def test_several_outputs_give_a_row_of_outputs_for_each_row(client):
    answer = client.adapt_predict(
        "wide", [[0.0, 64.0], [1.0, 128.0]], [[9.0, -1.0], [11.0, -0.5]], [[2.0, 32.0]]
    )
    assert answer.mean.shape == answer.variance.total.shape == (1, 2)


@pytest.mark.parametrize("labels", [["cat", "dog"], [7, 3]])
def test_classes_come_back_as_they_were_sent_and_images_go_as_arrays_or_files(client, labels):
    images = random_images(2, 3)
    shown, asked = images[:, 0], images[:, 1:].reshape(4, 16, 16)
    answer = client.adapt_predict("shapes", shown, np.array(labels), asked, particles=True)
    assert isinstance(answer, ClassPrediction)
    assert answer.classes == tuple(sorted(labels))
    assert set(answer.label) <= set(labels)
    np.testing.assert_allclose(answer.probabilities.sum(1), 1, rtol=1e-5)
    total = answer.entropy.expected + answer.entropy.mutual_information
    np.testing.assert_allclose(answer.entropy.total, total, rtol=1e-4, atol=1e-6)
    files = [base64.b64decode(png(each)) for each in images[:, 0]]
    again = client.adapt_predict("shapes", files, labels, asked)
    np.testing.assert_allclose(again.probabilities, answer.probabilities, rtol=1e-4, atol=1e-6)
    scaled = client.adapt_predict("shapes", shown / 255.0, labels, asked / 255.0)
    np.testing.assert_allclose(scaled.probabilities, answer.probabilities, rtol=1e-4, atol=1e-6)


def test_colour_images_have_a_last_axis_of_three(client):
    images = random_images(2, 2, channels=3)
    answer = client.adapt_predict("colours", images[:, 0], ["a", "b"], images[:, 1])
    assert answer.probabilities.shape == (2, 2)


def test_a_choice_names_rows_by_the_callers_ids(client, small):
    pool = np.linspace(-5, 5, 7)[:, None]
    ids = [f"row-{index}" for index in range(7)]
    answer = client.uncertainty(
        "tiny", X, Y, pool, ids=ids, target=[[0.0]], size=3, exclude=["row-3"], acquisition="epig"
    )
    assert len(answer.indices) == 3
    assert answer.ids == tuple(ids[index] for index in answer.indices)
    assert 3 not in answer.indices
    assert answer.scores.shape == (7,)
    assert (answer.acquisition, answer.units, answer.targets) == ("epig", "nats", 1)
    assert answer.selected[0].total == pytest.approx(
        answer.selected[0].aleatoric + answer.selected[0].epistemic, rel=1e-5
    )


def test_an_empty_support_set_answers_from_the_prior(client):
    answer = client.adapt_predict("tiny", [], [], QUERY)
    assert answer.diagnostics.support_nll is None
    assert "prior" in answer.diagnostics.warnings[0]


def test_what_is_there_can_be_looked_up(client):
    listed = client.models()
    assert {each.name for each in listed.models} == {"tiny", "wide", "sized", "shapes", "colours"}
    assert listed.refused == ()
    assert client.model("wide").inputs == ("x", "size")
    card = client.version("wide", 1)
    assert [column.transform for column in card.inputs] == ["none", "log2"]
    assert client.version("shapes", 1).image.size == 16
    assert client.limits().query_rows == 6000
    assert client.ready()


@pytest.mark.parametrize("rows", [3, 5000])
def test_json_safetensors_and_in_process_agree(client, small, small_store, rows):
    query = np.linspace(-4, 4, rows)[:, None]
    asked = ("tiny", X, Y, query)
    answers = [client.adapt_predict(*asked, quantiles=[0.3])]
    with Client(small.url, binary=True) as binary, Client(small.url, binary=False) as plain:
        answers += [
            binary.adapt_predict(*asked, quantiles=[0.3]),
            plain.adapt_predict(*asked, quantiles=[0.3]),
        ]
    with Client(URL, transport=shared(small_store)) as here:
        answers.append(here.adapt_predict(*asked, quantiles=[0.3]))
    for other in answers[1:]:
        for found, expected in (
            (other.mean, answers[0].mean),
            (other.variance.epistemic, answers[0].variance.epistemic),
            (other.quantiles.values, answers[0].quantiles.values),
            (other.interval.lower, answers[0].interval.lower),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert other.model == answers[0].model


def test_both_clients_have_the_same_methods_and_signatures():
    names = {name for name in dir(Client) if not name.startswith("_")} - {"run", "close"}
    assert {"adapt_predict", "uncertainty", "keep", "posterior", "forget"} <= names
    assert names == {name for name in dir(AsyncClient) if not name.startswith("_")} - {
        "run",
        "requester",
        "close",
    }
    for name in names:
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(one) == inspect.signature(other)
        assert one.__doc__


def test_the_asynchronous_client_answers_many_at_once(small):
    async def ask():
        async with AsyncClient(small.url) as client:
            kept = await client.keep("tiny", X, Y)
            some = [client.adapt_predict("tiny", query=[[x]], posterior=kept) for x in (0.0, 1.0, 2.0)]
            answers = await asyncio.gather(*some)
            with pytest.raises(UnknownModel):
                await client.model("none")
            return [answer.mean[0] for answer in answers], await client.ready()

    means, ready = asyncio.run(ask())
    assert ready
    with Client(small.url) as client:
        np.testing.assert_allclose(means, client.adapt_predict("tiny", X, Y, QUERY).mean, rtol=1e-4)


def test_threads_share_a_client(client):
    expected = client.adapt_predict("tiny", X, Y, QUERY).mean

    def ask(row):
        return client.adapt_predict("tiny", X, Y, [row]).mean[0]

    with ThreadPoolExecutor(8) as pool:
        means = list(pool.map(ask, QUERY * 8))
    np.testing.assert_allclose(means, np.tile(expected, 8), rtol=1e-4)


def test_a_request_keeps_the_callers_id(client):
    assert client.adapt_predict("tiny", X, Y, QUERY, request_id="mine-1").request_id == "mine-1"
    with pytest.raises(UnknownModel) as caught:
        client.model("none", request_id="mine-2")
    assert caught.value.request_id == "mine-2"


def test_a_refusal_says_what_is_wrong_where(client):
    with pytest.raises(InvalidRequest) as caught:
        client.adapt_predict("tiny", [[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0], QUERY)
    error = caught.value
    assert (error.status, error.slug) == (422, "invalid-request")
    assert [each.pointer for each in error.errors] == ["/support/x/0", "/support/x/1"]
    assert "/support/x/0: 2 numbers where the model takes 1" in str(error)
    assert isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errors) == (str(error), error.errors)


def test_an_unknown_model_is_a_lookup_error_that_lists_the_known_ones(client):
    with pytest.raises(UnknownModel, match="tiny") as caught:
        client.adapt_predict("tin", X, Y, QUERY)
    assert isinstance(caught.value, NotFound)
    assert isinstance(caught.value, LookupError)


def test_where_nothing_listens_the_error_names_the_address():
    with Client("http://127.0.0.1:9", retries=0) as client:
        with pytest.raises(Unreachable, match=r"nothing answers at http://127\.0\.0\.1:9"):
            client.limits()
        assert not client.ready()


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of the environment, which names no proxy otherwise."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_connection_refused_by_a_proxy_names_the_proxy_and_the_variable(environment, variable):
    environment(variable, "http://user:secret@127.0.0.1:9")
    with Client("http://service.example:8000", retries=0) as client, pytest.raises(Unreachable) as caught:
        client.limits()
    told = str(caught.value)
    assert "http://service.example:8000 cannot be reached through the proxy http://127.0.0.1:9" in told
    assert f"which {variable} names" in told
    assert "NO_PROXY=service.example" in told
    assert "secret" not in told


class BadGateway(BaseHTTPRequestHandler):
    """Answers as a proxy that cannot reach the service."""

    def do_GET(self):
        self.send_error(502, "Bad Gateway")

    def log_message(self, *_):
        """Write nothing."""


def test_a_proxy_that_answers_in_the_services_place_is_named(environment):
    with HTTPServer(("127.0.0.1", 0), BadGateway) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            environment("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
            with Client("http://service.example:8000", retries=0) as client, pytest.raises(Refused) as caught:
                client.limits()
        finally:
            proxy.shutdown()
            thread.join()
    assert caught.value.status == 502
    assert f"without an explanation, through the proxy http://127.0.0.1:{proxy.server_port}" in str(
        caught.value
    )


def test_a_proxy_that_is_not_used_is_not_named(environment, small_store):
    environment("HTTP_PROXY", "http://127.0.0.1:9")
    environment("NO_PROXY", "127.0.0.1")
    with (
        Client("http://127.0.0.1:9", retries=0) as client,
        pytest.raises(Unreachable, match="nothing answers at"),
    ):
        client.limits()
    with Client(URL, transport=shared(small_store)) as client:
        assert client.requester.proxy is None


def test_what_is_no_address_is_refused_before_anything_is_sent():
    with pytest.raises(InvalidInput, match="not an address"):
        Client("localhost:8000")
    with pytest.raises(InvalidInput, match="not an address"):
        Client("http://host:port")


def test_a_closed_service_in_this_process_is_unreachable_and_opens_anew(small_store, tmp_path):
    with Client(URL, transport=InProcess(small_store), retries=0) as client:
        assert client.ready()
        client._http._transport.stop()
        client._http._transport.stop()
        with pytest.raises(Unreachable, match="closed"):
            client.limits()
    first = shared(small_store)
    stop_shared(small_store)
    assert shared(small_store) is not first
    with pytest.raises(CannotServe, match="no version that can be served"):
        InProcess(tmp_path)


def test_a_key_read_from_a_file_with_its_line_end_is_the_key(small):
    with Client(small.url, key="topsecret-123\n") as client:
        assert client.ready()
    assert client._headers == {"authorization": "Bearer topsecret-123"}


@pytest.mark.parametrize("key", ["topsecrét", "topsecret 1\n2"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_told(key):
    with pytest.raises(InvalidInput) as refused:
        Client("http://127.0.0.1:1", key=key)
    assert "topsecr" not in str(refused.value)


def test_a_request_id_that_no_header_can_carry_is_refused(client):
    with pytest.raises(InvalidInput, match="request_id"):
        client.adapt_predict("tiny", X, Y, QUERY, request_id="one\ntwo")


@pytest.mark.parametrize("first", [Y, [[each] for each in Y]])
@pytest.mark.parametrize("then", [[7.5], [[7.5]]])
def test_rows_are_added_to_a_posterior_with_labels_in_either_form(client, first, then):
    kept = client.keep("tiny", X, first)
    answer = client.adapt_predict("tiny", [[1.5]], then, QUERY, posterior=kept)
    whole = client.adapt_predict("tiny", [*X, [1.5]], [*Y, 7.5], QUERY)
    np.testing.assert_allclose(answer.mean, whole.mean, rtol=1e-5)
    again = client.adapt_predict("tiny", query=QUERY, posterior=answer.posterior)
    np.testing.assert_allclose(again.mean, whole.mean, rtol=1e-5)
