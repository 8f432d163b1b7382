"""`qae ctl status`: how an engine is, on one screen; by HTTP where it answers, else by Redis."""

import asyncio
import http.client
import json
import time
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    load_settings,
    redis_address,
    redis_client,
)
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.signals import decode_signal
from quantum_ai_engine.events import Change, Signal

ANSWER_WITHIN_S = 3.0
CHANGES_LOOKED_AT = 1_000  # for how an agent stands: its last change is among them, or it had none
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (where it is heard, not bound)
NOT_SERVING = ("degraded", "stopping", "standby")
NO_DATA = "no data"

out = Console()


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one agent stands; what is not known from here is None."""

    agent: str
    answers: str | None = None
    standing: str | None = None
    trust: float | None = None
    brier: float | None = None
    settled: float | None = None
    partition: int = 0


class RiskReport(msgspec.Struct, frozen=True, kw_only=True):
    """What may be held in one partition, and why not more."""

    state: str
    breakers: list[str]
    reasons: list[str]
    mode: str
    exposure_cap: float
    partition: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is. `heard` is by what: http, or redis."""

    heard: str
    at: str
    serving: bool
    state: str
    reason: str | None
    redis: str
    engine: str | None
    config: dict[str, Any]
    last_bar_close_time: int | None
    last_bar_age_s: float | None
    bars: int
    signals: int
    effective_votes: float | None
    lag_ms: int
    lag_bars: int
    stale_series: list[str]
    risk: list[RiskReport]
    agents: list[AgentReport]


