"""Dashboards as Grafana's JSON, and its provisioning files: the only module that knows Grafana's schema.

The schema is `kinds/dashboard` of Grafana, version 36. Tests check the JSON against grafana-foundation-sdk's types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsctl.host.files import Json

SCHEMA_VERSION = 36
#: Columns of Grafana's grid, and the height of a panel in its rows.
COLUMNS, HEIGHT = 24, 8
DATASOURCE = {"type": "prometheus", "uid": "tsctl-prometheus"}
#: The variable of a dashboard that shows one model.
MODEL_VARIABLE = "$model"


@dataclass(frozen=True)
class Query:
    """One PromQL query of a panel.

    Args:
        legend: of each series; a template such as {{version}}.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        unit: as Grafana names it, such as ms, reqps, percentunit.
        kind: timeseries, stat or table.
        width: in columns of Grafana's grid.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    description: str = ""


def dashboard(uid: str, title: str, description: str, panels: Sequence[Panel], model_query: str | None = None) -> Json:
    """A dashboard with these panels, from left to right and from top to bottom.

    Args:
        model_query: whose label `model` gives the choices of MODEL_VARIABLE; None: the dashboard has no variable.
    """
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["tsctl"],
        "timezone": "browser",
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "templating": {"list": [_variable(model_query)] if model_query is not None else []},
        "annotations": {"list": []},
        "panels": [_panel(number, panel, place) for number, (panel, place) in enumerate(_placed(panels), 1)],
    }


def as_json(board: Json) -> str:
    """The file of a dashboard."""
    return json.dumps(board, indent=2) + "\n"


def provisioning(prometheus: str, dashboards: Path) -> dict[str, Json]:
    """Grafana's provisioning files by their names below its folder `provisioning`.

    Args:
        dashboards: the folder of the dashboards' files.
    """
    source = {"name": "tsctl", "access": "proxy", "url": prometheus, "isDefault": True, **DATASOURCE}
    provider = {"name": "tsctl", "folder": "tsctl", "type": "file", "options": {"path": str(dashboards.resolve())}}
    return {
        "datasources/tsctl.yml": {"apiVersion": 1, "datasources": [source]},
        "dashboards/tsctl.yml": {"apiVersion": 1, "providers": [provider]},
    }


def _placed(panels: Sequence[Panel]) -> list[tuple[Panel, Json]]:
    """Each panel with its place; one that does not fit into its row begins the next."""
    placed, x, y = [], 0, 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y = 0, y + HEIGHT
        placed.append((panel, {"h": HEIGHT, "w": panel.width, "x": x, "y": y}))
        x += panel.width
    return placed


def _panel(number: int, panel: Panel, place: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [_target(panel, query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
    }


def _target(panel: Panel, query: Query, letter: str) -> Json:
    is_graph = panel.kind == "timeseries"
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
        "range": is_graph,
        "instant": not is_graph,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _variable(query: str) -> Json:
    return {
        "type": "query",
        "name": MODEL_VARIABLE.removeprefix("$"),
        "label": "Model",
        "datasource": DATASOURCE,
        "query": f"label_values({query}, model)",
        "refresh": 2,
        "sort": 1,
        "includeAll": False,
        "multi": False,
    }
