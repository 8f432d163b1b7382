"""Writes the Grafana dashboard: `python deploy/grafana/dashboard.py [FILE]`.

The panels are lines in panels.py. What Grafana wants besides (places, ids, the data source as a
variable) is worked out here. Needs Python alone.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panels import ROWS, Panel

FILE = Path(__file__).with_name("quantum-ai-engine.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, FIGURE, HEIGHT = 24, 4, 8  # of the grid, a single figure and a plot


def placed() -> Iterator[dict[str, Any]]:
    """Rows and panels from left to right, top to bottom."""
    number, y = 0, 0
    for title, row in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            "panels": [],
        }
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + _width(panel) > WIDTH or (x and height != _height(panel)):
                x, y = 0, y + height
            number += 1
            yield panel_json(panel, number, x, y)
            x, height = x + _width(panel), _height(panel)
        y += height


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """As Grafana reads it, at a place of the grid."""
    targets = [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expression,
            "legendFormat": name,
            "instant": panel.is_figure,
            "range": not panel.is_figure,
            "refId": chr(ord("A") + i),
        }
        for i, (expression, (_, name)) in enumerate(
            zip(panel.expressions(), panel.queries, strict=True)
        )
    ]
    return {
        "id": number,
        "type": "stat" if panel.is_figure else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": _width(panel), "h": _height(panel)},
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "targets": targets,
    }


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit, "noValue": "no data"}
    if not panel.is_figure:
        stacking = {"mode": "normal" if panel.is_stacked else "none"}
        filled = 30 if panel.is_stacked else 0
        field["custom"] = {"fillOpacity": filled, "showPoints": "never", "stacking": stacking}
    return field


def _options(panel: Panel) -> dict[str, Any]:
    if panel.is_figure:
        return {
            "colorMode": "none",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "textMode": "value_and_name",
        }
    return {
        "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _width(panel: Panel) -> int:
    return FIGURE if panel.is_figure else WIDTH // 2


def _height(panel: Panel) -> int:
    return FIGURE if panel.is_figure else HEIGHT


def variable(name: str, metric: str, label: str) -> dict[str, Any]:
    """A choice above the dashboard: the values of a label."""
    query = f"label_values({metric}, {label})"
    return {
        "name": name,
        "type": "query",
        "label": name,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def dashboard() -> dict[str, Any]:
    """The whole of it, as Grafana imports it."""
    instance = variable("instance", 'qae_build_info{job="$job"}', "instance")
    return {
        "uid": "quantum-ai-engine",
        "title": "quantum-ai-engine",
        "description": "Bars in, signals out, and what stands between. Runbooks: docs/runbooks.",
        "tags": ["quantum-ai-engine"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "label": "data source",
                    "query": "prometheus",
                    "refresh": 1,
                },
                variable("job", "qae_build_info", "job"),
                instance | {"includeAll": True, "multi": True, "current": {"value": "$__all"}},
            ]
        },
        "annotations": {"list": []},
        "panels": list(placed()),
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    target.write_text(text(), encoding="utf-8")
