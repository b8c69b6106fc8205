"""Two replicas from compose, which only their balancer can be asked for."""

import re

import yaml

from service.settings import Settings
from tests.deploy.conftest import HAPROXY_CONFIG, ROOT

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
REPLICAS = ["replica-1", "replica-2"]
BALANCER = HAPROXY_CONFIG.read_text()


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9]+)(ms|s)", text).groups()
    return int(number) / (1000 if unit == "ms" else 1)


def test_the_profile_has_two_replicas_and_a_balancer_of_a_pinned_version():
    assert [name for name, each in SERVICES.items() if each.get("profiles") == ["replicas"]] == [
        *REPLICAS,
        "balancer",
    ]
    assert re.fullmatch(r"haproxy:\d+\.\d+\.\d+", SERVICES["balancer"]["image"])
    assert set(SERVICES["balancer"]["depends_on"]) == set(REPLICAS)


def test_replicas_share_a_secret_and_are_reached_through_the_balancer_alone():
    first, second = (SERVICES[name] for name in REPLICAS)
    assert first == second
    assert first["environment"]["BMAML_SECRET"] == "${BMAML_SECRET:-}"
    assert first["ports"] == []
    assert SERVICES["balancer"]["ports"] == SERVICES["api"]["ports"]
    for number, name in enumerate(REPLICAS, 1):
        assert f'server {name} "${{BMAML_REPLICA_{number}-{name}:8000}}"' in BALANCER


def test_the_balancer_runs_the_recipe_and_leaves_a_replica_before_it_stops():
    (mounted,) = SERVICES["balancer"]["volumes"]
    assert mounted.split(":")[0] == f"./{HAPROXY_CONFIG.relative_to(ROOT)}"
    fast, fall, slow = (re.search(rf"{name} (\w+)", BALANCER)[1] for name in ("fastinter", "fall", " inter"))
    noticed = seconds(slow) + int(fall) * seconds(fast)
    assert noticed < float(SERVICES["replica-1"]["environment"]["BMAML_LINGER_S"])
    idle = re.search(r"timeout http-keep-alive (\w+)", BALANCER)[1]
    assert seconds(idle) < Settings.model_fields["keep_alive_s"].default


def test_the_image_and_compose_give_the_service_the_same_time_to_start():
    (image,) = re.findall(r"--start-period=(\w+)", (ROOT / "Dockerfile").read_text())
    assert {
        each["healthcheck"]["start_period"]
        for each in SERVICES.values()
        if "start_period" in each.get("healthcheck", {})
    } == {image}
