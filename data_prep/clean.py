"""Cleaning: raw bars in, bars that the processor accepts and a report of every defect out.

Design choices:
- What is done about a defect is a table, `RULES`, and not a habit: repair, mask, drop or keep, with the reason.
- Masking keeps the row as a missing bar (all prices NaN). Nothing is filled: a gap is a gap.
- No row is repaired from a later one, so cleaning what was known at a time gives what cleaning everything gives up to
  that time. Rules that must look at the next bar only report. The one exception is a constant: adjusting for a split
  divides all earlier prices of a ticker by one factor, which scale-free features cancel: it leaks nothing into them.
  Whether a small split is in the prices may be told by later ones: that says how the file was made, not what follows.
- A covariate stays with its row: it goes where the row is dropped, and is never repaired, moved or filled.
- Nothing is silent: rows in = bars + missing bars + dropped rows, for every ticker, and each is counted under a rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..bars_tsf_llm import PRICES, TWICE, check_bars, refuse_if_none_left, tell_skipped
from ..cells_tsf_llm import repeated_hour
from ..columns_tsf_llm import adjust
from ..jumps_tsf_llm import DEVIATION, JUMP, LOOKBACK, like_a_split, taken_back, usual_deviation
from .columns import COLUMNS
from .sources import RAW_COLUMNS, Refusals, raw_columns

COUNTS = ("rows_in", "bars", "missing_bars", "rows_dropped")
EXAMPLES = 5  # rows named per rule and ticker
ROUNDING = 1e-9  # relative; a high below the close by less is arithmetic, not a defect
WIDEN_WITHIN = 0.05  # a high or low that is off by more is no rounding: one of the four prices is wrong
STALE_BARS = 5
PROOF = np.log(200)  # how much likelier one reading of the splits must be than the other
SMALLEST_USUAL = 1e-3  # move of a bar: the last digits of a price prove nothing
SWITCH_JUMP = 0.05


@dataclass(frozen=True)
class Rule:
    """One kind of defect, what is done about it, and why."""

    name: str
    looks_for: str
    policy: Literal["repair", "mask", "drop", "keep"]
    why: str


RULES = (
    Rule("no_ticker", "no ticker in a table that has a ticker column", "drop", "nobody knows whose bar it is"),
    Rule("no_timestamp", "an empty or unreadable timestamp", "drop", "a bar without a time has no place"),
    Rule("repeated", "a second row of the same timestamp, same prices and volume", "drop", "it says nothing new"),
    Rule(
        "conflicting",
        "a second row of the same timestamp, other numbers",
        "drop",
        "the first row in the file with four prices above zero stays: it was there first",
    ),
    Rule(
        "unordered",
        "a timestamp before that of a row above it",
        "repair",
        "rows are sorted; each carries its own time, so nothing moves back in time",
    ),
    Rule(
        "text",
        "text in a price (pasted error messages, currency signs)",
        "mask",
        "the number is unknown; in other columns only the cell is emptied",
    ),
    Rule("missing", "a missing or infinite price", "mask", "three prices out of four are no bar; nothing is filled"),
    Rule(
        "non_positive", "a price of zero or below", "mask", "a price below zero has no logarithm; zero is a sentinel"
    ),
    Rule(
        "high_low",
        f"a high or low within {WIDEN_WITHIN:.0%} of bounding open and close, but not doing so",
        "repair",
        "rounding or separate sources: the high becomes the largest, the low the smallest of the row's four prices",
    ),
    Rule(
        "high_low_far",
        f"a high or low that misses open or close by more than {WIDEN_WITHIN:.0%}",
        "mask",
        "one of the four is wrong and nothing tells which",
    ),
    Rule("bad_volume", "a negative or infinite volume", "repair", "the volume is emptied, the prices stay"),
    Rule("no_volume", "a zero or missing volume", "keep", "indices have none; a bar without trades is a bar"),
    Rule(
        "split",
        "a `split_coefficient` whose jump is proven to be still in the prices, by all splits of the ticker",
        "repair",
        "earlier prices are divided by it and volumes multiplied: one constant per ticker, which features cancel",
    ),
    Rule(
        "split_unproven",
        "a `split_coefficient` of which nothing proves whether its jump is in the prices",
        "keep",
        "a small one moves a price no more than a day does; give an adjusted close, or drop the column if prices are "
        "adjusted",
    ),
    Rule(
        "split_suspected",
        "an overnight move near a common split ratio, in which the money traded did not triple, and no coefficient",
        "keep",
        "it is a guess; give an adjusted close or a `split_coefficient` column and it is repaired",
    ),
    Rule("jump", f"a close-to-close move above {JUMP:.0%}", "keep", "crashes are real, and what forecasts are for"),
    Rule(
        "spike",
        "such a move that the next bar takes back",
        "keep",
        "only the next bar shows it, and repairs must not know the next bar",
    ),
    Rule(
        "stale",
        f"the same four prices for {STALE_BARS} bars or more",
        "keep",
        "a halt and a stuck feed look alike; the volatility has a floor",
    ),
    Rule("flat", "open = high = low = close", "keep", "thin trading and halts look so"),
    Rule(
        "source_switch",
        f"an unusual move above {SWITCH_JUMP:.0%} where `source` or the number of decimals changes",
        "keep",
        "the levels before and after are not comparable, yet which is right is unknown",
    ),
)
POLICY = {rule.name: rule.policy for rule in RULES}


def policy_table() -> str:
    """`RULES` as a Markdown table."""
    rows = [f"| `{rule.name}` | {rule.looks_for} | {rule.policy} | {rule.why} |" for rule in RULES]
    return "\n".join(["| rule | looks for | policy | why |", "| --- | --- | --- | --- |", *rows])


def clean_bars(
    bars: pd.DataFrame, covariates: Sequence[str] = (), *, strict: bool = False
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Bars that `check_bars` accepts, and what was done to them.

    `bars` is what `read_raw` returns, or any frame with a timestamp and four prices under names that `read_bars`
    knows; text, NaN and infinities are allowed. Prices are adjusted as by `read_bars` where there is an adjusted
    close.

    Covariates are further columns to keep, by name or pattern; of those that `read_raw` was asked for give the names
    again. What is no finite number in them becomes unknown.

    Returns the frame of `read_bars`, sorted within each ticker, and a report for JSON: `rows_in`, `bars`,
    `missing_bars`, `rows_dropped` (of all and per ticker), `rules` with the counts, and per ticker under each rule up
    to five example rows. Tickers keep the order of their first row. One of several that cannot be cleaned is skipped:
    `skipped` says why, and also what `read_raw` skipped.

    Raises:
        ValueError: if there is no table of prices, or no bar is left; if `strict`, for one ticker that cannot be
            cleaned. It says why.
    """
    if not isinstance(bars, pd.DataFrame):
        raise ValueError(
            f"bars must be a DataFrame, got {type(bars).__name__}: see tsf_llm.data_prep.sources.read_raw"
        )
    raw = raw_columns(bars, covariates=covariates)
    frames, reports, refusals = [], {}, Refusals(strict=strict)
    for name, part in ((str(name), part) for name, part in raw.groupby("ticker", sort=False)):
        with refusals.of_file(name, alone=False):
            frame, reports[name] = clean_ticker(part, name)
            check_left(frame, name)
            frames.append(frame)
    refuse_if_none_left(reports, refusals.skipped)
    report = summary_of(reports)
    tell_skipped([*refusals.skipped.values()])
    report["skipped"] = bars.attrs.get("skipped", {}) | refusals.skipped
    return pd.concat(frames, ignore_index=True), report


