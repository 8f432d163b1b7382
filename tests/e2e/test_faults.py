"""What must end an engine, and what must not be lost when it ends."""

from typing import Any

from .conftest import Step
from .engine import NAME, Installed

WATCHDOG = "[Service]\nWatchdogSec=12\n"  # a test should not wait for 30 s
BARS = 12_000
ALL_OF_IT = ("id", "probability", "stance", "target", "votes", "row_hash", "risk", "policy")


def test_a_blocked_loop_is_ended_and_names_its_line(engine: Installed, step: Step) -> None:
    """L46: nothing turns, so the watchdog ends it; the journal has the stack of the culprit."""
    engine.configure(bundles="blocking")
    engine.drop_in(WATCHDOG)
    engine.start()
    with step("blocked loop, WatchdogSec=12, until READY again"):
        engine.tell_agent("/run/block-loop")
    _was_ended_by_the_watchdog(engine)


def test_a_stuck_worker_is_ended_and_names_its_line(engine: Installed, step: Step) -> None:
    """L06: the loop turns and answers, but no work is done: the watchdog is not fed."""
    engine.configure(bundles="blocking")
    engine.drop_in(WATCHDOG)
    engine.start()
    with step("stuck worker, WatchdogSec=12, until READY again"):
        engine.tell_agent("/run/block-pool")
    _was_ended_by_the_watchdog(engine)
    assert engine.events("watchdog_starved"), "the engine said itself what was wrong"


def test_too_much_memory_ends_it_and_it_comes_again(engine: Installed, step: Step) -> None:
    """MemoryMax=: the kernel ends the engine, and systemd starts it again."""
    engine.configure(bundles="blocking")
    engine.drop_in("[Service]\nMemoryHigh=infinity\nMemoryMax=600M\nMemorySwapMax=0\n")
    engine.start()
    with step("out of memory, until READY again"):
        engine.tell_agent("/run/eat-memory")
    ends = {entry.get("UNIT_RESULT") for entry in engine.machine.journal()}
    assert ends & {"oom-kill", "signal"}  # the latter with control groups of the first version
    assert engine.machine.show("NRestarts") == {"NRestarts": "1"}


def test_no_signal_is_lost_to_a_kill(engine: Installed, step: Step) -> None:
    """L43: the stream of an engine that was killed is that of one that was not, to the bit."""
    engine.start()
    engine.feed(BARS)
    engine.caught_up()
    undisturbed = _told(engine)
    assert len(undisturbed) > BARS // 2

    engine.reset()
    engine.start()
    feeding = engine.machine.begin(*engine.feeding(BARS, "--restart"))
    engine.machine.until(lambda: _is_midway(engine, len(undisturbed)), "midway")
    before = engine.main_pid()
    with step("kill -9, until READY again"):
        engine.machine.run("kill", "-9", str(before))
        engine.machine.until(lambda: engine.is_up_again(before), "the engine came again")
    engine.machine.finish(feeding)
    engine.caught_up()
    assert _told(engine) == undisturbed
    assert engine.machine.show("NRestarts") == {"NRestarts": "1"}


def _told(engine: Installed) -> list[dict[str, Any]]:
    """What was said of each bar, without when it was said."""
    return [{key: signal[key] for key in ALL_OF_IT} for signal in engine.signals()]


def _is_midway(engine: Installed, total: int) -> bool:
    count = int(engine.machine.run("redis-cli", "XLEN", "quantum:signals"))
    assert count < total, "the kill came too late to prove anything"
    return count > total // 10


def _was_ended_by_the_watchdog(engine: Installed) -> None:
    entries = engine.machine.journal()
    said = "\n".join(str(entry["MESSAGE"]) for entry in entries)
    assert f"{NAME}.service: Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said
    assert 'blocking_agents.py", line' in said
    assert "in logits" in said
    assert "watchdog" in {entry.get("UNIT_RESULT") for entry in entries}
    assert engine.machine.show("NRestarts") == {"NRestarts": "1"}
