"""The backtest and its report: files whole or not at all, and a page that says what they say."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from quantum_ai_engine.agents.base import Agent, Past
from quantum_ai_engine.config import ReplaySettings, RiskSettings, Settings
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.replay.backtest import Backtest
from quantum_ai_engine.replay.flags import trained_on
from quantum_ai_engine.replay.report.report import NOT_THIS, page_of
from quantum_ai_engine.replay.report.summary import About, Report
from quantum_ai_engine.replay.runs import RUNS, note_run, read_runs
from quantum_ai_engine.replay.step import Step

from ..pages import Page
from .records import replay_of, selection, steps_of
from .steps import MINUTE, bar, step, told

ABOUT = About("0.1.0+test", "abc", "walk.csv", ("AAA", "BBB"), ("gru",), {"gru": 1})
FILES = {"report.html", "report.json", "fills.parquet", "equity.parquet"}
START = 29_000_000  # minutes since 1970: in the year 2025


class Gru:
    """What a backtest needs to know of an agent."""

    name, bundle, horizon_bars, interval, clamped = "gru", "0" * 12, 5, "1m", 0
    feature_set, unavailable, past = SETS["gru9"], None, Past(base_rate=0.48)

    def warm_up(self) -> None: ...

    def predict(self, windows: Any) -> Any: ...


def settings_of(**replay: Any) -> Settings:
    values = {"random_draws": 20, "bootstrap_draws": 100} | replay
    return Settings(replay=ReplaySettings(**values), risk=RiskSettings())


def walk(n: int, seed: int = 1, drift: float = 0.0) -> Iterator[Step]:
    """Two symbols that go anywhere, and forecasts that are a little right."""
    from quantum_ai_engine.events import Vote

    random = np.random.default_rng(seed)
    prices = np.array([100.0, 50.0])
    for k in range(n):
        moves = np.exp(random.normal(drift, 0.002, 2))
        bars, signals = [], []
        for symbol, price, move in zip(("AAA", "BBB"), prices, moves, strict=True):
            bars.append(bar(START + k, float(price), float(price * move), symbol))
            p = float(np.clip(0.5 + random.normal(0.0, 0.1), 0.05, 0.95))
            target = round(p - 0.5, 3) if abs(p - 0.5) > 0.1 else 0.0
            votes = (Vote("gru", "0" * 12, p, 1.0),)
            signals.append(told(START + k, target, symbol, probability=p, votes=votes))
        prices = prices * moves
        yield step(bars, signals)


def run(
    out: Path,
    steps: Sequence[Step] | None = None,
    about: About = ABOUT,
    agents: Sequence[Agent] = (Gru(),),
    **replay: Any,
) -> Report:
    about = msgspec.structs.replace(about, agents=tuple(agent.name for agent in agents))
    backtest = Backtest(settings_of(**replay), agents, out, ("AAA", "BBB"), 100)
    for one in steps or walk(1_000):
        backtest.take(one)
    return backtest.write(about)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "first"
    run(directory)
    return directory


@pytest.fixture(scope="module")
def report(out: Path) -> Report:
    return msgspec.json.decode((out / "report.json").read_bytes(), type=Report)


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_all_files_are_there_and_nothing_else(out: Path, report: Report) -> None:
    """Fills add up to the costs, equity has a row for each step but the first."""
    assert {path.name for path in out.iterdir()} == FILES
    fills, equity = (pq.read_table(out / name).to_pydict() for name in sorted(FILES)[:2][::-1])
    worth = report.money.worth
    assert list(fills) == "symbol open_time price units notional cost target".split()
    assert list(equity) == "open_time equity cash gross net drawdown".split()
    assert len(fills["units"]) == worth.fills > 500
    assert sum(fills["cost"]) == pytest.approx(worth.costs)
    assert len(equity["equity"]) == worth.bars == 999
    assert equity["equity"][-1] == worth.equity
    assert max(equity["drawdown"]) == pytest.approx(worth.max_drawdown)
    assert report.span.money_from_ms == equity["open_time"][0] == (START + 1) * MINUTE


def test_the_page_needs_nothing_else(out: Path, page: Page) -> None:
    """No script, no style attribute, no address: pictures are inside, and the policy says so."""
    html = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import", re.sub(r'"data:[^"]*"', "", html))
    assert {"script", "link", "a", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    for _, attributes in page.tags:
        assert not {name for name in attributes if name == "style" or name.startswith("on")}
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:image/png").startswith("data:image/png")
    assert page.open == []
    assert sum(tag == "img" for tag, _ in page.tags) == 9


def test_the_page_says_what_the_json_says(report: Report, page: Page) -> None:
    """L08: each figure is one of the report's; flags stand first, and what this is not."""
    worth, blocks = report.money.worth, report.money.blocks
    assert blocks is not None
    ensemble = report.audit.sources[-1]
    shown = [
        *report.flags,
        NOT_THIS,
        f"{100 * worth.total_return:+.2f} %".replace("-", "−"),
        f"{worth.sharpe:+,.2f}".replace("-", "−"),
        f"{worth.trades:,}",
        f"{worth.costs:,.2f}",
        f"{100 * blocks.rpb:+.3f} %".replace("-", "−"),
        f"{100 * blocks.mrb:+.3f} %".replace("-", "−"),
        f"{ensemble.brier:.5f}",
        f"{ensemble.count:,}",
        f"{report.audit.pending:,} had no outcome",
        "AAA",
        "BBB",
        "replay.fee_bps",
        "0.1.0+test",
    ]
    assert [text for text in shown if text not in page.text] == []
    assert page.text.index(report.flags[0]) < page.text.index(NOT_THIS)