def check_left(frame: pd.DataFrame, ticker: str) -> None:
    """Raises ValueError where cleaning left nothing of a ticker."""
    if not len(frame):
        raise ValueError(f"{ticker or 'rows without a ticker'}: cleaning leaves no bar; see cleaning.json")


class Findings:
    """Rows by rule, of one ticker."""

    def __init__(self) -> None:
        self.rules: dict[str, dict[str, Any]] = {}

    def add(self, rule: str, rows: pd.DataFrame, details: Sequence[str] | None = None) -> None:
        """`rows` are of a frame of `raw_columns`; `details` are what to say of each instead of its note."""
        if rows.empty:
            return
        examples = []
        for i in range(min(len(rows), EXAMPLES)):
            row = rows.iloc[i]
            stamp = None if pd.isna(row["timestamp"]) else str(row["timestamp"])
            example = {"row": int(row["row"]), "timestamp": stamp}
            if "file" in rows:
                example["file"] = str(row["file"])
            if detail := (row["note"] if details is None else details[i]):
                example["detail"] = detail
            examples.append(example)
        self.rules[rule] = {"rows": len(rows), "policy": POLICY[rule], "examples": examples}

    def report(self, *, rows_in: int, bars: int, missing_bars: int) -> dict[str, Any]:
        dropped = sum(found["rows"] for found in self.rules.values() if found["policy"] == "drop")
        assert rows_in == bars + missing_bars + dropped, "a row was lost without a rule"
        counts = {"rows_in": rows_in, "bars": bars, "missing_bars": missing_bars, "rows_dropped": dropped}
        return {**counts, "rules": {rule.name: self.rules[rule.name] for rule in RULES if rule.name in self.rules}}


