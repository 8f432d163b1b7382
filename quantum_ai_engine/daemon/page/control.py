"""The buttons: a person's command goes the way of `qae ctl`, by the control stream, or nowhere."""

import structlog
from aiohttp import web

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.access import is_of_this_site, knows
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.commands import tell_all
from quantum_ai_engine.daemon.routes import Refusal, answer
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
        except ValueError as error:
            raise Refusal(f"commands are {', '.join(Command)}", 404) from error
        if not token:
            raise Refusal(
                "commands over HTTP are off: give http.token as the credential http-token or "
                "QAE_HTTP__TOKEN, or use qae ctl",
                403,
            )
        if not is_of_this_site(request):
            raise Refusal("a command must come from the page itself, not from another site", 403)
        if not knows(request, token, bearer_only=True):
            log.warning(
                "A command without the right token was refused", event_name="control_refused"
            )
            raise Refusal("this is not the token: send it as Authorization: Bearer …", 403)
        return await self._tell(command)

    async def _tell(self, command: Command) -> web.Response:
        try:
            silent = await tell_all(self._client, self._settings, command)
        except Unreachable as error:
            raise Refusal(f"Redis cannot serve: {error}", 503) from error
        body = {"command": command.value, "partitions": self._settings.redis.partitions}
        return answer(body | {"silent_partitions": silent})
