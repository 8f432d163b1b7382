"""Rules are fitted too: what is usual for each detector, and how much each deserves."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.manifest import Calibration
from quantum_ai_engine.agents.rules import PAYLOAD, READINGS, Detector, Row, Rule, judge, opinion
from quantum_ai_engine.training.dataset import SPREAD_FLOOR, Dataset, Samples
from quantum_ai_engine.training.family import Fitted
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions

MOST_LOG_ODDS = 3.0  # of one detector: a probability of 0.953
STEPS, SWEEPS = 10_000, 100  # at most
TOLERANCE = 1e-7  # of a step of the weights
_SIGMOID = Calibration("platt", 1.0, 1.0, 0.0)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rules:
    """A family whose models are the detectors of one kind.

    A detector's scale is the root mean square of its reading over the train span. The weights are
    those of a logistic regression of the train span's outcomes on the detectors' log-odds that
    cannot be negative: a detector is believed as it is meant, or not at all. They are divided by
    their sum, since only their shares count; how far the rule is believed is left to calibration.
    A detector that says nothing in the train span, as that of the opening range does where a
    session has no more bars than the range, has no weight.
    """

    kind: str
    feature_set: str
    gain: float

    def fit(
        self, dataset: Dataset, options: TrainOptions, progress: Callable[[Progress], None]
    ) -> Fitted:
        del options  # a rule has no rounds and draws nothing
        readings = READINGS[self.kind]
        row = _row(dataset, dataset.train)
        values = {name: reading(row) for name, reading in readings.items()}
        scales = {name: _scale(value) for name, value in values.items()}
        heard = [name for name, scale in scales.items() if scale >= SPREAD_FLOOR]
        if not heard:
            raise TrainingError(
                f"no detector of {self.kind} says anything in the train span; give bars in which "
                "one does"
            )
        opinions = np.stack(
            [opinion(values[name], scales[name], MOST_LOG_ODDS) for name in heard], axis=1
        )  # [n, detectors]
        weights = dict(zip(heard, shares(opinions, dataset.train.rose).tolist(), strict=True))
        detectors = tuple(
            Detector(name, scales[name] if name in weights else 1.0, weights.get(name, 0.0))
            for name in scales
        )
        rule = Rule(self.gain, MOST_LOG_ODDS, detectors)
        losses = [
            cross_entropy(judge(rule, readings, _row(dataset, span)), span.rose)
            for span in (dataset.train, dataset.validation)
        ]
        progress(Progress(1, 1, 1, 1, losses[0], losses[1]))
        payload = msgspec.json.format(msgspec.json.encode(rule), indent=1)
        return Fitted({PAYLOAD: payload}, (), False, (), ())


def shares(opinions: Floats, rose: Floats) -> Floats:
    """The shares [detectors], none negative, sum 1, of log-odds [n, detectors] in the best fit.

    Raises `TrainingError` when no detector deserves any.

    >>> y = np.array([1.0, 0.0, 1.0, 0.0])
    >>> shares(np.stack([2 * y - 1, 1 - 2 * y], axis=1), y).round(6)
    array([1., 0.])
    """
    weights = likeliest(opinions, rose)[:-1]
    if not weights.sum() > 0.0:
        raise TrainingError(
            "no detector of this rule points the right way in the train span; train with more bars "
            "or another horizon"
        )
    return np.asarray(weights / weights.sum())


def likeliest(opinions: Floats, rose: Floats) -> Floats:
    """The weights, none negative, and last the intercept [detectors + 1] that explain `rose` best.

    Each step minimises a quadratic above the loss, whose curvature is nowhere exceeded, so that
    none can raise it. Source: Böhning and Lindsay 1988.
    """
    inputs = np.column_stack([opinions, np.ones(len(rose))])  # [n, detectors + 1]
    curvature = inputs.T @ inputs / (4.0 * len(rose))
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        gradient = inputs.T @ (_SIGMOID.apply(inputs @ weights) - rose) / len(rose)
        moved = _lowest(weights, gradient, curvature)
        step, weights = np.abs(moved - weights).max(), moved
        if step < TOLERANCE:
            break
    return weights


def _lowest(weights: Floats, gradient: Floats, curvature: Floats) -> Floats:
    """Where the quadratic around `weights` is lowest with all but the last at least 0.

    By coordinate descent.
    """
    moved = weights.copy()
    for _ in range(SWEEPS):
        for i in range(len(moved)):
            slope = gradient[i] + curvature[i] @ (moved - weights)
            value = moved[i] - slope / curvature[i, i]
            moved[i] = value if i == len(moved) - 1 else max(value, 0.0)
    return moved


def cross_entropy(logits: Floats, rose: Floats) -> float:
    """The mean cross-entropy of sigmoid(logits) [n] against `rose` [n]."""
    return float(np.mean(np.logaddexp(0.0, logits) - rose * logits))


def _row(dataset: Dataset, samples: Samples) -> Row:
    rows = dataset.rows[samples.row]  # [n, columns]
    return dict(zip(dataset.feature_set.columns, rows.T, strict=True))


def _scale(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
