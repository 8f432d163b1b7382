"""The ledger of predictions: settled once, by the bar at the horizon, or void; whatever happens."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.events import Bar, Prediction, Vote
from quantum_ai_engine.supervisor.ledger import Known, Open, PredictionLedger, Settled, Void

MINUTE_MS = 60_000
AGENTS = [Known("one", "a"), Known("two", "b", dead_zone=0.02)]
SYMBOLS = ("AAA", "BBB")
Finals = list[tuple[int, Bar]]


def bar(minute: int, close: float = 100.0, series: int = 0) -> Bar:
    return Bar(SYMBOLS[series], "1m", minute * MINUTE_MS, 100.0, 200.0, 50.0, close, 1.0)


def closed(minute: int) -> int:
    return (minute + 1) * MINUTE_MS


def prediction(minute: int, probability: float = 0.7, base: float = 0.2) -> Prediction:
    votes = (Vote("one", "a", probability, 0.75), Vote("two", "b", 0.4, 0.25))
    return Prediction(closed(minute), votes, 0, base, probability)


def never(_: Bar, __: int) -> bool:
    return False


def ledger_of(horizon: int = 2, is_closed: object = never) -> PredictionLedger:
    ledger = PredictionLedger(AGENTS, horizon, is_closed)  # type: ignore[arg-type]
    ledger.reserve(2)
    return ledger


def settled(ledger: PredictionLedger, *bars: Bar) -> list[Settled]:
    return [ledger.settle([(SYMBOLS.index(one.symbol), one)]) for one in bars]


def test_a_prediction_is_settled_by_the_bar_at_its_horizon() -> None:
    """L28: with each agent's own number, and the weights by which it was decided."""
    ledger = ledger_of()
    ledger.note(0, prediction(10))
    *nothing, done = settled(ledger, bar(10, 100.0), bar(11, 90.0), bar(12, 103.0))
    assert [len(one) for one in nothing] == [0, 0]
    assert (done.series.tolist(), done.slot.tolist()) == ([0], [11])
    assert done.probability.tolist() == [[0.7, 0.4]]
    assert done.weights == pytest.approx(np.array([[0.6, 0.2, 0.2]]))
    assert (done.forecast.tolist(), done.rose.tolist()) == ([0.7], [1.0])
    assert (ledger.settled, ledger.voids, ledger.open(0)) == (1, Counter(), [])


def test_a_prediction_made_anew_takes_the_place_of_the_first() -> None:
    """L33: of a bar that came late or was revised only the last word counts, once."""
    ledger = ledger_of()
    ledger.note(0, prediction(10, 0.9))
    settled(ledger, bar(10, 100.0))
    ledger.note(0, prediction(10, 0.2))
    assert ledger.of(0, closed(10)) == prediction(10, 0.2)
    *_, done = settled(ledger, bar(11), bar(12, 99.0))
    assert done.probability[0, 0] == 0.2
    assert ledger.settled == 1


def test_a_close_that_did_not_move_is_no_outcome() -> None:
    """L21: neither up nor down: void, never class 0."""
    ledger = ledger_of()
    ledger.note(0, prediction(10))
    *_, done = settled(ledger, bar(10, 100.0), bar(11, 101.0), bar(12, 100.0))
    assert len(done) == 0
    assert (ledger.settled, ledger.voids) == (0, {Void.UNMOVED: 1})


@pytest.mark.parametrize("lost", ["own", "outcome"])
def test_a_bar_that_never_came_voids(lost: str) -> None:
    """L28: no other bar stands in for that of the prediction, nor for that at its horizon."""
    ledger = ledger_of()
    ledger.note(0, prediction(10))
    minutes = [11, 12, 13] if lost == "own" else [10, 11, 13]
    assert not any(len(one) for one in settled(ledger, *(bar(m, 100.0 + m) for m in minutes)))
    assert ledger.voids == {Void.MISSING: 1}
    assert ledger.open(0) == []


