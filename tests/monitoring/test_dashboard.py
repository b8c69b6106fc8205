"""Every panel of the dashboard asks for what the service exports, and says what it shows."""

import itertools
import json
import re

import pytest
import yaml

from benchmarks.checks.dashboard_queries import DASHBOARD, MAY_BE_EMPTY, VARIABLES, Query, panels, queries
from tests.monitoring.conftest import ROOT
from tests.monitoring.promql import labels_of

BOARD = json.loads(DASHBOARD.read_text())
PANELS = panels()
UNITS = {"bool", "bytes", "ops", "percentunit", "reqps", "s", "short", "string"}
"""Grafana's ids of the units we use."""
ROWS = ["Now", "Traffic", "Engine", "Posteriors", "Models", "Process"]
SOURCE = yaml.safe_load((ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text())


@pytest.mark.parametrize("query", list(queries()), ids=lambda query: query.panel)
def test_a_query_asks_for_metrics_and_labels_that_exist(query: Query, series):
    labels = labels_of(query.expression, series)
    assert "$" not in query.expression
    assert set(re.findall(r"{{(\w+)}}", query.legend)) <= labels


def test_every_metric_of_the_service_is_on_the_dashboard(exported):
    asked = " ".join(query.expression for query in queries())
    unused = {each.name for each in exported if not re.search(rf"\b{each.name}(_\w+)?\b", asked)}
    of_no_interest = {"virtual_memory_bytes", "open_fds", "max_fds", "start_time_seconds"}
    of_the_worker = {f"bmaml_worker_process_{what}" for what in of_no_interest}
    assert unused == {"process_virtual_memory_bytes", *of_the_worker}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_what_is_good_and_bad(panel):
    first, *others = panel["description"].split(". ")
    assert len(first) > 20
    assert panel["description"].endswith(".")
    assert [each for each in others if not each.startswith(MAY_BE_EMPTY)] == []
    assert len(panel["title"]) > 4
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]


def test_panels_have_ids_titles_and_places_of_their_own():
    everything = BOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    places = [panel["gridPos"] for panel in everything]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_rows_follow_a_request_from_the_door_to_the_process():
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == ROWS


def test_variables_and_sources_are_those_that_are_provisioned():
    (source,) = SOURCE["datasources"]
    text = DASHBOARD.read_text()
    assert set(re.findall(r'"uid": "(\w+)"', text)) == {source["uid"], BOARD["uid"]}
    asked = set(
        re.findall(r"\$\w+", " ".join(target["expr"] for each in PANELS for target in each["targets"]))
    )
    assert asked == set(VARIABLES)
    (variable,) = BOARD["templating"]["list"]
    assert f"${variable['name']}" in VARIABLES
    assert variable["allValue"] == VARIABLES[f"${variable['name']}"]


def test_grafana_knows_how_often_prometheus_asks():
    (source,) = SOURCE["datasources"]
    asks = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == asks
    assert VARIABLES["$__rate_interval"] == "1m"
    assert asks == "15s"


def test_the_dashboard_lies_where_grafana_looks_for_it():
    provided = yaml.safe_load((ROOT / "monitoring/grafana/provisioning/dashboards/bmaml.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (provider,) = provided["providers"]
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    folder = {inside: outside for outside, inside in mounts.items()}[provider["options"]["path"]]
    assert (ROOT / folder).resolve() == DASHBOARD.parent
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
