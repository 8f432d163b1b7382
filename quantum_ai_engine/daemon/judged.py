"""What is judged, as metrics and as JSON: read when it is asked for, from the state itself."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from quantum_ai_engine.daemon.shifted import ShownShift, shown_shift
from quantum_ai_engine.events import Risk
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.policy import Mode, PolicyState
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.supervisor.ledger import Void
from quantum_ai_engine.supervisor.scores import CalibrationBin, Score
from quantum_ai_engine.supervisor.shift import FeatureShift
from quantum_ai_engine.supervisor.standing import Alarm
from quantum_ai_engine.supervisor.standing import State as Standing


class JudgedCollector(Collector):
    """What the judgements of all partitions of a process come to.

    Scores are means over their outcomes, evidence is the largest; a state, mode or breaker is 1
    where it holds in any partition. An agent without outcomes has no score (L08).
    """

    def __init__(self, judgements: Callable[[], Sequence[Judgement]]) -> None:
        self._judgements = judgements

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        judgements = self._judgements()
        yield from _scores(judgements)
        yield from _evidence(judgements)
        yield from _rulings(judgements)
        yield from _ledger(judgements)


def _scores(judgements: Sequence[Judgement]) -> Iterator[GaugeMetricFamily]:
    brier = GaugeMetricFamily(
        "qae_brier", "Mean (p - y)^2 of settled predictions", labels=["agent"]
    )
    base = GaugeMetricFamily(
        "qae_base_rate_brier",
        "The same of the base rate, on the bars that the agent answered for",
        labels=["agent"],
    )
    bias = GaugeMetricFamily("qae_bias", "Mean p - y of settled predictions", labels=["agent"])
    for name, scores in sorted(_by_agent(judgements).items()):
        count = sum(score.count for score in scores)
        brier.add_metric([name], sum(score.brier * score.count for score in scores) / count)
        bias.add_metric([name], sum(score.bias * score.count for score in scores) / count)
        lost = sum((score.brier - score.paired) * score.count for score in scores)
        base.add_metric([name], lost / count)
    yield brier
    yield base
    yield bias


def _by_agent(judgements: Sequence[Judgement]) -> dict[str, list[Score]]:
    """The scores that there are, pooled over series, by agent; `ensemble` is the forecast's."""
    found: defaultdict[str, list[Score]] = defaultdict(list)
    for judgement in judgements:
        names = [*(name for name, _ in judgement.agents), "ensemble"]
        for source, name in enumerate(names):
            score = judgement.scores.pooled(source)
            if score is not None:
                found[name].append(score)
    return found


def _evidence(judgements: Sequence[Judgement]) -> Iterator[GaugeMetricFamily]:
    evidence: defaultdict[tuple[str, str], float] = defaultdict(float)
    standing: defaultdict[tuple[str, str], float] = defaultdict(float)
    for judgement in judgements:
        for (name, _), one in zip(judgement.agents, judgement.standings, strict=True):
            if one is None:
                continue
            for check, heard in one.evidence().items():
                key = name, check.value
                evidence[key] = max(evidence[key], heard / one.threshold)
            for state in Standing:
                key = name, state.value
                standing[key] = max(standing[key], float(one.state is state))
    heard_family = GaugeMetricFamily(
        "qae_drift_evidence", "Evidence of a test; it alarms at 1", labels=["agent", "test"]
    )
    state_family = GaugeMetricFamily(
        "qae_agent_standing", "1 where an agent stands so", labels=["agent", "state"]
    )
    for family, values in ((heard_family, evidence), (state_family, standing)):
        for labels, value in values.items():
            family.add_metric(list(labels), value)
        yield family


def _rulings(judgements: Sequence[Judgement]) -> Iterator[GaugeMetricFamily]:
    now = [judgement.rulings[-1] for judgement in judgements]
    states = GaugeMetricFamily(
        "qae_risk_state", "1 in the state of the risk brain", labels=["state"]
    )
    for state in State:
        states.add_metric([state.value], float(any(r.risk.state == state.value for r in now)))
    yield states
    modes = GaugeMetricFamily("qae_policy_mode", "1 in the mode of the policy", labels=["mode"])
    for mode in Mode:
        modes.add_metric([mode.value], float(any(r.policy.mode == mode.value for r in now)))
    yield modes
    breakers = GaugeMetricFamily(
        "qae_breaker_open", "1 where a breaker is open", labels=["breaker"]
    )
    is_open: defaultdict[str, bool] = defaultdict(bool)
    for judgement in judgements:
        for breaker in judgement.brain.breakers():
            is_open[breaker.name.value] |= breaker.is_open
    for name, value in is_open.items():
        breakers.add_metric([name], float(value))
    yield breakers


def _ledger(judgements: Sequence[Judgement]) -> Iterator[CounterMetricFamily]:
    settled = CounterMetricFamily("qae_settled_predictions", "Predictions that have an outcome")
    settled.add_metric([], sum(judgement.ledger.settled for judgement in judgements))
    yield settled
    voids = CounterMetricFamily(
        "qae_void_predictions", "Predictions that can have no outcome", labels=["reason"]
    )
    counts: defaultdict[str, int] = defaultdict(int)
    for judgement in judgements:
        for why, count in judgement.ledger.voids.items():
            counts[why.value] += count
    for why in Void:
        voids.add_metric([why.value], counts[why.value])
    yield voids


class ShownAgent(msgspec.Struct, frozen=True):
    """How an agent stands and what it scored; null where nothing settled."""

    agent: str
    bundle: str
    trust: float
    state: Standing
    alarms: tuple[Alarm, ...]
    score: Score | None
    recent: Score | None
    calibration: tuple[CalibrationBin, ...]
    feature_shift: ShownShift | None


class Shown(msgspec.Struct, frozen=True):
    """The judgement of a partition; `as_of` is in ms of the bars' time."""

    partition: int
    as_of: int
    risk: Risk
    policy: PolicyState
    settled: int
    void: dict[Void, int]
    base_rate_trust: float
    agents: list[ShownAgent]
    ensemble: Score | None


def shown(partition: int, judgement: Judgement, shifts: Mapping[str, FeatureShift]) -> Shown:
    """The judgement of a partition, and the feature shifts of its agents, for a person."""
    now, policy = judgement.rulings[-1], judgement.policy.get()
    weights = judgement.trust.weights.tolist()
    return Shown(
        partition=partition,
        as_of=now.at_ms,
        risk=now.risk,
        policy=policy,
        settled=judgement.ledger.settled,
        void=dict(judgement.ledger.voids),
        base_rate_trust=weights[-1],
        agents=[
            ShownAgent(
                agent=name,
                bundle=bundle,
                trust=weights[column],
                state=state,
                alarms=standing.get().alarms if standing else (),
                score=judgement.scores.pooled(column),
                recent=judgement.scores.recent(column),
                calibration=judgement.scores.calibration(column),
                feature_shift=shown_shift(shifts.get(name)),
            )
            for column, ((name, bundle), standing, state) in enumerate(
                zip(judgement.agents, judgement.standings, judgement.states, strict=True)
            )
        ],
        ensemble=judgement.scores.pooled(len(judgement.agents)),
    )