def test_an_outcome_in_closed_hours_voids_for_that_reason() -> None:
    """L28: what is asked is whether a bar would open then that is to be the outcome."""
    asked = []

    def is_closed(one: Bar, open_time: int) -> bool:
        asked.append((one.symbol, open_time // MINUTE_MS))
        return True

    ledger = ledger_of(3, is_closed)
    ledger.note(0, prediction(10))
    settled(ledger, bar(10), bar(500, 120.0))
    assert ledger.voids == {Void.SESSION: 1}
    assert asked == [("AAA", 13)]


def test_moves_that_were_masked_in_training_are_masked_here() -> None:
    """L21: for the agent with a dead zone alone; the others are judged by the same bar."""
    ledger = ledger_of(1)
    for minute in (10, 11):
        ledger.note(0, prediction(minute))
    done = settled(ledger, bar(10, 100.0), bar(11, 101.0), bar(12, 110.0))
    assert [math.isnan(value) for value in done[1].probability[0]] == [False, True]
    assert [math.isnan(value) for value in done[2].probability[0]] == [False, False]


def test_what_agents_that_are_gone_had_said_is_left_out() -> None:
    """L28: another bundle of the same name is another agent; its weight goes to nobody."""
    ledger = ledger_of(1)
    votes = (Vote("one", "old", 0.9, 0.5), Vote("two", "b", 0.4, 0.5))
    ledger.note(0, Prediction(closed(10), votes, 1, 0.2, 0.7))
    *_, done = settled(ledger, bar(10), bar(11, 110.0))
    assert math.isnan(done.probability[0, 0])
    assert done.shares()[0] == pytest.approx([0.0, 2.0 / 3.0, 1.0 / 3.0])
    nobody = Prediction(closed(11), (Vote("one", "old", 0.9, 1.0),), 0, 0.0, None)
    ledger.note(0, nobody)
    *_, done = settled(ledger, bar(12, 111.0))
    ledger.note(0, msgspec.structs.replace(nobody, close_time=closed(12)))
    assert len(done) == 0  # its own bar was not final when it was predicted
    *_, done = settled(ledger, bar(12, 111.0), bar(13, 112.0))
    assert done.shares().tolist() == [[0.0, 0.0, 1.0]]
    assert math.isnan(done.forecast[0])


@dataclass
class Story:
    """Predictions, noted before the final bar at their place in the order of bars, and bars."""

    horizon: int
    noted: dict[int, list[tuple[int, Prediction]]]
    finals: Finals

    def last(self) -> dict[tuple[int, int], Prediction]:
        """What was predicted last of each (series, close time)."""
        order = sorted(self.noted)
        return {(s, p.close_time): p for i in order for s, p in self.noted[i]}


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Two series with holes and ties, whose final bars interleave in any way.

    A prediction is made, and made anew, before its own bar is final.
    """
    chance = Random(draw(st.integers(0, 2**20)))
    present = [
        [m for m in range(draw(st.integers(1, 40))) if chance.random() < 0.8] for _ in SYMBOLS
    ]
    closes = [90.0, 100.0, 110.0]
    queues = [[(s, bar(m, chance.choice(closes), s)) for m in present[s]] for s in range(2)]
    finals: Finals = []
    while any(queues):
        finals.append(chance.choice([queue for queue in queues if queue]).pop(0))
    noted: dict[int, list[tuple[int, Prediction]]] = {}
    for i, (series, one) in enumerate(finals):
        for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
            at = chance.randint(max(0, i - 9), i)
            made = prediction(one.open_time // MINUTE_MS, chance.random(), chance.random())
            noted.setdefault(at, []).append((series, made))
    return Story(draw(st.integers(1, 6)), noted, finals)


def told(
    story: Story, cut: int | None = None
) -> tuple[PredictionLedger, list[tuple[int, int, float, float]]]:
    """Go through a story, by another ledger from a place on; each outcome with its place."""
    ledger = ledger_of(story.horizon)
    outcomes = []
    for i, (series, one) in enumerate(story.finals):
        if i == cut:
            ledger = again(ledger, story.horizon)
        for place, made in story.noted.get(i, []):
            ledger.note(place, made)
        done = ledger.settle([(series, one)])
        outcomes += list(
            zip(
                done.series.tolist(),
                [slot * MINUTE_MS for slot in done.slot.tolist()],
                done.probability[:, 0].tolist(),
                done.rose.tolist(),
                strict=True,
            )
        )
        assert all(
            at == one.close_time - story.horizon * MINUTE_MS
            for _, at, *_ in outcomes[-len(done) :]
            if len(done)
        )
    return ledger, outcomes


def again(ledger: PredictionLedger, horizon: int) -> PredictionLedger:
    """Another ledger, with what a snapshot keeps of one."""
    other = ledger_of(horizon)
    for series in range(2):
        kept = msgspec.msgpack.encode(ledger.open(series))
        other.restore(series, msgspec.msgpack.decode(kept, type=list[Open]))
    other.settled, other.voids = ledger.settled, Counter(ledger.voids)
    return other


@settings(max_examples=300)
@given(stories())
def test_each_prediction_is_settled_once_or_void(story: Story) -> None:
    """L28, L33: against a plain recomputation from all bars, one outcome for each prediction.

    None comes before the bar at its horizon is final, and none after.
    """
    ledger, outcomes = told(story)
    closes = {(s, one.close_time): one.close for s, one in story.finals}
    newest = {s: max([at for series, at in closes if series == s], default=0) for s in range(2)}
    expected, voids, still_open = [], Counter[Void](), 0
    for (series, at), made in story.last().items():
        due = at + story.horizon * MINUTE_MS
        entry, exit_ = closes.get((series, at)), closes.get((series, due))
        if due > newest[series]:
            still_open += 1
        elif entry is None or exit_ is None:
            voids[Void.MISSING] += 1
        elif entry == exit_:
            voids[Void.UNMOVED] += 1
        else:
            expected.append((series, at, made.votes[0].probability, float(exit_ > entry)))
    assert sorted(outcomes) == sorted(expected)
    assert (ledger.settled, ledger.voids) == (len(expected), voids)
    assert sum(len(ledger.open(series)) for series in range(2)) == still_open


@settings(max_examples=100)
@given(stories(), st.integers(0, 80))
def test_restored_anywhere_it_goes_on(story: Story, cut: int) -> None:
    """L43: what a snapshot keeps is all there is to know."""
    ledger, outcomes = told(story)
    other, same = told(story, cut % (len(story.finals) + 1))
    assert same == outcomes
    assert (other.settled, other.voids) == (ledger.settled, ledger.voids)
    assert [other.open(i) for i in range(2)] == [ledger.open(i) for i in range(2)]


@settings(max_examples=100)
@given(stories())
def test_the_order_of_series_decides_nothing(story: Story) -> None:
    """L53: with all bars of one series final before those of the other, the outcomes are those."""
    _, outcomes = told(story)
    places = sorted(range(len(story.finals)), key=lambda i: story.finals[i][0])
    finals = [story.finals[i] for i in places]
    moved = {
        places.index(_own(story.finals, series, made)): []
        for noted in story.noted.values()
        for series, made in noted
    }
    for i in sorted(story.noted):
        for series, made in story.noted[i]:
            moved[places.index(_own(story.finals, series, made))].append((series, made))
    _, other = told(Story(story.horizon, moved, finals))
    assert sorted(other) == sorted(outcomes)


def _own(finals: Sequence[tuple[int, Bar]], series: int, made: Prediction) -> int:
    """The place of the bar that a prediction is of."""
    return next(
        i for i, (s, one) in enumerate(finals) if (s, one.close_time) == (series, made.close_time)
    )
