"""The picture of a forecast: candles, or the line of a plain series; bands ahead; what happened, if it is known.

Design choices:
* The axis counts bars and is labelled with dates: no gaps at weekends, and any frequency looks alike.
* Grounds are transparent and greys are middle ones, so that the same figure suits light and dark pages.
* Colours are those of `common/figures.py`.
"""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ...common.figures import BLUE, GREY, ORANGE
from .answers import Answer
from .words import say

SHOWN = 60  # bars of the past
HEIGHT = 430  # pixels
BANDS = (("band_90", "q05", "q95", 0.13), ("band_80", "q10", "q90", 0.20), ("band_50", "q25", "q75", 0.32))
FAINT = "rgba(128,128,128,0.18)"


def fan(answer: Answer, language: str) -> go.Figure:
    """The last bars, the bands of the forecast and its median, and the closes that followed."""
    past, rows, later = answer.past.tail(SHOWN), answer.rows, answer.later
    figure = go.Figure()
    ahead = np.arange(len(rows) + 1)
    dates = [_date(moment) for moment in (past["timestamp"].iloc[-1], *rows["timestamp"])]

    def from_close(column: str) -> list[float]:
        return [answer.close, *rows[column]]

    for key, low, high, strength in BANDS:
        shape = {"x": [*ahead, *ahead[::-1]], "y": [*from_close(high), *from_close(low)[::-1]], "fill": "toself"}
        look = {"line": {"width": 0}, "fillcolor": f"rgba(0,114,178,{strength})", "hoverinfo": "skip"}
        figure.add_scatter(**shape, **look, mode="lines", name=say(language, key))
    figure.add_trace(_line(past, language) if answer.is_plain else _candles(past, language))
    figure.add_scatter(
        x=ahead,
        y=from_close("q50"),
        mode="lines",
        line={"color": BLUE, "width": 2.5},
        name=say(language, "median"),
        customdata=_hovers(answer, dates),
        hovertemplate="%{customdata}<extra></extra>",
    )
    if len(later):
        figure.add_scatter(
            x=np.arange(len(later) + 1),
            y=[answer.close, *later[answer.kind.value]],
            mode="lines+markers",
            line={"color": ORANGE, "width": 2},
            marker={"size": 5},
            name=say(language, "happened"),
            text=[dates[0], *map(_date, later["timestamp"])],
            hovertemplate="%{text}<br>%{y:.2f}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_layout(_layout(past, dates, language))
    return figure


def _candles(past: pd.DataFrame, language: str) -> go.Candlestick:
    texts = [
        f"{_date(bar.timestamp)}<br>"
        + say(language, "bar_hover", **{k: f"{v:.2f}" for k, v in zip("ohlc", bar[2:], strict=True)})
        for bar in past[["timestamp", "open", "high", "low", "close"]].itertuples()
    ]
    return go.Candlestick(
        x=np.arange(1 - len(past), 1),
        **{name: past[name] for name in ("open", "high", "low", "close")},
        increasing={"line": {"color": GREY, "width": 1.2}, "fillcolor": "rgba(140,140,140,0.08)"},
        decreasing={"line": {"color": GREY, "width": 1.2}, "fillcolor": GREY},
        name=say(language, "bars"),
        hovertext=texts,
        hoverinfo="text",
    )


def _line(past: pd.DataFrame, language: str) -> go.Scatter:
    return go.Scatter(
        x=np.arange(1 - len(past), 1),
        y=past["value"],
        mode="lines",
        line={"color": GREY, "width": 1.6},
        name=say(language, "bars", plain=True),
        text=[_date(moment) for moment in past["timestamp"]],
        hovertemplate="%{text}<br>%{y:.6g}<extra></extra>",
    )


def _hovers(answer: Answer, dates: list[str]) -> list[str]:
    texts = [f"{dates[0]}<br>{answer.close:.2f}"]
    for date, row in zip(dates[1:], answer.rows.to_dict("records"), strict=True):
        texts.append(f"{date}<br>{row['q50']:.2f}<br>80 %: {row['q10']:.2f} - {row['q90']:.2f}")
    return texts


def _layout(past: pd.DataFrame, dates: list[str], language: str) -> dict[str, Any]:
    first, last = 1 - len(past), len(dates) - 1
    known = {i: _date(moment) for i, moment in zip(range(first, 1), past["timestamp"], strict=True)}
    known |= dict(enumerate(dates))
    ticks = [first // 2, 0, *([last] if 6 * last > last - first else [])]
    axis = {"gridcolor": FAINT, "zeroline": False, "linecolor": FAINT, "tickfont": {"size": 12}, "fixedrange": True}
    return {
        "height": HEIGHT,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "family": "system-ui, sans-serif"},
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": False,
        "xaxis": {
            **axis,
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [known[tick][5:] + "<br>" + known[tick][:4] for tick in ticks],
            "range": [first - 1, last + 1],
            "rangeslider": {"visible": False},
            "showgrid": False,
            "tickangle": 0,
        },
        "yaxis": {**axis, "side": "right", "title": None, "automargin": True},
    }


def _date(moment: Any) -> str:
    """Without a time of midnight."""
    return str(pd.Timestamp(moment)).removesuffix(" 00:00:00")
