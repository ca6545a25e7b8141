"""The pictures of the page of an evaluation: figures small enough for a phone, without titles, which the page has."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from ..bars_tsf_llm import Kind
from ..common.figures import BLACK, BLUE, GREY, ORANGE, new_figure
from ..common.tables import Row
from .plots import pit_panel, score_panel
from .report import OURS

WIDTH = 6.0  # inches
LEVELS = (50, 80, 90)
MARKERS = dict(zip(LEVELS, ("o", "s", "^"), strict=True))
SHOWN = 50  # groups at most: the ends of the order are shown


def _rows_figure(count: float) -> tuple[Figure, Axes]:
    figure, [axes] = new_figure(height=max(1.9, 1.0 + 0.27 * count), width=WIDTH)
    axes.grid(visible=False, axis="y")
    return figure, axes


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """From top to bottom; a `$` is a dollar, not mathematics."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
        if label.get_text() == OURS:
            label.set_color(BLUE)
            label.set_fontweight("bold")


def scores(rows: Sequence[dict], kind: Kind) -> Figure | None:
    """CRPS of each row with its 95 % interval, best on top."""
    if not rows:
        return None
    figure, axes = _rows_figure(len(rows))
    score_panel(axes, list(rows), OURS, kind)
    return figure


def coverage(rows: Mapping[str, Row]) -> Figure | None:
    """Shares of outcomes within the bands, one line per row."""
    shown = {name: row for name, row in rows.items() if any(row.get(f"coverage_{one}") is not None for one in LEVELS)}
    if not shown:
        return None
    figure, axes = _rows_figure(len(shown))
    for level in LEVELS:
        axes.axvline(level, color=GREY, linestyle=":", linewidth=1.4)
        share = [100 * row.get(f"coverage_{level}", np.nan) for row in shown.values()]
        colours = [BLUE if name == OURS else GREY for name in shown]
        axes.scatter(share, range(len(shown)), c=colours, marker=MARKERS[level], s=42, zorder=3, label=f"{level} %")
    _name_rows(axes, list(shown))
    axes.set_xticks(LEVELS, [f"{level} %" for level in LEVELS])
    axes.set_xlabel("outcomes inside the band", fontsize=9)
    return figure


def pit(values: np.ndarray) -> Figure | None:
    """Histogram of where the outcomes fell in their forecasts."""
    if not len(values):
        return None
    figure, [axes] = new_figure(height=3.4, width=WIDTH)
    pit_panel(axes, values)
    axes.get_legend().remove()
    axes.set_xlabel("probability of less than what happened; band: 95 % of calibrated forecasts", fontsize=9)
    return figure


def cumulative(by_date: pd.Series, kind: Kind) -> Figure | None:
    """The running sum of a difference per date [D], which has dates as its index."""
    if not len(by_date):
        return None
    figure, [axes] = new_figure(height=3.4, width=WIDTH)
    total = kind.score_factor * by_date.cumsum()
    axes.axhline(0, color=BLACK, linewidth=1)
    axes.plot(by_date.index, total, color=BLUE, linewidth=1.6)
    axes.fill_between(by_date.index, total, 0, where=total > 0, color=ORANGE, alpha=0.18, linewidth=0, step=None)
    axes.fill_between(by_date.index, total, 0, where=total <= 0, color=BLUE, alpha=0.18, linewidth=0, step=None)
    axes.set_ylabel(f"sum of CRPS differences, {kind.score_unit}", fontsize=9)
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    return figure


def coverage_by_month(months: Mapping[str, Row]) -> Figure | None:
    """Shares of outcomes within the bands of 80 and 90 %, by month."""
    shown = {name: row for name, row in months.items() if row.get("coverage_80") is not None}
    if not shown:
        return None
    figure, [axes] = new_figure(height=3.4, width=WIDTH)
    for level, colour in ((80, BLUE), (90, ORANGE)):
        axes.axhline(level, color=colour, linestyle=":", linewidth=1.4)
        shares = [100 * row[f"coverage_{level}"] for row in shown.values()]
        axes.plot(range(len(shown)), shares, color=colour, marker=MARKERS.get(level, "o"), label=f"{level} %")
    every = -(-len(shown) // 8)
    axes.set_xticks(range(0, len(shown), every), [*shown][::every])
    axes.margins(x=0.08)
    axes.set_ylabel("outcomes inside the band, %", fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return figure


def calibration(told: Mapping[str, Row]) -> Figure | None:
    """Coverage before and after, by level."""
    before, after = told.get("before") or {}, told.get("after") or {}
    levels = [one for one in LEVELS if before.get(f"coverage_{one}") is not None]
    if not levels or any(after.get(f"coverage_{one}") is None for one in levels):
        return None
    figure, axes = _rows_figure(len(levels))
    for place, level in enumerate(levels):
        old, new = (100 * row[f"coverage_{level}"] for row in (before, after))
        axes.plot([level, level], [place - 0.4, place + 0.4], color=GREY, linestyle=":", linewidth=1.6)
        axes.plot([old, new], [place, place], color=BLUE, linewidth=1.2)
        axes.scatter([old], [place], s=48, facecolor="white", edgecolor=BLUE, zorder=3)
        axes.scatter([new], [place], s=48, color=BLUE, zorder=3)
    _name_rows(axes, [f"{level} % band" for level in levels])
    axes.set_xlabel("outcomes inside the band, %", fontsize=9)
    return figure


def skills(by_group: Mapping[str, float]) -> Figure | None:
    """One dot per group: skill in percent. Many groups are ordered, few stay as they are."""
    if not by_group:
        return None
    pairs = list(by_group.items())
    if len(pairs) > 12:
        pairs = sorted(pairs, key=lambda pair: -pair[1])
    if len(pairs) > SHOWN:
        pairs = [*pairs[: SHOWN // 2], *pairs[-SHOWN // 2 :]]
    names, values = [name for name, _ in pairs], np.array([value for _, value in pairs])
    figure, axes = _rows_figure(len(pairs) * (0.7 if len(pairs) > 12 else 1))
    colours = [BLUE if value > 0 else ORANGE for value in values]
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.hlines(range(len(pairs)), 0, values, color=colours, linewidth=1.4, alpha=0.6)
    axes.scatter(values, range(len(pairs)), color=colours, s=34, zorder=3)
    _name_rows(axes, names)
    if len(pairs) > 12:
        axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.1)
    axes.set_xlabel("skill, %", fontsize=9)
    return figure
