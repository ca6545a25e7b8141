"""What is in files: of prices coverage, gaps, defects and returns, of plain series what a survey tells, and each of
them; as numbers, pictures and one page.

Design choices:
- The figures are those of the cleaned bars, for these are what a model will see; what cleaning found
  stands beside them.
- A bar is absent if another ticker has a bar at a time between the ticker's first and last: no calendar is assumed.
- Of plain series the page lists the odd ones first: new, dead, of one value, with long runs without any.
- The page holds its pictures and asks no server for anything.
"""

import base64
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter, StrMethodFormatter
from scipy import stats

from ..bars_tsf_llm import OHLCV, UNIVARIATE
from ..common.figures import BLACK, BLUE, GREY, ORANGE, new_figure, save_figure
from ..common.files import check_apart, check_free, claim, remove, write_json, write_text
from ..feature_extraction_tsf_llm import TsfLlmFeatureExtractor, standard_return
from .clean import COUNTS, POLICY, RULES, clean_bars
from .columns import USUAL, Columns
from .resample import Gaps
from .sources import read_raw, read_series
from .survey import ODD, longest_runs, odd_series, other_numbers, survey, usable

MOVES = 20  # largest, listed
FILES = ("describe.json", "describe.html", "coverage.png", "returns.png", "defects.png")
GAPS = 20  # longest, listed
MOST_ROWS = 80  # tickers in the heat map
MOST_SERIES = 500  # plain series in the page's table; the JSON has all
LONG = 40  # letters of a cell that is text
MOST_NUMBERS = 300  # cells of the heat map that are small enough to be written out
EDGE = 8  # standard deviations; returns beyond are counted at the edge of the histogram
FEW_YEARS = 3  # data that spans fewer years is shown by month
POLICY_COLOURS = {"drop": ORANGE, "mask": "#E69F00", "repair": BLUE, "keep": GREY}
SHADES = LinearSegmentedColormap.from_list("coverage", ["#F3F3F3", "#A9CFE4", BLUE])


def describe(
    source: str | Path | list,
    out: str | Path,
    tickers: list[str] | None = None,
    *,
    columns: Columns = USUAL,
    strict: bool = False,
) -> dict[str, Any]:
    """`describe.json`, `coverage.png`, `defects.png`, `returns.png` and `describe.html` in `out`; the JSON's content.

    Raises:
        ValueError: for what `read_raw` and `clean_bars` refuse.
    """
    out = Path(out)
    check_apart(out, source)
    check_free(out, FILES, by="describe", told_by=("describe.json", "rows_in", "coverage", "returns"))
    raw = read_raw(source, tickers, strict=strict, **columns.of_bars())
    bars, cleaning = clean_bars(raw, strict=strict)
    observed = bars.dropna(subset="close")
    returns = _returns(observed)
    coverage = _coverage(observed)
    summary = {
        **{key: cleaning[key] for key in COUNTS},
        "first": str(observed["timestamp"].min()),
        "last": str(observed["timestamp"].max()),
        "defects": {
            rule: {**found, "by_ticker": _by_ticker(cleaning, rule)}
            for rule, found in cleaning["rules"].items()
            if found["rows"]
        },
        "coverage": coverage,
        "gaps": _gaps(observed),
        "returns": {
            "log_return": _moments(returns["log_return"]),
            "over_volatility": _moments(returns["standard"]),
            "largest_moves": _largest(returns),
        },
        "tickers": _tickers(bars, observed, returns),
        "skipped": cleaning["skipped"],
    }
    claim(out, FILES, by="describe")
    write_json(summary, out / "describe.json")
    coverage_map(coverage, out / "coverage.png")
    return_histograms(returns, out / "returns.png")
    if summary["defects"]:
        defect_bars(summary["defects"], out / "defects.png")
    else:
        remove(out, ["defects.png"], by="describe")
    write_text(_page(summary, out), out / "describe.html")
    return summary


