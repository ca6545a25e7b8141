"""The oracle of the features of plain series: each as a function of one series, by pandas."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from tsf_llm.bars_tsf_llm import difference_scale

SHORT_CYCLE = 12  # rows
Row = tuple[str, Callable[["SeriesFrame"], pd.Series]]


class SeriesFrame:
    """One series as the features see it: `y`, its differences `d`, their scale `s`, and all of its columns."""

    def __init__(self, frame: pd.DataFrame, decay: float, floor: float, cap: float | None):
        self.frame = frame.reset_index(drop=True)
        self.y = self.frame["value"]
        self.d = self.y.diff()
        self.s = pd.Series(difference_scale(self.d.to_numpy(), decay, floor, cap))
        self.time = self.frame["timestamp"].dt


def _change(f: SeriesFrame, lag: int) -> pd.Series:
    return (f.y - f.y.shift(lag)) / (f.s * np.sqrt(lag))


def _rolling(values: pd.Series, length: int) -> Any:
    """Windows in which at least half of the rows are known."""
    return values.rolling(length, min_periods=(length + 1) // 2)


def _mean(f: SeriesFrame, length: int) -> pd.Series:
    return (f.y - _rolling(f.y, length).mean()) / (f.s * np.sqrt(length))


def _volatility(f: SeriesFrame, length: int) -> pd.Series:
    return np.sqrt(_rolling(f.d**2, length).mean().clip(lower=0)) / f.s


def _position(f: SeriesFrame, length: int) -> pd.Series:
    window = _rolling(f.y, length)
    low, high = window.min(), window.max()
    return (f.y - low) / (high - low).where(high > low)


def _zero_share(f: SeriesFrame, length: int) -> pd.Series:
    return _rolling((f.y == 0).where(f.y.notna()).astype(float), length).mean()


def _season_ahead(f: SeriesFrame, season: int, ahead: int) -> pd.Series:
    past = pd.concat([f.y.shift(cycles * season - ahead) for cycles in (1, 2, 3)], axis=1)
    return (past.mean(axis=1) - f.y) / f.s


def _cycle(f: SeriesFrame, part: str, length: float, wave: Callable[[Any], Any]) -> pd.Series:
    return wave(2 * np.pi * getattr(f.time, part) / length)


def _rows(name: str, compute: Callable[..., pd.Series], /, **choices: Sequence[Any]) -> list[Row]:
    """One row per value of the one argument in `choices`, written into the name."""
    [(argument, values)] = choices.items()
    return [(name.format(value), partial(compute, **{argument: value})) for value in values]


_TABLE = (
    *_rows("change_{0}", _change, lag=(1, 2, 3, 5, 10, 21)),
    *_rows("mean_{0}", _mean, length=(5, 20, 60)),
    *_rows("position_{0}", _position, length=(60,)),
    *_rows("volatility_{0}", _volatility, length=(5, 20, 60)),
    ("level", lambda f: np.arcsinh(f.y / f.s)),
    *_rows("zero_share_{0}", _zero_share, length=(20, 60)),
    ("hour_sin", lambda f: _cycle(f, "hour", 24, np.sin)),
    ("hour_cos", lambda f: _cycle(f, "hour", 24, np.cos)),
    ("week_sin", lambda f: _cycle(f, "day_of_week", 7, np.sin)),
    ("week_cos", lambda f: _cycle(f, "day_of_week", 7, np.cos)),
    ("month_sin", lambda f: _cycle(f, "month", 12, np.sin)),
    ("month_cos", lambda f: _cycle(f, "month", 12, np.cos)),
)


def _seasonal(m: int) -> list[Row]:
    steps = range(1, m + 1) if m <= SHORT_CYCLE else [1, m // 4, m // 2, 3 * m // 4, m]
    return [
        (f"season_{m}", lambda f: (f.y.shift(m) - f.y) / f.s),
        *_rows(f"season_{m}_ahead_{{0}}", partial(_season_ahead, season=m), ahead=steps),
    ]


def table(seasons: Sequence[int] = ()) -> dict[str, Callable[[SeriesFrame], pd.Series]]:
    return dict([*_TABLE, *(row for season in seasons for row in _seasonal(season))])