def status(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Say on one screen how the engine is; exit 1 if it does not serve."""
    settings = load_settings(config, assignments).settings
    found = by_http(settings) or asyncio.run(by_redis(settings))
    if found is None:
        raise CommandError(
            f"no engine is heard: {_http_address(settings)} does not answer, and at "
            f"{redis_address(settings)} no partition has a heartbeat; start `qae serve`, or give "
            "its settings (http.port, redis.url, redis.prefix, redis.partitions)"
        )
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        out.print(screen(found))
    if not found.serving:
        raise typer.Exit(1)


def by_http(settings: Settings) -> Report | None:
    """What the engine of this machine says; None where none answers."""
    if not settings.http.enabled or not settings.http.port:
        return None
    health, judged = _get(settings, "/health"), _get(settings, "/agents")
    if not isinstance(health, dict) or not isinstance(judged, list) or "config" not in health:
        return None  # something else listens there
    reason = health["reason"]
    return Report(
        heard="http",
        at=_http_address(settings),
        serving=health["ready"] and health["status"] not in NOT_SERVING,
        state=health["status"],
        reason=reason,
        redis=reason if (reason or "").startswith("Redis") else "serves",
        engine=health["engine"],
        config=health["config"],
        last_bar_close_time=health["last_bar"]["close_time"],
        last_bar_age_s=health["last_bar"]["age_s"],
        bars=health["bars"]["processed"],
        signals=health["signals"],
        effective_votes=health["ensemble"]["effective_votes"],
        lag_ms=health["lag_ms"],
        lag_bars=health["lag_bars"],
        stale_series=health["stale_series"],
        risk=[
            RiskReport(
                **one["risk"],
                mode=one["policy"]["mode"],
                exposure_cap=one["policy"]["exposure_cap"],
                partition=one["partition"],
            )
            for one in judged
        ],
        agents=[
            AgentReport(
                agent=agent["agent"],
                answers=health["models"][agent["agent"]]["state"],
                standing=agent["state"],
                trust=agent["trust"],
                brier=(agent["score"] or {}).get("brier"),
                settled=(agent["score"] or {}).get("count"),
                partition=one["partition"],
            )
            for one in judged
            for agent in one["agents"]
        ],
    )


def _get(settings: Settings, path: str) -> Any:
    """The JSON of an address; None where nobody answers with JSON."""
    host = ANYWHERE.get(settings.http.host, settings.http.host)
    connection = http.client.HTTPConnection(host, settings.http.port, ANSWER_WITHIN_S)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _http_address(settings: Settings) -> str:
    if not settings.http.enabled or not settings.http.port:
        return "HTTP (off, or on no fixed port)"
    return f"http://{settings.http.host}:{settings.http.port}"


async def by_redis(settings: Settings) -> Report | None:
    """What heartbeats, the state and the newest signal say; None where no engine is heard."""
    keys = Keys.of(settings.redis)
    try:
        async with redis_client(settings) as client:
            parts = [
                await _Part.read(client.at(p), keys.at(p)) for p in range(settings.redis.partitions)
            ]
    except Unreachable as error:
        raise CommandError(f"Redis cannot serve: {error}") from error
    if not any(part.beat for part in parts):
        return None
    return _of_parts(settings, parts)


class _Part(msgspec.Struct, frozen=True):
    """What Redis has of one partition."""

    partition: int
    beat: dict[str, Any]
    signal: Signal | None
    risk: str | None
    standings: dict[str, str]

    @classmethod
    async def read(cls, client: Client, keys: Keys) -> "_Part":
        beat: Any = await client.get(keys.heartbeat)
        newest: Any = await client.xrevrange(keys.signals, count=1)
        risk: Any = await client.hget(keys.state, "risk")
        told: Any = await client.xrevrange(keys.rooms["supervisor"], count=CHANGES_LOOKED_AT)
        signal = None
        if newest:
            try:
                signal = decode_signal(newest[0][1])
            except ValueError as error:
                raise CommandError(f"the newest signal cannot be read: {error}") from error
        changes = [msgspec.json.decode(fields[b"json"], type=Change) for _, fields in told]
        return cls(
            keys.partition,
            json.loads(beat) if beat else {},
            signal,
            risk.decode() if risk else None,
            {change.subject: change.after for change in reversed(changes)},
        )

    def risks(self) -> list[RiskReport]:
        """The state of the risk brain with what the newest signal says of it."""
        if self.signal is None:
            return []
        risk, policy = self.signal.risk, self.signal.policy
        return [
            RiskReport(
                state=self.risk or risk.state,
                breakers=list(risk.breakers),
                reasons=list(risk.reasons),
                mode=policy.mode,
                exposure_cap=policy.exposure_cap,
                partition=self.partition,
            )
        ]

    def agents(self) -> list[AgentReport]:
        """Who voted in the newest signal and who did not; scores are told by HTTP alone."""
        if self.signal is None:
            return []
        answers = {vote.agent: ("active", vote.trust) for vote in self.signal.votes}
        silent = {one.agent: (one.reason.value, None) for one in self.signal.abstained}
        return [
            AgentReport(
                agent=name,
                answers=answer,
                standing=self.standings.get(name),
                trust=trust,
                partition=self.partition,
            )
            for name, (answer, trust) in (answers | silent).items()
        ]


def _of_parts(settings: Settings, parts: list[_Part]) -> Report:
    """All partitions together: the worst of them says how the engine is."""
    beats = [part.beat for part in parts if part.beat]
    missing = [part.partition for part in parts if not part.beat]
    words = [beat["state"] for beat in beats]
    bad = next((word for word in words if word in NOT_SERVING), None)
    reason = None
    if missing:
        reason = f"no heartbeat in partition {', '.join(map(str, missing))}"
    closes = [b["last_bar_close_time"] for b in beats if b["last_bar_close_time"] is not None]
    votes = [b["effective_votes"] for b in beats if b["effective_votes"] is not None]
    newest = max(closes, default=None)
    return Report(
        heard="redis",
        at=redis_address(settings),
        serving=not missing and bad is None,
        state="silent" if missing else bad or words[0],
        reason=reason,
        redis="serves",
        engine=beats[0].get("engine"),
        config={
            "generation": beats[0].get("config_generation"),
            "hash": beats[0].get("config_hash"),
            "refused": None,
        },
        last_bar_close_time=newest,
        last_bar_age_s=None if newest is None else time.time() - newest / 1000,
        bars=sum(beat["bars"] for beat in beats),
        signals=sum(beat["signals"] for beat in beats),
        effective_votes=min(votes, default=None),
        lag_ms=max(beat["lag_ms"] for beat in beats),
        lag_bars=sum(beat["lag_bars"] for beat in beats),
        stale_series=[series for beat in beats for series in beat["stale_series"]],
        risk=[one for part in parts for one in part.risks()],
        agents=[one for part in parts for one in part.agents()],
    )


def screen(report: Report) -> Group:
    """The report for the eye: nothing in it is markup."""
    return Group(*_head(report), _agents(report))


def _head(report: Report) -> list[Text]:
    style = "green" if report.serving else "bold red"
    word = "serving" if report.serving else "not serving"
    reason = f" ({report.reason})" if report.reason else ""
    settings, refused = report.config, report.config["refused"]
    lines = [
        ("engine", f"{report.engine or NO_DATA}, heard by {report.heard} at {report.at}", ""),
        ("state", f"{word}: {report.state}{reason}", style),
        ("settings", f"{settings['generation']} (hash {settings['hash']})", ""),
        *([("refused", refused, "bold yellow")] if refused else []),
        ("redis", report.redis, "" if report.redis == "serves" else "bold red"),
        ("last bar", _last_bar(report), ""),
        ("work", f"{report.bars:,} bars, {report.signals:,} signals since the start", ""),
        ("votes", f"{_figure(report.effective_votes, 1)} effective in the last forecast", ""),
        ("lag", f"{report.lag_ms:,} ms, {report.lag_bars:,} entries to read", ""),
        ("stale", ", ".join(report.stale_series) or "none", "yellow" * bool(report.stale_series)),
        *_risks(report),
    ]
    return [Text.assemble((f"{name:<9}", "dim"), (text, style)) for name, text, style in lines]


def _risks(report: Report) -> list[tuple[str, str, str]]:
    if not report.risk:
        return [("risk", NO_DATA, "dim")]
    lines = []
    for one in report.risk:
        where = f" in partition {one.partition}" if len(report.risk) > 1 else ""
        style = {"ACTIVE": "green", "REDUCING": "yellow"}.get(one.state, "bold red")
        cap = f"mode {one.mode}, at most {one.exposure_cap:g} a symbol"
        lines.append(("risk", f"{one.state}{where}, {cap}", style))
        lines += [("", f"{breaker} is open", "yellow") for breaker in one.breakers]
        lines += [("", reason, "dim") for reason in one.reasons]
    return lines


def _last_bar(report: Report) -> str:
    if report.last_bar_close_time is None or report.last_bar_age_s is None:
        return NO_DATA
    closed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(report.last_bar_close_time / 1000))
    return f"closed {closed} UTC, {report.last_bar_age_s:,.0f} s ago"


def _agents(report: Report) -> Table:
    table = Table(expand=False)
    for name in ("agent", "answers", "standing", "trust", "Brier", "settled"):
        table.add_column(name, justify="right" if name in ("trust", "Brier", "settled") else "left")
    for one in report.agents:
        where = f" ({one.partition})" if len(report.risk) > 1 else ""
        cells = [
            f"{one.agent}{where}",
            one.answers or NO_DATA,
            one.standing or NO_DATA,
            _figure(one.trust, 3),
            _figure(one.brier, 4),
            _figure(one.settled, 0),
        ]
        table.add_row(*(Text(cell, "dim" * (cell == NO_DATA)) for cell in cells))
    return table


def _figure(value: float | None, digits: int) -> str:
    return NO_DATA if value is None else f"{value:,.{digits}f}"
