"""Tests of the Grafana dashboard: written by its code, whole, and understood by promtool."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from .test_alerts import PROMTOOL, needs_promtool
from .test_metric_names import DASHBOARD, ROOT, panels

CODE = DASHBOARD.parent / "dashboard.py"


def test_the_committed_file_is_what_the_code_writes(tmp_path: Path) -> None:
    """Nobody edits the JSON: it is written anew, from any directory, to the same bytes."""
    written = tmp_path / "dashboard.json"
    subprocess.run([sys.executable, CODE, written], check=True, cwd=tmp_path)
    assert written.read_bytes() == DASHBOARD.read_bytes()


def test_every_panel_explains_itself() -> None:
    """A title of its own, a description, a unit, and series that are named."""
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles))
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"] == "no data"  # L08
        assert all("{{" in target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_the_data_source_is_a_variable() -> None:
    """It works with any Prometheus: nothing in it names one."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    names = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    assert names == {"datasource": "datasource", "job": "query", "instance": "query"}
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_panels_do_not_overlap() -> None:
    cells = set[tuple[int, int]]()
    for panel in panels():
        at = panel["gridPos"]
        own = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own


@needs_promtool
def test_promtool_understands_every_query(tmp_path: Path) -> None:
    """Each as a recording rule; the variables of Grafana have values."""
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [
        {"record": f"panel:{i}", "expr": query.replace("$__rate_interval", "1m")}
        for i, query in enumerate(queries)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    result = subprocess.run(
        [PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(queries)} rules found" in result.stdout
