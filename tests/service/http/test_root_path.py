"""The service behind the prefix of a proxy, which strips the prefix or passes it on."""

import hashlib

import httpx
import pytest
from pydantic import ValidationError

from bmaml_client import Client
from service.settings import Settings
from tests.service.conftest import access_fields, serve

PREFIX = "/lab/few-shot"
KEY = "sesame"
BODY = {"model": "tiny", "support": {"x": [], "y": []}, "query": {"x": [[0.0]]}}


@pytest.fixture(scope="module")
def behind(store):
    yield from serve(Settings(store=store, device="cpu", root_path=f"{PREFIX}/"))


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(
    "path", ["/", "/docs", "/playground/main.js", "/openapi.json", "/livez", "/models/tiny", "/limits"]
)
def test_every_route_answers_with_and_without_the_prefix(behind, prefix, path):
    reply = behind.client.get(prefix + path)
    assert reply.status_code == 200
    assert behind.client.head(prefix + path).status_code == 200
    assert reply.content == behind.client.get(path).content


def test_openapi_names_the_prefix_and_its_operations_work_there(behind, client):
    schema = behind.client.get("/openapi.json").json()
    assert schema["servers"] == [{"url": PREFIX}]
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/"}]
    url = httpx.URL(behind.url).join(schema["servers"][0]["url"] + "/v1/adapt-predict")
    assert behind.client.post(url, json=BODY).status_code == 200


def test_the_prefix_alone_leads_to_the_page(behind):
    reply = behind.client.get(PREFIX)
    assert (reply.status_code, reply.headers["location"]) == (308, f"{PREFIX}/")
    assert "Few-shot playground" in behind.client.get(PREFIX, follow_redirects=True).text


@pytest.mark.parametrize("path", [f"{PREFIX}x/models", "/lab/models", f"{PREFIX}{PREFIX}/models"])
def test_other_prefixes_are_no_route(behind, path):
    assert behind.client.get(path).status_code == 404


def test_the_log_names_routes_without_the_prefix(behind, caplog):
    caplog.set_level("INFO", "service.access")
    request_id = behind.client.post(f"{PREFIX}/adapt-predict", json=BODY).headers["x-request-id"]
    fields = access_fields(caplog, request_id)
    assert fields["route"] == "/adapt-predict"


def test_the_client_asks_below_the_prefix(behind):
    with Client(behind.url + PREFIX) as client:
        assert client.ready()
        assert client.adapt_predict("tiny", [], [], [[0.0]]).mean.shape == (1,)


@pytest.mark.parametrize("prefix", ["/playground", "/docs", "/livez"])
def test_a_prefix_named_like_an_open_path_opens_nothing(store, prefix):
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    settings = Settings(store=store, device="cpu", root_path=prefix, keys=f"lab:{digest}")
    for served in serve(settings):
        assert served.client.get(f"{prefix}/models").status_code == 401
        assert served.client.post(f"{prefix}/adapt-predict", json=BODY).status_code == 401
        header = {"authorization": f"Bearer {KEY}"}
        assert served.client.get(f"{prefix}/models", headers=header).status_code == 200
        assert served.client.get(f"{prefix}/readyz").status_code == 200


@pytest.mark.parametrize("prefix", ["lab", "/lab//x", "https://x/y", "/a b", "/<script>", "//x"])
def test_what_is_no_path_is_refused(prefix):
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=prefix)
