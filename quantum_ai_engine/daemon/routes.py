"""Routes as they are declared, and the application that serves them: every refusal is JSON."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
import structlog
from aiohttp import web

BODY_BYTES = 4 * 1024 * 1024
JSON = "application/json"

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


class Problem(msgspec.Struct, frozen=True):
    """The body of every refusal: one sentence."""

    error: str


class Refusal(Exception):  # noqa: N818 (what happens, not what went wrong)
    """One sentence for the caller, the HTTP status and the headers that go with it."""

    def __init__(
        self, text: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint: what is served and what `/openapi.json` says of it are both made from this.

    `path` may hold parameters, as in `/symbols/{symbol}`. `answers` gives the type of the body by
    status and `takes` that of the request's body; a tuple of types means any of them. A type is a
    msgspec struct or what else msgspec has a JSON Schema for; with a `content` other than JSON it
    is `str`. `refuses` says by status when the answer is a `Problem` instead.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Any]
    takes: Any = None
    content: str = JSON
    refuses: Mapping[int, str] = field(default_factory=dict)
    mentions: tuple[Any, ...] = ()  # types that the others refer to by name alone
    query: Mapping[str, str] = field(default_factory=dict)  # parameters of it, and what they mean


def application(routes: Sequence[Route]) -> web.Application:
    """All routes, with refusals as sentences."""
    app = web.Application(client_max_size=BODY_BYTES, middlewares=[_sentences])
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)  # HEAD, too
        else:
            app.router.add_route(route.method, route.path, route.handler)
    return app


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A body as JSON."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type=JSON, headers=headers
    )


@web.middleware
async def _sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever is refused, the caller gets JSON with one sentence."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return answer(Problem(str(refusal)), refusal.status, refusal.headers)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        return answer(Problem(_sentence(error)), error.status, _allowed(error))
    except OSError:
        raise  # the caller has gone
    except Exception:
        log.exception("A request failed", event_name="request_failed", path=request.path)
        return answer(Problem("the engine failed to answer; its log says why"), 500)


def _sentence(error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return "there is nothing at this path; GET /openapi.json lists what there is"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"this path answers to {', '.join(sorted(error.allowed_methods))} alone"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"the body is larger than {BODY_BYTES} bytes"
    return error.reason


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {name: value for name, value in error.headers.items() if name == "Allow"}
