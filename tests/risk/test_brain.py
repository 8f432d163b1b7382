"""The risk brain: states from breakers and commands, re-arming by a person, the day's loss."""

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Command
from quantum_ai_engine.risk.brain import (
    DailyLoss,
    Figures,
    RiskBrain,
    RiskVerdict,
    SavedBrain,
    SavedDay,
    State,
)

ACTIVE, REDUCING, HALTED = State
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
CALM = Figures(
    drawdown=0.0,
    equity=1.0,
    source="paper",
    equity_age_ms=0.0,
    volatility_ratio=1.0,
    stale_share=0.0,
    base_share=0.1,
    effective_agents=3.0,
    failed_share=0.0,
    harder_share=0.0,
    quarantined_share=0.0,
)
BAD = {
    "volatility_ratio": ("volatility_ratio", 3.5),
    "stale_share": ("stale_feed", 0.3),
    "base_share": ("trust_collapsed", 0.95),
    "effective_agents": ("trust_collapsed", 0.5),
    "failed_share": ("inference_errors", 0.6),
    "equity_age_ms": ("pnl_stale", 1e6),
    "harder_share": ("harder_market", 0.6),
    "quarantined_share": ("data_quality", 0.3),
}
maybe = st.none() | st.floats(0.0, 1.0)


def with_(**changed: float | str | None) -> Figures:
    return msgspec.structs.replace(CALM, **changed)


@st.composite
def any_figures(draw: st.DrawFn) -> Figures:
    return Figures(
        drawdown=draw(maybe),
        equity=draw(st.none() | st.floats(0.0, 2.0)),
        source=draw(st.sampled_from(["paper", "reported"])),
        equity_age_ms=draw(st.none() | st.floats(0.0, 2e6)),
        volatility_ratio=draw(st.none() | st.floats(0.0, 5.0)),
        stale_share=draw(maybe),
        base_share=draw(maybe),
        effective_agents=draw(st.none() | st.floats(0.0, 8.0)),
        failed_share=draw(maybe),
        harder_share=draw(maybe),
        quarantined_share=draw(maybe),
    )


steps = st.lists(
    st.tuples(any_figures(), st.sampled_from([None] * 6 + ["halt", "reduce", "resume"])),
    max_size=25,
)


def test_it_begins_active() -> None:
    """Before the first moment nothing is known, and nothing is forbidden."""
    assert RiskBrain(RiskSettings()).get() == RiskVerdict(ACTIVE, (), (), 0)


def test_calm_figures_leave_it_active() -> None:
    """A healthy day changes nothing, so two verdicts are equal."""
    brain = RiskBrain(RiskSettings())
    for k in range(1, 10):
        brain.update(k * MINUTE, CALM)
        assert brain.get() == RiskVerdict(ACTIVE, (), (), 0)


@pytest.mark.parametrize("figure", BAD)
def test_a_breaker_that_reduces_is_over_by_itself(figure: str) -> None:
    """REDUCING ends when its breaker has cleared and dwelt, with nobody's help."""
    name, bad = BAD[figure]
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, with_(**{figure: bad}))
    verdict = brain.get()
    assert (verdict.state, verdict.breakers, verdict.since_ms) == (REDUCING, (name,), MINUTE)
    assert verdict.reasons[0].startswith(f"{name}: ")
    brain.update(2 * MINUTE, CALM)
    assert brain.get() == verdict
    brain.update(2 * MINUTE + 4 * HOUR, CALM)
    assert brain.get() == RiskVerdict(ACTIVE, (), (), 2 * MINUTE + 4 * HOUR)


@pytest.mark.parametrize(
    ("name", "bad"), [("drawdown", {"drawdown": 0.1}), ("daily_loss", {"equity": 0.97})]
)
def test_a_breaker_that_halts_needs_a_person(name: str, bad: dict[str, float]) -> None:
    """HALTED stays when its breaker has closed; only `resume` re-arms."""
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, CALM)
    brain.update(2 * MINUTE, with_(**bad))
    halted = brain.get()
    assert (halted.state, halted.breakers, halted.since_ms) == (HALTED, (name,), 2 * MINUTE)
    for k in range(1, 100):
        brain.update(k * DAY, CALM)
    assert brain.get() == halted
    brain.command("resume", 100 * DAY)
    assert brain.get() == RiskVerdict(ACTIVE, (), (), 100 * DAY)


