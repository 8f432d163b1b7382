"""Tests of the HTTP answers, asked from a running daemon."""

from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.http import SCRAPE_AGAIN_S, Api
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.routes import BODY_BYTES
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features import kernel
from quantum_ai_engine.market.table import BarTable

from .test_app import BARS, changed, feed, published, run_through, said, serving, until

ASKED = {"symbol": "BTCUSDT", "lookback": 128, "features": ["close", "volume", "rsi_14"]}
FROM_DESIGN = {
    "qae_bars_total": {"outcome"},
    "qae_signals_total": {"stance"},
    "qae_bar_to_signal_seconds_bucket": {"le"},
    "qae_stage_seconds_bucket": {"stage", "le"},
    "qae_inference_seconds_bucket": {"agent", "le"},
    "qae_abstentions_total": {"agent", "reason"},
    "qae_effective_votes": set[str](),
    "qae_trust": {"agent"},
    "qae_ready": set[str](),
    "qae_last_bar_close_timestamp_seconds": set[str](),
    "qae_event_loop_lag_seconds": set[str](),
    "qae_pool_busy_workers": set[str](),
    "qae_commit_conflicts_total": set[str](),
    "qae_dead_letters_total": {"reason"},
    "qae_gaps_total": set[str](),
    "qae_build_info": {"version", "build", "config"},
}


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@pytest.fixture
async def daemon(settings: Settings) -> AsyncIterator[Daemon]:
    async with serving(settings) as daemon:
        yield daemon


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[ClientSession]:
    async with ClientSession(daemon.http_address) as session:
        yield session


