"""What a real engine exports, and what an expression of PromQL asks for."""

import asyncio
import io
import re
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from quantum_ai_engine.config import RedisSettings, Settings, load
from quantum_ai_engine.daemon import logs
from quantum_ai_engine.daemon.client import connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.loglimit import LineLimit
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.proof.agents import START_MS, train_agents
from tests.daemon.test_app import feed, serving, until

BARS = 400  # of one symbol: many are settled, and some voids
OF_PROMETHEUS = {"job", "instance"}
SUFFIX = re.compile(r"_(bucket|sum|count)$")


@dataclass
class Exported:
    """Names of all samples with their labels' values, and of all metrics as one names them."""

    samples: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Asked:
    """Metrics in an expression with the values that it selects, and the labels it groups by."""

    selected: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    grouped: frozenset[str]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.selected}


def read(text: str) -> Exported:
    """What is in an answer of /metrics."""
    found = Exported()
    for family in text_string_to_metric_families(text):
        total = "_total" if family.type == "counter" else ""
        found.metrics.add(family.name + total)
        found.samples.setdefault(family.name + total, {})
        for sample in family.samples:
            labels = found.samples.setdefault(sample.name, defaultdict(set))
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
        if family.type == "histogram":
            del found.samples[family.name]
    return found


def asked(expression: str) -> Asked:
    """What an expression asks for.

    >>> asked('sum by (kind) (rate(qae_x_total{kind=~"a|b"}[5m])) > 0').selected
    (('qae_x_total', (('kind', 'a'), ('kind', 'b'))),)
    """
    selected = []
    for name, matchers in re.findall(r"\b(qae_\w+|up)\b(?:\{([^}]*)\})?", expression):
        values = [
            (label, value)
            for label, text in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers)
            for value in text.split("|")
        ]
        selected.append((name, tuple(values)))
    groups = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression)
    return Asked(tuple(selected), frozenset(re.findall(r"\w+", " ".join(groups))))


def wrong(expression: str, shown: set[str], exported: Exported) -> list[str]:
    """What an expression, or the labels that are shown of it, ask for and no engine exports."""
    asked_for, faults = asked(expression), []
    if not asked_for.selected:
        faults.append(f"asks for nothing: {expression}")
    known = set(OF_PROMETHEUS)
    for name, values in asked_for.selected:
        labels = {} if name == "up" else exported.samples.get(name)
        if labels is None:
            faults.append(f"no engine exports {name}")
            continue
        known |= labels.keys()
        for label, value in values:
            if label not in labels.keys() | OF_PROMETHEUS:
                faults.append(f"{name} has no label {label}")
            elif label in labels and value not in labels[label]:
                faults.append(f"{name} has no {label}={value}")
    faults += [f"no metric of it has {label}" for label in (asked_for.grouped | shown) - known]
    return faults


def scrape(directory: Path) -> Exported:
    """What an engine exports that has had bars, a refused one, and lines of a log held back."""
    return read(asyncio.run(_scraped(directory)))


async def _scraped(directory: Path) -> str:
    bundles = train_agents(("momentum", "sigor"), directory / "bundles")
    limit = LineLimit(1, 60.0)
    log = logs.configure("info", "json", environ={}, stream=io.StringIO(), limit=limit)
    async with EmbeddedRedis(directory / "redis") as server:
        with closing(log):
            return await _answer(_settings(server.url, bundles, directory), log)


def _settings(url: str, bundles: Path, directory: Path) -> Settings:
    overrides = {
        "engine.clock": "bars",
        "engine.burn_in_bars": 0,
        "engine.state_dir": str(directory),
        "redis.url": url,
        "agents.bundles": str(bundles),
        "http.port": 0,
    }
    return load(None, environ={}, overrides=overrides).settings


async def _answer(settings: Settings, log: logs.LogHandle) -> str:
    bars = list(PaperMarket(7, 1, start_ms=START_MS).table(BARS).bars())
    for _ in range(3):
        structlog.get_logger().warning("Too many alike", event_name="gap", symbol="BTCUSDT")
    async with connect(RedisSettings(), settings.redis.url) as client, serving(settings) as daemon:
        daemon.metrics.observe_log(log)
        await feed(client, bars)
        await client.xadd("quantum:bars", {"json": "{"})
        await until(lambda: daemon.status.seen == len(bars) + 1)
        async with ClientSession(daemon.http_address) as session, session.get("/metrics") as got:
            return await got.text()