def summary_of(tickers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The report on all tickers, from those on each; rows without a ticker first.

    Raises:
        ValueError: no bar is left of any; it says why.
    """
    tickers = dict(sorted(tickers.items(), key=lambda item: item[0] != ""))
    totals = {key: sum(one[key] for one in tickers.values()) for key in COUNTS}
    rules = {
        rule.name: {
            "rows": sum(one["rules"].get(rule.name, {"rows": 0})["rows"] for one in tickers.values()),
            "tickers": sum(rule.name in one["rules"] for one in tickers.values()),
            "policy": rule.policy,
        }
        for rule in RULES
    }
    report = {**totals, "rules": rules, "tickers": tickers}
    if report["bars"] == 0:
        raise ValueError(_nothing_left(report))
    return report


def _nothing_left(report: dict[str, Any]) -> str:
    """Why no bar is left, in one line."""
    reasons = []
    for name, found in report["rules"].items():
        if found["rows"] and found["policy"] in ("drop", "mask"):
            one = next(t["rules"][name]["examples"][0] for t in report["tickers"].values() if name in t["rules"])
            first = f"first row {one['row']}" + (f" with {one['detail']}" if "detail" in one else "")
            reasons.append(f"{found['rows']} {name} ({first})")
    return f"no bar is left of {report['rows_in']} rows: {', '.join(reasons) or 'the table is empty'}; export it again"


def clean_ticker(raw: pd.DataFrame, ticker: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The bars of one ticker's raw rows, perhaps none, and the report on it."""
    found, covariates = Findings(), _covariates(raw)
    rows_in = len(raw)
    if ticker == "":
        found.add("no_ticker", raw)
        raw = raw.iloc[:0]
    rows = _drop_rows(_in_order(raw, found), found).reset_index(drop=True)
    as_traded = rows[PRICES].to_numpy()
    adjust(rows)
    _mask_rows(rows, found)
    _mend_volume(rows, found)
    at = np.flatnonzero(rows["close"].notna())  # rows with a bar
    _adjust_splits(rows, at, found)
    _flag_levels(rows, at, as_traded, found)
    _flag_still(rows, at, as_traded, found)
    rows[covariates] = rows[covariates].where(np.isfinite(rows[covariates]))
    frame = check_bars(rows[[*COLUMNS, *covariates]], ticker, covariates=covariates)
    frame["timestamp"] = frame["timestamp"].astype("datetime64[us]")
    frame.insert(1, "ticker", ticker)
    return frame, found.report(rows_in=rows_in, bars=len(at), missing_bars=len(rows) - len(at))


def _covariates(raw: pd.DataFrame) -> list[str]:
    return [name for name in raw if name not in RAW_COLUMNS]


# --- rows that go --------------------------------------------------------------------------------------------------


def _in_order(raw: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """Rows with a time that nanoseconds can hold, sorted by it; the file's order decides among equals.

    Raises:
        ValueError: an hour of local times comes twice, so that no order is right.
    """
    dated = raw["timestamp"].between(pd.Timestamp.min.ceil("us"), pd.Timestamp.max.floor("us"))
    found.add("no_timestamp", raw[~dated])
    rows = raw[dated]
    if (again := repeated_hour(rows["timestamp"])) is not None:
        raise ValueError(f"{rows['ticker'].iloc[0]}, row {rows['row'].iloc[again]}: {TWICE}")
    if (rows["timestamp"].diff().iloc[1:] < pd.Timedelta(0)).all():
        rows = rows[::-1]  # newest first
    found.add("unordered", rows[rows["timestamp"] < rows["timestamp"].cummax()])
    return rows.sort_values("timestamp", kind="stable")


def _drop_rows(rows: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """One row per timestamp: the first with four prices above zero, or else the first."""
    again = rows["timestamp"].duplicated(keep=False)
    if not again.any():
        return rows
    good = ((rows[PRICES] > 0) & np.isfinite(rows[PRICES])).all(axis=1)
    order = np.lexsort((np.arange(len(rows)), ~good, rows["timestamp"]))
    kept = rows.iloc[order[~rows["timestamp"].iloc[order].duplicated().to_numpy()]]
    others = rows.drop(kept.index)
    values = [*PRICES, "volume", "adj_close", "note", *_covariates(rows)]
    twin = kept.set_index("timestamp").loc[others["timestamp"], values].set_axis(others.index)
    same = ((twin == others[values]) | (twin.isna() & others[values].isna())).all(axis=1)
    found.add("repeated", others[same])
    found.add("conflicting", others[~same])
    return kept


# --- cells that are wrong: read nothing but their own row ----------------------------------------------------------


def _mask_rows(rows: pd.DataFrame, found: Findings) -> None:
    """Prices that are no prices become a missing bar, in place; highs and lows are widened a little."""
    prices = rows[PRICES].to_numpy()
    finite = np.isfinite(prices).all(axis=1)
    noted = rows["note"] != ""
    found.add("text", rows[noted])
    found.add("missing", rows[~finite & ~noted])
    positive = finite & (prices > 0).all(axis=1)
    found.add("non_positive", rows[(prices <= 0).any(axis=1)])
    with np.errstate(all="ignore"):
        top, bottom = prices.max(axis=1), prices.min(axis=1)
        off = np.maximum(np.log(top / rows["high"]), np.log(rows["low"] / bottom)).to_numpy()
    wrong = positive & ~(off <= ROUNDING)
    near = wrong & (off <= np.log1p(WIDEN_WITHIN))
    details = [f"high {high:g}, low {low:g}" for high, low in rows.loc[wrong, ["high", "low"]].to_numpy()]
    for rule, which in (("high_low", near), ("high_low_far", wrong & ~near)):
        found.add(rule, rows[which], [text for text, mine in zip(details, which[wrong], strict=True) if mine])
    rows.loc[near, "high"], rows.loc[near, "low"] = top[near], bottom[near]
    rows.loc[~positive | (wrong & ~near), [*PRICES, "volume"]] = np.nan


def _mend_volume(rows: pd.DataFrame, found: Findings) -> None:
    bad = (rows["volume"] < 0) | np.isinf(rows["volume"])
    found.add("bad_volume", rows[bad], [f"volume {value:g}" for value in rows.loc[bad, "volume"]])
    rows.loc[bad, "volume"] = np.nan
    found.add("no_volume", rows[rows["close"].notna() & ~bad & ~(rows["volume"] > 0)])


# --- levels --------------------------------------------------------------------------------------------------------


def _adjust_splits(rows: pd.DataFrame, at: np.ndarray, found: Findings) -> None:
    """Divides the prices before each split that is proven to be still in them by its coefficient, in place."""
    if len(at) < 2:
        return
    given = rows["split_coefficient"].to_numpy()
    usable = np.isfinite(given) & (given > 1e-3) & (given < 1e3)
    known = np.cumsum(np.where(usable, np.log(np.where(usable, given, 1.0)), 0.0))[at]
    coefficient = np.diff(known)  # log, between a bar and the one before; splits of missing bars included
    coefficient[np.abs(coefficient) < ROUNDING] = 0.0
    if not coefficient.any():
        return
    move = np.diff(np.log(rows["close"].to_numpy()[at]))
    unadjusted, unproven = proven_splits(move, coefficient)
    if np.isfinite(rows["adj_close"].to_numpy()).any():
        unproven &= np.abs(coefficient) > np.log1p(JUMP)  # it accounts for what is too small to be proven
    later = np.cumsum(np.where(unadjusted, coefficient, 0.0)[::-1])[::-1]
    factor = np.exp(np.append(later, 0.0))
    prices, volume = rows[PRICES].to_numpy()[at] / factor[:, None], rows["volume"].to_numpy()[at] * factor
    if not (np.isfinite(prices) & (prices > 0)).all() or np.isinf(volume).any():
        return  # numbers at the edge of float64: they stay a jump
    bars = rows.iloc[at[1:]]
    for rule, which in (("split", unadjusted), ("split_unproven", unproven)):
        details = zip(np.exp(coefficient[which]), np.expm1(np.minimum(move[which], 700)), strict=True)
        found.add(rule, bars[which], [f"coefficient {one:g}, close moved by {moved:+.1%}" for one, moved in details])
    rows.loc[at, PRICES], rows.loc[at, "volume"] = prices, volume


def proven_splits(move: np.ndarray, coefficient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which splits are still in the prices, and of which nothing proves whether they are, bool `[N-1]` each.

    Prices are adjusted or they are not: the evidence of all coefficients of a ticker is added up, log Student t
    (3 degrees of freedom, fat as the tails of returns) of the move without the split against that of the move as it
    is. A large split is proof by itself. Where two of them disagree each goes its own way, and small ones stay.

    >>> day = np.array([0.01, -0.01] * 20)
    >>> halved, coefficient = day.copy(), np.zeros(40)
    >>> halved[30], coefficient[30] = -0.69, np.log(2)
    >>> [int(which.sum()) for which in proven_splits(halved, coefficient)]
    [1, 0]
    >>> halved[30] = -0.3  # no usual day either way
    >>> [int(which.sum()) for which in proven_splits(halved, coefficient)]
    [0, 1]
    """
    is_split = coefficient != 0
    usual = usual_deviation(move)
    usual = np.where(usual > 0, usual, DEVIATION * np.median(np.abs(move[~is_split])) if (~is_split).any() else 0.0)
    usual = np.maximum(usual, SMALLEST_USUAL)
    evidence = 2 * (np.log1p((move / usual) ** 2 / 3) - np.log1p(((move + coefficient) / usual) ** 2 / 3))
    alone = np.where(is_split & (np.abs(evidence) > PROOF), np.sign(evidence), 0.0)
    together = evidence[is_split].sum()
    is_mixed = (alone > 0).any() and (alone < 0).any()
    others = 0.0 if is_mixed or np.abs(together) <= PROOF else np.sign(together)
    verdict = np.where(alone != 0, alone, others) * is_split
    return verdict > 0, is_split & (verdict == 0)


def _flag_levels(rows: pd.DataFrame, at: np.ndarray, as_traded: np.ndarray, found: Findings) -> None:
    """Moves that look like a split, a spike or another source. Nothing is changed, so looking ahead is allowed."""
    if len(at) < 2:
        return
    close, open_ = np.log(rows["close"].to_numpy()[at]), np.log(rows["open"].to_numpy()[at])
    move, gap = np.diff(close), open_[1:] - close[:-1]
    bars = rows.iloc[at[1:]].reset_index(drop=True)
    moved = [f"close moved by {np.expm1(one):+.1%}" for one in np.minimum(move, 700)]

    def flag(rule: str, which: np.ndarray) -> None:
        where = np.flatnonzero(which)
        found.add(rule, bars.iloc[where], [moved[i] for i in where])

    jump = (move > np.log1p(JUMP)) | (move < np.log1p(-JUMP))
    flag("jump", jump)
    flag("spike", jump & taken_back(close, move))
    flag("split_suspected", ~np.isnan(like_a_split(move, gap, rows["volume"].to_numpy()[at])))
    usual = pd.Series(np.abs(move)).rolling(3 * LOOKBACK, min_periods=LOOKBACK).median().shift().to_numpy()
    unusual = (np.abs(move) > SWITCH_JUMP) & ~(np.abs(move) < 9 * usual)  # 9 medians are 6 normal deviations
    changed = _decimals_change(as_traded[at])
    if "source" in rows:
        source = rows["source"].to_numpy()[at]
        changed |= source[1:] != source[:-1]
    flag("source_switch", unusual & changed)


def _decimals_change(prices: np.ndarray) -> np.ndarray:
    """Whether all 20 bars before have more decimals than the bar and the 4 after it, or all have fewer, `[N-1]`."""
    decimals = np.full(len(prices), 7)
    for digits in range(6, -1, -1):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = prices * 10.0**digits
            whole = np.abs(scaled - np.round(scaled)) < 1e-6 + 1e-9 * scaled
        decimals[whole.all(axis=1)] = digits
    before, after = pd.Series(decimals[:-1]).rolling(LOOKBACK), pd.Series(decimals[:0:-1]).rolling(STALE_BARS)
    fewer = before.min().to_numpy() > after.max().to_numpy()[::-1]
    more = before.max().to_numpy() < after.min().to_numpy()[::-1]
    return fewer | more


def _flag_still(rows: pd.DataFrame, at: np.ndarray, as_traded: np.ndarray, found: Findings) -> None:
    """Bars that repeat the four prices of those before, as traded; and bars without a range."""
    bars, prices = rows.iloc[at], as_traded[at]
    if not len(at):
        return
    changes = np.append(True, (prices[1:] != prices[:-1]).any(axis=1))
    run = np.cumsum(changes)
    length = np.bincount(run)[run]
    found.add("stale", bars[length >= STALE_BARS], [f"run of {n} bars" for n in length[length >= STALE_BARS]])
    found.add("flat", bars[(prices == prices[:, :1]).all(axis=1)])
