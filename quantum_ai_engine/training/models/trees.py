"""Boosted trees: shallow, slow learners that stop where the validation span says so."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.trees import PAYLOADS, places, require
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.training.dataset import Dataset, Samples
from quantum_ai_engine.training.family import Fitted, Loss
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions
from quantum_ai_engine.training.rows import PART_BARS, mapped

FEATURES = "tree173"
LAGGED = ("clv", "body_frac", "rv_5", "rsi_14", "sma_z_20", "macd_hist", "vol_z_20", "svr_10")
LAGS = (1, 2, 3, 5)  # bars before the newest; of returns the set has lags of its own
INPUTS = (
    *feature_set(FEATURES).columns,
    *(f"{column}@{lag}" for column in LAGGED for lag in LAGS),
)
ROUNDS = 400  # at most; it ends after PATIENCE of them without a lower validation loss
PATIENCE = 30
RATE = 0.03
DEPTH = 4
LEAST_SHARE, LEAST_IN_LEAF = 0.002, 20  # of the train span's windows in a leaf, and how many
SHARE_OF_ROWS, SHARE_OF_INPUTS = 0.7, 0.4  # drawn for each tree
RIDGE = 10.0  # on the values of leaves
SEEDS = 2**31  # both libraries take seeds below this


class Span(NamedTuple):
    """Inputs [n, inputs] and outcomes [n] of a span."""

    inputs: NDArray[np.float32]
    rose: NDArray[np.float64]


class Told(Protocol):
    """Told the losses of each round; whether the training shall go on."""

    def __call__(self, train: float, validation: float) -> bool: ...


Boost = Callable[[Span, Span, int, Told], Callable[[int], bytes]]


@dataclass(frozen=True, slots=True)
class Trees:
    """A family of boosted trees.

    Of the options it reads `seed` and `samples_per_epoch`: so many windows, drawn once, are all
    that it is fitted to. Everything else is fixed above. It trains in one thread, so that the same
    bars, options and library give the same trees.

    `boost(train, validation, seed, told)` gives the payload of the first rounds.

    Sources: Chen and Guestrin 2016, "XGBoost"; Ke et al. 2017, "LightGBM".
    """

    kind: str
    boost: Boost
    feature_set: str = FEATURES

    def fit(
        self, dataset: Dataset, options: TrainOptions, progress: Callable[[Progress], None]
    ) -> Fitted:
        try:
            require(self.kind)
        except ImportError as error:
            raise TrainingError(
                f"training needs {self.kind}: pip install 'quantum-ai-engine[trees]' ({error})"
            ) from error
        train, validation = (
            _span(dataset, span) for span in (_drawn(dataset.train, options), dataset.validation)
        )
        watch = _Watch(progress)
        payload = self.boost(train, validation, options.seed % SEEDS, watch)
        files = {PAYLOADS[self.kind]: payload(watch.best_round)}
        package = packages_distributions()[self.kind][0]  # xgboost has several
        return Fitted(files, INPUTS, False, tuple(watch.losses), (package,))


class _Watch:
    """Tells how the rounds go, and ends them when the validation loss has stopped to fall."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self.losses: list[Loss] = []
        self.best_round = 0
        self._progress = progress

    def __call__(self, train: float, validation: float) -> bool:
        best = self.losses[self.best_round - 1].validation if self.losses else np.inf
        self.losses.append(Loss(train, validation))
        done = len(self.losses)
        if validation < best:
            self.best_round = done
        self._progress(Progress(1, 1, done, ROUNDS, train, validation))
        return done - self.best_round < PATIENCE


def _drawn(samples: Samples, options: TrainOptions) -> Samples:
    """All samples, or as many as the options say, in order of time."""
    size = options.samples_per_epoch
    if size is None or size >= len(samples):
        return samples
    draw = np.random.default_rng(options.seed)
    some = np.sort(draw.choice(len(samples), size, replace=False))
    return Samples(samples.row[some], samples.close_time[some], samples.rose[some])


def _span(dataset: Dataset, samples: Samples) -> Span:
    back, column = places(INPUTS, dataset.feature_set)
    parts = (
        dataset.rows[samples.row[start : start + PART_BARS, None] - back, column]  # [n, inputs]
        for start in range(0, len(samples), PART_BARS)
    )
    single = (part.astype(np.float32) for part in parts)
    return Span(mapped(single, (len(samples), len(INPUTS)), np.float32), samples.rose)


def _least_in_leaf(train: Span) -> int:
    return max(LEAST_IN_LEAF, int(LEAST_SHARE * len(train.rose)))


def _xgboost(train: Span, validation: Span, seed: int, told: Told) -> Callable[[int], bytes]:
    import xgboost

    parameters = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "nthread": 1,
        "seed": seed,
        "learning_rate": RATE,
        "max_depth": DEPTH,
        "min_child_weight": _least_in_leaf(train) / 4.0,  # a window weighs p(1 − p)
        "subsample": SHARE_OF_ROWS,
        "colsample_bytree": SHARE_OF_INPUTS,
        "reg_lambda": RIDGE,
        "verbosity": 0,
    }

    class Callback(xgboost.callback.TrainingCallback):
        """Hands the losses on; True ends the training."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            del model, epoch
            return not told(*(evals_log[span]["logloss"][-1] for span in ("train", "validation")))

    matrix = xgboost.QuantileDMatrix(train.inputs, train.rose, nthread=1)
    held = xgboost.QuantileDMatrix(validation.inputs, validation.rose, nthread=1, ref=matrix)
    booster = xgboost.train(
        parameters,
        matrix,
        ROUNDS,
        evals=[(matrix, "train"), (held, "validation")],
        callbacks=[Callback()],
        verbose_eval=False,
    )
    return lambda rounds: bytes(booster[:rounds].save_raw("json"))


def _lightgbm(train: Span, validation: Span, seed: int, told: Told) -> Callable[[int], bytes]:
    import lightgbm

    parameters = {
        "objective": "binary",
        "metric": "binary_logloss",
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,  # otherwise it takes what was faster in a trial
        "seed": seed,
        "learning_rate": RATE,
        "max_depth": DEPTH,
        "num_leaves": 2**DEPTH,
        "min_data_in_leaf": _least_in_leaf(train),
        "min_sum_hessian_in_leaf": _least_in_leaf(train) / 4.0,  # a window weighs p(1 − p)
        "bagging_fraction": SHARE_OF_ROWS,
        "bagging_freq": 1,
        "feature_fraction": SHARE_OF_INPUTS,
        "lambda_l2": RIDGE,
        "verbosity": -1,
    }

    def callback(state: Any) -> None:
        losses = {span: loss for span, _, loss, _ in state.evaluation_result_list}
        if not told(losses["train"], losses["validation"]):
            raise lightgbm.callback.EarlyStopException(state.iteration, [])

    data = lightgbm.Dataset(train.inputs, train.rose, params=parameters)
    held = lightgbm.Dataset(validation.inputs, validation.rose, reference=data)
    try:
        booster = lightgbm.train(
            parameters,
            data,
            ROUNDS,
            valid_sets=[data, held],
            valid_names=["train", "validation"],
            callbacks=[callback],
        )
    except lightgbm.basic.LightGBMError as error:
        raise TrainingError(f"LightGBM cannot train on these bars: {error}") from error
    return lambda rounds: booster.model_to_string(num_iteration=rounds).encode()


XGBOOST = Trees("xgboost", _xgboost)
LIGHTGBM = Trees("lightgbm", _lightgbm)
