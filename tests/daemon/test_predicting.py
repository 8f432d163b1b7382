"""`POST /predict` with many requests, and with whatever callers may send."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.predicting import (
    MOST_REQUESTS,
    PredictAnswer,
    PredictFailure,
)
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .test_app import BARS, changed, feed, serving, until
from .test_http import fed, predict
from .test_http import given as given_bars

ASKED = {"symbol": "BTCUSDT", "lookback": 2, "features": ["close", "rsi_14"]}


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS + 1).bars())


@pytest.fixture
async def daemon(settings: Settings) -> AsyncIterator[Daemon]:
    async with serving(settings) as daemon:
        yield daemon


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[ClientSession]:
    async with ClientSession(daemon.http_address) as session:
        yield session


def ageless(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what depends on when it was given."""
    return {name: value for name, value in answer.items() if name != "age_s"}


async def test_many_requests_are_answered_in_their_places(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L53: each gets what it would get alone, and who is wrong spoils nobody else."""
    daemon.lane.slice_s = 60.0
    await fed(daemon, client, bars)
    own = {"symbol": "NEWUSDT", "bars": given_bars(bars, "ETHUSDT")}
    requests: list[Any] = [
        ASKED,
        {"symbol": "NOPE"},
        own,
        ASKED | {"lookback": 0},
        7,
        ASKED | {"symbol": "ETHUSDT"},
        ASKED | {"features": ["rsi_15"]},
        own | {"bars": own["bars"][:20]},
        ASKED,
    ]
    alone = [await predict(http, one) for one in requests]
    batches = daemon.metrics.registry.get_sample_value
    before = batches("qae_inference_seconds_count", {"agent": "gru"}) or 0.0
    status, body = await predict(http, {"requests": requests})
    assert (status, body.keys()) == (200, {"answers"})
    for answer, (code, single) in zip(body["answers"], alone, strict=True):
        if code == 200:
            assert ageless(answer) == ageless(single)
        else:
            assert answer == {"error": single["error"], "status": code}
    assert [code for code, _ in alone] == [200, 404, 200, 400, 400, 200, 400, 503, 200]
    # Four series in one round, which one slice holds here.
    assert batches("qae_inference_seconds_count", {"agent": "gru"}) == before + 1
    assert batches("qae_predictions_total", {"status": "200"}) == 2 * 4
    assert batches("qae_predictions_total", {"status": "503"}) == 2


async def test_a_batch_leaves_no_trace(settings: Settings, client: Client, bars: list[Bar]) -> None:
    """L43: live state is the same, to the hash, whatever callers have asked meanwhile."""
    async with serving(changed(settings, "redis", prefix="asked")) as daemon:
        twin = changed(settings, "redis", prefix="twin")
        async with serving(twin) as other, ClientSession(daemon.http_address) as http:
            for part in (bars[:300], bars[300:]):
                asked = {"requests": [ASKED, {"symbol": "X", "bars": given_bars(bars, "ETHUSDT")}]}
                await predict(http, asked)
                for one in (daemon, other):
                    await feed(client, part, one.rounds[0].keys)
                await until(lambda: daemon.status.processed == other.status.processed > 0)
            await until(lambda: daemon.status.processed == other.status.processed == len(bars))
            assert (await predict(http, asked))[0] == 200
            hashes = [one.rounds[0].engine.state.digest() for one in (daemon, other)]
    assert hashes[0] == hashes[1]


async def test_how_many_requests(daemon: Daemon, http: ClientSession) -> None:
    """L50: none and too many are refused whole, by the field's name."""
    await until(lambda: daemon.status.ready)
    for body, words in [
        ({"requests": []}, "length >= 1 - at `$.requests`"),
        ({"requests": [ASKED] * (MOST_REQUESTS + 1)}, "length <= 64 - at `$.requests`"),
        ({"requests": [ASKED], "symbol": "BTCUSDT"}, "unknown field `symbol`"),
        ({"requests": ASKED}, "Expected `array`"),
    ]:
        status, answer = await predict(http, body)
        assert (status, answer.keys()) == (400, {"error"})
        assert words in answer["error"]
    status, answer = await predict(http, {"requests": [{"symbol": "NOPE"}] * MOST_REQUESTS})
    assert (status, len(answer["answers"])) == (200, MOST_REQUESTS)
    assert {one["status"] for one in answer["answers"]} == {404}


async def test_not_ready_is_503_with_the_reason(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L10: while a partition is not served nothing is said of its symbols; given bars are."""
    await fed(daemon, client, bars)
    daemon.status.partitions[0].redis_error = "Connection refused"
    status, answer = await predict(http, ASKED)
    assert (status, answer["error"]) == (
        503,
        "Redis cannot serve: Connection refused: nothing is known here of BTCUSDT",
    )
    assert (await predict(http, ASKED | {"bars": given_bars(bars, "BTCUSDT")}))[0] == 200


async def test_callers_come_after_live_rounds(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L46: while a round is on callers wait in their queue; beyond it 429, and 504 in the end."""
    few = changed(settings, "http", predict_queue=64, predict_deadline_ms=200)
    async with serving(few) as daemon, ClientSession(daemon.http_address) as http:
        await fed(daemon, client, bars)
        with daemon.lane.live():
            many = asyncio.create_task(predict(http, {"requests": [ASKED] * 64}))
            await until(lambda: daemon.desk.taken == 64)
            async with http.post("/predict", data=b"{}") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
                assert "http.predict_queue" in (await answer.json())["error"]
            status, body = await many
        assert (status, {one["status"] for one in body["answers"]}) == (200, {504})
        assert daemon.desk.taken == 0


async def test_every_refusal_is_one_sentence(daemon: Daemon, http: ClientSession) -> None:
    """L10: whatever is wrong with path, method, headers or body, the body says it the same way."""
    await until(lambda: daemon.status.ready)
    as_json, text = "application/json", "text/plain; charset=utf-8"
    for method, path, headers, data, status, words in [
        ("GET", "/nowhere", {}, None, 404, "GET /openapi.json lists"),
        ("GET", "/%ff%00", {}, None, 404, "GET /openapi.json lists"),
        ("GET", "/predict", {}, None, 405, "answers to POST alone"),
        ("DELETE", "/health", {}, None, 405, "answers to GET, HEAD alone"),
        ("POST", "/predict", {"Content-Type": text}, b"{}", 415, "application/json"),
        ("POST", "/predict", {"Content-Type": "a/b;;"}, b"{}", 415, "application/json"),
        ("POST", "/predict", {"Content-Type": f"{as_json}; charset=utf-16"}, b"{}", 415, "UTF-8"),
        ("POST", "/predict", {"Content-Type": f"{as_json}; charset=UTF-8"}, b"{}", 400, "symbol"),
        ("POST", "/predict", {"Content-Encoding": "gzip"}, b"no gzip", 415, "no Content-Encoding"),
        ("POST", "/predict", {"Content-Encoding": "gzip"}, BOMB, 415, "no Content-Encoding"),
        ("POST", "/predict", {}, b'{"symbol": "A", }', 400, "(byte 16)"),
        ("POST", "/predict", {}, b'{"symbol": "A', 400, "(byte 13)"),
        ("POST", "/predict", {}, b'{"symbol": "\xff"}', 400, "not UTF-8 (byte 12)"),
        ("POST", "/predict", {}, b'{"symbol": "A", "lookback": NaN}', 400, "(byte 28)"),
        ("POST", "/predict", {}, b'{"symbol": "A", "lookback": 1e999}', 400, "$.lookback"),
        ("POST", "/predict", {}, b'{"requests": [' + b"[" * 100_000, 400, "nested too deeply"),
        ("POST", "/predict", {}, b'{"symbol": "%s"}' % (b"A" * 65), 400, "length <= 64"),
    ]:
        skip = ["Content-Type"]
        async with http.request(
            method, path, headers=headers, data=data, skip_auto_headers=skip
        ) as answer:
            body = await answer.json()
            assert (answer.status, body.keys()) == (status, {"error"}), (path, headers, data, body)
            assert words in body["error"], (path, headers, data, body)
            assert ("Allow" in answer.headers) == (status == 405)


BOMB = gzip.compress(b" " * 50_000_000)
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.just(10**400), st.sampled_from([0, 1, 128, 60_000, 1e308])
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
GIVEN_BAR = st.fixed_dictionaries(
    {
        name: st.one_of(st.just(100.0), NUMBERS, ANYTHING)
        for name in ("open", "high", "low", "close", "volume")
    }
    | {"open_time": st.integers(0, 10).map(lambda n: 60_000 * n) | NUMBERS}
)
REQUEST = st.fixed_dictionaries(
    {"symbol": st.sampled_from(["BTCUSDT", "ETHUSDT", "NOPE"]) | ANYTHING},
    optional={
        "interval": st.sampled_from(["1m", "5m", None]) | ANYTHING,
        "lookback": st.integers(1, 128) | NUMBERS,
        "features": st.lists(st.sampled_from(["close", "rsi_14", "gru9.rsi_14", ""])) | ANYTHING,
        "bars": st.lists(GIVEN_BAR, max_size=5) | ANYTHING,
        "unknown": ANYTHING,
    },
)
WHOLE = st.one_of(
    REQUEST, ANYTHING, st.fixed_dictionaries({"requests": st.lists(REQUEST | ANYTHING, max_size=6)})
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON that is nearly right, with a byte or two changed now and then, or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=40))
    text = json.dumps(draw(WHOLE), ensure_ascii=draw(st.booleans()))
    body = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(body)


REFUSED = {400, 404, 415, 503}


def hold(connection: HTTPConnection) -> None:
    """Whatever is sent over a connection, the answer is a prediction or one sentence."""

    @hypothesis_settings(max_examples=150, database=None)
    @given(body=bodies(), content=st.sampled_from([None, "application/json", "a/b", "x; y"]))
    def example(body: bytes, content: str | None) -> None:
        headers = {} if content is None else {"Content-Type": content}
        connection.request("POST", "/predict", body, headers)
        answer = connection.getresponse()
        said = msgspec.json.decode(answer.read())
        assert answer.headers["Content-Type"] == "application/json"
        if answer.status == 200:
            for one in said.get("answers", [said]):
                failed = "error" in one
                found = msgspec.convert(one, PredictFailure if failed else PredictAnswer)
                assert not failed or found.status in REFUSED
        else:
            assert answer.status in REFUSED
            assert said.keys() == {"error"}
            assert said["error"]

    example()


async def test_whatever_is_sent_the_loop_goes_on(
    daemon: Daemon, client: Client, bars: list[Bar]
) -> None:
    """L02, L47: any body gets a prediction or one sentence, never a 500; the next bar is served."""
    await fed(daemon, client, bars[:-1])
    signals = daemon.status.signals
    connection = HTTPConnection(daemon.http_address.removeprefix("http://"))
    await asyncio.to_thread(hold, connection)  # examples are made beside the loop, not on it
    connection.close()
    assert daemon.desk.taken == 0
    await feed(client, bars[-1:])
    await until(lambda: daemon.status.signals == signals + 1)
