"""Tests of who may ask: refused settings, tokens, other sites, https."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientSession, TCPConnector, web

from quantum_ai_engine.config import ConfigError, HttpSettings, Settings
from quantum_ai_engine.daemon import access
from quantum_ai_engine.daemon.access import SHORTEST_TOKEN, check, guard, is_of_this_site, knows
from quantum_ai_engine.daemon.routes import application

from .test_app import changed, fails_to_serve, serving, until, with_one_agent

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    """As a browser sends what it was told."""
    given = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {given}"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """A certificate of 127.0.0.1 and its key."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for part in issued.cert_chain_pems:
        part.write_to_path(cert, append=True)
    issued.private_key_pem.write_to_path(key)
    return {"tls_cert": str(cert), "tls_key": str(key)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"host": "0.0.0.0"}, "http.host = '0.0.0.0' lets other hosts in"),
        ({"host": ""}, "lets other hosts in"),
        ({"host": "::"}, "lets other hosts in"),
        ({"host": "engine.example"}, "lets other hosts in"),
        ({"host": "0.0.0.0", "token": TOKEN}, "http.tls_cert and http.tls_key"),
        ({"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k"}, "http.token"),
        ({"tls_cert": "c"}, "http.tls_key is not set"),
        ({"tls_key": "k"}, "http.tls_cert is not set"),
        ({"token": "short"}, f"http.token must be {SHORTEST_TOKEN} characters"),
        ({"token": "with a space in it, sadly"}, "without spaces"),
        ({"token": "mit Ümlaut-und-lang-genug"}, "printable ASCII"),
    ],
)
def test_what_would_let_others_in_is_refused(values: dict[str, str], words: str) -> None:
    """L48: one sentence that names the keys; the token itself is not repeated."""
    with pytest.raises(ConfigError) as caught:
        check(HttpSettings(**values))
    assert words in str(caught.value)
    assert values.get("token", "–") not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "127.0.0.53", "token": TOKEN},
        {"host": "0.0.0.0", "token": TOKEN, "tls_cert": "c", "tls_key": "k"},
        {"host": "0.0.0.0", "enabled": False},
    ],
)
def test_what_is_safe_is_let_through(values: dict[str, Any]) -> None:
    check(HttpSettings(**values))


async def test_an_engine_that_would_be_open_does_not_start(
    settings: Settings, tmp_path: Path
) -> None:
    """L48: the same refusal where the daemon is built, before anything listens."""
    alone = with_one_agent(settings, tmp_path)
    with pytest.raises(ConfigError, match="lets other hosts in"):
        await fails_to_serve(changed(alone, "http", host="0.0.0.0"))


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    """L48: which key, which file, what to do."""
    with pytest.raises(ConfigError, match=r"http.tls_cert = '/nowhere'.*PEM"):
        access.tls(HttpSettings(tls_cert="/nowhere", tls_key="/nowhere"))
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"wrong\.pem"):
        access.tls(HttpSettings(tls_cert=str(wrong), tls_key=str(wrong)))


@contextlib.asynccontextmanager
async def guarded(settings: HttpSettings) -> AsyncIterator[ClientSession]:
    """A real server behind the guard, which says who it took a request for."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "knows": knows(request, settings.token),
                "knows_bearer": knows(request, settings.token, bearer_only=True),
                "is_ours": is_of_this_site(request),
            }
        )

    app = application([])
    app.middlewares.append(guard(settings))
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        async with ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        await runner.cleanup()


OTHERS = HttpSettings(host="0.0.0.0", token=TOKEN, tls_cert="c", tls_key="k")


async def test_other_hosts_need_the_token_for_all_but_health() -> None:
    """Every address, also those that are not there; health says nothing that is secret."""
    async with guarded(OTHERS) as http:
        for path in (
            "/",
            "/metrics",
            "/predict",
            "/events",
            "/static/page.js",
            "/health/",
            "/nope",
        ):
            async with http.get(path) as answer:
                assert answer.status == 401, path
                assert answer.headers["WWW-Authenticate"].startswith("Basic ")
                assert "token" in (await answer.json())["error"]
            for right in (
                BEARER,
                basic(TOKEN),
                basic(TOKEN, ""),
                {"Authorization": f"bearer {TOKEN}"},
            ):
                async with http.get(path, headers=right) as answer:
                    assert answer.status == 200, right
        for path in ("/health", "/health/live", "/health/ready"):
            async with http.get(path) as answer:
                assert answer.status == 200, path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": "Basic nonsense!"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": f"Digest {TOKEN}"},
        basic(""),
        basic("", TOKEN),
        {"Authorization": "Bearer ünïcode-and-long-enough"},
    ],
)
async def test_what_is_not_the_token_is_refused(headers: dict[str, str]) -> None:
    async with guarded(OTHERS) as http, http.get("/", headers=headers) as answer:
        assert answer.status == 401


async def test_no_token_is_known_by_nobody() -> None:
    """An empty token is none: an empty password is not right by that."""
    async with guarded(HttpSettings()) as http:
        for headers in ({}, basic(""), {"Authorization": "Bearer "}):
            async with http.get("/", headers=headers) as answer:
                assert (await answer.json())["knows"] is False


async def test_what_a_browser_adds_by_itself_is_no_bearer_token() -> None:
    """Else another site could have a browser command the engine with what it remembers."""
    async with guarded(HttpSettings(token=TOKEN)) as http:
        async with http.get("/", headers=basic(TOKEN)) as answer:
            assert await answer.json() == {"knows": True, "knows_bearer": False, "is_ours": True}
        async with http.get("/", headers=BEARER) as answer:
            assert (await answer.json())["knows_bearer"] is True


async def test_another_site_is_told_apart() -> None:
    async with guarded(HttpSettings()) as http:
        here = str(http._base_url).rstrip("/")
        for headers, is_ours in [
            ({}, True),
            ({"Origin": here}, True),
            ({"Origin": here, "Sec-Fetch-Site": "same-origin"}, True),
            ({"Origin": "https://elsewhere.example"}, False),
            ({"Origin": "null"}, False),
            ({"Sec-Fetch-Site": "cross-site"}, False),
            ({"Sec-Fetch-Site": "same-site", "Origin": here}, False),
        ]:
            async with http.get("/", headers=headers) as answer:
                assert (await answer.json())["is_ours"] is is_ours, headers


async def test_a_name_that_is_not_ours_is_refused() -> None:
    """A site whose name resolves to 127.0.0.1 cannot read along in a visitor's browser."""
    async with guarded(HttpSettings()) as http:
        for host in ("evil.example", "evil.example:8001", "127.0.0.1.evil.example", "", "["):
            async with http.get("/", headers={"Host": host}) as answer:
                assert answer.status in (400, 403), host
        for host in ("localhost:8001", "127.0.0.1", "[::1]:8001", "10.0.0.7:80", "a.localhost"):
            async with http.get("/", headers={"Host": host}) as answer:
                assert answer.status == 200, host


async def test_https_is_served_with_a_certificate(
    settings: Settings, tmp_path: Path, tls_files: dict[str, str], authority: trustme.CA
) -> None:
    """A client that trusts the certificate is answered; plain http is not."""
    alone = with_one_agent(settings, tmp_path)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(changed(alone, "http", **tls_files)) as daemon:
        await until(lambda: daemon.status.ready)
        assert daemon.http_address.startswith("https://127.0.0.1:")
        async with (
            ClientSession(connector=TCPConnector(ssl=trusting)) as http,
            http.get(f"{daemon.http_address}/health/ready") as answer,
        ):
            assert answer.status == 200
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(daemon.http_address.rpartition(":")[2])
        )
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()
