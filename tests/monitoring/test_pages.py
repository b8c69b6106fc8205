"""The pages for operators name what there is."""

import re

import pytest

from benchmarks.checks.dashboard_queries import panels
from service.errors import KINDS
from service.settings import Settings
from tests.monitoring.conftest import ROOT, Exported, alerts

PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("monitoring", "runbook")}
ROW = re.compile(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \| ([^|]*)\| (.+\.) \|$", re.MULTILINE)


def test_the_table_has_every_metric_with_its_type_and_labels(exported: list[Exported]):
    rows = [(name, kind, frozenset(re.findall(r"\w+", labels))) for name, kind, labels, _ in
            ROW.findall(PAGES["monitoring"])]  # fmt: skip
    assert len(set(rows)) == len(rows)
    assert set(rows) == {(each.name, each.kind, each.labels) for each in exported}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_metrics_that_exist(page, exported, series):
    known = {each.name for each in exported} | set(series)
    named = set(re.findall(r"\b(?:bmaml|process)_[a-z_]+\b(?!-)", PAGES[page]))
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_settings_that_exist(page):
    known = {f"BMAML_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bBMAML_[A-Z_]+\b", PAGES[page])) <= known


def test_the_runbook_names_kinds_of_problems_that_exist():
    named = set(re.findall(r'"problem": "([a-z-]+)"', PAGES["runbook"]))
    assert named
    assert named <= set(KINDS)


def test_the_page_counts_the_panels_and_alerts_that_there_are():
    said = re.search(r"of (\d+)\s+panels had data.*?all (\d+) alerts", PAGES["monitoring"], re.DOTALL)
    assert said is not None
    assert [int(number) for number in said.groups()] == [len(panels()), len(alerts())]
