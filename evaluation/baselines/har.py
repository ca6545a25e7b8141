"""Log-HAR on daily ranges (Corsi 2009), pooled over tickers: one regression forecasts everybody's volatility.

Design choices:
* The variance of a bar is its overnight return squared plus the range estimate of Garman and Klass (1980), at least
  1e-4 of its mean so far: a bar that did not move has a logarithm too.
* Regressors are logs of its averages over 1, 5 and 22 bars. `har_range` adds the market, that is the mean over the
  panel's tickers at a bar, now and over 5 bars, and falls of the last 1 and 5 bars.
* The target is the log of the mean variance of the next `step` bars.
* The law of a forecast is its sigma times the pooled past returns divided by theirs: it corrects what range and
  logarithm leave out (the range misses gaps in trading, a mean of logs is no log of means).
* Fitted at each fence on rows whose outcome is known there. A missing bar is skipped.

Shapes: S tickers, T times of any of them, M known bars of all tickers one after another, F regressors, n origins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...feature_extraction_tsf_llm import EncodedSeries
from ..distributions import Residuals
from .panel import Panel

AVERAGES = (1, 5, 22)  # bars
WARM_UP = 22
SMALLEST_SHARE = 1e-4  # of the mean variance so far
FEWEST_ROWS = 250
SHORT = 5  # bars of the market's trailing mean and of the longer fall


@dataclass(frozen=True)
class _Bars:
    """The known bars of one ticker: `[N]` each."""

    time: np.ndarray
    close: np.ndarray  # log
    variance: np.ndarray
    change: np.ndarray

    @classmethod
    def of(cls, one: EncodedSeries) -> "_Bars":
        assert one.ohlc is not None, "a plain series has no range"
        known = np.isfinite(one.ohlc).all(axis=1)
        opened, high, low, close = np.log(one.ohlc[known]).T
        before = np.concatenate([[np.nan], close[:-1]])[: len(close)]
        inside = 0.5 * (high - low) ** 2 - (2 * np.log(2) - 1) * (close - opened) ** 2
        variance = (opened - before) ** 2 + np.maximum(inside, 0)
        return cls(one.timestamp[known], close, _floored(variance, SMALLEST_SHARE), close - before)

    def own(self) -> np.ndarray:
        """Logs of average variances, `[N,3]`."""
        return _log(np.stack([_trailing(self.variance, length) for length in AVERAGES], axis=1))

    def falls(self) -> np.ndarray:
        """Of the last bar and of the last five, in usual moves of the last 22, `[N,2]`."""
        usual = np.sqrt(_trailing(self.variance, AVERAGES[-1]))
        longer = _trailing(self.change, SHORT) * np.sqrt(SHORT)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.minimum(np.stack([self.change, longer], axis=1) / usual[:, None], 0)

    def later(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log mean variance and return of the next `step` bars, and when both are known; NaN, NaT at the end."""
        ahead = pd.DataFrame({"variance": _trailing(self.variance, step), "time": self.time}).shift(-step)
        moved = pd.Series(self.close).shift(-step).to_numpy() - self.close
        return _log(ahead["variance"].to_numpy()), moved, ahead["time"].to_numpy()


def har_range_own(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """Log-HAR on each ticker's own bars.

    Raises:
        ValueError: too little history at a fence, or no ticker that ever moved. One that never moved has no forecast.
    """
    return _har(panel, steps, wide=False)


def har_range(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """`har_range_own` with falls and, for a panel of several tickers, the market."""
    return _har(panel, steps, wide=True)


def _har(panel: Panel, steps: Sequence[int], *, wide: bool) -> dict[int, Residuals]:
    bars = [_Bars.of(one) for one in panel.series]
    blocks = [np.concatenate([one.own() for one in bars])]
    if wide:
        blocks.append(np.concatenate([one.falls() for one in bars]))
    if wide and len(bars) > 1:
        blocks.append(_market(bars))
    design = np.concatenate([np.ones((len(blocks[0]), 1)), *blocks], axis=1)  # [M,F]
    ready = np.isfinite(design).all(axis=1)
    ready &= np.concatenate([np.arange(len(one.time)) >= WARM_UP for one in bars])
    at = _places(panel, bars)
    if not np.isfinite(design[at]).all(axis=1).any():
        raise ValueError("no range is known at any origin, the prices never moved: start later, or leave it out")
    return {step: _forecast(panel, bars, design, ready, at, step) for step in steps}


def _forecast(
    panel: Panel, bars: list[_Bars], design: np.ndarray, ready: np.ndarray, at: np.ndarray, step: int
) -> Residuals:
    parts = [one.later(step) for one in bars]
    target, moved, time = (np.concatenate([part[i] for part in parts]) for i in range(3))
    scale, which, laws = np.empty(len(at)), np.empty(len(at), int), []
    for k, (fence, picked) in enumerate(panel.fences()):
        known = ready & np.isfinite(target) & (time <= np.datetime64(fence))
        if known.sum() < FEWEST_ROWS:
            raise ValueError(
                f"{known.sum()} bars with a known outcome of {step} step(s) before {pd.Timestamp(fence)}, and "
                f"{FEWEST_ROWS} are needed: start later, or give earlier bars"
            )
        rows = design[known]
        weights = np.linalg.lstsq(rows.T @ rows, rows.T @ target[known], rcond=None)[0]
        laws.append(moved[known] / np.exp(rows @ weights / 2))
        scale[picked], which[picked] = np.exp(design[at[picked]] @ weights / 2), k
    return Residuals.of(scale, laws, which)


def _market(bars: list[_Bars]) -> np.ndarray:
    """The market at each bar of each ticker: move, mean size, dispersion, log variance, now and over 5, `[M,8]`."""
    times = np.unique(np.concatenate([one.time for one in bars]))
    rows = [np.searchsorted(times, one.time) for one in bars]
    moves, variances = np.full((2, len(bars), len(times)), np.nan)
    for i, (one, row) in enumerate(zip(bars, rows, strict=True)):
        moves[i, row], variances[i, row] = one.change, _log(one.variance)
    mean, size, variance = _mean(moves), _mean(np.abs(moves)), _mean(variances)
    dispersion = np.sqrt(_mean((moves - mean) ** 2))
    share = np.sqrt(SMALLEST_SHARE)
    state = np.stack(
        [mean / np.exp(variance / 2), _log(_floored(size, share)), _log(_floored(dispersion, share)), variance], axis=1
    )
    state = np.concatenate([state, pd.DataFrame(state).rolling(SHORT, min_periods=1).mean()], axis=1)
    return state[np.concatenate(rows)]


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the tickers that are known at a time, `[T]` of `[S,T]`."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.divide(np.where(known, values, 0).sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)


def _places(panel: Panel, bars: list[_Bars]) -> np.ndarray:
    """Where each origin lies among the M bars, `[n]`."""
    first = np.cumsum([0, *(len(one.time) for one in bars)])
    found = [
        begin + np.searchsorted(one.time, series.timestamp[rows])
        for begin, one, series, rows in zip(first, bars, panel.series, panel.rows, strict=False)
    ]
    return np.concatenate(found)


def _trailing(values: np.ndarray, length: int) -> np.ndarray:
    return pd.Series(values).rolling(length, min_periods=1).mean().to_numpy() if length > 1 else values


def _floored(values: np.ndarray, share: float) -> np.ndarray:
    """At least a share of their mean so far."""
    return np.maximum(values, share * pd.Series(values).expanding().mean().to_numpy())


def _log(values: np.ndarray) -> np.ndarray:
    """NaN for zero."""
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    return np.where(np.isfinite(logs), logs, np.nan)
