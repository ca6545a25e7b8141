"""The page of an explanation: one file that opens offline, its plots inside."""

import base64
import io
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...common.figures import BLACK, BLUE, GREY, ORANGE, new_figure
from ...data_prep.describe import STYLE

MOST_FEATURES = 20  # of the plot; the JSON has all
CLEAR = 0.05
MOST_TICKERS = 10  # of the table of last bars; the JSON has all


def page(result: dict[str, Any]) -> str:
    """HTML of what `explain_model` found."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>What the forecasts rest on</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        "<h1>What the forecasts rest on</h1>",
        f"<p>{escape(_scope(result))}</p>",
        "<h2>Groups of features</h2>",
        "<p>A group's whole history in a window is replaced by that of another window. How much worse is it then?",
        "An interval that reaches zero means that nothing was found. Groups that say the same replace one another.",
        "</p>",
        _image(bars_figure(result["groups"], "Groups of features", _losses(result)), "Loss by group"),
        "<h2>Single features</h2>",
        _image(bars_figure(result["features"][:MOST_FEATURES], "Features", _losses(result)), "Loss by feature"),
        "<h2>Past bars</h2>",
        "<p>Bars are hidden, block by block; the bar of the origin keeps its place and loses its features. Attention",
        "is where the model looks, which need not be what counts.</p>",
        _image(past_figure(result["past_bars"], _losses(result)), "Loss and attention by lag"),
        "<h2>Experts</h2>",
        *_experts(result["experts"]),
        "<h2>Without the market</h2>",
        f"<p>{escape(_market(result['without_market']))}</p>",
        "<h2>Last bars</h2>",
        f"<p>The forecast of each ticker ({escape(result['unit'])}), and with one group at its training mean: the",
        "median and in brackets how wide the 80 % band is.</p>",
        _last_bars(result["last_bars"]),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _scope(result: dict[str, Any]) -> str:
    seen = {True: "", False: " The model has seen prices of this period.", None: ""}[result["out_of_sample"]]
    return (
        f"{result['windows']:,} windows of {len(result['tickers'])} ticker(s) on {result['dates']} dates, "
        f"{result['start']} to {result['end']}, {result['horizon']} bar(s) ahead. Mean {_losses(result)} "
        f"{result['mean_loss']:.4g} {result['unit']}.{seen}"
    )


def _losses(result: dict[str, Any]) -> str:
    return {"crps": "CRPS", "absolute_error": "absolute error"}[result["loss"]]


def _market(found: dict[str, Any] | None) -> str:
    if found is None:
        return "No market was read: either no feature of the model reads one, or none was given (--market)."
    return (
        f"Without the market the loss changes by {found['percent']:+.2f} %{_interval(found['percent_ci95'])}, and the "
        f"median forecast by {found['mean_change_of_median']:.3g} on average."
    )


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f" (95 % interval {ends[0]:+.2f} to {ends[1]:+.2f})"


def _image(figure: Figure, alternative: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{encoded}">'


def _errors(rows: list[dict[str, Any]]) -> np.ndarray:
    """Distances of the ends of the intervals, `[2,rows]`; zero where there is none."""
    ends = [row["percent_ci95"] or [row["percent"]] * 2 for row in rows]
    return np.array(
        [[row["percent"] - low, high - row["percent"]] for row, (low, high) in zip(rows, ends, strict=True)]
    ).T


def _colors(rows: list[dict[str, Any]]) -> list[str]:
    """Blue where the interval lies above zero."""
    return [BLUE if row["percent_ci95"] and row["percent_ci95"][0] > 0 else GREY for row in rows]


def bars_figure(rows: list[dict[str, Any]], title: str, loss: str) -> Figure:
    """How much worse the forecast is, with intervals; the most important on top."""
    note = f"increase of {loss} in percent when permuted, 95 % interval over dates; blue: above zero"
    figure, (axes,) = new_figure(title, note, height=1.4 + 0.28 * len(rows))
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [row["percent"] for row in rows], color=_colors(rows), height=0.7)
    axes.errorbar(
        [row["percent"] for row in rows],
        places,
        xerr=_errors(rows),
        fmt="none",
        ecolor=BLACK,
        elinewidth=0.8,
        capsize=2,
    )
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("percent")
    return figure


def past_figure(rows: list[dict[str, Any]], loss: str) -> Figure:
    """Blocks of lags: what is lost without them above, the share of attention of each of their bars below."""
    attention = all(row["attention"] is not None for row in rows)
    note = f"increase of {loss} in percent without these bars, 95 % interval over dates; blue: above zero"
    figure, axes = new_figure("Past bars", note, rows=1 + attention, height=3.6 + 2.4 * attention)
    names = [str(row["first"]) if row["first"] == row["last"] else f"{row['first']}-{row['last']}" for row in rows]
    values = [row["percent"] for row in rows]
    axes[0].bar(names, values, color=_colors(rows), width=0.7)
    axes[0].errorbar(names, values, yerr=_errors(rows), fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)
    axes[0].axhline(0, color=BLACK, linewidth=0.8)
    axes[0].set_ylabel("percent")
    if attention:
        each = [row["attention"] / (row["last"] - row["first"] + 1) for row in rows]
        axes[1].bar(names, each, color=ORANGE, width=0.7)
        even = 1 / rows[-1]["last"]
        axes[1].axhline(even, color=BLACK, linewidth=0.8, linestyle="--")
        axes[1].annotate(
            "even", (1, even), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9
        )
        axes[1].set_title("attention per bar, mean over layers and heads", loc="left", fontsize=9)
        axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes[-1].set_xlabel("bars back; 1 is the bar of the origin")
    return figure


def _experts(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["<p>The model has no routed experts.</p>"]
    words = [f"<li>{escape(_test_in_words(found['layers'], regime))}</li>" for regime in found["regimes"]]
    pictures = [
        _image(experts_figure(found["layers"], regime), f"Experts by {regime['name']}") for regime in found["regimes"]
    ]
    told = (
        "How often each expert is chosen at the bar of the origin. A p-value is adjusted for all experts and layers."
    )
    return [f"<p>{told}</p><ul>", *words, "</ul>", *pictures]


def _test_in_words(layers: list[str], regime: dict[str, Any]) -> str:
    if regime["p"] is None:
        return f"By {regime['name']}: too few dates to test."
    clear = [
        f"expert {expert + 1} of {layer} (p = {p:.3f})"
        for layer, row in zip(layers, regime["p"], strict=True)
        for expert, p in enumerate(row)
        if p < CLEAR
    ]
    if not clear:
        return f"By {regime['name']}: no difference beyond chance (least p = {min(map(min, regime['p'])):.2f})."
    return f"By {regime['name']}: {', '.join(clear)}."


def experts_figure(layers: list[str], regime: dict[str, Any]) -> Figure:
    """The share of every expert in each regime, layer by layer; a star marks what is more than chance."""
    note = "share of the chosen slots; * = differs between regimes, adjusted p < 0.05"
    title = f"Experts by {regime['name']}"
    figure, all_axes = new_figure(title, note, rows=len(layers), height=1.2 + 1.9 * len(layers))
    for layer, (axes, name) in enumerate(zip(all_axes, layers, strict=True)):
        experts = np.arange(len(regime["p"][layer] if regime["p"] else next(iter(regime["shares"].values()))[layer]))
        width = 0.8 / len(regime["shares"])
        for i, (label, shares) in enumerate(regime["shares"].items()):
            tint = 0.25 + 0.75 * (i + 1) / len(regime["shares"])
            at = experts - 0.4 + (i + 0.5) * width
            axes.bar(
                at, shares[layer], width=width, color=BLUE, alpha=tint, label=f"{label} ({regime['dates'][label]})"
            )
        stars = ["*" if regime["p"] and regime["p"][layer][expert] < CLEAR else "" for expert in experts]
        axes.set_xticks(experts, [f"{expert + 1}{star}" for expert, star in zip(experts, stars, strict=True)])
        axes.set_ylabel(name)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="x")
    all_axes[-1].set_xlabel("expert; in brackets the number of dates of a regime")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=7, loc="outside lower center")
    return figure


def _last_bars(rows: list[dict[str, Any]]) -> str:
    tickers = list(dict.fromkeys(row["ticker"] for row in rows))
    cells = {(row["ticker"], row["without"]): f"{row['median']:+.2f} ({row['q90'] - row['q10']:.2f})" for row in rows}
    names = list(dict.fromkeys(row["without"] for row in rows))
    origin = {row["ticker"]: row["origin"] for row in rows}
    head = "".join(f"<th>{escape(name or 'as it is')}</th>" for name in names)
    body = "".join(
        f"<tr><td>{escape(ticker)}</td><td>{escape(origin[ticker][:16])}</td>"
        + "".join(f"<td>{cells[ticker, name]}</td>" for name in names)
        + "</tr>"
        for ticker in tickers[:MOST_TICKERS]
    )
    rest = f"<p>{len(tickers) - MOST_TICKERS} more in explain.json.</p>" if len(tickers) > MOST_TICKERS else ""
    return f"<table><thead><tr><th>ticker</th><th>last bar</th>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"
