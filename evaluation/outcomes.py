"""What came true of a track record: its forecasts beside naive ones of the same outcomes, by model, horizon and month.

Design choices:
* The outcome of a step is the close so many bars after the origin, whatever time the calendar had guessed for it: that
  is what `evaluate` scores too. It is the return of the data itself, so a split or a dividend since then changes
  nothing; a last close that is no longer the logged one is told.
* A forecast that came too late to count is scored apart. One that repeats another is not scored at all.
* Everything that is scored is beside the same baselines (`BASELINES`, which nobody chooses), each from what its origin
  knew: they are fitted at the first origin of the record, and yearly. Bounds that all rows tell of bind them too.
* Origins that wait for their outcome are among those of the baselines, so that later bars change no score of earlier
  ones.
* Where the chain is broken, rows from there on are not scored, and the page says so before all else.

Shapes: n outcomes, N bars of a ticker.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..bars_tsf_llm import OHLCV, UNIVARIATE, Kind
from ..feature_extraction_tsf_llm import EncodedSeries
from .baselines.catalogue import choose
from .baselines.naive import VOLATILITY_WINDOW, naive_scale, naive_square_scale
from .baselines.panel import Panel
from .baselines.run import run
from .distributions import Scored
from .report import OURS
from .scores import bands, score, skill
from .significance import compare, headline, overlap
from .track_record import bounds_in, kind_in, law_of

BASELINES = {OHLCV.name: ("random_walk", "har_range"), UNIVARIATE.name: ("random_walk", "garch_t")}
SCORED, OPEN, REPEATED = "scored", "open", "repeated"
ROUNDING = 1e-4  # of a close
MODEL = ["model_digest", "processor_digest"]
TOLD = ["state", "at", "due", "realised", "unit", "close"]
KEPT = [
    "id",
    "made_at",
    "version",
    "kind",
    "model",
    *MODEL,
    "ticker",
    "origin",
    "last_close",
    "step",
    "horizon",
    "late",
]


@dataclass(frozen=True)
class Outcomes:
    """The rows of a record beside what came, and how those that can be scored did."""

    rows: pd.DataFrame  # of `KEPT`, and beside them of `TOLD`
    scored: Scored  # of the rows whose state is `SCORED`, in their order


# --- what came -------------------------------------------------------------------------------------------------------


def match(
    chunks: Iterable[pd.DataFrame],
    series: Mapping[str, EncodedSeries],
    kind: Kind,
    *,
    tickers: Sequence[str] | None = None,
) -> Outcomes:
    """The rows of a record, chunk by chunk, with what the series say of each."""
    parts, scored = [], []
    for chunk in tqdm(chunks, desc="outcomes", unit="chunk", disable=None, leave=False):
        chosen = chunk if tickers is None else chunk[chunk["ticker"].isin(tickers)]
        told = chosen.join(_told(chosen, series, kind))
        for _, part in told.groupby("law", sort=False):
            parts.append(part[[*KEPT, *TOLD]])
            if len(part := part[part["state"] == SCORED]):
                scored.append(_score(part))
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*KEPT, *TOLD])
    return Outcomes(rows, Scored.joined(scored) if scored else Scored.missing(np.empty(0)))


def _told(rows: pd.DataFrame, series: Mapping[str, EncodedSeries], kind: Kind) -> pd.DataFrame:
    """`TOLD` of each row; the state is in words where it is none of ours."""
    parts = [_nothing(rows.iloc[:0], "")]
    for (name, kind_name), part in rows.groupby(["ticker", rows["kind"].map(kind_in)], sort=False):
        if kind_name != kind.name:
            parts.append(_nothing(part, f"is about {kind_name} series, the data are {kind.name}"))
        elif name not in series:
            parts.append(_nothing(part, "the data have no such ticker"))
        else:
            parts.append(_beside(part, series[name], kind))
    told = pd.concat([part for part in parts if len(part)] or parts).reindex(rows.index)
    told.loc[rows["repeats"].notna(), "state"] = REPEATED
    return told


def _nothing(rows: pd.DataFrame, why: str) -> pd.DataFrame:
    """`TOLD` of rows without an outcome."""
    due = np.full(len(rows), np.datetime64("NaT", "ns"))
    columns = {"state": why, "at": -1, "due": due, "realised": np.nan, "unit": 1.0, "close": np.nan}
    return pd.DataFrame(columns, index=rows.index)


def _beside(rows: pd.DataFrame, one: EncodedSeries, kind: Kind) -> pd.DataFrame:
    """`_told` of one ticker."""
    origin, step, last = rows["origin"].to_numpy(), rows["step"].to_numpy(), len(one.close) - 1
    at = np.minimum(np.searchsorted(one.timestamp, origin), last)
    then = np.minimum(at + step, last)
    known = np.cumsum(one.observed)[at]
    usable = (one.timestamp[at] == origin) & one.observed[at] & (known > np.maximum(VOLATILITY_WINDOW, step))
    state = np.select(
        [one.timestamp[at] != origin, ~one.observed[at], ~usable, at + step > last, ~one.observed[then]],
        [
            "the data have no bar at the origin",
            "the bar at the origin has no close",
            "too few bars before the origin: give earlier ones",
            OPEN,
            "the bar of the outcome has no close",
        ],
        SCORED,
    )
    unit = np.ones(len(rows))
    if kind.unit_scores:
        unit[usable] = naive_scale(one.close, at[usable], 1, kind)
    state = np.where(unit > 0, state, "the series never moved before the origin")
    with np.errstate(all="ignore"):
        realised = kind.change(one.close[then], one.close[at]) / unit
    columns = {"state": state, "at": at, "due": one.timestamp[then], "realised": realised, "unit": unit}
    return pd.DataFrame(columns | {"close": one.close[at]}, index=rows.index)


def _score(rows: pd.DataFrame) -> Scored:
    """Of rows with laws of one form. P(up) is the one that was logged, where there is one."""
    law = law_of(np.stack(rows["quantiles"].to_list())).divided(rows["unit"].to_numpy())
    scored = Scored.of(law, rows["realised"].to_numpy())
    logged = rows["p_up"].to_numpy(dtype=float)
    return replace(scored, p_up=np.where(np.isnan(logged), scored.p_up, logged))


# --- what it says ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One model at one step: its forecasts and those of the baselines, of the same outcomes."""

    model: tuple[str, str]  # digests of weights and processor
    step: int
    late: bool
    rows: pd.DataFrame
    forecasts: dict[str, Scored]  # `model` first
    stride: int  # bars between origins, at least

    @property
    def overlap(self) -> int:
        return overlap(self.step, self.stride)

    def crps(self, name: str = OURS) -> np.ndarray:
        return self.forecasts[name].losses

    def some(self, which: np.ndarray) -> "Part":
        forecasts = {name: one.take(which) for name, one in self.forecasts.items()}
        return replace(self, rows=self.rows[which], forecasts=forecasts)

    @property
    def strongest(self) -> str | None:
        """The baseline of least CRPS."""
        return min([*self.forecasts][1:], key=lambda name: self.crps(name).mean(), default=None)

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The CRPS of the model against that of each baseline."""
        ours, dates = self.crps(), self.rows["origin"].to_numpy()
        return {
            name: {
                **compare(ours, self.crps(name), dates, name, horizon=self.overlap),
                "skill": skill({"crps": float(ours.mean())}, {"crps": float(self.crps(name).mean())}),
            }
            for name in [*self.forecasts][1:]
        }

    def months(self) -> dict[str, "Part"]:
        """By the month that the outcome came in."""
        month = self.rows["due"].dt.strftime("%Y-%m").to_numpy()
        return {str(one): self.some(month == one) for one in np.unique(month)}


@dataclass(frozen=True)
class Findings:
    content: dict[str, Any]  # of the JSON file
    parts: list[Part]


def findings(outcomes: Outcomes, series: Mapping[str, EncodedSeries], kind: Kind, *, num_proc: int = 1) -> Findings:
    """All that the record says by now."""
    rows, is_late = outcomes.rows, outcomes.rows["late"].notna()
    parts: list[Part] = []
    failed: dict[str, str] = {}
    for late in (False, True):
        some = rows[(is_late == late) & rows["state"].isin([SCORED, OPEN])]
        found, why = _parts(outcomes, some, series, kind, late=late, num_proc=num_proc)
        parts, failed = [*parts, *found], why | failed
    waiting = rows[(rows["state"] == OPEN) & ~is_late]
    unmatched = rows[~rows["state"].isin([SCORED, OPEN, REPEATED])]
    content = {
        "counts": {
            "scored": int(((rows["state"] == SCORED) & ~is_late).sum()),
            "open": len(waiting),
            "late": int((is_late & (rows["state"] != REPEATED)).sum()),
            "repeated": int((rows["state"] == REPEATED).sum()),
            "unmatched": len(unmatched),
        },
        "models": [_model(key, part, parts, series, kind) for key, part in rows.groupby(MODEL, sort=False)],
        "open": {str(step): len(part) for step, part in waiting.groupby("step")},
        "unmatched": {
            why: {"rows": len(part), "tickers": sorted(part["ticker"].unique())}
            for why, part in unmatched.groupby("state")
        },
        "other_close": _other_closes(rows),
        "failed": failed,
    }
    return Findings(content, parts)


def _parts(
    outcomes: Outcomes,
    rows: pd.DataFrame,
    series: Mapping[str, EncodedSeries],
    kind: Kind,
    *,
    late: bool,
    num_proc: int,
) -> tuple[list[Part], dict[str, str]]:
    """Of each model and step that has outcomes; and which baselines failed, and why."""
    scored = rows[rows["state"] == SCORED]
    if not len(scored):
        return [], {}
    steps = sorted(int(step) for step in scored["step"].unique())
    panel, place = _panel(rows, series, kind)
    outcome, unit = np.zeros((len(place), len(steps))), np.ones(len(place))  # zero while it is open: nobody looks
    outcome[_places(place, scored), np.searchsorted(steps, scored["step"])] = scored["realised"]
    unit[_places(place, rows)] = rows["unit"]
    names = BASELINES[kind.name]
    found, failed = run(choose(names, kind), panel, steps, outcome, unit, num_proc=num_proc)
    positions = pd.Series(
        np.arange(len(outcomes.scored.losses)), outcomes.rows.index[outcomes.rows["state"] == SCORED]
    )
    parts = []
    for (*model, step), part in scored.groupby([*MODEL, "step"], sort=False):
        theirs = _places(place, part)
        forecasts = {OURS: outcomes.scored.take(positions.loc[part.index].to_numpy())}
        forecasts |= {name: found[name][step].take(theirs) for name in names if name in found}
        parts.append(Part((model[0], model[1]), int(step), late, part, forecasts, _stride(part, int(step))))
    return sorted(parts, key=lambda part: part.step), failed


def _panel(rows: pd.DataFrame, series: Mapping[str, EncodedSeries], kind: Kind) -> tuple[Panel, pd.MultiIndex]:
    """The origins of these rows, and which they are, by ticker and bar."""
    keys = rows[["ticker", "at"]].drop_duplicates()
    origins = {name: np.sort(part["at"].to_numpy()) for name, part in keys.groupby("ticker", sort=False)}
    kept = {name: origins[name] for name in series if name in origins}
    index = pd.MultiIndex.from_tuples([(name, int(at)) for name, part in kept.items() for at in part])
    bounds = bounds_in(rows["kind"].unique())
    return Panel([series[name] for name in kept], [*kept.values()], kind, **bounds), index


def _places(index: pd.MultiIndex, rows: pd.DataFrame) -> np.ndarray:
    """Of the origins of rows among those of a panel."""
    return index.get_indexer(pd.MultiIndex.from_frame(rows[["ticker", "at"]]))


def _stride(rows: pd.DataFrame, step: int) -> int:
    """The least number of bars between two origins of one ticker."""
    gaps = rows.sort_values("at").groupby("ticker")["at"].diff().dropna()
    return int(gaps.min()) if len(gaps) else step


def _model(
    key: tuple[str, str], rows: pd.DataFrame, parts: Sequence[Part], series: Mapping[str, EncodedSeries], kind: Kind
) -> dict[str, Any]:
    """One model: what it is, and how it did at each step, in time and too late."""
    mine = [part for part in parts if part.model == tuple(key)]
    timely = rows[rows["late"].isna()]
    return {
        "model": rows["model"].iloc[-1],
        "model_digest": key[0],
        "processor_digest": key[1],
        "versions": sorted({str(one) for one in rows["version"]}),
        "first_made": rows["made_at"].min().isoformat(),
        "last_made": rows["made_at"].max().isoformat(),
        "tickers": rows["ticker"].nunique(),
        "horizons": sorted(int(one) for one in rows["horizon"].unique()),
        **_regularity(timely, series),
        "steps": {str(part.step): _step(part, series, kind) for part in mine if not part.late},
        "late": {str(part.step): _step(part, series, kind) for part in mine if part.late},
    }


def _regularity(rows: pd.DataFrame, series: Mapping[str, EncodedSeries]) -> dict[str, int]:
    """From how many bars it forecast, and how many there were between the first of them and the last: who logs only
    what looks good leaves gaps."""
    ends = rows[rows["state"].isin([SCORED, OPEN])].groupby("ticker")["at"].agg(["nunique", "min", "max"])
    between = sum(int(series[name].observed[low : high + 1].sum()) for name, _, low, high in ends.itertuples())
    return {"origins": int(ends["nunique"].sum()), "bars_between": between}


def _step(part: Part, series: Mapping[str, EncodedSeries], kind: Kind) -> dict[str, Any]:
    """Scores as in an evaluation, and by month."""
    verdicts, strongest = part.verdicts(), part.strongest
    scales = _scales(part, series, kind)
    return {
        "n": len(part.rows),
        "stride": part.stride,
        "start": str(part.rows["origin"].min().date()),
        "end": str(part.rows["origin"].max().date()),
        "rows": [{"model": name, **_row(part, one, *scales)} for name, one in part.forecasts.items()],
        "strongest": strongest,
        "verdicts": verdicts,
        "verdict": headline(verdicts, strongest) if strongest is not None else None,
        "months": {name: _month(one) for name, one in part.months().items()},
    }


def _scales(part: Part, series: Mapping[str, EncodedSeries], kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Denominators of MASE and RMSSE."""
    scale, square = np.empty(len(part.rows)), np.empty(len(part.rows))
    places = pd.Series(np.arange(len(part.rows)), part.rows.index)
    for name, rows in part.rows.groupby("ticker", sort=False):
        mine, unit = places.loc[rows.index].to_numpy(), rows["unit"].to_numpy()
        options = (series[str(name)].close, rows["at"].to_numpy(), part.step, kind)
        scale[mine], square[mine] = naive_scale(*options) / unit, naive_square_scale(*options) / unit**2
    return scale, square


def _row(part: Part, forecast: Scored, scale: np.ndarray, square: np.ndarray) -> dict[str, Any]:
    dates = part.rows["origin"].to_numpy()
    return score(forecast, forecast.outcome, dates, scale, part.step, square_scale=square, stride=part.stride)


def _month(part: Part) -> dict[str, Any]:
    ours = part.forecasts[OURS]
    told = bands(ours, ours.outcome)
    return {
        "n": len(part.rows),
        "dates": part.rows["origin"].nunique(),
        **{name: float(part.crps(name).mean()) for name in part.forecasts},
        **{name: told[name] for name in ("coverage_80", "coverage_90")},
        "verdicts": part.verdicts(),
    }


def _other_closes(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Tickers whose close at an origin is no longer the one that was logged."""
    beside = rows[rows["state"].isin([SCORED, OPEN])].drop_duplicates(["ticker", "origin"])
    moved = (beside["close"] - beside["last_close"]).abs() > ROUNDING * beside["last_close"].abs()
    return {
        str(name): {"origins": len(part), "ratio": float((part["close"] / part["last_close"]).median())}
        for name, part in beside[moved].groupby("ticker")
    }
