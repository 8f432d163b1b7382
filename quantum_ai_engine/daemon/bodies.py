"""JSON bodies of requests: read within a limit and a time, decoded, or refused in a sentence."""

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web

from quantum_ai_engine.daemon.routes import BODY_BYTES, Refusal

# What clients say that send bytes without a word about them, as `curl -d` does, counts as nothing.
UNSAID = frozenset({"application/x-www-form-urlencoded", "application/octet-stream"})

T = TypeVar("T")


async def body_of(request: web.Request, within_s: float) -> bytes:
    """The body, whole. Raises `Refusal`."""
    _check_content(request)
    if (request.content_length or 0) > BODY_BYTES:
        raise Refusal(f"the body is larger than {BODY_BYTES} bytes", 413)
    try:
        async with asyncio.timeout(within_s):
            return await request.read()
    except TimeoutError as error:
        raise Refusal(f"the body was not there within {within_s:g} s", 408) from error


def _check_content(request: web.Request) -> None:
    """Refuse what says of itself that it is no plain JSON in UTF-8."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal("the body must be plain: no Content-Encoding is taken", 415)
    said = request.content_type
    if not (said == "application/json" or said.endswith("+json") or said in UNSAID):
        raise Refusal("the body must be application/json, and its Content-Type says otherwise", 415)
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Refusal("the body must be in UTF-8, and its Content-Type says otherwise", 415)


def decoded(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """What the body says. Raises `Refusal` that names the field, or the byte."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(str(error)) from error
    except msgspec.DecodeError as error:
        where = "" if "(byte" in str(error) else f" (byte {len(bytes(body))})"
        raise Refusal(f"{error}{where}") from error
    except UnicodeDecodeError as error:
        raise Refusal(f"the body is not UTF-8{_first_bad(bytes(body))}") from error
    except RecursionError as error:
        raise Refusal("the body is nested too deeply") from error


def _first_bad(body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f" (byte {error.start})"
    return ""
