"""Tests of the alert rules: each has its runbook and its cases, and promtool agrees."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .test_metric_names import ROOT, RULES, rules

PROMETHEUS = RULES.parent
CASES = PROMETHEUS / "quantum-ai-engine.rules_test.yml"
RUNBOOKS = ROOT / "docs" / "runbooks"
SEVERITIES = {"critical", "warning", "info"}
PROMTOOL = os.environ.get("PROMTOOL", "promtool")
needs_promtool = pytest.mark.skipif(
    shutil.which(PROMTOOL) is None,
    reason="promtool is not installed: nobody has checked the alert rules and the dashboard "
    "(deploy/prometheus/README.md says where it is)",
)
RULES_READ = tuple(rules())
NAMES = [rule["alert"] for rule in RULES_READ]


def check(directory: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROMETHEUS / "check.sh", directory], capture_output=True, text=True, check=False
    )


def runbook(name: str) -> str:
    return (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")


def test_rules_and_runbooks_are_one_to_one() -> None:
    """Nobody is woken without being told what to do, and no page is left of an old alert."""
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert len(NAMES) == len(set(NAMES))
    assert pages == set(NAMES)


@pytest.mark.parametrize("rule", RULES_READ, ids=NAMES)
def test_an_alert_says_what_it_must(rule: dict[str, dict[str, str]]) -> None:
    """A severity, a summary, a description, and its own runbook."""
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert rule["annotations"]["description"].endswith(".")


@pytest.mark.parametrize("rule", RULES_READ, ids=NAMES)
def test_a_runbook_says_what_it_must(rule: dict[str, dict[str, str]]) -> None:
    """What it means, what to look at, with commands, and what to do."""
    name, severity = str(rule["alert"]), rule["labels"]["severity"]
    text = runbook(name)
    assert text.startswith(f"# {name}\n\nSeverity: {severity}.\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "What it means",
        "What to look at",
        "What to do",
    ]
    assert re.search(
        r"^```sh\n(?:curl|journalctl|redis-cli|qae|systemctl|promtool)", text, re.MULTILINE
    )


def test_the_index_has_every_alert_once() -> None:
    index = runbook("README")
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", index, re.MULTILINE)
    severities = {str(rule["alert"]): rule["labels"]["severity"] for rule in rules()}
    assert [(name, name, severities[name]) for name in NAMES] == rows


def test_links_of_runbooks_lead_somewhere() -> None:
    for page in RUNBOOKS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert (RUNBOOKS / target).exists(), (page.name, target)
        for file in re.findall(r"`((?:docs|deploy|config)/[\w./-]+)`", text):
            assert (ROOT / file).exists(), (page.name, file)


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    tests = [test for case in cases for test in case["alert_rule_test"]]
    assert {test["alertname"] for test in tests if test["exp_alerts"]} == set(NAMES)
    assert {test["alertname"] for test in tests if not test["exp_alerts"]} == set(NAMES)


@needs_promtool
def test_promtool_agrees() -> None:
    """The example configuration and the rules are valid, and every case comes out."""
    result = check()
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("alert", "old", "new"),
    [
        ("EngineDown", 'up{job="quantum-ai-engine"} == 0', 'up{job="quantum-ai-engine"} == 1'),
        ("EngineDown", "for: 3m # a start", "for: 30m # a start"),
        ("Gaps", "runbook_url: docs/runbooks/Gaps.md", "runbook_url: docs/runbooks/Gap.md"),
        ("RiskHalted", 'qae_risk_state{state="HALTED"}', 'qae_risk_state{state="REDUCING"}'),
        ("StateLost", "time() - qae_process_start_time_seconds < 900", "vector(0) > 1"),
        ("Gaps", "expr: increase(qae_gaps_total[15m]) > 0", "expr: increase(qae_gaps_total) > 0"),
    ],
)
def test_check_finds_faults(tmp_path: Path, alert: str, old: str, new: str) -> None:
    """A wrong threshold, patience, annotation, value, age or type does not pass."""
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    cases["tests"] = [
        case for case in cases["tests"] if case["alert_rule_test"][0]["alertname"] == alert
    ]
    (tmp_path / CASES.name).write_text(yaml.safe_dump(cases), encoding="utf-8")
    shutil.copy(PROMETHEUS / "prometheus.yml", tmp_path)
    text = RULES.read_text(encoding="utf-8")
    assert old in text
    for rules_text, status in ((text, 0), (text.replace(old, new), 1)):
        (tmp_path / RULES.name).write_text(rules_text, encoding="utf-8")
        assert check(tmp_path).returncode == status
