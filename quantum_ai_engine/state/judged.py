"""What an agent is judged by: the scores of its manifest."""

from typing import NamedTuple

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.manifest import HeldOut
from quantum_ai_engine.supervisor.ledger import Known
from quantum_ai_engine.supervisor.standing import Baseline
from quantum_ai_engine.supervisor.trust import BASE_PRIOR, prior_of


class Judged(NamedTuple):
    """An agent, and what it was when it was held out; without that it cannot be tested."""

    known: Known
    prior: float
    base_rate: float
    baseline: Baseline | None


def judged_of(agent: Agent) -> Judged:
    """An agent with its prior, from its held-out skill, and the baseline of its tests."""
    past, known = agent.past, Known(agent.name, agent.bundle, agent.past.dead_zone)
    if past.held_out is None:
        return Judged(known, BASE_PRIOR, past.base_rate, None)
    scores = past.held_out
    prior = prior_of(scores.paired, scores.paired_stderr)
    return Judged(known, prior, past.base_rate, baseline_of(scores))


def baseline_of(scores: HeldOut) -> Baseline | None:
    """What live scores are compared with; None where there were too few blocks to say."""
    counts = [one.count for one in scores.reliability]
    if sum(counts) == 0 or scores.blocks.count < 2:
        return None
    mean = sum(n * one.mean_probability for n, one in zip(counts, scores.reliability, strict=True))
    return Baseline(
        brier=scores.brier,
        brier_base_rate=scores.brier_base_rate,
        paired=scores.paired,
        paired_stderr=scores.paired_stderr,
        mean_probability=mean / sum(counts),
        block_bars=scores.blocks.bars,
        block_count=scores.blocks.count,
        levels=scores.blocks.levels,
        paired_quantiles=scores.blocks.paired,
    )
