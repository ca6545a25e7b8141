"""The proof that nothing looks ahead: prefix invariance of every feature, and canaries that no feature may excite.

Shapes: N bars of one ticker, F features.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .bars_tsf_llm import (
    COLUMNS,
    MIN_BARS,
    OHLCV,
    UNIVARIATE,
    Bars,
    CheckedBars,
    Kind,
    covariate_columns,
    hide_after,
    kind_of,
    named_covariates,
    split_tickers,
)
from .feature_extraction_tsf_llm import TsfLlmFeatureExtractor, center_and_scale, with_progress
from .indicators_tsf_llm import FEATURES, reads_market
from .market_tsf_llm import market_state


def audit_features(
    bars: Bars,
    names: Sequence[str] | None = None,
    seed: int = 0,
    cuts: int = 6,
    compute: Callable[..., pd.DataFrame] | None = None,
    kind: Kind | None = None,
    past_covariates: Sequence[str] = (),
    known_covariates: Sequence[str] = (),
    market: Bars | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Tests features for knowledge of the future: those named, all of the table, or what `compute` makes of bars.

    * Prefix invariance: history is cut at several bars, and once more its future is replaced by noise. No value up to
      the cut may change by a single bit. Some cuts lie within the first bars, where values filled from later show.
    * Random-walk canary: on bars that no one can predict, a ridge regression on the features must not find direction.
    * Shuffled-label canary: on the given bars with shuffled next returns it must not either. (This one watches the
      canary itself: a test harness that leaks would sing here.)

    `kind` is told by the columns. A known covariate stays as it is where the rest of the future is cut or replaced: to
    read it ahead is no leak. A past one that is written from later rows is a leak that came with the data, see
    `peeking_covariates`.

    Features of the market see one in all of this, by default made of the given bars. Then its future is cut off and
    replaced as well, and the longest ticker's features must not change. `compute` takes its state as `market`.

    Tickers without an honest reading, or with fewer bars than a forecast needs, are skipped unless `strict`, and named
    under `skipped`; a market has them all the same.

    Returns:
        `{"passed", "features", "skipped", "prefix_invariance", "random_walk", "shuffled_labels"}`, ready for JSON.
    """
    kind = kind or kind_of(bars)
    past_covariates, known_covariates = named_covariates(bars, past_covariates, known_covariates, kind)
    covariates = [*past_covariates, *known_covariates]
    universe = split_tickers(bars, kind, covariates, strict=strict)
    tickers = universe.like(universe)
    for ticker, frame in universe.items():
        if (observed := frame[kind.value].notna().sum()) < MIN_BARS:
            tickers.skip(ticker, f"{ticker}: {observed} observed bars, at least {MIN_BARS} are needed to audit it")
    tickers.settle()
    if compute is None:
        options = {"past_covariates": past_covariates, "known_covariates": known_covariates}
        compute = _table_of(tickers, names, kind, options)
        if market is None and kind is OHLCV and reads_market(list(FEATURES) if names is None else names):
            market = universe
    rng = np.random.default_rng(seed)
    longest = max(tickers.values(), key=len)
    proof, leaks = _Proof(compute, kind, known_covariates, rng, cuts), []
    if market is not None:
        others = split_tickers(market)
        leaks += proof.market_leaks(longest, list(others.values()))
        proof.compute = functools.partial(compute, market=market_state(others.values()))
    for ticker, frame in with_progress(list(tickers.items()), "audit"):
        leaks += proof.prefix_leaks(ticker, frame)
    for ticker, frame in tickers.items() if past_covariates else ():
        leaks += [{**leak, "ticker": ticker} for leak in peeking_covariates(frame, past_covariates, kind)]
    walk_bars = random_walk_bars(rng) if kind is OHLCV else random_walk_series(rng)
    walk_bars = walk_bars.assign(**{name: rng.normal(0, 1, len(walk_bars)) for name in covariates})
    walk, shuffled = proof.canary(walk_bars, shuffle=False), proof.canary(longest, shuffle=True)
    return {
        "passed": not leaks and walk["passed"] and shuffled["passed"],
        "features": proof.compute(longest.head(MIN_BARS)).shape[1],
        "tickers": len(tickers),
        "skipped": tickers.skipped,
        "bars": sum(len(frame) for frame in tickers.values()),
        "prefix_invariance": {"passed": not leaks, "cuts_per_ticker": cuts, "leaks": leaks},
        "random_walk": walk,
        "shuffled_labels": shuffled,
    }


