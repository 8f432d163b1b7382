"""Tests that rules, dashboard and documents name what a real engine exports, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .exported import SUFFIX, Exported, scrape, wrong

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "quantum-ai-engine.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "quantum-ai-engine.json"
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
PROCESS = "qae_process_"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return scrape(tmp_path_factory.mktemp("exported"))


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        yield from group["rules"]


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] != "row":
            yield panel


def test_rules_ask_for_what_there_is(exported: Exported) -> None:
    """L08, L09: every metric, label and value of a rule is exported; one that is not is silent."""
    for rule in rules():
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert wrong(rule["expr"], shown, exported) == [], rule["alert"]


def test_panels_ask_for_what_there_is(exported: Exported) -> None:
    """L08: every figure on the dashboard is a metric of the process."""
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert wrong(target["expr"], shown, exported) == [], panel["title"]


def test_what_does_not_exist_is_found(exported: Exported) -> None:
    """The check itself finds a wrong name, label, value and group."""
    assert wrong("qae_bar_total > 0", set(), exported) == ["no engine exports qae_bar_total"]
    assert wrong('qae_ready{symbol="x"}', set(), exported) == ["qae_ready has no label symbol"]
    state = 'qae_risk_state{state="halted"} == 1'
    assert wrong(state, set(), exported) == ["qae_risk_state has no state=halted"]
    assert wrong("sum by (symbol) (qae_ready)", set(), exported) == ["no metric of it has symbol"]
    assert wrong("qae_ready", {"agent"}, exported) == ["no metric of it has agent"]
    assert wrong("vector(1)", set(), exported) == ["asks for nothing: vector(1)"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_what_there_is(exported: Exported, document: Path) -> None:
    """L09: in prose a metric has its whole name; a `grep` in a command finds at least one."""
    for line in document.read_text(encoding="utf-8").splitlines():
        names = set(re.findall(r"\bqae_(?:\w+|\([\w|]+\)\w*)", line))
        for name in names:
            if "grep" in line:
                pattern = re.compile(name)
                assert any(pattern.match(one) for one in exported.samples), (name, line)
            else:
                assert SUFFIX.sub("", name) in exported.metrics or name in exported.samples, line


def test_the_readme_lists_every_metric(exported: Exported) -> None:
    """L09: the table is what is exported; those of the process are named by their prefix."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Metrics\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"\bqae_\w+", table))
    own = {name for name in exported.metrics if not name.startswith(PROCESS)}
    assert {name for name in listed if not name.startswith(PROCESS)} == own
    assert {name for name in listed if name.startswith(PROCESS)} <= exported.metrics


def test_the_readme_says_the_labels(exported: Exported) -> None:
    """L09: `name{label,…}` of the table has exactly the labels that are exported."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Metrics\n")[2].partition("\n## ")[0]
    for name, labels in re.findall(r"`(qae_\w+)(?:\{([\w,]+)\})?`", table):
        sample = exported.samples.get(name) or exported.samples.get(f"{name}_bucket") or {}
        assert sample.keys() - {"le"} == {label for label in labels.split(",") if label}, name


def test_nothing_is_by_symbol(exported: Exported) -> None:
    """A thousand symbols are not a thousand series, of a histogram least of all."""
    for name, labels in exported.samples.items():
        assert "symbol" not in labels
        if name.endswith("_bucket"):
            assert labels.keys() <= {"le", "agent", "stage"}, name
