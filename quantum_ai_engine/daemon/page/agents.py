"""What the page shows of each agent: its standing, its scores, the evidence against it."""

import math

import msgspec

from quantum_ai_engine.daemon.judged import ShownAgent, shown
from quantum_ai_engine.daemon.page.facts import Facts, Sources
from quantum_ai_engine.daemon.page.history import buckets, quantile
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.supervisor.standing import Baseline, Standing

BAND_STDERRS = 2.0
LEAST_SHOWN = 1e-4  # of the evidence that alarms: below, a meter on a logarithmic scale is empty


def agents(sources: Sources, partition: int | None = None) -> Facts:
    """All agents of a partition, by default the first; with the others' numbers."""
    engines = sources.engines()
    partition = next(iter(engines)) if partition is None else partition
    engine, judgement = engines[partition], engines[partition].state.judgement
    about = shown(partition, judgement, engine.shifts.of)
    latency = buckets(sources.metrics.inference)
    last = next(sources.ring.signals(), None)
    votes = {vote.agent: vote.trust for vote in last.votes} if last else {}
    rows = [
        _agent(one, judgement, column, latency)
        | {"status": sources.status.agents[one.agent], "last_trust": votes.get(one.agent)}
        for column, one in enumerate(about.agents)
    ]
    return {
        "partition": partition,
        "partitions": list(engines),
        "as_of": about.as_of or None,
        "settled": about.settled,
        "void": about.void,
        "base_trust": about.base_rate_trust,
        "ensemble": about.ensemble,
        "agents": rows,
        "points": len(sources.history.points.get(partition, ())),
    }


def charts(sources: Sources, partition: int) -> Facts:
    """Trust and Brier scores over the bars' time, for the charts: columns of equal length.

    `base` is the Brier score of the base rate on an agent's own bars; `low` and `high` are where
    its own would lie with the skill that it had when it was held out, ± two standard errors.
    """
    judgement = sources.judgements()[partition]
    points = list(sources.history.points.get(partition, ()))
    found: list[Facts] = []
    for column, ((name, _), standing) in enumerate(
        zip(judgement.agents, judgement.standings, strict=True)
    ):
        base = [point.base[column] for point in points]
        low, high = _band(base, standing.baseline if standing else None)
        brier = [point.brier[column] for point in points]
        trust = [point.trust[column] for point in points]
        found.append(
            {"agent": name, "trust": trust, "brier": brier, "base": base, "low": low, "high": high}
        )
    return {
        "partition": partition,
        "at_ms": [point.at_ms for point in points],
        "agents": found,
        "base_rate_trust": [point.trust[-1] for point in points],
    }


def _band(
    base: list[float | None], held_out: Baseline | None
) -> tuple[list[float | None], list[float | None]]:
    if held_out is None:
        return [None] * len(base), [None] * len(base)
    spread = BAND_STDERRS * held_out.paired_stderr
    ends = (held_out.paired - spread, held_out.paired + spread)
    low, high = ([None if one is None else one + end for one in base] for end in ends)
    return low, high


def _agent(
    about: ShownAgent,
    judgement: Judgement,
    column: int,
    latency: dict[str, list[tuple[float, float]]],
) -> Facts:
    standing, score = judgement.standings[column], about.score
    held_out = standing.baseline if standing else None
    mine = latency.get(about.agent, [])
    base = score.brier - score.paired if score else None
    band = _band([base], held_out)
    return msgspec.structs.asdict(about) | {
        "base": base,
        "low": band[0][0],
        "high": band[1][0],
        "held_out": held_out,
        "evidence": _evidence(standing),
        "blocks": standing.tested if standing else None,
        "harder": standing is not None and standing.is_harder,
        "calls": mine[-1][1] if mine else 0,
        "p50_s": quantile(mine, 0.5),
        "p99_s": quantile(mine, 0.99),
    }


def _evidence(standing: Standing | None) -> list[Facts]:
    """Each test: its evidence as a share of what alarms, and how full its meter is."""
    if standing is None or not standing.tested:
        return []
    alarming = standing.alarming
    return [
        {
            "test": test,
            "share": heard / standing.threshold,
            "filled": _filled(heard / standing.threshold),
            "alarms": test in alarming,
        }
        for test, heard in standing.evidence().items()
    ]


def _filled(share: float) -> float:
    """How full a meter is, 0 to 1, on a logarithmic scale that is full where it alarms.

    >>> [round(_filled(share), 2) for share in (0.0, 1e-5, 1e-2, 1.0, 50.0)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    if share <= LEAST_SHOWN:
        return 0.0
    return min(1.0, 1.0 - math.log10(share) / math.log10(LEAST_SHOWN))