def _table_of(
    tickers: CheckedBars, names: Sequence[str] | None, kind: Kind, covariates: dict[str, Any]
) -> Callable[..., pd.DataFrame]:
    """What computes the named features of a kind, by default all of the table."""
    if kind is OHLCV:
        names = [*FEATURES, *covariate_columns(*covariates.values())] if names is None else names
        return TsfLlmFeatureExtractor(names=names, **covariates).raw_features
    return TsfLlmFeatureExtractor(names=names, kind="univariate", **covariates).fit(tickers).raw_features


@dataclass
class _Proof:
    """The tests of what `compute` makes of bars of a kind, of which the `known_covariates` may be read ahead."""

    compute: Callable[..., pd.DataFrame]
    kind: Kind
    known_covariates: Sequence[str]
    rng: np.random.Generator
    cuts: int

    def market_leaks(self, bars: pd.DataFrame, market: Sequence[pd.DataFrame]) -> list[dict]:
        """One entry per feature of these bars that the market's future changes."""
        table = self.compute(bars, market=market_state(market))
        leaks: dict[str, dict] = {}
        for cut in np.unique(np.linspace(1, len(bars) - 1, self.cuts + 1, dtype=int)[:-1]):
            now = bars["timestamp"].iloc[cut]
            ended = [frame[frame["timestamp"] <= now] for frame in market]
            noise = []
            for frame in market:
                future = (frame["timestamp"] > now).to_numpy()[:, None]
                factor = np.where(future, np.exp(self.rng.normal(0, 0.1, (len(frame), 1))), 1.0)
                noise.append(frame.assign(**{name: frame[name] * factor[:, 0] for name in COLUMNS[1:]}))
            for other in (ended, noise):
                part = self.compute(bars, market=market_state(other))
                for leak in _changes("market", bars, table, part, int(cut) + 1):
                    leaks.setdefault(leak["feature"], leak)
        return list(leaks.values())

    def prefix_leaks(self, ticker: str, bars: pd.DataFrame) -> list[dict]:
        """One entry per leaking feature, with the first bar that its future changed."""
        table = self.compute(bars)
        leaks: dict[str, dict] = {}
        unknown = [name for name in bars.columns if name not in ("timestamp", *self.known_covariates)]
        even = np.unique(np.linspace(1, len(bars) - 1, self.cuts + 1, dtype=int)[1:])
        first = [cut for cut in (1, 2, 5, 15, 40) if cut < even[0]]
        for cut in [*first, *even]:
            others = [hide_after(bars, cut, self.known_covariates)]
            if cut in even:
                noise = bars.copy()
                noise.loc[cut:, unknown] = self.kind.noise(noise.loc[cut:, unknown], self.rng)
                others.append(noise)
            for other in others:
                for leak in _changes(ticker, bars, table, self.compute(other), int(cut)):
                    leaks.setdefault(leak["feature"], leak)
        return list(leaks.values())

    def canary(self, bars: pd.DataFrame, *, shuffle: bool) -> dict[str, Any]:
        """Ridge regression of the next return on the features: first half fits, second half is scored for direction.

        The interval is 99.9 % wide: a lone canary must not cry on one honest run out of twenty."""
        features = self.compute(bars).to_numpy()
        target = np.append(np.diff(self.kind.additive(bars[self.kind.value].to_numpy())), np.nan)
        known = np.isfinite(target) & (target != 0)
        features, target = features[known], target[known]
        if shuffle:
            target = self.rng.permutation(target)
        half = len(target) // 2
        if half < 2 * MIN_BARS:
            return {"passed": True, "bars": 0, "note": f"skipped: {len(target)} bars are too few to tell"}
        center, scale = center_and_scale(features[:half], "standard")
        x = np.nan_to_num(np.clip((features - center) / scale, -5, 5))
        x, y = np.column_stack((x, np.ones(len(x)))), target / target[:half].std()
        weights = np.linalg.solve(x[:half].T @ x[:half] + 10 * np.eye(x.shape[1]), x[:half].T @ y[:half])
        hits = np.sign(x[half:] @ weights) == np.sign(y[half:])
        accuracy, n = hits.mean(), len(hits)
        base = max((y[half:] > 0).mean(), (y[half:] < 0).mean())
        margin = 3.29 * 0.5 / np.sqrt(n)
        return {
            "passed": bool(accuracy <= base + margin),
            "direction_accuracy": round(float(accuracy), 4),
            "base_rate": round(float(base), 4),
            "limit": round(float(base + margin), 4),
            "bars": n,
        }