def test_a_resume_takes_the_figure_for_known() -> None:
    """A person may resume in a drawdown; a worse one halts again, and so does the next one."""
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, with_(drawdown=0.12))
    brain.command("resume", MINUTE)
    states = []
    for k, drawdown in enumerate([0.12, 0.16, 0.1701], 2):
        brain.update(k * MINUTE, with_(drawdown=drawdown))
        states.append(brain.get().state)
    assert states == [ACTIVE, ACTIVE, HALTED]
    brain.command("resume", 5 * MINUTE)
    brain.update(6 * MINUTE, with_(drawdown=0.05))
    brain.update(7 * MINUTE, with_(drawdown=0.1))
    assert brain.get().state is HALTED


def test_a_resume_does_not_silence_what_reduces() -> None:
    """A person who ends a halt has not said that a frozen feed is fine."""
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, with_(drawdown=0.12, stale_share=0.5))
    assert brain.get().breakers == ("drawdown", "stale_feed")
    brain.command("resume", MINUTE)
    verdict = brain.get()
    assert (verdict.state, verdict.breakers) == (REDUCING, ("stale_feed",))


def test_commands_of_a_person() -> None:
    """`halt` is above `reduce`; only `resume` ends either; the verdict says who it was."""
    brain = RiskBrain(RiskSettings())
    seen = []
    for k, kind in enumerate(["reduce", "halt", "reduce", "resume", Command.HALT, Command.RESUME]):
        brain.command(kind, k)
        verdict = brain.get()
        seen.append((verdict.state, verdict.breakers, verdict.reasons, verdict.since_ms))
    halted = (HALTED, ("manual",), ("manual: a person's halt",))
    assert seen == [
        (REDUCING, ("manual",), ("manual: a person's reduce",), 0),
        (*halted, 1),
        (*halted, 1),
        (ACTIVE, (), (), 3),
        (*halted, 4),
        (ACTIVE, (), (), 5),
    ]


def test_no_calm_ends_a_command() -> None:
    """The kill switch holds until a person resumes."""
    brain = RiskBrain(RiskSettings())
    brain.command("halt", 0)
    for k in range(1, 50):
        brain.update(k * DAY, CALM)
    assert brain.get().state is HALTED


def test_an_unknown_command_is_refused() -> None:
    """L50: nothing else passes for a command."""
    brain = RiskBrain(RiskSettings())
    with pytest.raises(ValueError, match="'stop' is not halt, reduce or resume"):
        brain.command("stop", 0)
    assert brain.saved() == RiskBrain(RiskSettings()).saved()


@pytest.mark.parametrize("name", [n for n in Figures.__struct_fields__ if n != "source"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_refused(name: str, value: float) -> None:
    """L36: NaN is refused where figures are made, by the figure's name."""
    with pytest.raises(ValueError, match=f"figure {name} is"):
        Figures(**{name: value})  # type: ignore[arg-type]


def test_no_equity_is_reducing() -> None:
    """L36: an engine that cannot say what it lost takes nothing on."""
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, with_(equity=None, equity_age_ms=None, drawdown=None))
    assert brain.get().state is REDUCING
    assert brain.get().breakers == ("pnl_stale",)


def test_a_breaker_can_be_off_only_by_its_line() -> None:
    """L35: safety depends on what a person set, by name, and on nothing else."""
    settings = RiskSettings(breakers=("drawdown 0.1 0.05 0 off", "stale_feed 0.2 0.1 0 halt"))
    brain = RiskBrain(settings)
    brain.update(MINUTE, with_(drawdown=0.9))
    assert brain.get().state is ACTIVE
    brain.update(2 * MINUTE, with_(stale_share=0.2))
    assert brain.get().state is HALTED


def test_every_breaker_can_be_read() -> None:
    """L08: each breaker tells its figure and since when it is as it is."""
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, with_(stale_share=0.4))
    states = {str(one.name): one for one in brain.breakers()}
    assert len(states) == 10
    assert states["stale_feed"].is_open
    assert states["stale_feed"].value == 0.4
    assert states["manual"].is_open is False
    brain.command("reduce", 2 * MINUTE)
    assert brain.breakers()[0].is_open
    assert brain.breakers()[0].since_ms == 2 * MINUTE


@given(steps)
def test_nothing_but_a_resume_leaves_halted(path: list[tuple[Figures, str | None]]) -> None:
    """Whatever figures come, HALTED ends with a person's resume only; time moves with the state."""
    brain = RiskBrain(RiskSettings())
    for k, (figures, kind) in enumerate(path, 1):
        before = brain.get()
        brain.update(k * MINUTE, figures)
        after = brain.get()
        assert after.state is HALTED or before.state is not HALTED
        if kind is not None:
            brain.command(kind, k * MINUTE)
        for one, other in pairwise([before, after, brain.get()]):
            assert (one.since_ms == other.since_ms) or one.state is not other.state
            assert (other.state is ACTIVE) == (not other.breakers) == (not other.reasons)


