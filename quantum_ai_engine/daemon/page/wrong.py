"""What is wrong, in sentences, the worst first."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from quantum_ai_engine.daemon.page.words import agent_state, count, word
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.events import FAILURES
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.policy import Mode
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.supervisor.standing import Check
from quantum_ai_engine.supervisor.standing import State as Standing

LOOP_LATE_S = 0.1
WAITING_BARS = 1000
NAMED = 5
ACCUSED = (Standing.WATCH, Standing.DRIFT, Standing.QUARANTINED)
TESTS = {
    Check.DRIFT: "it predicts worse than when it was held out",
    Check.SKILL_LOST: "it has lost its skill against the base rate",
    Check.BIAS_UP: "its forecasts are too high",
    Check.BIAS_DOWN: "its forecasts are too low",
    Check.FORECAST_UP: "it forecasts higher than it used to",
    Check.FORECAST_DOWN: "it forecasts lower than it used to",
    Check.HARDER: "its market is harder to predict",
    Check.SHORT_WINDOW: "its latest scores are worse",
    Check.LONG_WINDOW: "its scores have been worse for long",
}


class Wrong(NamedTuple):
    """A sentence, and how bad it is: `bad`, or a `note`."""

    tone: str
    text: str


def wrong(status: Status, judgements: Mapping[int, Judgement]) -> list[Wrong]:
    """Everything that is not as it should be; nothing when all is well."""
    found = [*_of_status(status), *_of_agents(status)]
    for partition, judgement in judgements.items():
        where = f" (partition {partition})" if len(judgements) > 1 else ""
        found += [Wrong(one.tone, one.text + where) for one in _of_judgement(judgement)]
    return sorted(found, key=lambda one: one.tone != "bad")  # stable: else as found


def _of_status(status: Status) -> Iterator[Wrong]:
    if reason := status.reason():
        tone = "bad" if status.state() in ("degraded", "idle") else "note"
        yield Wrong(tone, f"The engine is {word(status.state())}: {reason}.")
    if len(status.partitions) > 1:
        for one in status.partitions.values():
            if hindrance := one.hindrance():
                yield Wrong("note", f"{hindrance[:1].upper()}{hindrance[1:]}.")
    if stale := status.stale:
        more = f" and {len(stale) - NAMED} more" if len(stale) > NAMED else ""
        text = f"No bars come any more of {', '.join(stale[:NAMED])}{more}: targets are flat."
        yield Wrong("bad", text)
    if status.loop_lag_s > LOOP_LATE_S:
        yield Wrong("note", f"The event loop is {status.loop_lag_s * 1000:.0f} ms late.")
    if status.lag_bars > WAITING_BARS:
        yield Wrong("note", f"{count(status.lag_bars)} bars wait to be read.")
    if status.refused:
        what = f"{count(status.refused)} entries were refused since the start"
        yield Wrong("note", f"{what}; the dead-letter stream says why.")


def _of_agents(status: Status) -> Iterator[Wrong]:
    for name, agent in status.agents.items():
        if agent.reason in FAILURES:
            yield Wrong("bad", f"Agent {name} does not vote: {agent_state(agent)}.")


def _of_judgement(judgement: Judgement) -> Iterator[Wrong]:
    risk, policy = judgement.rulings[-1].risk, judgement.policy.get()
    why = f": {'; '.join(risk.reasons)}" if risk.reasons else ""
    if risk.state == State.HALTED:
        yield Wrong("bad", f"Risk is HALTED, all targets are flat{why}.")
    elif risk.state == State.REDUCING:
        yield Wrong("bad", f"Risk is REDUCING, targets only shrink{why}.")
    if policy.mode is Mode.DEFENSIVE:
        yield Wrong("note", f"The policy is DEFENSIVE: no exposure above {policy.exposure_cap}.")
    for (name, _), standing in zip(judgement.agents, judgement.standings, strict=True):
        if standing is None or standing.state not in ACCUSED:
            continue
        says = "; ".join(TESTS[test] for test in standing.alarming)
        tone = "note" if standing.state is Standing.WATCH else "bad"
        yield Wrong(tone, f"Agent {name} is in {word(standing.state.value)}: {says}.")