def _changes(ticker: str, bars: pd.DataFrame, table: pd.DataFrame, other: pd.DataFrame, end: int) -> Iterator[dict]:
    """The features whose rows before `end` differ between two tables of these bars, each with the first such row."""
    whole, part = table.to_numpy()[:end], other.to_numpy()[:end]
    differs = (part != whole) & ~(np.isnan(part) & np.isnan(whole))
    for column in np.flatnonzero(differs.any(axis=0)):
        row = int(differs[:, column].argmax())
        bar = str(bars["timestamp"].iloc[row])
        yield {"feature": table.columns[column], "ticker": ticker, "bar": bar, "reads_up_to_bars_ahead": end - row}


def random_walk_bars(rng: np.random.Generator, n: int = 4000) -> pd.DataFrame:
    """Prices without any pattern: Gaussian log returns, honest highs and lows around them."""
    steps = rng.normal(0, 0.005, (n, 4)).cumsum(axis=1)
    close = 100 * np.exp(steps[:, -1].cumsum())
    start = np.concatenate(([100.0], close[:-1]))
    inside = start[:, None] * np.exp(np.column_stack((np.zeros(n), steps)))
    return pd.DataFrame(
        {
            "timestamp": pd.bdate_range("2000-01-03", periods=n),
            "open": inside[:, 0],
            "high": inside.max(axis=1),
            "low": inside.min(axis=1),
            "close": inside[:, -1],
            "volume": rng.lognormal(12, 0.5, n),
        }
    )


def random_walk_series(rng: np.random.Generator, n: int = 4000) -> pd.DataFrame:
    """Values without any pattern, hourly."""
    frame = pd.DataFrame({"timestamp": pd.date_range("2000-01-03", periods=n, freq="h")})
    frame["value"] = rng.normal(0, 1, n).cumsum()
    return frame


def peeking_covariates(
    frame: pd.DataFrame, names: Sequence[str], kind: Kind = UNIVARIATE, ahead: int = 24
) -> list[dict[str, Any]]:
    """Covariates that are, all but exactly, written from later rows: their own changes are those of the value some
    rows later, or, beside prices, they are the return over some rows to come.

    Prefix invariance cannot see these: the future was written into the column before it came here.
    """
    y = pd.Series(kind.additive(frame[kind.value].to_numpy()))
    leaks = []
    for name in names:
        x = frame[name].reset_index(drop=True)
        strength = [_correlation(x.diff(), y.diff().shift(-k)) for k in range(ahead + 1)]
        k = int(np.argmax(strength))
        if kind is OHLCV and strength[k] <= 0.99:  # a plain series may well be predictable from an honest column
            strength = [0.0, *(_correlation(x, y.shift(-k) - y) for k in range(1, ahead + 1))]
            k = int(np.argmax(strength))
        if k and strength[k] > 0.99 > strength[0]:
            leaks.append({"feature": name, "bar": str(frame["timestamp"].iloc[0]), "reads_up_to_bars_ahead": k})
    return leaks


def _correlation(left: pd.Series, right: pd.Series) -> float:
    both = left.notna() & right.notna()
    if both.sum() < 2 * MIN_BARS or not left[both].std() > 0 or not right[both].std() > 0:
        return 0.0
    return abs(float(np.corrcoef(left[both], right[both])[0, 1]))


__all__ = ["audit_features"]
