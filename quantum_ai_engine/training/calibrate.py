"""Calibration: from logits to probabilities that happen as often as they say."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.manifest import Calibration
from quantum_ai_engine.training.options import TrainingError

# One parameter more costs 1 / (2n) nats a forecast on other bars (Akaike 1974). At this many
# independent labels that is 0.00025, about what a ranking with an AUC of 0.52 is worth in all.
BETA_LEAST_LABELS = 2_000
LEAST_SPREAD = 1e-4  # of calibrated probabilities: less is a constant
ROUNDING = 1e-13  # of the objective: near the optimum a right step may seem to raise it
RIDGE = 1e-12  # a spread at or below this share of the values, or of 1, is none; steadies Newton
GRADIENT_TOLERANCE = 1e-9  # of the mean gradient
MOST_STEPS = 100

Vector = NDArray[np.float64]
_SIGMOID = Calibration("platt", 1.0, 1.0, 0.0)


def calibrate(logits: Vector, rose: Vector, effective: float) -> Calibration:
    """The calibration of `logits` [n] against `rose` [n], of `effective` independent labels.

    Platt scaling, or beta calibration from `BETA_LEAST_LABELS` on. Isotonic regression is never
    used: it steps, so that most moves of the model would not move the forecast and its ends would
    be certain, and it needs far more labels than three parameters do.

    Raises `TrainingError` for a model that ranks the bars no better than chance: turned round it
    would be another model, and held flat it would be a constant that passes for an agent.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the model does not answer the validation span with numbers; lower learning_rate"
        )
    method = beta if effective >= BETA_LEAST_LABELS else platt
    found = method(logits, rose, min(1.0, effective / len(rose)))
    if not (min(found.up, found.down) >= 0.0 and found.apply(logits).std() >= LEAST_SPREAD):
        raise TrainingError(
            "the model has learned nothing that holds: in the validation span its higher answers "
            "are not followed by more rises; train it with more bars, another horizon or another "
            "kind"
        )
    return found


def platt(logits: Vector, rose: Vector, evidence: float = 1.0) -> Calibration:
    """The slope and intercept under which `rose` [n] is most likely given finite `logits` [n].

    `evidence` is the share of them that is independent (see `likeliest`).
    Sources: Platt 1999; Newton's method, smoothed targets and the stable objective as in Lin, Lin
    and Weng 2007. Raises `TrainingError` when it does not converge.

    >>> fitted = platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    >>> round(fitted.up, 3), abs(round(fitted.intercept, 6))
    (0.674, 0.0)
    """
    fit = likeliest(logits[:, np.newaxis], rose, evidence)
    return Calibration("platt", fit.slopes[0], fit.slopes[0], fit.intercept)


def beta(logits: Vector, rose: Vector, evidence: float = 1.0) -> Calibration:
    """The likeliest `up` and `down` of at least 0 and intercept; what rises must stay rising.

    Source: Kull, Silva Filho and Flach 2017. A slope that would be negative is fixed at 0 and the
    others are fitted again, as there; where both would be, the better of the two ways is taken.
    """
    tail = np.log1p(np.exp(-np.abs(logits)))
    rise, fall = np.maximum(logits, 0.0) + tail, np.maximum(-logits, 0.0) + tail
    # up · ln σ(z) − down · ln(1 − σ(z)) is slope · z + bend · (rise + fall), which are far less
    # alike than the two logarithms.
    both = likeliest(np.column_stack([logits, rise + fall]), rose, evidence)
    slope, bend = both.slopes
    only_up, only_down, none = (
        likeliest(columns, rose, evidence)
        for columns in (-fall[:, np.newaxis], rise[:, np.newaxis], np.empty((len(logits), 0)))
    )
    candidates = [
        (both.loss, slope - bend, slope + bend, both.intercept),
        (only_up.loss, *only_up.slopes, 0.0, only_up.intercept),
        (only_down.loss, 0.0, *only_down.slopes, only_down.intercept),
        (none.loss, 0.0, 0.0, none.intercept),
    ]
    # The objective is convex: its optimum under both limits is the best of those that keep them.
    _, up, down, intercept = min(c for c in candidates if c[1] >= 0.0 and c[2] >= 0.0)
    return Calibration("beta", up, down, intercept)


class Line(NamedTuple):
    """A fitted log-odds: slopes [columns] and intercept, and its mean cross-entropy."""

    slopes: tuple[float, ...]
    intercept: float
    loss: float


def likeliest(
    columns: Vector, rose: Vector, evidence: float = 1.0, most_steps: int = MOST_STEPS
) -> Line:
    """Logistic regression of `rose` [n] on `columns` [n, columns] by Newton's method.

    The targets are smoothed to (ups + 1) / (ups + 2) and 1 / (downs + 2), so that separable data
    stay finite. Of outcomes that overlap only the share `evidence` counts: the fewer are
    independent, the less certain is a target. Raises `TrainingError` when it does not converge in
    `most_steps`.
    """
    ups = evidence * float(rose.sum())
    downs = evidence * len(rose) - ups
    targets = np.where(rose > 0.5, (ups + 1.0) / (ups + 2.0), 1.0 / (downs + 2.0))
    # Newton's steps do not depend on how the columns are scaled and mixed; their rounding does.
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    basis, mixing = np.linalg.qr(columns - mean)
    basis, mixing = basis * np.sqrt(len(rose)), mixing / np.sqrt(len(rose))
    # What is equal differs by rounding alone, which must not be blown up.
    least = RIDGE * np.maximum(1.0, np.abs(mean) + spread)
    alike = np.flatnonzero(np.abs(mixing.diagonal()) <= least)
    basis[:, alike], mixing[alike, alike] = 0.0, 1.0
    inputs = np.column_stack([basis, np.ones(len(rose))])  # [n, columns + 1]
    weights = np.zeros(inputs.shape[1])
    weights[-1] = np.log((ups + 1.0) / (downs + 1.0))
    for _ in range(most_steps):
        p = _SIGMOID.apply(inputs @ weights)
        gradient = inputs.T @ (p - targets) / len(rose)
        if np.abs(gradient).max() < GRADIENT_TOLERANCE:
            slopes = np.linalg.solve(mixing, weights[:-1])
            loss = _objective(inputs @ weights, targets)
            return Line(tuple(slopes.tolist()), float(weights[-1] - slopes @ mean), loss)
        hessian = (inputs.T * (p * (1.0 - p))) @ inputs / len(rose)
        hessian += RIDGE * np.eye(len(weights))
        step = np.asarray(np.linalg.solve(hessian, -gradient), dtype=np.float64)
        weights = weights + _damped(inputs, targets, weights, step)
    raise TrainingError(
        f"the calibration does not converge on the validation span in {most_steps} steps; train "
        "with more bars or a lower learning_rate"
    )


def _damped(inputs: Vector, targets: Vector, weights: Vector, step: Vector) -> Vector:
    """The Newton step, halved until the objective does not rise."""
    most = _objective(inputs @ weights, targets) + ROUNDING
    while not _objective(inputs @ (weights + step), targets) <= most:
        step = step / 2.0
    return step


def _objective(z: Vector, targets: Vector) -> float:
    """Mean cross-entropy of sigmoid(z), without exp of a positive number."""
    return float(np.mean(np.logaddexp(0.0, z) - targets * z))
