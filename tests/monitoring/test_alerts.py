"""Every alert can fire, fires when it should, and leads to its section of the runbook."""

import re
import shutil
import subprocess

import pytest
import yaml

from service.engine.queue import MAX_WAIT_SHARE
from service.settings import Settings
from tests.monitoring.conftest import ROOT, alerts
from tests.monitoring.promql import labels_of

ALERTS = alerts()
NAMES = [alert["alert"] for alert in ALERTS]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
CASES = ROOT / "tests" / "monitoring" / "alerts.test.yml"
PARTS = ["What callers see", "Look", "Do", "Do not"]


def promtool(*arguments: object) -> str:
    """What promtool says where it is content."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("no promtool on the path: apt-get install prometheus")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_asks_for_metrics_and_labels_that_exist_and_names_those_it_has(alert, series):
    labels = labels_of(alert["expr"], series)
    said = " ".join(alert["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", said)) <= labels


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert):
    assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{alert['alert'].lower()}"
    assert not alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["description"].endswith(".")


def test_every_alert_has_its_section_and_every_section_its_alert():
    assert re.findall(r"^## (Bmaml\w+)$", RUNBOOK, re.MULTILINE) == NAMES


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_a_section_says_what_it_means_how_to_look_what_to_do_and_what_not(alert):
    _, _, rest = RUNBOOK.partition(f"\n## {alert['alert']}\n")
    section, _, _ = rest.partition("\n## ")
    assert re.findall(r"^\*\*(.+)\.\*\*", section, re.MULTILINE) == PARTS
    assert section.startswith(f"\n{alert['labels']['severity'].capitalize()}. ")


def test_a_long_queue_is_told_before_callers_are_refused():
    (queue,) = (alert for alert in ALERTS if alert["alert"] == "BmamlQueueLong")
    told_s = float(queue["expr"].rpartition(">")[2])
    refused_s = MAX_WAIT_SHARE * Settings.model_fields["deadline_ms"].default / 1000
    assert 0 < told_s < refused_s
    assert f"Beyond {refused_s:g} seconds" in queue["annotations"]["description"]


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(name):
    cases = yaml.safe_load(CASES.read_text())["tests"]
    own = [bool(case.get("exp_alerts")) for each in cases for case in each["alert_rule_test"]
           if case["alertname"] == name]  # fmt: skip
    assert set(own) == {True, False}


def test_alerts_fire_in_the_cases_in_which_they_should_and_in_no_other():
    assert "SUCCESS" in promtool("test", "rules", CASES)


def test_prometheus_takes_its_configuration():
    found = promtool("check", "config", ROOT / "monitoring" / "prometheus.yml")
    assert f"{len(ALERTS)} rules found" in found