def describe_series(
    source: str | Path | list,
    out: str | Path,
    names: list[str] | None = None,
    *,
    columns: Columns = USUAL,
    strict: bool = False,
) -> dict[str, Any]:
    """`describe.json`, `coverage.png` and `describe.html` of plain series; the JSON's content.

    Raises:
        ValueError: for what `read_series` refuses, or where no value is known.
    """
    out = Path(out)
    check_apart(out, source)
    check_free(out, FILES, by="describe", told_by=("describe.json", "seasons", "facts", "each"))
    frame = usable(read_series(source, names, strict=strict, **asdict(columns)), strict=strict)
    found = survey(frame, other_numbers(source, columns))
    observed = frame.dropna(subset=UNIVARIATE.value).rename(columns={UNIVARIATE.id: OHLCV.id})
    coverage = _coverage(observed)
    summary = {
        **found.to_json(),
        "facts": found.facts(),
        "coverage": coverage,
        "each": _each(frame),
        "skipped": frame.attrs["skipped"],
    }
    claim(out, FILES, by="describe")
    write_json(summary, out / "describe.json")
    coverage_map(coverage, out / "coverage.png", rows="values", one="series")
    remove(out, ["defects.png", "returns.png"], by="describe")  # of prices that were described before
    write_text(_page_of_series(summary, out), out / "describe.html")
    return summary


# --- numbers -------------------------------------------------------------------------------------------------------


def _by_ticker(cleaning: dict[str, Any], rule: str) -> dict[str, int]:
    return {name: one["rules"][rule]["rows"] for name, one in cleaning["tickers"].items() if rule in one["rules"]}


def _coverage(observed: pd.DataFrame) -> dict[str, Any]:
    """Bars of every ticker in every year, or month if there are few years."""
    stamps = observed["timestamp"]
    unit = "year" if stamps.max().year - stamps.min().year >= FEW_YEARS else "month"
    period = stamps.dt.to_period(unit[0].upper())
    counts = pd.crosstab(observed["ticker"], period).reindex(
        index=observed["ticker"].unique(),
        columns=pd.period_range(period.min(), period.max(), freq=unit[0].upper()),
        fill_value=0,
    )
    rows = {str(name): row.tolist() for name, row in zip(counts.index, counts.to_numpy(), strict=True)}
    return {"unit": unit, "periods": [str(one) for one in counts.columns], "bars": rows}


def _gaps(observed: pd.DataFrame) -> list[dict[str, Any]]:
    """The longest times between neighbouring bars of a ticker, if longer than is usual for it."""
    before = observed.groupby("ticker", sort=False)["timestamp"].shift()
    days = (observed["timestamp"] - before).dt.total_seconds() / 86400
    usual = days.groupby(observed["ticker"]).transform("median")
    longest = days[days > 1.5 * usual].nlargest(GAPS).index
    return [
        {
            "ticker": str(observed.at[row, "ticker"]),
            "after": str(before[row]),
            "until": str(observed.at[row, "timestamp"]),
            "days": round(float(days[row]), 4),
        }
        for row in longest
    ]


def _returns(observed: pd.DataFrame) -> pd.DataFrame:
    """`log_return`, and `standard`: the same over the volatility known one bar before. Across gaps, too."""
    parts, extractor = [], TsfLlmFeatureExtractor()
    for _, part in observed.groupby("ticker", sort=False):
        log_return, sigma = extractor.volatility(part["close"].to_numpy())
        both = {"log_return": log_return, "standard": standard_return(log_return, sigma)}
        parts.append(part[["timestamp", "ticker"]].assign(**both))
    return pd.concat(parts).dropna(subset="log_return")