def test_no_number_of_the_json_is_none(out: Path) -> None:
    """What is not known is null, and nothing is infinite."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    assert found["schema"] == 1
    assert found["money"]["bootstrap"]["total_return"]["low"] is not None


def test_the_same_run_gives_the_same_bytes(out: Path, tmp_path: Path) -> None:
    """No clock and no random name: reports can be compared."""
    again = tmp_path / "first"
    run(again)
    for name in sorted(FILES):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_runs_are_counted_once_each_and_deflate_the_next(tmp_path: Path) -> None:
    """The same run again is no other trial; another one is."""
    backtest = Backtest(settings_of(), [Gru()], tmp_path / "run", ("AAA", "BBB"), 100)
    for one in walk(300):
        backtest.take(one)
    other = msgspec.structs.replace(ABOUT, config_hash="def")
    assert backtest.get(ABOUT).money.deflated.trials == 1
    backtest.write(ABOUT)
    assert backtest.get(ABOUT).money.deflated.trials == 1
    assert backtest.get(other).money.deflated.trials == 2
    (noted,) = read_runs(tmp_path)
    note_run(tmp_path, noted)
    assert read_runs(tmp_path) == [noted]
    with (tmp_path / RUNS).open("ab") as file:
        file.write(b'{"run": "torn')
    note_run(tmp_path, msgspec.structs.replace(read_runs(tmp_path)[0], run="x"))
    assert read_runs(tmp_path) == [noted]  # the torn line took the next one with it


def test_who_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    backtest = Backtest(settings_of(), [Gru()], tmp_path / "run", ("AAA", "BBB"))
    for one in walk(2_500):
        backtest.take(one)
    assert list((tmp_path / "run").iterdir())
    backtest.discard()
    assert not list((tmp_path / "run").iterdir())


def flagged(tmp_path: Path, steps: Sequence[Step], **replay: Any) -> str:
    return " ".join(run(tmp_path / "run", steps, **replay).flags)


def held(target: float, n: int = 200, rise: float = 0.0) -> list[Step]:
    """One symbol with the same target all along, while its price rises by a fraction each bar."""
    prices = 100.0 * (1.0 + rise) ** np.arange(n + 1)
    return [
        step(
            bar(START + k, float(prices[k]), float(prices[k + 1])),
            [told(START + k, target, probability=0.5 + 0.45 * target)],
        )
        for k in range(n)
    ]


def test_red_flags_are_said_in_words(tmp_path: Path) -> None:
    """One-sided, all neutral, blocks that cannot be, few trades: each before it is believed."""
    assert "All neutral: all 200 signals" in flagged(tmp_path, held(0.0))
    one_sided = flagged(tmp_path, held(0.5, rise=0.001))
    assert "One-sided: 100 % of all signals with a side are long" in one_sided
    assert "Only 0 trades ended" in one_sided
    assert "2 of 2 blocks returned more than ±5 %, the furthest +5.1 %" in one_sided
    assert "too good to be true" in one_sided
    assert "Never scored: gru" in one_sided
    ruin = [*held(-1.0, 3), step(bar(START + 3, 100.0, 300.0))]
    assert "The account was ruined at 2025-" in flagged(tmp_path, ruin)
    quiet = [step(bar(START + k)) for k in range(5)]
    assert "There is not one signal" in flagged(tmp_path, quiet)
    assert "fills were cut" in flagged(tmp_path, held(0.9), leverage=0.5)


def test_bars_that_an_agent_was_trained_on_are_no_test() -> None:
    assert trained_on({"gru": 1}, 2, 9) == ()
    assert "100 % of this replay" in trained_on({"gru": 99}, 0, 50)[0]


def test_a_replay_without_anything_has_a_page_too(tmp_path: Path) -> None:
    """Every picture and table is left out where there is nothing, and the page says so."""
    report = run(tmp_path / "run", [step(bar(START))])
    page = Page(page_of(report))
    assert page.open == []
    assert "No forecast has an outcome" in page.text
    assert report.money.worth.bars == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_memory_does_not_grow_with_the_bars(tmp_path: Path) -> None:
    """What is kept of 6,000 steps is hardly more than what is kept of 3,000."""
    import tracemalloc

    backtest = Backtest(settings_of(), [Gru()], tmp_path / "run", ("AAA", "BBB"), 10_000)
    sizes, steps = [], list(walk(6_000))
    tracemalloc.start()
    try:
        for i, one in enumerate(steps, start=1):
            backtest.take(one)
            if i % 3_000 == 0:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        backtest.discard()
    assert sizes[1] - sizes[0] < 1_000_000


@pytest.mark.parametrize("is_told", [False, True])
def test_a_replay_without_agents_ends_with_a_red_flag(tmp_path: Path, is_told: bool) -> None:
    """L01: where nobody has an opinion the report says so, signals from elsewhere or none."""
    steps = [one if is_told else step(one.bars) for one in walk(300)]
    report = run(tmp_path / "run", steps, agents=())
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert "There is not one agent: nobody's opinion was tested." in report.flags
    assert ("There is not one signal: the result says nothing." in report.flags) is not is_told
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "There is not one agent" in page
    assert "agents: none" in page


def test_an_engine_without_agents_signals_nothing(tmp_path: Path) -> None:
    """L02: it has no vote, so no signal, and the report of its replay is written all the same."""
    bars = [one for each in walk(300) for one in each.bars]
    replay = replay_of(settings_of(), ())
    steps = steps_of(replay, selection(bars))
    assert len(steps) == 300
    assert not any(one.told.signals for one in steps)
    report = run(tmp_path / "run", steps, agents=())
    assert report.flags[0] == "There is not one signal: the result says nothing."
    assert report.passage.signals == 0
