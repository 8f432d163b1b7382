"""The OpenAPI document: a real one, of all that is served, and true of real answers."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon import http
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.openapi import document
from quantum_ai_engine.daemon.routes import Route, application
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .test_app import BARS, serving
from .test_http import fed, given


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


class Served:
    """A daemon's document, and its answers held against it."""

    def __init__(self, session: ClientSession, text: dict[str, Any]) -> None:
        self.session = session
        self.text = text
        self.seen: set[tuple[str, str, int]] = set()

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The status of the answer, which must be what the document says of it."""
        data = None if body is None else msgspec.json.encode(body)
        address = path.format(symbol="BTCUSDT", command="halt")
        async with self.session.request(method, address, data=data, headers=headers) as answer:
            # Events never end: their first chunk will do.
            chunk = answer.content.readany() if path == "/events" else answer.read()
            await self._hold(method, path, answer.status, answer.content_type, await chunk)
            return answer.status

    async def _hold(self, method: str, path: str, status: int, content: str, body: bytes) -> None:
        responses = self.text["paths"][path][method.lower()]["responses"]
        said = responses.get(str(status), responses["default"])["content"]
        kinds = {kind.partition(";")[0]: one["schema"] for kind, one in said.items()}
        value = msgspec.json.decode(body) if content == "application/json" else body.decode()
        schema = {**kinds[content], "components": self.text["components"]}
        problems = list(Draft202012Validator(schema).iter_errors(value))
        assert not problems, (path, status, value, problems)
        self.seen.add((method, path, status))


def registered(daemon: Daemon, client: Client) -> set[tuple[str, str]]:
    """Method and path of all that the daemon's application answers; HEAD goes with GET."""
    routes = [*daemon.routes(), *daemon._page(client).routes()]
    router = application(http.described(routes)).router
    return {
        (route.method, route.resource.canonical)
        for route in router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


@pytest.fixture
async def served(settings: Settings, client: Client, bars: list[Bar]) -> AsyncIterator[Served]:
    async with serving(settings) as daemon, ClientSession(daemon.http_address) as session:
        async with session.get("/openapi.json") as answer:
            text = await answer.json()
        served = Served(session, text)
        for path in ("/health", "/health/ready", "/agents"):  # when there is no data yet
            await served.call("GET", path)
        await fed(daemon, client, bars)
        yield served
        daemon.status.partitions[0].redis_error = "Connection refused"
        assert await served.call("GET", "/health/ready") == 503
        assert await served.call("POST", "/predict", {"symbol": "BTCUSDT"}) == 503
        described = {(m.upper(), path) for path, at in text["paths"].items() for m in at}
        assert described == registered(daemon, client)
        assert {(method, path) for method, path, _ in served.seen} == described


async def test_the_document_is_true(served: Served, bars: list[Bar]) -> None:
    """L09: valid by its standard; each endpoint's real answers, good and bad, are as it says."""
    validate(served.text)
    for path, at in served.text["paths"].items():
        if "get" in at:
            assert await served.call("GET", path) == 200
    good = {"symbol": "BTCUSDT", "lookback": 70, "features": ["close", "sma_30"]}
    own = good | {"bars": given(bars, "BTCUSDT")[:70]}
    many = {"requests": [good, own, {"symbol": "NOPE"}, {"symbol": 1}, 7]}
    for body, status in [
        (good, 200),
        (own, 200),
        (many, 200),
        ({"symbol": "NOPE"}, 404),
        ({"symbol": 1}, 400),
        ({"requests": []}, 400),
    ]:
        assert await served.call("POST", "/predict", body) == status
    assert await served.call("POST", "/predict", good, **{"Content-Type": "text/xml"}) == 415
    assert await served.call("POST", "/control/{command}") == 403


async def _nothing(_: web.Request) -> web.Response:
    return web.Response()


def test_routes_with_parameters_are_described() -> None:
    """Parameters of the path and the query, and contents other than JSON, are in the document."""
    routes = [
        Route(
            method="GET",
            path="/things/{name:[a-z]+}/{number}",
            handler=_nothing,
            summary="A thing",
            answers={200: str},
            content="text/event-stream",
            query={"from": "the first entry"},
            refuses={404: "There is no such thing"},
        ),
        Route(method="GET", path="/", handler=_nothing, summary="All", answers={200: list[int]}),
    ]
    text = document(routes, "1.2.3")
    validate(text)
    assert text["info"]["version"] == "1.2.3"
    operation = text["paths"]["/things/{name}/{number}"]["get"]
    assert [(p["name"], p["in"]) for p in operation["parameters"]] == [
        ("name", "path"),
        ("number", "path"),
        ("from", "query"),
    ]
    assert operation["responses"]["200"]["content"].keys() == {"text/event-stream"}
    problem = operation["responses"]["404"]["content"]["application/json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}
    ids = [at["get"]["operationId"] for at in text["paths"].values()]
    assert ids == ["get_things_name_number", "get_root"]
