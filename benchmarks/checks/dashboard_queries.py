"""The queries of the Grafana dashboard, as Prometheus understands them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards" / "bmaml.json"
VARIABLES = {"$__rate_interval": "1m", "$instance": ".+"}
"""What Grafana puts in for its variables: four scrapes, and every instance."""
MAY_BE_EMPTY = "May be empty"
"""Of the descriptions of panels that have nothing to show on a good day."""


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        legend: with `{{label}}` for each label that tells its lines apart.
    """

    panel: str
    expression: str
    legend: str
    may_be_empty: bool


def panels(path: Path = DASHBOARD) -> list[dict[str, Any]]:
    """All panels but the headings of rows, from top to bottom."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def queries(path: Path = DASHBOARD) -> Iterator[Query]:
    """All queries of all panels."""
    for panel in panels(path):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            may_be_empty = MAY_BE_EMPTY in panel["description"]
            yield Query(panel["title"], expression, target["legendFormat"], may_be_empty)
