"""Tools that others use read our OpenAPI: linters find no error, generated clients compile and ask us.

Each test skips where its tool is not installed; docs/versioning.md has the commands that install them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REQUEST = '{"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}'
GENERATOR_CLIENT = """
from bmaml_generated import ApiClient, AdaptPredictRequest, Configuration, PredictApi
api = PredictApi(ApiClient(Configuration(host={url!r})))
print(api.adapt_predict(AdaptPredictRequest.from_json({request!r})).prediction.actual_instance.mean[0])
"""
PYTHON_CLIENT = """
import json
from bmaml_generated import Client
from bmaml_generated.api.predict import adapt_predict
from bmaml_generated.models import AdaptPredictRequest
body = AdaptPredictRequest.from_dict(json.loads({request!r}))
print(adapt_predict.sync(client=Client({url!r}), body=body).prediction.mean[0])
"""
TYPESCRIPT_CLIENT = """
import type {{ components }} from "./schema";
const body: components["schemas"]["AdaptPredictRequest"] = {request};
const reply = await fetch("{url}/v1/adapt-predict", {{
  method: "POST", headers: {{ "content-type": "application/json" }}, body: JSON.stringify(body),
}});
const answer = (await reply.json()) as components["schemas"]["AdaptPredictResponse"];
if (!("mean" in answer.prediction)) throw new Error("not a prediction of numbers");
console.log(answer.prediction.mean[0]);
"""


def tool(name: str) -> str:
    """The path of an installed tool; without it, the test is skipped."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=folders)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(client, tmp_path) -> Path:
    document = client.get("/openapi.json").json()
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def mean(client) -> float:
    reply = client.post("/v1/adapt-predict", json=json.loads(REQUEST))
    return reply.json()["prediction"]["mean"][0]


def test_redocly_finds_no_error(folder):
    lines = run(tool("redocly"), "lint", "openapi.json", "--format", "json", cwd=folder)
    assert json.loads(lines[lines.index("{") :])["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}


def test_spectral_finds_no_error(folder):
    (folder / "rules.yml").write_text('extends: ["spectral:oas"]\n')
    run(tool("spectral"), "lint", "--ruleset", "rules.yml", "openapi.json", cwd=folder)


def test_the_client_of_openapi_generator_asks_the_service(served, folder, mean):
    generator = tool("openapi-generator-cli")
    command = ["generate", "-i", "openapi.json", "-g", "python", "-o", ".", "--package-name"]
    run(generator, *command, "bmaml_generated", cwd=folder)
    asked = GENERATOR_CLIENT.format(url=served.url, request=REQUEST)
    assert float(run(beside(generator), "-c", asked, cwd=folder)) == mean


def test_the_client_of_openapi_python_client_asks_the_service(served, folder, mean):
    generator = tool("openapi-python-client")
    (folder / "config.yml").write_text("post_hooks: []\n")
    command = ["generate", "--path", "openapi.json", "--meta", "none", "--config", "config.yml"]
    run(generator, *command, "--output-path", "bmaml_generated", cwd=folder)
    asked = PYTHON_CLIENT.format(url=served.url, request=REQUEST)
    assert float(run(beside(generator), "-c", asked, cwd=folder)) == mean


def test_a_typescript_client_compiles_and_asks_the_service(served, folder, mean):
    options = ["--default-non-nullable", "false", "-o", "schema.d.ts"]
    run(tool("openapi-typescript"), "openapi.json", *options, cwd=folder)
    (folder / "ask.mts").write_text(TYPESCRIPT_CLIENT.format(url=served.url, request=REQUEST))
    strict = ["--strict", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
    run(tool("tsc"), *strict, "ask.mts", cwd=folder)
    assert float(run(tool("node"), "ask.mjs", cwd=folder)) == mean


def beside(program: str) -> Path:
    """The Python that runs this program, which also has the packages that its clients import."""
    return Path(Path(program).read_text().splitlines()[0].removeprefix("#!"))
