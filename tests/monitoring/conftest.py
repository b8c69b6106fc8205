"""What the service really exports, and what our dashboard and alerts ask of it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bmaml.learners.surprise import Surprise
from service.settings import Settings
from tests.published import own_rows, publish
from tests.service.conftest import serve

ROOT = Path(__file__).parents[2]
BODY = {"model": "tiny", "support": {"x": [[-2.0], [0.5]], "y": [8.0, 11.5]}, "query": {"x": [[0.0]]}}


@dataclass(frozen=True)
class Exported:
    """One metric.

    Attributes:
        series: its name, or for histograms the names of its buckets, sum and count, with the labels of each.
    """

    name: str
    kind: str
    labels: frozenset[str]
    series: dict[str, frozenset[str]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """All metrics of a service that has answered, warned, refused, and found a bad version in its store.

    It has no GPU, computes in a thread and serves a folder: what a GPU, a process that computes, or a store
    elsewhere would say is put into its mouth.
    """
    store = tmp_path_factory.mktemp("store")
    publish(store, "tiny")
    unlike = own_rows(publish(store, "surprised", surprise=Surprise()), 20, size=10)
    publish(store, "bad")
    (store / "bad" / "1" / "particles.safetensors").write_bytes(b"half of it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.http.health.memory", lambda device: {"allocated": 1, "total": 2})
        patch.setattr("service.runtime.Runtime.mirror_age_s", 1.0)
        for served in serve(Settings(store=store, device="cpu")):
            served.app.state.runtime.metrics.watch_workers([os.getpid()])
            served.client.post("/adapt-predict", json=BODY).raise_for_status()
            body = BODY | {"model": "surprised", "support": unlike}
            served.client.post("/adapt-predict", json=body).raise_for_status()
            assert served.client.post("/adapt-predict", json=BODY | {"model": "nobody"}).status_code == 404
            text = served.client.get("/metrics").text
    return list(read(text))


def read(text: str) -> Iterator[Exported]:
    """The metrics of an exposition."""
    for family in text_string_to_metric_families(text):
        series: dict[str, frozenset[str]] = {}
        for sample in family.samples:
            seen = series.setdefault(sample.name, frozenset(sample.labels))
            assert seen == frozenset(sample.labels), f"{sample.name} has different labels at times"
        assert series, f"{family.name} has no series: let the service do what makes some"
        name = next(iter(series)) if family.type == "counter" else family.name
        labels = frozenset().union(*series.values()) - {"le"}
        yield Exported(name, family.type, labels, series)


@pytest.fixture(scope="session")
def series(exported: list[Exported]) -> dict[str, frozenset[str]]:
    """The labels of every series that Prometheus has: those of the service, and its own."""
    scraped = {name: labels for each in exported for name, labels in each.series.items()}
    own = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
    return {name: labels | {"job", "instance"} for name, labels in (scraped | own).items()}


def alerts() -> list[dict[str, object]]:
    """Our rules."""
    groups = yaml.safe_load((ROOT / "monitoring" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]
