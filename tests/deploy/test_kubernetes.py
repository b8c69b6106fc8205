"""The chart and its rendered form: valid, equal, confined, and with no setting that the service lacks."""

import copy
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from bmaml import __version__
from bmaml_client.sessions import HEADER
from service.settings import Settings
from tests.deploy.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "bmaml"
RENDERED = ROOT / "deploy" / "kubernetes" / "bmaml.yaml"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DOCUMENTS = {each["kind"]: each for each in yaml.safe_load_all(RENDERED.read_text())}
POD = DOCUMENTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ENVIRONMENT = {each["name"]: each for each in CONTAINER["env"]}
NOT_SETTABLE = {"BMAML_PROBE_HOST", "BMAML_KEYS"}
"""Settings that neither the chart nor its values set: probes answer on every interface, keys are a file."""


def settings() -> set[str]:
    return {f"BMAML_{name.upper()}" for name in Settings.model_fields}


def helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("helm")
    if binary is None:
        pytest.skip("needs helm")
    command = [binary, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rendered(*arguments: object) -> str:
    done = helm("template", "bmaml", CHART, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(example: str) -> dict[str, dict[str, Any]]:
    """What an example renders, by kind."""
    text = rendered("--values", CHART / "examples" / f"{example}.yaml")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_every_variable_is_a_setting_and_has_a_value_that_the_service_takes(monkeypatch):
    assert set(ENVIRONMENT) <= settings()
    for name, each in ENVIRONMENT.items():
        monkeypatch.setenv(name, each.get("value", "from a secret"))
    found = Settings()
    assert (found.host, found.port, found.probe_port) == ("0.0.0.0", 8000, 8001)


def test_secrets_come_from_a_secret_alone():
    (secret,) = (name for name, each in ENVIRONMENT.items() if "value" not in each)
    assert secret == "BMAML_SECRET"
    named = ENVIRONMENT[secret]["valueFrom"]["secretKeyRef"]
    assert named == {"name": VALUES["secretName"], "key": "secret"}
    (keys,) = (each for each in POD["spec"]["volumes"] if each["name"] == "keys")
    assert keys["secret"]["secretName"] == VALUES["secretName"]
    (mount,) = (each for each in CONTAINER["volumeMounts"] if each["name"] == "keys")
    (item,) = keys["secret"]["items"]
    assert ENVIRONMENT["BMAML_KEYS_FILE"]["value"] == f"{mount['mountPath']}/{item['path']}"


def test_the_pod_is_confined_as_the_image_expects():
    context = POD["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (10001, 10001, True)
    assert "USER 10001:10001" in (ROOT / "Dockerfile").read_text()
    own = CONTAINER["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert CONTAINER["resources"]["limits"]["memory"]
    assert {each["mountPath"] for each in CONTAINER["volumeMounts"] if not each.get("readOnly")} == {"/tmp"}


def test_the_cluster_adds_no_variables_that_look_like_settings():
    """A Service named bmaml would set BMAML_PORT to an address."""
    assert POD["spec"]["enableServiceLinks"] is False


def test_probes_ask_the_probe_port():
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert str(ports["http"]) == ENVIRONMENT["BMAML_PORT"]["value"]
    assert str(ports["probes"]) == ENVIRONMENT["BMAML_PROBE_PORT"]["value"]
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {each["port"] for each in probes.values()} == {"probes"}
    assert {name: each["path"] for name, each in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }


def test_a_rollout_takes_no_replica_away_and_a_pod_drains_within_its_grace():
    strategy = DOCUMENTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0
    assert strategy["maxSurge"] >= 1
    said = [float(ENVIRONMENT[f"BMAML_{name}"]["value"]) for name in ("LINGER_S", "DRAIN_S")]
    assert sum(said) < POD["spec"]["terminationGracePeriodSeconds"] == 30
    readiness = CONTAINER["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < said[0]


def test_all_parts_speak_of_the_same_pods():
    labels = POD["metadata"]["labels"].items()
    selectors = [
        DOCUMENTS["Deployment"]["spec"]["selector"]["matchLabels"],
        DOCUMENTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        DOCUMENTS["Service"]["spec"]["selector"],
    ]
    assert all(each.items() <= labels for each in selectors)
    scaled = DOCUMENTS["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == DOCUMENTS["Deployment"]["metadata"]["name"]
    assert "replicas" not in DOCUMENTS["Deployment"]["spec"]
    assert scaled["minReplicas"] >= 2  # one may be disrupted
    ports = {each["targetPort"] for each in DOCUMENTS["Service"]["spec"]["ports"]}
    assert ports == {each["name"] for each in CONTAINER["ports"]}


def test_nothing_of_an_operator_is_rendered_unless_asked_for():
    assert set(DOCUMENTS) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}


def test_the_chart_has_the_version_of_the_service():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert CONTAINER["image"].endswith(f":{__version__}")


def test_values_take_every_setting_that_the_chart_does_not_set():
    template = (CHART / "templates" / "deployment.yaml").read_text()
    own = set(re.findall(r"name: (BMAML_\w+)$", template, re.MULTILINE))
    free = {f"BMAML_{name}" for name in SCHEMA["properties"]["settings"]["propertyNames"]["enum"]}
    assert not own & free
    assert own | free == settings() - NOT_SETTABLE
    used = [*EXAMPLES, CHART / "values.yaml"]
    for values in used:
        named = yaml.safe_load(values.read_text()).get("settings", {})
        assert {f"BMAML_{name}" for name in named} <= free


def test_the_schema_describes_every_value_and_takes_no_other():
    def check(values: object, schema: dict[str, object], where: str) -> None:
        if "properties" in schema:
            assert schema["additionalProperties"] is False, where
            assert set(values) == set(schema["properties"]) - {"global"}, where
            for name, each in values.items():
                check(each, schema["properties"][name], f"{where}/{name}")

    check(VALUES, SCHEMA, "")


def test_the_rendered_form_is_that_of_the_chart():
    assert rendered() == RENDERED.read_text(), (
        "helm template bmaml deploy/helm/bmaml > deploy/kubernetes/bmaml.yaml"
    )


@pytest.mark.parametrize("example", [CHART / "values.yaml", *EXAMPLES], ids=lambda path: path.stem)
def test_the_chart_passes_its_linter(example):
    done = helm("lint", "--strict", CHART, "--values", example)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_renders_settings_of_the_service_alone(example):
    text = rendered("--values", example)
    for document in yaml.safe_load_all(text):
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            assert {each["name"] for each in container["env"]} <= settings()
    assert text != RENDERED.read_text()


def test_replicas_are_scaled_by_the_cpu_or_by_a_metric_that_the_service_exports():
    (metric,) = DOCUMENTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"
    scaled = documents("keda")
    (trigger,) = scaled["ScaledObject"]["spec"]["triggers"]
    (name,) = re.findall(r"bmaml_\w+", trigger["metadata"]["query"])
    assert f"| `{name}` | gauge |" in (ROOT / "docs" / "monitoring.md").read_text()
    assert "HorizontalPodAutoscaler" not in scaled
    (endpoint,) = scaled["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] in {each["name"] for each in scaled["Service"]["spec"]["ports"]}


def test_the_ingress_hashes_the_header_that_the_client_sends():
    annotations = documents("ingress")["Ingress"]["metadata"]["annotations"]
    variable = annotations["nginx.ingress.kubernetes.io/upstream-hash-by"]
    assert variable == "$http_" + HEADER.replace("-", "_")


def test_a_pod_with_a_gpu_asks_for_it_and_uses_it():
    (container,) = documents("gpu")["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "BMAML_DEVICE", "value": "cuda"} in container["env"]


def test_a_store_in_a_bucket_has_a_cache_that_the_pod_may_write():
    pod = documents("bucket")["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    said = {each["name"]: each.get("value", "") for each in container["env"]}
    writable = [each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")]
    assert said["BMAML_STORE"] == "s3://bucket/models"
    assert any(said["BMAML_STORE_CACHE"].startswith(f"{each}/") for each in writable)
    assert container["envFrom"] == [{"secretRef": {"name": "bmaml-bucket"}}]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("autoscalling.enabled=false", "autoscalling"),
        ("settings.LOG_LEVLE=info", "LOG_LEVLE"),
        ("gpus=one", "gpus"),
        ("keda.enabled=true", "exclude each other"),
        ("ingress.enabled=true", "ingress.host is needed"),
        ("settings.MAX_QUERY_ROWS=5000000", "MAX_QUERY_ROWS"),  # it would be written as 5e+06
    ],
)
def test_a_wrong_value_fails_by_name(value, complaint):
    done = helm("template", "bmaml", CHART, "--set", value)
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize("example", [None, *EXAMPLES], ids=lambda path: path.stem if path else "rendered")
def test_what_is_rendered_fits_the_schemas_of_kubernetes(example):
    validation = pytest.importorskip("kubernetes_validate")
    text = RENDERED.read_text() if example is None else rendered("--values", example)
    for document in yaml.safe_load_all(text):
        if document["kind"] not in ("ScaledObject", "ServiceMonitor"):
            validation.validate(document, validation.latest_version(), strict=True)


def test_those_schemas_know_a_misspelling():
    validation = pytest.importorskip("kubernetes_validate")
    wrong = copy.deepcopy(DOCUMENTS["PodDisruptionBudget"])
    wrong["spec"]["maxUnavailible"] = wrong["spec"].pop("maxUnavailable")
    with pytest.raises(validation.ValidationError):
        validation.validate(wrong, validation.latest_version(), strict=True)
