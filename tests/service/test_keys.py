"""With keys on, strangers learn nothing, and one caller neither reads, uses nor drops what is another's."""

import hashlib
import hmac
import logging

import pytest

from service import keys as keys_module
from service.__main__ import main as serve_command
from service.errors import RequestError
from service.keys import BadKeys, KeyRing, Keys, RateLimit, main
from service.ops.logs import JsonLines
from service.settings import Settings
from tests.service.conftest import access_fields, serve

SUPPORT = {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}
BODY = {"model": "tiny", "support": SUPPORT, "query": {"x": [[0.0]]}}
ADA, BEN = "the-key-of-ada", "the-key-of-ben"
CALLS = [
    ("POST", "/adapt-predict"),
    ("POST", "/uncertainty"),
    ("POST", "/posteriors"),
    ("GET", "/posteriors/any"),
    ("DELETE", "/posteriors/any"),
    ("GET", "/models"),
    ("GET", "/models/tiny"),
    ("GET", "/models/tiny/versions/1"),
    ("GET", "/limits"),
    ("GET", "/nowhere"),
]


def line(name, key):
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def replace(file, text):
    """Another content at once: a reader finds the old one or the new one, and never an empty file."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# who may ask\n{line('ada', ADA)}\n\n{line('ben', BEN)}  # the other\n")
    return file


@pytest.fixture(scope="module")
def locked(store, key_file):
    yield from serve(Settings(store=store, device="cpu", keys_file=key_file, reload_s=0.02))


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {ADA}"},
        {"Authorization": ADA},
    ],
)
def test_without_a_key_nothing_is_told(locked, method, path, headers):
    reply = locked.client.request(method, path, json=BODY, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.json()["type"] == "urn:bmaml:problem:unauthorized"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json"])
def test_probes_metrics_and_the_description_need_none(locked, path):
    assert locked.client.get(path).status_code == 200


def test_with_a_key_all_is_as_it_is_without_keys(locked, client):
    found = locked.client.post("/adapt-predict", json=BODY, headers=bearer(ADA))
    assert found.json()["prediction"] == client.post("/adapt-predict", json=BODY).json()["prediction"]
    assert locked.client.get("/models", headers={"Authorization": f"bearer {BEN}"}).status_code == 200


def test_a_posterior_belongs_to_the_caller_who_made_it(locked):
    kept = {"model": "tiny", "support": SUPPORT}
    (own, other) = (
        locked.client.post("/posteriors", json=kept, headers=bearer(key)).json()["posterior"]["id"]
        for key in (ADA, BEN)
    )
    assert own != other
    path, asked = f"/posteriors/{own}", {"model": "tiny", "posterior": own, "query": BODY["query"]}
    stranger = bearer(BEN)
    assert locked.client.get(path, headers=stranger).status_code == 404
    assert locked.client.delete(path, headers=stranger).status_code == 404
    assert locked.client.post("/adapt-predict", json=asked, headers=stranger).status_code == 404
    more = asked | {"support": SUPPORT}
    assert locked.client.post("/adapt-predict", json=more, headers=stranger).status_code == 404
    assert locked.client.get(path, headers=bearer(ADA)).status_code == 200
    assert locked.client.post("/adapt-predict", json=asked, headers=bearer(ADA)).status_code == 200
    assert locked.client.delete(path, headers=bearer(ADA)).status_code == 204
    assert locked.client.get(path, headers=stranger).status_code == 404
    assert locked.client.get(path, headers=bearer(ADA)).status_code == 410


def test_neither_keys_nor_bodies_are_logged(locked, caplog):
    marker = "MARKER123"

    with caplog.at_level(logging.DEBUG):
        replies = [
            locked.client.post("/adapt-predict", json=BODY | {"model": marker}, headers=bearer(ADA)),
            locked.client.post("/adapt-predict", json=BODY, headers=bearer(marker)),
        ]
        callers = [access_fields(caplog, each.headers["x-request-id"])["caller"] for each in replies]
    assert callers == ["ada", None]
    for each in [JsonLines().format(each) for each in caplog.records if each.name.startswith("service")]:
        assert ADA not in each
        assert marker not in each


def test_keys_are_taken_from_the_file_while_serving_and_a_broken_file_changes_nothing(
    store, tmp_path, caplog
):
    file = tmp_path / "keys"
    file.write_text(line("ada", ADA))
    for served in serve(Settings(store=store, device="cpu", keys_file=file, reload_s=0.02)):

        def status(key, client=served.client):
            return client.get("/models", headers=bearer(key)).status_code

        assert (status(ADA), status(BEN)) == (200, 401)
        replace(file, line("ben", BEN))
        while status(BEN) != 200:
            pass
        assert status(ADA) == 401
        replace(file, "nonsense")
        while "the keys stay as they were" not in caplog.text:
            pass
        assert (status(ADA), status(BEN)) == (401, 200)


def test_a_file_that_stays_broken_is_told_once_and_again_once_it_was_whole(tmp_path, caplog):
    file = tmp_path / "keys"
    file.write_text(line("ada", ADA))
    ring = KeyRing("", file)
    for turn in (1, 2):
        for content in ("nonsense", line("ada", ADA)):
            file.write_text(content)
            for _ in range(3):
                ring.refresh()
            assert ring.caller(f"Bearer {ADA}") == "ada"
            assert caplog.text.count("the keys stay as they were") == turn


def test_every_key_is_compared_whole_whatever_was_found_before(monkeypatch):
    compared = []

    class Spy:
        @staticmethod
        def compare_digest(first, second):
            compared.append((len(first), len(second)))
            return hmac.compare_digest(first, second)

    monkeypatch.setattr(keys_module, "hmac", Spy)
    known = Keys.parsed("\n".join(line(f"caller-{number}", f"key-{number}") for number in range(5)))
    for key in ("key-0", "key-4", "key-", "", "k" * 100):
        compared.clear()
        if key in ("key-0", "key-4"):
            assert known.caller(f"Bearer {key}") == f"caller-{key[-1]}"
        else:
            with pytest.raises(RequestError):
                known.caller(f"Bearer {key}")
        assert compared == [(32, 32)] * 5


def test_a_key_that_is_made_is_one_that_works(capsys):
    assert main(["device-fleet"]) == 0
    told = capsys.readouterr()
    key = told.err.splitlines()[0].split()[-1]
    assert Keys.parsed(told.out).caller(f"Bearer {key}") == "device-fleet"
    with pytest.raises(SystemExit):
        main(["a name"])


@pytest.mark.parametrize("text", ["ada", "ada:xyz", f"a/b:{'0' * 64}", f"ada:{'0' * 63}", f"ada:{'G' * 64}"])
def test_a_list_that_cannot_be_read_is_refused_by_place_and_not_repeated(text):
    with pytest.raises(BadKeys, match="key 1 is not NAME:SHA256") as refused:
        Keys.parsed(text)
    assert "xyz" not in str(refused.value)


def test_the_command_refuses_to_start_without_the_keys_it_was_told_to_use(tmp_path, monkeypatch, capsys):
    file = tmp_path / "keys"
    monkeypatch.setenv("BMAML_KEYS_FILE", str(file))
    assert serve_command([]) == 2
    file.write_text("# none yet\n")
    assert serve_command([]) == 2
    assert "holds no key" in capsys.readouterr().err


def test_a_bucket_fills_with_time_and_each_caller_has_one():
    now = [0.0]
    limit = RateLimit(per_s=2.0, burst=3, clock=lambda: now[0])
    for _ in range(3):
        limit.take("ada")
    with pytest.raises(RequestError) as refused:
        limit.take("ada")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    limit.take("ben")
    now[0] = 0.5
    limit.take("ada")
    with pytest.raises(RequestError):
        limit.take("ada")
    now[0] = 100.0
    for _ in range(3):
        limit.take("ada")
    with pytest.raises(RequestError):
        limit.take("ada")


def test_a_key_that_asks_too_often_is_told_when_to_come_back(store, key_file):
    settings = Settings(store=store, device="cpu", keys_file=key_file, rate_per_s=0.01, rate_burst=2)
    for served in serve(settings):
        replies = [served.client.get("/models", headers=bearer(ADA)) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert replies[-1].json()["type"] == "urn:bmaml:problem:rate-limited"
        assert 90 <= int(replies[-1].headers["retry-after"]) <= 100
        assert served.client.get("/models", headers=bearer(BEN)).status_code == 200
        assert served.client.get("/readyz").status_code == 200


def test_a_browser_may_ask_whether_it_may_ask_without_a_key(store, key_file):
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    settings = Settings(store=store, device="cpu", keys_file=key_file, cors_origins="https://lab.example")
    for served in serve(settings):
        preflight = served.client.options("/adapt-predict", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://lab.example"
        told = served.client.post("/adapt-predict", json=BODY, headers={"Origin": "https://lab.example"})
        assert told.status_code == 401
        assert told.headers["access-control-allow-origin"] == "https://lab.example"