def _moments(values: pd.Series) -> dict[str, float | int | None]:
    known = values[np.isfinite(values)].to_numpy()
    if len(known) < 2 or np.ptp(known) == 0:
        return {"n": len(known), "mean": None, "std": None, "skew": None, "excess_kurtosis": None}
    moments = {
        "mean": known.mean(),
        "std": known.std(ddof=1),
        "skew": stats.skew(known),
        "excess_kurtosis": stats.kurtosis(known),
    }
    return {"n": len(known), **{name: float(one) if np.isfinite(one) else None for name, one in moments.items()}}


def _largest(returns: pd.DataFrame) -> list[dict[str, Any]]:
    rows = returns.loc[returns["log_return"].abs().nlargest(MOVES).index]
    return [
        {
            "ticker": str(row.ticker),
            "timestamp": str(row.timestamp),
            "log_return": round(row.log_return, 6),
            "percent": round(100 * float(np.expm1(min(row.log_return, 700))), 2),
            "in_volatilities": round(row.standard, 2) if np.isfinite(row.standard) else None,
        }
        for row in rows.itertuples()
    ]


def _tickers(bars: pd.DataFrame, observed: pd.DataFrame, returns: pd.DataFrame) -> dict[str, dict[str, Any]]:
    times = np.sort(observed["timestamp"].unique())
    found = {}
    for name, part in bars.groupby("ticker", sort=False):
        mine = part.loc[part["close"].notna(), "timestamp"]
        if mine.empty:
            found[str(name)] = {"bars": 0, "missing_bars": len(part)}
            continue
        between = np.searchsorted(times, mine.iloc[-1], "right") - np.searchsorted(times, mine.iloc[0])
        found[str(name)] = {
            "first": str(mine.iloc[0]),
            "last": str(mine.iloc[-1]),
            "bars": len(mine),
            "missing_bars": len(part) - len(mine),
            "absent_bars": int(between - len(mine)),
            "longest_gap_days": round(float(mine.diff().max().total_seconds() / 86400), 4) if len(mine) > 1 else None,
            **_moments(returns.loc[returns["ticker"] == name, "log_return"]),
        }
    return found


