"""The queries of the Grafana dashboard, with Grafana's variables replaced, as Prometheus takes them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MONITORING = Path(__file__).parents[2] / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "bmaml.json"
VARIABLES = {"$__rate_interval": "1m", "$instance": ".+"}
"""Values for Grafana's variables: four scrapes, and every instance."""
MAY_BE_EMPTY = "May be empty"
"""In the description of a panel that has no data while nothing is wrong."""


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        legend: names of its lines, `{{label}}` for a label's value.
    """

    panel: str
    expression: str
    legend: str
    may_be_empty: bool


def panels(path: Path = DASHBOARD) -> list[dict[str, Any]]:
    """All panels in their order, without the headings of rows."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def queries(path: Path = DASHBOARD) -> Iterator[Query]:
    """All queries of all panels, in their order."""
    for panel in panels(path):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            may_be_empty = MAY_BE_EMPTY in panel["description"]
            yield Query(panel["title"], expression, target["legendFormat"], may_be_empty)
