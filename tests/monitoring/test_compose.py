"""Who looks at the service is confined like it, and comes only when asked for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.app import create_app
from service.http.health import create_probe_app
from service.settings import Settings
from tests.monitoring.conftest import ROOT
from tests.published import publish
from tests.service.conftest import listening

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
BALANCER = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
WATCHING = ["prometheus", "grafana"]


def test_without_a_profile_the_service_comes_alone():
    assert [name for name, each in SERVICES.items() if not each.get("profiles")] == ["api"]
    assert [name for name, each in SERVICES.items() if each.get("profiles") == ["monitoring"]] == WATCHING


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_has_a_read_only_root_no_capabilities_and_no_way_to_more(name):
    each = SERVICES[name]
    assert each["read_only"] is True
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert not set(each) & {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices", "user"}
    assert each["deploy"]["resources"]["limits"]["memory"]
    writable = [volume for volume in each.get("volumes", []) if not volume.endswith(":ro")]
    assert all(volume.split(":")[0] in COMPOSE["volumes"] for volume in writable)


@pytest.mark.parametrize("name", WATCHING)
def test_those_who_watch_are_pinned_and_answer_on_the_loopback_alone(name):
    each = SERVICES[name]
    assert re.fullmatch(r"(prom/prometheus:v|grafana/grafana:)\d+\.\d+\.\d+", each["image"])
    assert all(port.startswith("127.0.0.1:") for port in each["ports"])
    mounted = [Path(volume.split(":")[0]) for volume in each["volumes"] if volume.startswith("./")]
    assert mounted
    assert all((ROOT / path).exists() for path in mounted)


def test_grafana_has_no_accounts_and_asks_nobody_outside():
    said = SERVICES["grafana"]["environment"]
    assert said["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert said["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in said if "PASSWORD" in name]
    assert all(said[name] == "false" for name in said if "CHECK_FOR" in name or "REPORTING" in name)


def test_prometheus_asks_by_the_name_and_port_that_the_service_has():
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["bmaml:8000"]}]
    for name in ("api", "api-gpu"):
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["bmaml"]
        assert SERVICES[name]["ports"] == ["${BMAML_BIND:-127.0.0.1}:${BMAML_PORT:-8000}:8000"]


def test_each_replica_is_a_target_of_its_own_under_the_same_rules():
    alone, many = (
        yaml.safe_load((ROOT / "monitoring" / name).read_text())
        for name in ("prometheus.yml", "replicas.yml")
    )
    (one,), (job,) = alone.pop("scrape_configs"), many.pop("scrape_configs")
    assert many == alone
    assert job["job_name"] == one["job_name"]
    (targets,) = job["static_configs"]
    replicas = [
        name for name, each in SERVICES.items() if each.get("profiles") == ["replicas"] and name != "balancer"
    ]
    assert targets == {"targets": [f"{name}:8000" for name in replicas]}
    balanced = re.findall(r'^    server \S+ "\$\{\w+-(.+)\}"$', BALANCER, re.MULTILINE)
    assert balanced == targets["targets"]


def test_every_configuration_that_can_be_chosen_is_mounted_beside_the_rules():
    prometheus = SERVICES["prometheus"]
    assert "--config.file=/etc/prometheus/${PROMETHEUS_CONFIG:-prometheus.yml}" in prometheus["command"]
    mounted = dict(volume.split(":")[:2] for volume in prometheus["volumes"])
    for name in ("prometheus.yml", "replicas.yml", "rules.yml"):
        assert mounted[f"./monitoring/{name}"] == f"/etc/prometheus/{name}"


def checked(port: str, **environment: str) -> int:
    """The exit status of the container's health check, were its service on this port."""
    (program, option, code) = SERVICES["api"]["healthcheck"]["test"][1:]
    assert (program, option) == ("python", "-c")
    code = code.replace("8000", port).replace("timeout=2", "timeout=60")
    clean = {name: value for name, value in os.environ.items() if name != "BMAML_PROBE_PORT"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, timeout=60
    )
    return done.returncode


def test_the_health_check_follows_the_probes_to_a_port_of_their_own(tmp_path):
    """An unset variable is not handed on to the container; one that is set is."""
    assert all(SERVICES[name]["environment"]["BMAML_PROBE_PORT"] is None for name in ("api", "api-gpu"))
    publish(tmp_path)
    settings = Settings(store=tmp_path, device="cpu", probe_port=0)
    for served in listening(create_app(settings), settings, ready=lambda client: True):
        for beside in listening(create_probe_app(served.app.state.runtime)):
            assert "bmaml_ready 1.0" in beside.client.get("/metrics").text
            assert served.client.get("/metrics").status_code == 404
            port, own = (each.url.rpartition(":")[2] for each in (served, beside))
            assert checked(port, BMAML_PROBE_PORT=own) == 0
            assert checked(port) == 1