def _each(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of each plain series what is known of it."""
    gaps, code = Gaps.of(frame), pd.factorize(frame[UNIVARIATE.id])[0]
    odd, y = odd_series(frame, gaps), frame[UNIVARIATE.value]
    known = y.groupby(code).agg(["count", "min", "mean", "max"])
    zeros, unknown = np.bincount(code, y == 0), np.bincount(code, y.isna())
    runs = longest_runs(y.isna().to_numpy(), code)
    each = {}
    for place, name in enumerate(gaps.names):
        least, mean, most = (None if np.isnan(one) else float(one) for one in known.loc[place, ["min", "mean", "max"]])
        each[str(name)] = {
            "first": str(pd.Timestamp(gaps.first[place])),
            "last": str(pd.Timestamp(gaps.last[place])),
            "rows": int(gaps.rows[place]),
            "without_value": int(unknown[place]),
            "in_a_row": int(runs[place]),
            "zeros": round(float(zeros[place] / max(known.loc[place, "count"], 1)), 4),
            "least": least,
            "mean": mean,
            "most": most,
            "odd": ", ".join(words for what, words in ODD.items() if odd[what][place]),
        }
    return each


# --- pictures ------------------------------------------------------------------------------------------------------


def coverage_map(coverage: dict[str, Any], path: Path, *, rows: str = "bars", one: str = "ticker") -> None:
    """Bars by ticker and period, shaded by their share of the most that any ticker has in that period.

    Of plain series these are values by series."""
    names, periods = list(coverage["bars"]), coverage["periods"]
    counts = np.array([coverage["bars"][name] for name in names])
    share = counts / np.maximum(counts.max(axis=0), 1)
    note = ""
    if len(names) > MOST_ROWS:
        shown = np.sort(np.argsort(share.mean(axis=1), kind="stable")[:MOST_ROWS])
        note = f"; the {MOST_ROWS} of {len(names)} with the least"
        names, counts, share = [names[i] for i in shown], counts[shown], share[shown]
    figure, [axes] = new_figure(
        f"{rows.capitalize()} by {one} and {coverage['unit']}",
        f"share of the most {rows} that any {one} has in that {coverage['unit']}{note}",
        height=1.5 + 0.17 * max(len(names), 4),
    )
    image = axes.pcolormesh(share, cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=0.6)
    if counts.size <= MOST_NUMBERS and len(periods) <= 26:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.6 else BLACK
            axes.text(column + 0.5, row + 0.5, f"{count}", ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_yticks(np.arange(len(names)) + 0.5, [name[:24] for name in names], fontsize=7 if len(names) > 12 else 9)
    step = -(-len(periods) // 13)
    axes.set_xticks(np.arange(0, len(periods), step) + 0.5, periods[::step], fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, format=PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    save_figure(figure, path)


def defect_bars(defects: dict[str, dict[str, Any]], path: Path) -> None:
    """Rows by rule, coloured by what was done about them."""
    names = [rule.name for rule in RULES if rule.name in defects][::-1]
    figure, [axes] = new_figure(
        "What cleaning found",
        f"{sum(one['rows'] for one in defects.values()):,} findings by rule; a row may fall under several",
        height=1.7 + 0.32 * len(names),
    )
    rows = [defects[name]["rows"] for name in names]
    axes.barh(range(len(names)), rows, height=0.62, color=[POLICY_COLOURS[POLICY[name]] for name in names])
    for place, (name, count) in enumerate(zip(names, rows, strict=True)):
        tickers = defects[name]["tickers"]
        text = f"{count:,} in {tickers} ticker{'s' * (tickers > 1)}"
        axes.annotate(text, (count, place), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0.7, 6 * max(rows))
    axes.set_xlabel("rows (logarithmic)", fontsize=9)
    axes.grid(visible=False, axis="y")
    used = [policy for policy in POLICY_COLOURS if policy in {POLICY[name] for name in names}]
    handles = [Patch(color=POLICY_COLOURS[policy], label=policy) for policy in used]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    save_figure(figure, path)


def return_histograms(returns: pd.DataFrame, path: Path) -> None:
    """Log returns, and the same over the volatility known before them, with the normal of equal moments."""
    figure, (plain, standard) = new_figure(
        "Returns from bar to bar", "all tickers; outermost bars hold everything beyond", rows=2, height=6.4
    )
    _histogram(plain, 100 * returns["log_return"], "log return (%)")
    _histogram(standard, returns["standard"], "log return over the volatility known one bar before")
    if plain.get_legend_handles_labels()[0]:
        plain.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _histogram(axes: Axes, values: pd.Series, label: str) -> None:
    values = values[np.isfinite(values)].to_numpy()
    axes.set_xlabel(label, fontsize=9)
    axes.set_ylabel("density (logarithmic)", fontsize=9)
    if len(values) < 2 or np.ptp(values) == 0:
        axes.annotate("too few different returns", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    mean, std = values.mean(), values.std(ddof=1)
    edges = mean + std * np.linspace(-EDGE, EDGE, 121)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    density = counts / (len(values) * np.diff(edges))
    axes.bar(edges[:-1], density, np.diff(edges), align="edge", color=BLUE, alpha=0.75, label="returns")
    x = np.linspace(edges[0], edges[-1], 400)
    axes.plot(x, stats.norm.pdf(x, mean, std), color=ORANGE, linewidth=1.6, label="normal of equal mean and deviation")
    axes.set_yscale("log")
    axes.set_ylim(0.3 / (len(values) * (edges[1] - edges[0])), 3 * density.max())
    axes.set_xlim(edges[0], edges[-1])
    beyond = int(((values < edges[0]) | (values > edges[-1])).sum())
    text = (
        f"n {len(values):,}\nmean {mean:.3g}, deviation {std:.3g}\nskew {stats.skew(values):.2f}, "
        f"excess kurtosis {stats.kurtosis(values):.1f}\nbeyond {EDGE} deviations: {beyond:,}"
    )
    axes.annotate(text, (0.015, 0.95), xycoords="axes fraction", va="top", fontsize=8.5, color=BLACK)


# --- the page ------------------------------------------------------------------------------------------------------

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:13px;margin:1rem 0;display:block;"
    "overflow-x:auto}th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e6e6e6;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}.text{white-space:normal;text-align:left;min-width:14rem}"
)


def _page(summary: dict[str, Any], out: Path) -> str:
    looks = {rule.name: rule.looks_for for rule in RULES}
    defects = [
        {"rule": name, "policy": one["policy"], "rows": one["rows"], "tickers": one["tickers"], "what": looks[name]}
        for name, one in summary["defects"].items()
    ]
    tickers = [{"ticker": name, **one} for name, one in summary["tickers"].items()]
    returns = [
        {"returns": label, **summary["returns"][name]}
        for name, label in (("log_return", "log return"), ("over_volatility", "over volatility"))
    ]
    return _whole_page(
        "Price data",
        [
            f"<p>{len(tickers)} tickers, {escape(summary['first'])} to {escape(summary['last'])}. "
            f"{summary['rows_in']:,} rows = {summary['bars']:,} bars + {summary['missing_bars']:,} missing bars + "
            f"{summary['rows_dropped']:,} dropped rows.</p>",
            "<h2>Coverage</h2>",
            _image(out / "coverage.png", "Bars by ticker and period"),
            "<h2>Defects</h2>",
            _image(out / "defects.png", "Defects by rule") + _table(defects) if defects else "<p>None found.</p>",
            "<h2>Returns</h2>",
            _image(out / "returns.png", "Histograms of returns") + _table(returns),
            "<h3>Largest moves</h3>",
            _table(summary["returns"]["largest_moves"]),
            "<h2>Longest gaps</h2>",
            _table(summary["gaps"]),
            "<h2>Tickers</h2>",
            _table(tickers),
        ],
    )


def _page_of_series(summary: dict[str, Any], out: Path) -> str:
    facts = [{"what": what, "found": words} for what, words in summary["facts"].items()]
    each = [{"series": name, "odd": one["odd"], **one} for name, one in summary["each"].items()]
    each = sorted(each, key=lambda one: (not one["odd"], -one["in_a_row"]))
    more = f"<p>And {len(each) - MOST_SERIES:,} more, in describe.json.</p>" if len(each) > MOST_SERIES else ""
    skipped = [{"series": name, "why": why} for name, why in summary["skipped"].items()]
    return _whole_page(
        "Series",
        [
            _table(facts),
            "<h2>Coverage</h2>",
            _image(out / "coverage.png", "Values by series and period"),
            *(["<h2>Skipped</h2>", _table(skipped)] if skipped else []),
            "<h2>Series</h2>",
            _table(each[:MOST_SERIES]) + more,
        ],
    )


def _whole_page(title: str, parts: list[str]) -> str:
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    style = f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
    return "\n".join([head, style, f"<h1>{title}</h1>", *parts, "</body></html>\n"])


def _image(path: Path, alternative: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{content}">'


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    long = {name for name in names if any(len(_words(row.get(name))) > LONG for row in rows)}  # columns to be read
    styles = {name: ' class="text"' if name in long else "" for name in names}
    head = "".join(f"<th{styles[name]}>{escape(name.replace('_', ' '))}</th>" for name in names)
    cells = ("".join(f"<td{styles[name]}>{escape(_words(row.get(name)))}</td>" for name in names) for row in rows)
    body = "".join(f"<tr>{one}</tr>" for one in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _words(value: Any) -> str:
    form = ".4g" if isinstance(value, float) else "," if isinstance(value, int) else ""
    return ("" if value is None else format(value, form)).removesuffix(" 00:00:00")
