"""Clients of other servers ask /v2: those of Triton, KServe and MLServer, each where it is installed.

`BMAML_TRITON_PYTHON`, `BMAML_KSERVE_PYTHON` and `BMAML_MLSERVER_PYTHON` name Pythons that have
`tritonclient[http]`, `kserve` and `mlserver`: none is a dependency.
"""

import json
import os
import subprocess

import pytest

from tests.docs.blocks import ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KSERVE = """
import asyncio, json
import numpy as np
from kserve import InferInput, InferRequest, InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
rows = {{"support.x": [[-2.0], [0.5]], "support.y": [8.0, 11.5], "query.x": [[0.0], [1.0]]}}
async def ask(binary):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    ready = [client.is_server_live, client.is_server_ready]
    assert all([await each("{url}") for each in ready]) and await client.is_model_ready("{url}", "tiny")
    inputs = [InferInput(name, list(np.shape(each)), "FP64") for name, each in rows.items()]
    for tensor in inputs:
        tensor.set_data_from_numpy(np.array(rows[tensor.name]), binary_data=binary)
    outputs = [RequestedOutput("mean", parameters={{"binary_data": binary}})]
    answer = await client.infer("{url}", InferRequest("tiny", inputs, request_outputs=outputs), "tiny")
    (mean,) = answer.outputs
    return mean.as_numpy().ravel().tolist()
print(json.dumps([asyncio.run(ask(binary)) for binary in (False, True)]))
"""
MLSERVER = """
import json, urllib.request
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse
rows = {{"support.x": [[-2.0], [0.5]], "support.y": [8.0, 11.5], "query.x": [[0.0], [1.0]]}}
inputs = [NumpyCodec.encode_input(name, np.array(each)) for name, each in rows.items()]
body = InferenceRequest(inputs=inputs).model_dump_json(exclude_none=True).encode()
request = urllib.request.Request("{url}/v2/models/tiny/infer", body, {{"content-type": "application/json"}})
answer = InferenceResponse.model_validate_json(urllib.request.urlopen(request).read())
MetadataModelResponse.model_validate_json(urllib.request.urlopen("{url}/v2/models/tiny").read())
print(json.dumps(NumpyCodec.decode_output(answer.outputs[0]).ravel().tolist()))
"""


def run(variable: str, program: str) -> str:
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{variable} names no Python")
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def means(client) -> list[float]:
    rows = {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}
    body = {"model": "tiny", "support": rows, "query": {"x": [[0.0], [1.0]]}}
    return client.post("/v1/adapt-predict", json=body).json()["prediction"]["mean"]


def test_tritonclient_asks_as_the_page_says(served, client):
    page = blocks(ROOT / "docs" / "open-inference.md")
    (block,) = [each for each in page if each.kind == "python"]
    program = block.text.replace("127.0.0.1:8000", served.url.removeprefix("http://"))
    program = program.replace("sinusoid", "tiny").replace("[0.9, -1.1]", "[8.0, 11.5]")
    program += 'print("means", answer.as_numpy("mean").tolist())\n'
    said = run("BMAML_TRITON_PYTHON", program).splitlines()[-1]
    assert json.loads(said.removeprefix("means ")) == pytest.approx(means(client), rel=1e-6)


def test_kserve_asks_in_json_and_in_bytes(served, client):
    said = json.loads(run("BMAML_KSERVE_PYTHON", KSERVE.format(url=served.url)))
    for each in said:
        assert each == pytest.approx(means(client), rel=1e-6)


def test_mlserver_reads_answers_and_metadata(served, client):
    said = run("BMAML_MLSERVER_PYTHON", MLSERVER.format(url=served.url))
    assert json.loads(said) == pytest.approx(means(client), rel=1e-6)
