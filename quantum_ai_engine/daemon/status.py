"""What the daemon has done lately: the one source of health, heartbeat and status line.

Everything here is written where the work happens; nothing is derived from what exists or is
configured.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import FAILURES, Abstained, Abstention

OVERDUE_INTERVALS = 2.5


@dataclass(slots=True)
class AgentStatus:
    """The last work of one agent; `unavailable` says why it can do none on this machine."""

    votes: int = 0
    last_vote_close_time: int | None = None
    abstentions: int = 0
    reason: Abstained | None = None
    unavailable: str | None = None

    def state(self) -> str:
        """`active` when its latest answer was a vote, else why it was not."""
        if self.reason is None:
            return "active" if self.votes else "warming_up"
        return "warming_up" if self.reason is Abstained.WARMING_UP else self.reason.value


@dataclass(slots=True)
class Status:
    """Counts and moments of completed work.

    `expired` says that the last bars came too late for a signal; `worked_at` is when they were
    dealt with, by the monotonic clock, and `patience_s` after how long the next one is overdue.
    """

    agents: dict[str, AgentStatus]
    started_at: float = field(default_factory=time.time)
    turns: int = 0
    processed: int = 0
    refused: int = 0
    duplicates: int = 0
    signals: int = 0
    last_close_time: int | None = None
    effective_votes: float | None = None
    position: str | None = None
    lag_ms: int = 0
    loop_lag_s: float = 0.0
    redis_error: str | None = "not connected yet"
    stopping: bool = False
    expired: bool = False
    worked_at: float | None = None
    patience_s: float = 0.0

    @classmethod
    def of(cls, agents: Sequence[Agent]) -> "Status":
        return cls(
            {
                agent.name: AgentStatus(
                    reason=Abstained.UNAVAILABLE if agent.unavailable else None,
                    unavailable=agent.unavailable,
                )
                for agent in agents
            }
        )

    @property
    def seen(self) -> int:
        """Entries that have been dealt with, one way or another."""
        return self.processed + self.duplicates + self.refused

    @property
    def ready(self) -> bool:
        return self.redis_error is None and not self.stopping

    def state(self) -> str:
        """One word: stopping, degraded, warming_up, idle or ok."""
        if self.stopping:
            return "stopping"
        if self.redis_error is not None or self._all_failed():
            return "degraded"
        if not self.effective_votes:
            return "warming_up"
        return "idle" if self.overdue_s() > 0.0 or self.expired else "ok"

    def overdue_s(self) -> float:
        """For how long the next bar has been overdue; 0 when it is not."""
        if self.worked_at is None or not self.patience_s:
            return 0.0
        return max(0.0, time.monotonic() - self.worked_at - self.patience_s)

    def reason(self) -> str | None:
        """Why the state is not ok, in a sentence."""
        state = self.state()
        if state == "degraded" and self.redis_error is not None:
            return f"Redis cannot serve: {self.redis_error}"
        if state in ("idle", "warming_up") and self.expired:
            return "bars come too late to be valid (recorded bars need engine.clock = bars)"
        return {
            "stopping": "the daemon is stopping",
            "degraded": "no agent gives a prediction",
            "idle": f"no bar has come for {self.overdue_s() + self.patience_s:.0f} s",
            "warming_up": "no bar has had a forecast yet: series need their burn-in first",
        }.get(state)

    def update(self, done: Round, refused: int) -> None:
        """Take note of a committed round."""
        self.processed += done.processed
        self.duplicates += done.duplicates
        self.refused += refused
        self.signals += len(done.signals)
        if done.processed:
            self.worked_at = time.monotonic()
            self.patience_s = OVERDUE_INTERVALS * done.longest_interval_ms / 1000
            self.expired = not done.signals and done.silent["expired"] > 0
        for abstention in done.unheard:
            self._abstained(abstention)
        for signal in done.signals:
            for vote in signal.votes:
                agent = self.agents[vote.agent]
                agent.votes += 1
                agent.last_vote_close_time = signal.close_time
                agent.reason = None
            for abstention in signal.abstained:
                self._abstained(abstention)
        if done.signals:
            self.effective_votes = done.signals[-1].effective_votes
        elif any(abstention.reason in FAILURES for abstention in done.unheard):
            self.effective_votes = 0.0

    def _abstained(self, abstention: Abstention) -> None:
        """Count it; bars that an agent is not made for say nothing about the agent."""
        agent = self.agents[abstention.agent]
        agent.abstentions += 1
        if abstention.reason is not Abstained.OTHER_INTERVAL:
            agent.reason = abstention.reason

    def heartbeat(self) -> dict[str, Any]:
        """The fields of the heartbeat."""
        return {
            "state": self.state(),
            "last_bar_close_time": self.last_close_time,
            "bars": self.processed,
            "signals": self.signals,
            "effective_votes": self.effective_votes,
            "lag_ms": self.lag_ms,
            "loop_lag_ms": round(self.loop_lag_s * 1000, 3),
        }

    def health(self) -> dict[str, Any]:
        """The body of `/health`."""
        age_s = None if self.last_close_time is None else time.time() - self.last_close_time / 1000
        return {
            "status": self.state(),
            "reason": self.reason(),
            "ready": self.ready,
            "models": {name: self._model(agent) for name, agent in self.agents.items()},
            "ensemble": {"effective_votes": self.effective_votes},
            "last_bar": {"close_time": self.last_close_time, "age_s": age_s},
            "bars": {
                "processed": self.processed,
                "duplicates": self.duplicates,
                "refused": self.refused,
            },
            "signals": self.signals,
            "lag_ms": self.lag_ms,
            "loop_lag_ms": round(self.loop_lag_s * 1000, 3),
            "uptime_s": round(time.time() - self.started_at, 3),
        }

    def line(self) -> str:
        """One line with numbers, for `systemctl status`."""
        votes = "none" if self.effective_votes is None else f"{self.effective_votes:.1f}"
        text = (
            f"{self.state()}: {self.processed} bars, {self.signals} signals, {self.refused} "
            f"refused, effective votes {votes}, lag {self.lag_ms} ms"
        )
        return f"{text} ({self.reason()})" if self.reason() else text

    def _all_failed(self) -> bool:
        states = [agent.state() for agent in self.agents.values()]
        return all(state not in ("active", "warming_up") for state in states)

    @staticmethod
    def _model(agent: AgentStatus) -> dict[str, Any]:
        return {
            "state": agent.state(),
            "reason": agent.unavailable or agent.reason,
            "votes": agent.votes,
            "abstentions": agent.abstentions,
            "last_vote_close_time": agent.last_vote_close_time,
        }
