"""`qae serve`: the daemon."""

import asyncio
import os
import sys
from collections.abc import Callable

from quantum_ai_engine.cli.common import CommandError, ConfigOption, SetOption, load_settings
from quantum_ai_engine.config import ConfigError, Loaded
from quantum_ai_engine.daemon import logs
from quantum_ai_engine.daemon.app import (
    Daemon,
    EmbeddedRedisEnded,
    reload_on_hangup,
    stop_on_signals,
)
from quantum_ai_engine.daemon.commit import OwnershipLost
from quantum_ai_engine.daemon.loglimit import LineLimit
from quantum_ai_engine.daemon.notify import Notifier


def serve(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """Serve: read bars from Redis, publish signals, until SIGTERM; SIGHUP reloads the settings."""

    def read() -> Loaded:
        return load_settings(config, assignments)

    loaded = read()
    settings = loaded.settings.log
    log = logs.configure(
        settings.level,
        settings.format,
        environ=os.environ,
        stream=sys.stderr,
        limit=LineLimit(settings.burst_lines, settings.again_s),
    )
    try:
        asyncio.run(_serve(loaded, read, log))
    except BaseExceptionGroup as group:
        raise expected(group) or group from None
    finally:
        log.close()


async def _serve(loaded: Loaded, read: Callable[[], Loaded], log: logs.LogHandle) -> None:
    daemon = Daemon(loaded, Notifier(os.environ.get("NOTIFY_SOCKET")), read)
    daemon.metrics.observe_log(log)
    with stop_on_signals(daemon.stop), reload_on_hangup(daemon.reloads, daemon.stop):
        await daemon.run()


def expected(group: BaseExceptionGroup[BaseException]) -> Exception | None:
    """The sentence in a group of failures, if one of them has one."""
    for kind in (ConfigError, OwnershipLost, EmbeddedRedisEnded):
        if found := group.subgroup(kind):
            leaf = found.exceptions[0]
            return leaf if isinstance(leaf, ConfigError) else CommandError(str(leaf))
    return None
