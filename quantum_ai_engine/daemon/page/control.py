"""The buttons: a person's command goes the way of `qae ctl`, by the control stream, or nowhere."""

import msgspec
import structlog
from aiohttp import web

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.access import is_of_this_site, knows, refusal
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.controls import tell_all
from quantum_ai_engine.events import Command

log = structlog.get_logger()


class Control:
    """`POST /control/<command>`: with the token as a Bearer token, from this page or from none.

    A browser adds no such token by itself, so that no other site can make it send one.
    """

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client

    @property
    def is_on(self) -> bool:
        """Whether there is a token, without which nothing may be commanded."""
        return bool(self._settings.http.token)

    async def post(self, request: web.Request) -> web.Response:
        """Tell the engine; it takes the command with its next read."""
        token = self._settings.http.token
        try:
            command = Command(request.match_info["command"])
        except ValueError:
            return refusal(404, f"commands are {', '.join(Command)}")
        if not token:
            return refusal(
                403,
                "commands over HTTP are off: give http.token as the credential http-token or "
                "QAE_HTTP__TOKEN, or use qae ctl",
            )
        if not is_of_this_site(request):
            return refusal(403, "a command must come from the page itself, not from another site")
        if not knows(request, token, bearer_only=True):
            log.warning(
                "A command without the right token was refused", event_name="control_refused"
            )
            return refusal(403, "this is not the token: send it as Authorization: Bearer …")
        return await self._tell(command)

    async def _tell(self, command: Command) -> web.Response:
        try:
            silent = await tell_all(self._client, self._settings, command)
        except Unreachable as error:
            return refusal(503, f"Redis cannot serve: {error}")
        body = {"command": command.value, "partitions": self._settings.redis.partitions}
        return web.Response(
            body=msgspec.json.encode(body | {"silent_partitions": silent}),
            content_type="application/json",
        )
