"""The proof that nothing looks ahead: prefix invariance of every feature, and canaries that no feature may excite.

Design choices:
* A cut of the history shows what its last rows read ahead, and nothing of other rows. A leak on few rows is found if a
  cut falls behind one of them, so cuts are many and at random places, and the report says which leaks they would show.
* The user's own features, of which nothing is known, are computed alone, which is cheap, and cut at every bar.

Shapes: N bars of one ticker, F features.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    naming,
    split_tickers,
)
from .columns_tsf_llm import given_bars
from .feature_extraction_tsf_llm import TsfLlmFeatureExtractor, center_and_scale, with_progress
from .indicators_tsf_llm import BUILT_IN, FEATURES, compute_features, market_parts
from .market_tsf_llm import implied_index, market_state

CUTS = 90  # of all tickers together: what leaks on a row in twenty is missed once in a hundred times
DEFAULT_FEATURES = 64  # of a larger part of our own table there are fewer cuts, for the same time
LEAST_CUTS = 6  # of each ticker, and those at which the future is replaced as well
OWN_CUTS = 20_000  # of all tickers together, for the user's own features
SURE = 0.99
REVERSED = 600  # bars of the walk read backwards that are cut
PLANTED = 0.8  # probability of a return's sign to be that of the last one
PLANTED_PLAIN = 0.1  # of a plain series: its level stays where it is, which a ridge on levels needs
PENALTY = 0.15  # of the ridge, times the number of features: many of them find a signal in the noise of few bars
SHOWN = 0.8  # accuracy from which on features show the last return well enough for the planted signal to be found


def audit_features(
    bars: Bars,
    names: Sequence[str] | None = None,
    seed: int = 0,
    cuts: int | Literal["all"] | None = None,
    compute: Callable[..., pd.DataFrame] | None = None,
    kind: Kind | None = None,
    past_covariates: Sequence[str] = (),
    known_covariates: Sequence[str] = (),
    market: Bars | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Tests features for knowledge of the future: those named, all of the table, or what `compute` makes of bars.

    * Prefix invariance: history is cut at random bars, `cuts` of each ticker (`"all"`: every bar; by default 6, and
      90 in all, of more than 64 features of the table fewer), and at some its future is replaced by noise. No value
      up to the cut may change by a single bit. Some cuts lie within the first bars, where values filled from later
      show. Features that the user added to the table are cut at every bar, or at 20,000 of all tickers.
    * Random-walk canary: on bars that no one can predict, a ridge regression on the features must not find direction.
    * Shuffled-label canary: on the given bars with shuffled next returns it must not either. (This one watches the
      canary itself: a test harness that leaks would sing here.)
    * Time reversal: on the random walk read backwards it must not either, and no cut of it may change a value. (What
      comes later is then what came before: a feature may tell them apart by the order of rows alone.)
    * Planted signal: on bars whose next return has the sign of the last with probability 0.7 it must find direction.
      (This one asks whether the canaries can sing at all.) Features that do not show the last return cannot tell.

    `kind` is told by the columns. A known covariate stays as it is where the rest of the future is cut or replaced: to
    read it ahead is no leak. A past one that is written from later rows is a leak that came with the data, see
    `peeking_covariates`.

    Features of the market see one in all of this, by default made of the given bars. Then its future is cut off and
    replaced as well, and the longest ticker's features must not change. `compute` takes its state as `market`. One
    without an implied-volatility index gets a made-up one.

    Tickers without an honest reading, or with fewer bars than a forecast needs, are skipped unless `strict`, and named
    under `skipped`; a market has them all the same.

    Returns:
        `{"passed", "features", "skipped", "prefix_invariance", "random_walk", "shuffled_labels", "time_reversal",
        "planted_signal"}` and counts, ready for JSON. In `prefix_invariance`, `found_from_share` is the share of rows
        from which on a leak is found with probability 0.99: one that changes a row when all that lies behind it is cut
        off. It is 0 where every bar was cut; see `bound_in_words`.

    Raises:
        ValueError: a feature raises; names it, the ticker and the error.
    """
    if not (cuts is None or cuts == "all" or (isinstance(cuts, int) and cuts > 0)):
        raise ValueError(f"cuts={cuts!r}: give a number of cuts per ticker, 1 or more, or 'all'")
    bars = given_bars(bars, kind, [*past_covariates, *known_covariates])
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
        if market is None and kind is OHLCV and market_parts(list(FEATURES) if names is None else names):
            market = universe
    rng = np.random.default_rng(seed)
    name, longest = max(tickers.items(), key=lambda item: len(item[1]))
    proof, leaks, state = _Proof(compute, kind, known_covariates, rng), [], None
    if market is not None:
        others = dict(split_tickers(given_bars(market, OHLCV)))
        if not any(map(implied_index, others)):
            others["VIX"] = made_up_index(longest["timestamp"], np.random.default_rng(seed))
        with naming(name):
            leaks += proof.market_leaks(longest, others)
        state = market_state(others)
        proof.compute = functools.partial(compute, market=state)
    with naming(name):
        columns = list(proof.compute(longest.head(MIN_BARS)).columns)
    ours = sum(name in FEATURES and not _is_own(name) for name in columns)
    usual = CUTS * DEFAULT_FEATURES // max(DEFAULT_FEATURES, ours)
    count = max(LEAST_CUTS, -(-usual // len(tickers))) if cuts is None else cuts
    places = {ticker: proof.places(len(frame), count) for ticker, frame in tickers.items()}
    for ticker, frame in with_progress(list(tickers.items()), "audit"):
        leaks += proof.prefix_leaks(ticker, frame, places[ticker])
    prefix: dict[str, Any] = {"cuts_per_ticker": count, "found_from_share": _found_from(tickers, places)}
    if own := [name for name in columns if kind is OHLCV and _is_own(name)]:
        places = {t: proof.places(len(frame), max(1, OWN_CUTS // len(tickers))) for t, frame in tickers.items()}
        for ticker, frame in with_progress(list(tickers.items()), "audit of own features"):
            suspects = [name for name in own if name not in {leak["feature"] for leak in leaks}]
            alone = _Proof(functools.partial(compute_features, names=suspects, market=state), kind, (), rng)
            leaks += alone.cut_leaks(ticker, frame, places[ticker]) if suspects else []
        prefix["own_features"] = {"names": own, "found_from_share": _found_from(tickers, places)}
    for ticker, frame in tickers.items() if past_covariates else ():
        leaks += [{**leak, "ticker": ticker} for leak in peeking_covariates(frame, past_covariates, kind)]
    walk = (random_walk_bars if kind is OHLCV else random_walk_series)(rng)
    walk = walk.assign(**{name: rng.normal(0, 1, len(walk)) for name in covariates})
    canaries = {
        "random_walk": proof.canary(walk),
        "shuffled_labels": proof.canary(longest, shuffle=True),
        "time_reversal": proof.reversal(backwards(walk)),
        "planted_signal": proof.planted(with_planted_signal(walk, kind, rng)),
    }
    return {
        "passed": not leaks and all(canary["passed"] for canary in canaries.values()),
        "features": len(columns),
        "tickers": len(tickers),
        "skipped": tickers.skipped,
        "bars": sum(len(frame) for frame in tickers.values()),
        "prefix_invariance": {"passed": not leaks, **prefix, "leaks": leaks},
        **canaries,
    }


def bound_in_words(report: dict[str, Any]) -> str:
    """Which leaks an audit would have found."""
    prefix = report["prefix_invariance"]
    told = [_in_words("a leak", prefix)]
    if "own_features" in prefix:
        told.append(_in_words(f"one in {', '.join(prefix['own_features']['names'])}", prefix["own_features"]))
    return f"would have been found with probability {SURE:.0%}: {'; '.join(told)}"


def _in_words(leak: str, part: dict[str, Any]) -> str:
    share = part["found_from_share"]
    return f"{leak} on at least {share:.2%} of rows" if share else f"{leak} on any row, being cut at every bar"


def _found_from(tickers: CheckedBars, places: dict[str, np.ndarray]) -> float:
    """The least share of rows of which one at least lies before one of these cuts, `SURE` in a hundred times."""
    if all(len(places[ticker]) == len(frame) - 1 for ticker, frame in tickers.items()):
        return 0.0
    return float(np.ceil(1e6 * (1 - (1 - SURE) ** (1 / sum(map(len, places.values()))))) / 1e6)


def _is_own(name: str) -> bool:
    """Whether a feature of the table was added to it by someone else."""
    return name in FEATURES and name not in BUILT_IN


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

    def places(self, length: int, cuts: int | Literal["all"]) -> np.ndarray:
        """One random cut in each of so many stretches of equal length, or all there are."""
        if cuts == "all" or cuts >= length - 1:
            return np.arange(1, length)
        edges = np.linspace(1, length, cuts + 1).astype(int)
        return self.rng.integers(edges[:-1], edges[1:])

    def market_leaks(self, bars: pd.DataFrame, market: Mapping[str, pd.DataFrame]) -> list[dict]:
        """One entry per feature of these bars that the market's future changes."""
        table = self.compute(bars, market=market_state(market))
        leaks: dict[str, dict] = {}
        for cut in np.unique(np.linspace(1, len(bars) - 1, LEAST_CUTS + 1, dtype=int)[:-1]):
            now = bars["timestamp"].iloc[cut]
            ended = {name: frame[frame["timestamp"] <= now] for name, frame in market.items()}
            noise = {}
            for name, frame in market.items():
                future = (frame["timestamp"] > now).to_numpy()[:, None]
                factor = np.where(future, np.exp(self.rng.normal(0, 0.1, (len(frame), 1))), 1.0)
                noise[name] = frame.assign(**{column: frame[column] * factor[:, 0] for column in COLUMNS[1:]})
            for other in (ended, noise):
                part = self.compute(bars, market=market_state(other))
                for leak in _changes("market", bars, table, part, int(cut) + 1):
                    leaks.setdefault(leak["feature"], leak)
        return list(leaks.values())

    def prefix_leaks(self, ticker: str, bars: pd.DataFrame, places: np.ndarray) -> list[dict]:
        """One entry per leaking feature, with the first bar that its future changed."""
        unknown = [name for name in bars.columns if name not in ("timestamp", *self.known_covariates)]
        even = places[np.unique(np.linspace(-1, len(places) - 1, LEAST_CUTS + 1, dtype=int)[1:])]
        first = [cut for cut in (1, 2, 5, 15, 40) if cut < even[0]]
        leaks = {leak["feature"]: leak for leak in self.cut_leaks(ticker, bars, np.unique([*first, *places]))}
        with naming(ticker):
            table = self.compute(bars)
            for cut in even:
                noise = bars.copy()
                noise.loc[cut:, unknown] = self.kind.noise(noise.loc[cut:, unknown], self.rng)
                for leak in _changes(ticker, bars, table, self.compute(noise), int(cut)):
                    leaks.setdefault(leak["feature"], leak)
        return list(leaks.values())

    def cut_leaks(self, ticker: str, bars: pd.DataFrame, places: np.ndarray) -> list[dict]:
        """The same, of features that change if all behind one of these places is cut off."""
        leaks: dict[str, dict] = {}
        with naming(ticker):
            table = self.compute(bars)
            for cut in places:
                part = self.compute(hide_after(bars, int(cut), self.known_covariates))
                for leak in _changes(ticker, bars, table, part, int(cut)):
                    leaks.setdefault(leak["feature"], leak)
        return list(leaks.values())

    def canary(self, bars: pd.DataFrame, *, shuffle: bool = False) -> dict[str, Any]:
        """Whether a ridge regression finds no direction of the next return, which may be shuffled."""
        target = np.append(self._returns(bars), np.nan)
        found = self._direction(self.compute(bars).to_numpy(), target, shuffle=shuffle)
        return {"passed": found["direction_accuracy"] <= found["limit"], **found} if found["bars"] else found

    def reversal(self, bars: pd.DataFrame) -> dict[str, Any]:
        """The canary on bars that were turned round, and prefix invariance of the first of them."""
        found, first = self.canary(bars), bars.head(REVERSED)
        leaks = self.cut_leaks("time reversal", first, self.places(len(first), LEAST_CUTS))
        return {**found, "passed": found["passed"] and not leaks, "leaks": leaks}

    def planted(self, bars: pd.DataFrame) -> dict[str, Any]:
        """Whether it finds the direction that was planted, if the features show the return to which it holds."""
        features, returns = self.compute(bars).to_numpy(), self._returns(bars)
        shown = self._direction(features, np.insert(returns, 0, np.nan))["direction_accuracy"]
        found = self._direction(features, np.append(returns, np.nan))
        if shown < SHOWN:
            note = f"cannot tell: no feature shows the last return (its direction is read with accuracy {shown:.2f})"
            return {**found, "passed": True, "note": note}
        return {"passed": found["direction_accuracy"] > found["limit"], **found}

    def _returns(self, bars: pd.DataFrame) -> np.ndarray:
        return np.diff(self.kind.additive(bars[self.kind.value].to_numpy()))

    def _direction(self, features: np.ndarray, target: np.ndarray, *, shuffle: bool = False) -> dict[str, Any]:
        """Ridge regression of a return on the features: first half fits, second half is scored for direction.

        The interval is 99.9 % wide: a lone canary must not cry on one honest run out of twenty."""
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
        penalty = PENALTY * x.shape[1] * np.eye(x.shape[1])
        weights = np.linalg.solve(x[:half].T @ x[:half] + penalty, x[:half].T @ y[:half])
        hits = np.sign(x[half:] @ weights) == np.sign(y[half:])
        accuracy, n = hits.mean(), len(hits)
        base = max((y[half:] > 0).mean(), (y[half:] < 0).mean())
        margin = 3.29 * 0.5 / np.sqrt(n)
        return {
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


def made_up_index(timestamps: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """An implied-volatility index at these times that follows nothing: around 20 points, and it returns there."""
    close = 20 * np.exp(pd.Series(rng.normal(0, 0.3, len(timestamps))).ewm(alpha=0.1).mean().to_numpy())
    prices = dict.fromkeys(COLUMNS[1:5], close)
    return pd.DataFrame({"timestamp": timestamps.to_numpy(), **prices, "volume": np.nan})


def random_walk_series(rng: np.random.Generator, n: int = 4000) -> pd.DataFrame:
    """Values without any pattern, hourly."""
    frame = pd.DataFrame({"timestamp": pd.date_range("2000-01-03", periods=n, freq="h")})
    frame["value"] = rng.normal(0, 1, n).cumsum()
    return frame


def backwards(bars: pd.DataFrame) -> pd.DataFrame:
    """The same bars in the opposite order: what closed a bar now opens it, and times still rise."""
    turned = bars.iloc[::-1].reset_index(drop=True).assign(timestamp=bars["timestamp"].to_numpy())
    return turned.assign(open=turned["close"], close=turned["open"]) if "close" in bars else turned


def with_planted_signal(walk: pd.DataFrame, kind: Kind, rng: np.random.Generator) -> pd.DataFrame:
    """These bars with steps of the same sizes, each with the sign of the last with a probability that is planted."""
    steps = np.abs(np.diff(kind.additive(walk[kind.value].to_numpy()), prepend=np.nan))
    steps[0] = 0.0
    planted = PLANTED if kind is OHLCV else PLANTED_PLAIN
    signs = np.where(rng.random(len(walk)) < planted, 1, -1).cumprod()
    level = (signs * steps).cumsum()
    if kind is not OHLCV:
        return walk.assign(**{kind.value: level})
    close = 100 * np.exp(level)
    start = np.concatenate(([100.0], close[:-1]))
    low, high = np.minimum(start, close), np.maximum(start, close)
    wide = np.exp(np.abs(rng.normal(0, 0.002, (2, len(walk)))))
    return walk.assign(open=start, high=high * wide[0], low=low / wide[1], close=close)


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


__all__ = ["audit_features", "bound_in_words"]
