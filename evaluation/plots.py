"""Pictures of forecasts and scores, each written as one PNG (`common/figures.py` has what they share)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy import stats

from ..bars_tsf_llm import OHLCV, Kind, kind_of
from ..common.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, save_figure

# Central interval in percent, its two columns, its tint of the blue.
BANDS = ((90, "q05", "q95", "#D9EAF3"), (80, "q10", "q90", "#A9CFE4"), (50, "q25", "q75", "#6FB0D3"))
HISTORY_BARS = 60


def _below(note: str) -> str:
    return f"\n{note}" if note else ""


def _day(timestamp: pd.Timestamp) -> str:
    return f"{timestamp:%Y-%m-%d}" if timestamp == timestamp.normalize() else f"{timestamp:%Y-%m-%d %H:%M}"


def _write_at(axes: Axes, text: str, right: float, place: float) -> None:
    axes.annotate(text, (right, place), (6, 0), textcoords="offset points", va="center", fontsize=9)


def _label_dates(axes: Axes, day: str = "%d %b", month: str = "%b %Y") -> None:
    """Few labels that each stand alone; the year of daily bars is left to the titles."""
    locator = AutoDateLocator(minticks=4, maxticks=9)
    minute = "%H:%M"
    formats = ["%Y", month, day, minute, minute, "%S"]  # years, months, days, hours, minutes, seconds
    at_zero = ["", month, day, day, minute, minute]  # first of the month, midnight, ...
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        ConciseDateFormatter(locator, formats=formats, zero_formats=at_zero, show_offset=False)
    )


def fan_chart(
    history: pd.DataFrame,
    forecast: pd.DataFrame,
    path: str | Path,
    *,
    realised: pd.DataFrame | None = None,
    note: str = "",
) -> Path:
    """The last closes (60 or more), the forecast's 50, 80 and 90 % bands and median, the last close, what happened.

    history and realised are that ticker's bars (timestamp, close), or a plain series (timestamp, value); forecast is
    one origin of the forecast table (ticker, origin, step, timestamp, mean, q05 ... q95, p_up), in price units. `note`
    is a second line of subtitle.
    """
    history, forecast = fan_rows(history, forecast)
    first, last, column = forecast.iloc[0], forecast.iloc[-1], kind_of(history).value
    figure, [axes] = new_figure(
        f"{first['ticker']}: forecast of {len(forecast)} bars from {_day(first['origin'])}",
        f"{column}s from {_day(history['timestamp'].iloc[0])}; bands hold 50, 80 and 90 % of the forecast;"
        f" P(up) at the last bar {last['p_up']:.2f}{_below(note)}",
    )
    fan_panel(axes, history, forecast, realised=realised)
    axes.set_ylabel("close (price units)" if column == "close" else column, fontsize=9)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return save_figure(figure, path)


def fan_rows(history: pd.DataFrame, forecast: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those that a fan chart shows: the last known bars up to the origin, and the steps in order.

    Raises:
        ValueError: the forecast is not of exactly one ticker and origin, or no bar lies before it.
    """
    which = forecast[["ticker", "origin"]].drop_duplicates()
    if len(which) != 1:
        raise ValueError(f"the forecast has {len(which)} pairs of ticker and origin: pass the rows of exactly one")
    ticker, origin = which["ticker"].iloc[0], pd.Timestamp(which["origin"].iloc[0])
    column = kind_of(history).value
    history = history[history["timestamp"] <= origin].dropna(subset=column)
    if history.empty:
        raise ValueError(
            f"no {column} of {ticker} at or before {origin}: pass the bars that the forecast was made from"
        )
    return history.tail(max(HISTORY_BARS, 2 * len(forecast))), forecast.sort_values("step")


def fan_panel(
    axes: Axes,
    history: pd.DataFrame,
    forecast: pd.DataFrame,
    *,
    realised: pd.DataFrame | None = None,
    day: str = "%d %b",
    month: str = "%b %Y",
) -> None:
    """The lines and bands of `fan_rows`; `day` and `month` are how the axis writes its dates."""
    column = kind_of(history).value
    start, last_close = history["timestamp"].iloc[-1], history[column].iloc[-1]
    times = pd.concat([history["timestamp"].tail(1), forecast["timestamp"]])

    def from_origin(statistic: str) -> np.ndarray:
        return np.concatenate([[last_close], forecast[statistic]])

    axes.plot(history["timestamp"], history[column], color=BLACK, linewidth=1.4, label=column)
    for level, low, high, tint in BANDS:
        axes.fill_between(times, from_origin(low), from_origin(high), color=tint, linewidth=0, label=f"{level} %")
    axes.plot(times, from_origin("q50"), color=BLUE, linewidth=1.8, label="median")
    axes.hlines(last_close, start, times.iloc[-1], color=BLACK, linestyle="--", linewidth=1, label="random walk")
    if realised is not None:
        happened = realised[(realised["timestamp"] > start) & (realised["timestamp"] <= times.iloc[-1])]
        path_taken = pd.concat([history.tail(1), happened])
        axes.plot(path_taken["timestamp"], path_taken[column], ".-", color=ORANGE, linewidth=1.6, label="realised")
    axes.margins(x=0.02)
    _label_dates(axes, day, month)


