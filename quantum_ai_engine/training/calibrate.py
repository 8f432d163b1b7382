"""Platt scaling: from logits to calibrated probabilities by Newton's method."""

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.bundle import Calibration
from quantum_ai_engine.training.dataset import TrainingError

ROUNDING = 1e-13  # of the objective: near the optimum a right step may seem to raise it
RIDGE = 1e-12  # a spread at or below this share counts as none; keeps the Hessian invertible then
GRADIENT_TOLERANCE = 1e-9  # of the mean gradient

Vector = NDArray[np.float64]


def platt(logits: Vector, rose: Vector, most_steps: int = 100) -> Calibration:
    """The slope and intercept under which `rose` [n] is most likely given `logits` [n].

    The targets are smoothed to (ups + 1) / (ups + 2) and 1 / (downs + 2), so that separable data
    stay finite. Sources: Platt 1999; Newton's method, smoothing and the stable objective as in
    Lin, Lin and Weng 2007. Raises `TrainingError` when it does not converge in `most_steps`.

    >>> fitted = platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    >>> round(fitted.slope, 3), abs(round(fitted.intercept, 6))
    (0.674, 0.0)
    """
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the model does not answer the validation span with numbers; lower learning_rate"
        )
    ups = float(rose.sum())
    downs = len(rose) - ups
    targets = np.where(rose > 0.5, (ups + 1.0) / (ups + 2.0), 1.0 / (downs + 2.0))
    # Newton's steps do not depend on the scale of the logits, but the rounding of them does.
    mean, spread = float(logits.mean()), float(logits.std())
    if spread <= RIDGE * abs(mean):
        spread = 1.0  # equal logits differ by rounding alone, which must not be blown up
    inputs = np.stack([(logits - mean) / spread, np.ones_like(logits)], axis=1)  # [n, 2]
    weights = np.array([0.0, np.log((ups + 1.0) / (downs + 1.0))])
    for _ in range(most_steps):
        p = Calibration(1.0, 0.0).apply(inputs @ weights)
        gradient = inputs.T @ (p - targets) / len(logits)
        if np.abs(gradient).max() < GRADIENT_TOLERANCE:
            slope = float(weights[0]) / spread
            return Calibration(slope, float(weights[1]) - slope * mean)
        hessian = (inputs.T * (p * (1.0 - p))) @ inputs / len(logits) + RIDGE * np.eye(2)
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
