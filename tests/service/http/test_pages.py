"""The playground as files: what the service says with them, and where they come from."""

import hashlib
import json
import re

import httpx
import pytest

from service.http.pages import PLAYGROUND

VENDOR = PLAYGROUND / "vendor"
LICENCES = {"ISC": "Permission to use, copy, modify", "Apache-2.0": "Apache License"}
OURS = [
    path
    for path in PLAYGROUND.rglob("*")
    if path.suffix in (".js", ".css", ".html") and VENDOR not in path.parents
]


def test_the_page_and_its_modules_are_served_with_their_types(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="(playground/[^"]+)"', page.text)
    assert len(linked) > 10
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in linked:
        reply = client.get(f"/{path}")
        assert reply.status_code == 200
        assert reply.headers["content-type"].split(";")[0] == kinds[f".{path.rpartition('.')[2]}"]
    assert client.head("/").headers["content-length"] == page.headers["content-length"]


def test_every_module_that_is_imported_is_there():
    for path in OURS:
        for name in re.findall(r'from "(\.[^"]+)"', path.read_text()):
            assert (path.parent / name).resolve().is_file(), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", ["/", "/playground/main.js", "/playground/vendor/d3-scale.min.js"])
def test_nothing_but_the_service_itself_may_be_asked_or_run(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["style-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert not {"script-src", "connect-src"} & set(policy)


@pytest.mark.parametrize("page", ["index.html", "explorer/index.html"])
def test_no_code_and_no_style_stands_in_the_markup(page):
    markup = (PLAYGROUND / page).read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", markup)
    assert not re.search(r"<style|\sstyle=|\son\w+=", markup)


def test_what_has_not_changed_is_not_sent_again(client):
    first = client.get("/playground/main.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = client.get("/playground/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/playground/main.js", headers={"if-none-match": '"other"'}).content == first.content


@pytest.mark.parametrize("path", ["nothing.js", "", "style", "../app.py", "%2e%2e/app.py", "..%2fapp.py"])
def test_there_is_nothing_beside_the_page(served, path):
    with httpx.Client(timeout=60) as client:
        request = client.build_request("GET", served.url)
        request.url = request.url.copy_with(raw_path=f"/playground/{path}".encode())
        reply = client.send(request)
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/problem+json"


def test_what_is_vendored_says_where_it_comes_from():
    listed = json.loads((VENDOR / "vendored.json").read_text())
    for each in listed:
        content = (VENDOR / each["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == each["sha256"]
        if each["licence"] == "ISC":
            assert f"v{each['version']} ".encode() in content[:200]
        assert LICENCES[each["licence"]] in (VENDOR / each["licence_file"]).read_text()
    found = {path.name for path in VENDOR.iterdir()} - {"vendored.json"}
    files = ("file", "licence_file", "notices_file")
    assert found == {each[key] for each in listed for key in files if key in each}


def test_the_explorer_describes_every_operation(client):
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in re.findall(r'(?:src|href)="(playground/[^"]+)"', page.text):
        assert client.get(f"/{path}").status_code == 200


def test_the_measured_curves_say_how_they_were_measured():
    measured = json.loads((PLAYGROUND / "data" / "learning-curves.json").read_text())
    assert measured["provenance"]["script"] == "examples/measure_learning_curves.py"
    assert len(measured["curves"]) >= 12
    for each in measured["curves"]:
        sizes, values = each[measured["input"]], each[measured["output"]]
        assert len(sizes) == len(values) >= 6
        assert sizes[:5] == [16, 23, 32, 45, 64]
        assert all(0 < value <= 1 for value in values)