def loss_curve(log_history: list[dict], path: str | Path) -> Path:
    """Training and validation loss by optimiser step, from a transformers Trainer's `state.log_history`."""
    train = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    validation = [(entry["step"], entry["eval_loss"]) for entry in log_history if "eval_loss" in entry]
    if not train and not validation:
        raise ValueError("the log has neither 'loss' nor 'eval_loss': train with a smaller logging_steps")
    subtitle = f"{max(step for step, _ in train + validation):,} steps"
    if epochs := [entry["epoch"] for entry in log_history if entry.get("epoch")]:
        subtitle += f", {max(epochs):.3g} epoch{'' if max(epochs) == 1 else 's'}"
    if validation:
        best_step, best_loss = min(validation, key=lambda point: point[1])
        subtitle += f"; best validation loss {best_loss:.4g} at step {best_step:,}"
    figure, [axes] = new_figure("Training and validation loss", subtitle)
    if train:
        axes.plot(*zip(*train, strict=True), color=BLUE, linewidth=1.4, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=ORANGE, linewidth=1.8, marker="o", label="validation")
        axes.plot(best_step, best_loss, "o", markersize=12, fillstyle="none", color=BLACK, label="best")
    axes.set_xlabel("optimiser step", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    return save_figure(figure, path)


def pit_histogram(pit: np.ndarray, path: str | Path, *, name: str, bins: int = 10, note: str = "") -> Path:
    """Histogram of PIT values with the uniform line and where 95 % of a calibrated forecast's bars would fall.

    The band is binomial, for independent outcomes. Overlapping horizons and tickers that move together leave fewer
    independent outcomes, so the true band is wider: a bar just outside it is no proof.

    `note` is a second line of subtitle.
    """
    pit = np.asarray(pit)
    if not len(pit):
        raise ValueError("no PIT values: score at least one forecast first")
    distance = np.abs(pit - 0.5)
    coverage = ", ".join(f"{100 * np.mean(distance <= level / 200):.1f}" for level in (50, 80, 90))
    subtitle = f"{len(pit):,} outcomes, {coverage} % of them in the 50, 80, 90 % bands{_below(note)}"
    figure, [axes] = new_figure(f"Calibration of {name}", subtitle)
    pit_panel(axes, pit, bins)
    return save_figure(figure, path)


def pit_panel(axes: Axes, pit: np.ndarray, bins: int = 10) -> None:
    """The bars, the uniform line and the band."""
    counts, edges = np.histogram(pit, bins=bins, range=(0.0, 1.0))
    axes.bar(edges[:-1], counts / len(pit), 1 / bins, align="edge", color=BLUE, alpha=0.75, edgecolor="white")
    low, high = stats.binom.interval(0.95, len(pit), 1 / bins)
    axes.axhspan(low / len(pit), high / len(pit), color=GREY, alpha=0.3, linewidth=0, label="95 % if calibrated")
    axes.axhline(1 / bins, color=BLACK, linestyle="--", linewidth=1.2, label="uniform")
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability that the forecast gave to less than what happened (PIT)", fontsize=9)
    axes.set_ylabel("share of outcomes", fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def score_bars(
    rows: list[dict], path: str | Path, *, highlight: str | None = None, note: str = "", kind: Kind = OHLCV
) -> Path:
    """CRPS of every model with its 95 % interval, best on top, one panel per horizon.

    rows are those of `results.json`: model, horizon, crps, crps_ci95 (or None), n. `highlight` names the model that
    the others are there to be compared with; `note` is a second line of subtitle (period, tickers, source);
    `kind` says in which unit scores are.
    """
    if not rows:
        raise ValueError("no rows of results: evaluate at least one model first")
    horizons = sorted({row["horizon"] for row in rows})
    figure, all_axes = new_figure(
        f"CRPS of the {kind.score_name} (lower is better)",
        f"whiskers: 95 % interval of each model alone; overlap does not mean that two are equal{_below(note)}",
        rows=len(horizons),
        height=0.9 + 0.36 * len(rows) + 0.9 * len(horizons),
    )
    for axes, horizon in zip(all_axes, horizons, strict=True):
        score_panel(axes, [row for row in rows if row["horizon"] == horizon], highlight, kind)
    return save_figure(figure, path)


def score_panel(axes: Axes, rows: list[dict], highlight: str | None, kind: Kind) -> None:
    rows = sorted(rows, key=lambda row: row["crps"], reverse=True)
    for place, row in enumerate(rows):
        crps = kind.score_factor * row["crps"]
        axes.barh(place, crps, height=0.62, color=BLUE if row["model"] == highlight else GREY, alpha=0.8)
        right = crps
        if row["crps_ci95"]:
            low, right = (kind.score_factor * bound for bound in row["crps_ci95"])
            axes.errorbar(crps, place, xerr=[[crps - low], [right - crps]], color=BLACK, capsize=3, linewidth=1.2)
        _write_at(axes, f"{crps:.3f}", right, place)
    axes.set_yticks(range(len(rows)), [row["model"] for row in rows])
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    bars = "bar" if rows[0]["horizon"] == 1 else "bars"
    axes.set_xlabel(f"CRPS {rows[0]['horizon']} {bars} ahead ({kind.score_unit}), n = {rows[0]['n']:,}", fontsize=9)


def leak_bars(rows: list[dict], path: str | Path, *, note: str = "") -> Path:
    """Mean squared error over that of a constant 0, and direction accuracy with its interval, per set of inputs.

    rows are those of `leak.json`; `note` is a second line of subtitle.
    """
    if not rows:
        raise ValueError("no rows of results: measure the leak first")
    figure, (errors, directions) = new_figure(
        "The original's recipe with and without its future inputs",
        f"ridge regression on its 64 scaled inputs; a random walk cannot be forecast{_below(note)}",
        rows=2,
        height=1.6 + 0.8 * len(rows),
    )
    names = [row["model"].replace("_", " ") for row in rows[::-1]]
    for place, row in enumerate(rows[::-1]):
        colour = ORANGE if row["model"].endswith("with_leak") else BLUE
        share, accuracy = row["mse"] / row["mse_constant_0"], row["direction_accuracy"]
        low, high = row["direction_ci95"] or (accuracy, accuracy)
        errors.barh(place, share, height=0.62, color=colour, alpha=0.8)
        _write_at(errors, f"{share:.2f}", share, place)
        directions.errorbar(
            accuracy, place, xerr=[[accuracy - low], [high - accuracy]], fmt="o", color=colour, capsize=3
        )
        directions.vlines(row["direction_base_rate"], place - 0.3, place + 0.3, color=BLACK, linestyle="--")
        _write_at(directions, f"{accuracy:.2f}", high, place)
    errors.axvline(1, color=BLACK, linestyle="--", linewidth=1.2)
    errors.set_xlabel("squared error over that of a constant, the training median (dashed: 1)", fontsize=9)
    errors.set_xlim(left=0)
    directions.set_xlim(0.4, 1.0)
    directions.set_xlabel("direction accuracy, 95 % interval (dashed: share of the commoner direction)", fontsize=9)
    for axes in (errors, directions):
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(visible=False, axis="y")
    return save_figure(figure, path)


def equity_curves(
    times: np.ndarray, equity: dict[str, np.ndarray], path: str | Path, *, band: np.ndarray | None, note: str = ""
) -> Path:
    """Equity `[T]` of each strategy, the last of which is what they are compared with, and its falls below its high.

    band `[2,T]` holds nine of ten random entries; `note` is a second line of subtitle.
    """
    figure, (above, below) = new_figure(
        "What a unit of money became, after costs",
        f"decided at a close, traded at the next open; grey: 90 % of random entries of the first rule{_below(note)}",
        rows=2,
        height=6.4,
    )
    if band is not None:
        above.fill_between(times, *band, color=GREY, alpha=0.25, linewidth=0)
    colours = [*(BLUE, ORANGE, GREEN, PURPLE)[: len(equity) - 1], BLACK]
    for (name, curve), colour in zip(equity.items(), colours, strict=True):
        style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "linestyle": "--" if colour == BLACK else "-"}
        above.plot(times, curve, label=name.replace("_", " "), **style)
        below.plot(times, curve / np.maximum.accumulate(curve) - 1, **style)
    above.axhline(1, color=GREY, linewidth=0.8)
    above.set_ylabel("equity", fontsize=9)
    above.legend(fontsize=9, frameon=False, loc="upper left", ncols=len(equity))
    above.margins(y=0.15)
    below.set_ylabel("below its high", fontsize=9)
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (above, below):
        axes.margins(x=0.01)
        _label_dates(axes)
    return save_figure(figure, path)
