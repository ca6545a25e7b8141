"""What the original's three future inputs are worth: its recipe with them, without them, and on a random walk.

* The recipe is the original's: its 64 inputs and target, scaled ticker by ticker on the training rows, the last tenth
  for test. Ridge regression on the window's last bar stands for the network: it is enough to find the leak.
* A score that a random walk reaches as well is no skill: there is nothing to forecast in one.
* Scores are in the original's units: a value of 0 is the training median, and direction is about 0.

Shapes: N bars of a ticker, F = 64 features, n test windows.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

from ..audit_tsf_llm import random_walk_bars
from ..bars_tsf_llm import split_tickers
from ..evaluation.significance import mean_interval
from ..feature_extraction_tsf_llm import center_and_scale
from ..original_features_tsf_llm import (
    ORIGINAL_HORIZON,
    ORIGINAL_LENGTH,
    RETURNS,
    future_columns,
    last_rows,
    original_features,
    original_split,
    original_target,
)

RIDGE_PENALTY = 1.0
FEWEST_BARS = 16 * ORIGINAL_LENGTH  # fewer leave no windows for test


def scaled_scores(
    prediction: np.ndarray, target: np.ndarray, times: np.ndarray, *, horizon: int = ORIGINAL_HORIZON, seed: int = 0
) -> dict[str, Any]:
    """Scores of scaled predictions [n], beside those of a constant 0, the training median.

    Direction is the share of equal signs, as the original counts it: up means above the training median. Its interval
    is a block bootstrap over `times` [n]; its base rate is the share of the commoner sign.
    """
    right = np.sign(prediction) == np.sign(target)
    ups = float((target > 0).mean())
    return {
        "n": len(target),
        "mse": float(np.mean((prediction - target) ** 2)),
        "mse_constant_0": float(np.mean(target**2)),
        "mae": float(np.mean(np.abs(prediction - target))),
        "mae_constant_0": float(np.mean(np.abs(target))),
        "direction_accuracy": float(right.mean()),
        "direction_ci95": mean_interval(right, times, horizon=horizon, seed=seed) if 0 < right.mean() < 1 else None,
        "direction_base_rate": max(ups, 1 - ups),
    }


def ridge(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """Ridge regression with a free intercept. [N,F], [N], [n,F] -> [n]."""
    return Ridge(alpha=RIDGE_PENALTY).fit(train_x, train_y).predict(test_x)


def measure_leak(bars: pd.DataFrame, *, horizon: int = ORIGINAL_HORIZON, seed: int = 0) -> dict[str, Any]:
    """Scores on the test windows of all tickers together: rows `with_leak`, `without_leak`, `random_walk_with_leak`.

    `reconstruction` is how exactly the target follows from the inputs alone. Tickers with too few bars are `skipped`.

    Raises:
        ValueError: bars without an honest reading, no ticker with enough of them, or no such target.
    """
    frames = {name: frame.dropna(subset="close") for name, frame in split_tickers(bars).items()}
    used = {name: frame.reset_index(drop=True) for name, frame in frames.items() if len(frame) >= FEWEST_BARS}
    if not used:
        raise ValueError(f"no ticker has {FEWEST_BARS} bars, which the original's split needs: give more history")
    rng = np.random.default_rng(seed)
    walks = {f"walk_{i}": random_walk_bars(rng, len(frame)) for i, frame in enumerate(used.values())}
    rows, errors = [], []
    for name, source, expose_leak in (
        ("with_leak", used, True),
        ("without_leak", used, False),
        ("random_walk_with_leak", walks, True),
    ):
        parts = [_Recipe(frame, horizon, expose_leak) for frame in source.values()]
        prediction, target, times = (
            np.concatenate(column) for column in zip(*(part.test() for part in parts), strict=True)
        )
        rows.append({"model": name, **scaled_scores(prediction, target, times, horizon=horizon, seed=seed)})
        if name == "with_leak":
            errors = [part.reconstruction_errors() for part in parts]
    return {
        "rows": rows,
        "reconstruction": _summary(np.concatenate(errors)),
        "future_inputs": future_columns(horizon),
        "learner": "ridge regression on the last bar of the window, one per ticker",
        "direction_about": "0, the training median, as the original counts it",
        "horizon": horizon,
        "tickers": list(used),
        "skipped": [name for name in frames if name not in used],
        "bars": sum(len(frame) for frame in used.values()),
        "start": str(min(frame["timestamp"].iloc[0] for frame in used.values()).date()),
        "end": str(max(frame["timestamp"].iloc[-1] for frame in used.values()).date()),
        "seed": seed,
    }


class _Recipe:
    """One ticker's inputs and target, scaled on its training rows as in the original: it fills unknowns with zero."""

    def __init__(self, bars: pd.DataFrame, horizon: int, expose_leak: bool):
        table = original_features(bars, horizon=horizon, expose_leak=expose_leak)
        target = original_target(bars["close"], horizon)
        self.horizon, self.names, self.known = horizon, list(table), target.notna().to_numpy()
        raw, raw_target = table.to_numpy(), target.fillna(0.0).to_numpy()
        self.train, _, self.tested = (last_rows(part) for part in original_split(len(bars)))
        fit = original_split(len(bars))[0]
        self.center, self.scale = center_and_scale(raw[fit], "robust")
        (self.target_center,), (self.target_scale,) = center_and_scale(raw_target[fit, None], "robust")
        self.x = np.nan_to_num((raw - self.center) / self.scale)  # [N,F]; a hidden input is its median, 0
        self.y = (raw_target - self.target_center) / self.target_scale  # [N]
        self.times = bars["timestamp"].to_numpy()

    def test(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prediction, target and time of every test window, [n] each."""
        prediction = ridge(self.x[self.train], self.y[self.train], self.x[self.tested])
        return prediction, self.y[self.tested], self.times[self.tested]

    def reconstruction_errors(self) -> np.ndarray:
        """|target - its reconstruction from the scaled inputs of the same window|, where the target is known.

        C[t+h] / C[t] = C[t-back] (1 + future_return_kd[t-back] / 100) / C[t] with back = k - h; empty if no input
        looks as far ahead as the target.
        """
        k = max(k for k in RETURNS if k != self.horizon)
        back = k - self.horizon
        if back < 0:
            return np.array([])
        rows = self.tested[self.known[self.tested]]
        raw = self.x * self.scale + self.center
        close, ahead = raw[:, self.names.index("close")], raw[:, self.names.index(f"future_return_{k}d")]
        percent = 100 * (close[rows - back] * (1 + ahead[rows - back] / 100) / close[rows] - 1)
        return np.abs((percent - self.target_center) / self.target_scale - self.y[rows])


def _summary(errors: np.ndarray) -> dict[str, Any]:
    return {"n": len(errors), "max_error": float(errors.max()) if len(errors) else None}
