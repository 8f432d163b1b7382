"""Tests of the buttons: by the control stream, with the token, from the page, or not at all."""

from aiohttp import ClientSession

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.events import Bar

from ..test_app import KEYS, changed, published, serving
from .conftest import TOKEN
from .test_page import BEARER, Events, fed, page


async def test_a_halt_goes_by_the_control_stream_and_shows(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L50: one control stream; the button does what `qae ctl` does, and the page tells what is."""
    await fed(daemon, client, bars[:300])
    async with http.post("/control/halt", headers=BEARER) as answer:
        assert (answer.status, (await answer.json())["command"]) == (200, "halt")
    [(_, entry)] = await client.xrange(KEYS.control)
    assert entry == {b"command": b"halt"}
    events = Events(http, "page=risk")
    await events.until(lambda: "HALTED" in events.panels.get("ruling", ""))
    assert "HALTED" in events.panels["strip"]
    assert "HALTED" in events.panels["timeline"]
    assert "manual" in events.panels["breakers"]
    assert "Risk is HALTED, all targets are flat" in await page(http, "/")
    await fed(daemon, client, bars[300:303])
    assert {s["target"] for s in (await published(client))[-3:]} == {0.0}
    async with http.post("/control/resume", headers=BEARER) as answer:
        assert answer.status == 200
    await events.until(lambda: "HALTED" not in events.panels["strip"])
    assert [one["after"] for one in events.changes if one["room"] == "risk"][-1] == "ACTIVE"


async def test_nobody_commands_without_the_token(
    daemon: Daemon, http: ClientSession, client: Client
) -> None:
    """What is refused is not in the control stream."""
    here = daemon.http_address
    for headers, status in [
        ({}, 403),
        ({"Authorization": "Bearer wrong-wrong-wrong-wrong"}, 403),
        ({"Authorization": f"Basic {TOKEN}"}, 403),
        (BEARER | {"Origin": "https://elsewhere.example"}, 403),
        (BEARER | {"Sec-Fetch-Site": "cross-site"}, 403),
        (BEARER | {"Origin": here, "Sec-Fetch-Site": "same-site"}, 403),
    ]:
        async with http.post("/control/halt", headers=headers) as answer:
            assert answer.status == status, headers
            assert "error" in await answer.json()
    async with http.get("/control/halt", headers=BEARER) as answer:
        assert answer.status == 405
    async with http.post("/control/explode", headers=BEARER) as answer:
        assert answer.status == 404
        assert "halt, reduce, resume" in (await answer.json())["error"]
    assert await client.xlen(KEYS.control) == 0
    async with http.post(
        "/control/reduce", headers=BEARER | {"Origin": here, "Sec-Fetch-Site": "same-origin"}
    ) as answer:
        assert answer.status == 200
    assert await client.xlen(KEYS.control) == 1


async def test_without_a_token_there_are_no_buttons(settings: Settings, client: Client) -> None:
    """And a command is refused with what to give."""
    async with (
        serving(changed(settings, "http", token="")) as daemon,
        ClientSession(daemon.http_address) as http,
    ):
        assert "data-command" not in await page(http, "/")
        async with http.post("/control/halt", headers=BEARER) as answer:
            assert answer.status == 403
            assert "http-token" in (await answer.json())["error"]
        assert await client.xlen(KEYS.control) == 0