@given(steps, st.integers(0, 25))
def test_saved_and_restored_anywhere_it_goes_on_alike(
    path: list[tuple[Figures, str | None]], cut: int
) -> None:
    """L43: a restart in between, through bytes, changes no later verdict."""
    one, other = RiskBrain(RiskSettings()), RiskBrain(RiskSettings())
    for k, (figures, kind) in enumerate(path, 1):
        if k == cut:
            data = msgspec.msgpack.encode(other.saved())
            other = RiskBrain(RiskSettings())
            other.restore(msgspec.msgpack.decode(data, type=SavedBrain))
        for brain in (one, other):
            brain.update(k * 7 * HOUR, figures)
            if kind is not None:
                brain.command(kind, k * 7 * HOUR)
        assert one.get() == other.get()
    assert msgspec.msgpack.encode(one.saved()) == msgspec.msgpack.encode(other.saved())


def test_a_halt_outlives_a_change_of_settings() -> None:
    """L35: switching a breaker off does not end the halt that it caused; a resume does."""
    brain = RiskBrain(RiskSettings())
    brain.update(MINUTE, with_(drawdown=0.2))
    other = RiskBrain(RiskSettings(breakers=("drawdown 0.1 0.05 0 off",)))
    other.restore(brain.saved())
    assert other.get() == brain.get()
    other.command("resume", 2 * MINUTE)
    other.update(3 * MINUTE, with_(drawdown=0.2))
    assert other.get().state is ACTIVE


def loss_after(loss: DailyLoss, *moments: tuple[int, float | None]) -> float | None:
    for at_ms, equity in moments:
        loss.update(at_ms, equity, "paper")
    return loss.get()


def test_the_loss_of_a_day_begins_with_the_last_equity_before_it() -> None:
    """What is lost over midnight is lost on the new day; a gain later makes up for it."""
    loss = DailyLoss(0)
    assert loss.get() is None
    assert loss_after(loss, (DAY - MINUTE, 100.0), (DAY, 98.0)) == pytest.approx(0.02)
    assert loss_after(loss, (DAY + MINUTE, 101.0)) == 0.0
    assert loss_after(loss, (2 * DAY - 1, 90.0)) == pytest.approx(0.1)
    assert loss_after(loss, (2 * DAY, None)) == 0.0


def test_the_day_begins_at_the_hour_that_is_set() -> None:
    """L38: the setting moves the day, by the bars' time."""
    late, early = DailyLoss(22), DailyLoss(0)
    moments = [(21 * HOUR, 100.0), (22 * HOUR - 1, 95.0), (22 * HOUR, 95.0)]
    assert loss_after(late, *moments) == 0.0
    assert loss_after(early, *moments) == pytest.approx(0.05)


def test_another_source_of_equity_is_no_loss() -> None:
    """From paper units to reported dollars or back, the day is counted anew."""
    loss = DailyLoss(0)
    for at_ms, equity, source in ((0, 50_000.0, "reported"), (1, 1.0, "paper")):
        loss.update(at_ms, equity, source)
    assert loss.get() == 0.0


def test_all_that_was_lost_is_one() -> None:
    """Equity of nothing, or less, is a loss of everything."""
    assert loss_after(DailyLoss(0), (0, 1.0), (1, -5.0)) == 1.0
    assert loss_after(DailyLoss(0), (0, 0.0)) == 1.0
    with pytest.raises(ValueError, match="equity is nan"):
        DailyLoss(0).update(0, math.nan, "paper")


@given(st.lists(st.none() | st.floats(0.0, 1e6), max_size=30), st.integers(0, 30))
def test_the_day_goes_on_after_a_restart(path: list[float | None], cut: int) -> None:
    """L43: the loss of the day is not forgotten by a restart."""
    one, other = DailyLoss(3), DailyLoss(3)
    for k, equity in enumerate(path):
        if k == cut:
            data = msgspec.msgpack.encode(other.saved())
            other = DailyLoss(3)
            other.restore(msgspec.msgpack.decode(data, type=SavedDay))
        for loss in (one, other):
            loss.update(k * 5 * HOUR, equity, "paper")
        assert one.get() == other.get()
        assert one.get() is None or 0.0 <= one.get() <= 1.0  # type: ignore[operator]