async def get(http: ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the body."""
    async with http.get(path) as answer:
        return answer.status, await answer.json()


async def predict(http: ClientSession, body: object) -> tuple[int, dict[str, Any]]:
    """The answer to `POST /predict`."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    async with http.post("/predict", data=data) as answer:
        return answer.status, await answer.json()


def given(bars: list[Bar], symbol: str) -> list[dict[str, Any]]:
    """One symbol's bars as a caller sends them."""
    own = [msgspec.to_builtins(bar) for bar in bars if bar.symbol == symbol]
    return [{k: v for k, v in bar.items() if k not in ("symbol", "interval")} for bar in own]


async def fed(daemon: Daemon, client: Client, bars: list[Bar]) -> None:
    """All bars have been processed."""
    await feed(client, bars)
    await until(lambda: daemon.status.processed == len(bars))


async def test_health_tells_work_done(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L05: before the first bar it is warming up; ok comes with votes, counts and the last bar."""
    await until(lambda: daemon.status.ready)
    _, before = await get(http, "/health")
    assert (before["status"], before["last_bar"]["close_time"]) == ("warming_up", None)
    assert {model["state"] for model in before["models"].values()} == {"warming_up"}
    await fed(daemon, client, bars)
    status, health = await get(http, "/health")
    assert (status, health["status"], health["reason"]) == (200, "ok", None)
    assert health["bars"] == {"processed": len(bars), "duplicates": 0, "refused": 0}
    assert health["signals"] == len(await published(client))
    assert health["last_bar"]["close_time"] == max(bar.close_time for bar in bars)
    for model in health["models"].values():
        assert model["state"] == "active"
        assert 0 < model["votes"] <= len(bars)


async def test_live_and_ready(daemon: Daemon, http: ClientSession) -> None:
    """L10: 503 only when not ready, and always with the reason."""
    await until(lambda: daemon.status.ready)
    assert await get(http, "/health/ready") == (200, {"ready": True})
    status, live = await get(http, "/health/live")
    assert (status, live["status"]) == (200, "alive")
    daemon.status.partitions[0].redis_error = "Connection refused"
    status, body = await get(http, "/health/ready")
    assert (status, body) == (
        503,
        {"ready": False, "reason": "Redis cannot serve: Connection refused"},
    )


async def test_metrics_have_the_names_that_are_promised(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L09: parsed as Prometheus does; the figures are those of this process's work."""
    await fed(daemon, client, bars)
    await client.xadd("quantum:bars", {"json": "{"})
    await until(lambda: daemon.status.refused == 1)
    async with http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found: dict[str, set[str]] = {}
    for sample in samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    assert FROM_DESIGN.items() <= found.items()
    values = {(s.name, *sorted(s.labels.items())): s.value for s in samples}
    signals = len(await published(client))
    assert values["qae_bars_total", ("outcome", "processed")] == len(bars)
    assert values["qae_dead_letters_total", ("reason", "undecodable")] == 1
    assert values[("qae_bar_to_signal_seconds_count",)] == signals
    assert sum(s.value for s in samples if s.name == "qae_signals_total") == signals
    assert values[("qae_last_bar_close_timestamp_seconds",)] == bars[-1].close_time / 1000
    assert values[("qae_ready",)] == 1


async def test_predict_of_a_symbol(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L10: the forecast that the last signal had, with the features that were asked for."""
    await fed(daemon, client, bars)
    status, body = await predict(http, ASKED)
    assert status == 200
    last = [s for s in await published(client) if s["symbol"] == "BTCUSDT"][-1]
    assert body["close_time"] == last["close_time"]
    assert body["probability"] == pytest.approx(last["probability"], abs=1e-6)
    assert body["confidence"] == pytest.approx(last["confidence"], abs=1e-6)
    assert [vote["agent"] for vote in body["votes"]] == [v["agent"] for v in last["votes"]]
    own = given(bars, "BTCUSDT")
    assert body["features"]["close"] == [bar["close"] for bar in own[-128:]]
    assert body["features"]["volume"] == [bar["volume"] for bar in own[-128:]]
    assert len(body["features"]["rsi_14"]) == 128
    assert body["bars_seen"] == len(own)
    assert body["age_s"] > 0


async def test_predict_of_bars_is_the_same_as_of_the_symbol(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L11: one kernel; bars in a request get what the same bars got live."""
    await fed(daemon, client, bars)
    _, live = await predict(http, ASKED)
    status, body = await predict(http, ASKED | {"bars": given(bars, "BTCUSDT")})
    assert status == 200
    assert body["probability"] == pytest.approx(live["probability"], abs=1e-6)
    assert body["close_time"] == live["close_time"]
    assert body["features"] == live["features"]


async def test_predict_of_bars_changes_no_state(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """A caller's bars, of a known symbol and of an unknown one, leave no trace in signals."""
    await run_through(changed(settings, "redis", prefix="twin"), client, bars)
    async with serving(settings) as daemon, ClientSession(daemon.http_address) as http:
        await fed(daemon, client, bars[:400])
        for symbol in ("BTCUSDT", "NEWUSDT"):
            asked = {"symbol": symbol, "bars": given(bars, "BTCUSDT")}
            assert (await predict(http, asked))[0] == 200
        await predict(http, ASKED)
        await feed(client, bars[400:])
        await until(lambda: daemon.status.processed == len(bars))
        assert (await predict(http, {"symbol": "NEWUSDT"}))[0] == 404
    assert said(await published(client)) == said(await published(client, Keys("twin")))


async def test_a_neutral_forecast_is_an_answer(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L10: where no threshold is near, the stance is flat, and the answer 200 with a body."""
    neutral = changed(settings, "risk", long_threshold=0.999, short_threshold=0.001)
    async with serving(neutral) as daemon, ClientSession(daemon.http_address) as http:
        await fed(daemon, client, bars)
        status, body = await predict(http, {"symbol": "BTCUSDT"})
        assert status == 200
        assert 0.0 < body["probability"] < 1.0
        assert (await get(http, "/health"))[1]["status"] == "ok"
    assert {s["stance"] for s in await published(client)} == {"flat"}


async def test_too_few_bars_are_503_with_the_reason(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L02, L10: no agent can answer, so there is no number, but each agent's reason."""
    status, body = await predict(http, {"symbol": "BTCUSDT", "bars": given(bars, "BTCUSDT")[:20]})
    assert status == 503
    assert body["error"] == (
        "no agent gives a prediction for BTCUSDT 1m (gru: warming_up, patchtst: warming_up)"
    )
    await fed(daemon, client, bars[:20])
    status, body = await predict(http, {"symbol": "BTCUSDT"})
    assert status == 503
    assert "gru: warming_up" in body["error"]


async def test_features_that_are_not_there_yet_are_null(
    daemon: Daemon, http: ClientSession, bars: list[Bar]
) -> None:
    """L08, L13: before its window is whole a feature is null, never 0."""
    few = given(bars, "BTCUSDT")[:70]
    asked = {"symbol": "BTCUSDT", "lookback": 70, "features": ["sma_30"], "bars": few}
    status, body = await predict(http, asked)
    assert status == 200
    assert body["features"]["sma_30"][0] is None
    assert body["features"]["sma_30"][-1] is not None


async def test_bad_requests_are_400_and_name_what_is_wrong(
    daemon: Daemon, http: ClientSession, bars: list[Bar]
) -> None:
    """Every refusal is one sentence of JSON."""
    good = given(bars, "BTCUSDT")[:3]
    negative = [good[0], good[1] | {"close": -1.0, "low": -1.0}, good[2]]
    for body, words in [
        (b"{", "truncated"),
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"symbol":' + b"[" * 100_000, "Expected `str`"),
        ({}, "symbol"),
        ({"symbol": 7}, "symbol"),
        (ASKED | {"feature": []}, "unknown field `feature`"),
        (ASKED | {"features": ["rsi_15"]}, "no feature 'rsi_15'; there are "),
        (ASKED | {"features": ["close"] * 65}, "features"),
        (ASKED | {"lookback": 0}, "lookback"),
        (ASKED | {"lookback": 129}, "lookback"),
        (ASKED | {"bars": []}, "bars"),
        (ASKED | {"bars": good[:1]}, "bars"),
        (ASKED | {"bars": negative}, "bars[1]: low -1.0 is not positive"),
        (ASKED | {"bars": [good[1], good[0]]}, "say which interval"),
        (ASKED | {"bars": [good[1], good[0]], "interval": "1m"}, "bars[1].open_time"),
        (ASKED | {"bars": good, "interval": "7m"}, "bars[0]: interval '7m'"),
        (ASKED | {"bars": good, "symbol": "A B"}, "bars[0]: symbol"),
        (ASKED | {"bars": [good[0] | {"trades": 1}, good[1]]}, "unknown field `trades`"),
    ]:
        status, answer = await predict(http, body)
        assert status == 400, (body, answer)
        assert words in answer["error"], answer
        assert answer.keys() == {"error"}


async def test_what_is_not_there_or_too_much(daemon: Daemon, http: ClientSession) -> None:
    """L10: 404 is for what is unknown, never for a neutral answer."""
    await until(lambda: daemon.status.ready)
    status, body = await predict(http, {"symbol": "NOPE"})
    assert status == 404
    assert "NOPE" in body["error"]
    assert (await get(http, "/nowhere"))[0] == 404
    async with http.get("/predict") as answer:
        assert answer.status == 405
        assert "error" in await answer.json()
    async with http.post("/predict", data=BytesIO(b" " * (BODY_BYTES + 1))) as answer:
        assert answer.status == 413
        assert "error" in await answer.json()


async def test_every_column_can_be_asked_for(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L11: bar fields and all columns of the sets in use, live and from bars, the same values."""
    names = daemon.rounds[0].engine.names()
    assert {*kernel.FIELDS, "rsi_14", "gru9.rsi_14"} <= set(names)
    await fed(daemon, client, bars)
    asked = {"symbol": "ETHUSDT", "lookback": 5, "features": names}
    _, live = await predict(http, asked)
    _, own = await predict(http, asked | {"bars": given(bars, "ETHUSDT")})
    assert live["features"] == own["features"]
    assert all(None not in values for values in live["features"].values())


async def test_scrapes_without_a_pause_cost_one() -> None:
    """L09: who asks all the time cannot hold up signals, and hears nothing that is old."""
    now, metrics = [0.0], Metrics("0.1.0", "build", "config")
    api = Api(Status.of([]), metrics, dict, clock=lambda: now[0])
    request = make_mocked_request("GET", "/metrics")
    first = (await api.metrics(request)).body
    metrics.gaps.inc()
    now[0] = SCRAPE_AGAIN_S / 2
    assert (await api.metrics(request)).body == first
    now[0] = SCRAPE_AGAIN_S
    second = (await api.metrics(request)).body
    assert isinstance(second, bytes)
    assert b"qae_gaps_total 1.0" in second
