"""Who may ask over HTTP: nobody from another host without a token, and no other site at all."""

import base64
import binascii
import hmac
import ipaddress
import ssl
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from quantum_ai_engine.config import ConfigError, HttpSettings
from quantum_ai_engine.daemon.routes import Handler, Refusal

SHORTEST_TOKEN = 16  # characters: a shorter one could be found by trying
OPEN_PATHS = ("/health", "/health/live", "/health/ready")
CHALLENGE = 'Basic realm="quantum-ai-engine", charset="UTF-8"'


def check(settings: HttpSettings) -> None:
    """Raise `ConfigError` where these settings would let in who has no business here."""
    if not settings.enabled:
        return
    if bool(settings.tls_cert) != bool(settings.tls_key):
        missing = "http.tls_key" if settings.tls_cert else "http.tls_cert"
        raise ConfigError(f"{missing} is not set: https needs both the certificate and its key")
    if settings.token and not _is_strong(settings.token):
        raise ConfigError(
            f"http.token must be {SHORTEST_TOKEN} characters or more of printable ASCII without "
            "spaces: make one with `openssl rand -hex 24`"
        )
    if not is_local(settings.host) and not (settings.token and settings.tls_cert):
        raise ConfigError(
            f"http.host = {settings.host!r} lets other hosts in: set http.tls_cert and "
            "http.tls_key, and give http.token as the credential http-token or QAE_HTTP__TOKEN; "
            "or listen on 127.0.0.1"
        )


def tls(settings: HttpSettings) -> ssl.SSLContext | None:
    """What to serve https with; None serves http. Raises `ConfigError`."""
    if not settings.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # No pass phrase can be asked for: without one given, ssl would wait at the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_pass_phrase)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"http.tls_cert = {settings.tls_cert!r}, http.tls_key = {settings.tls_key!r}: {error}; "
            "give PEM files of a certificate and its own key"
        ) from error
    return context


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens there.

    >>> [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", "engine.lan")]
    [True, True, True, False, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(settings: HttpSettings) -> Middleware:
    """Let in who may ask.

    Where other hosts are served, all but health needs the token. Where only this machine is, the
    name that was asked for must be of this machine: else any site could have its name resolve to
    127.0.0.1, and read along in the browser of whoever visits it.
    """
    serves_others = not is_local(settings.host)

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if serves_others and request.path not in OPEN_PATHS and not knows(request, settings.token):
            raise Refusal(
                "give the token: as a Bearer token, or as the password with any user name",
                401,
                {hdrs.WWW_AUTHENTICATE: CHALLENGE},  # a browser then asks for it
            )
        if not serves_others and not _is_ours(request.host):
            raise Refusal(
                "this engine answers to localhost and to addresses alone: ask 127.0.0.1, or let "
                "the proxy in front of it set the header Host to that",
                403,
            )
        return await handler(request)

    return admit


def knows(request: web.Request, token: str, *, bearer_only: bool = False) -> bool:
    """Whether a request has the token; it takes as long whatever was given."""
    kind, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if kind.lower() == "basic" and not bearer_only:
        given = _password(given.strip())
    elif kind.lower() != "bearer":
        given = ""
    is_same = hmac.compare_digest(given.strip().encode(), token.encode())
    return is_same and bool(token)


def is_of_this_site(request: web.Request) -> bool:
    """Whether a request was not made by the page of another site."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or urlsplit(origin).netloc == request.host


def _is_strong(token: str) -> bool:
    is_plain = token.isascii() and token.isprintable() and " " not in token
    return is_plain and len(token) >= SHORTEST_TOKEN


def _password(given: str) -> str:
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _is_ours(host: str) -> bool:
    """Whether the name in a Host header is an address, or this machine's own name for itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _no_pass_phrase() -> str:
    raise ValueError("the key is protected by a pass phrase: store it without one")
