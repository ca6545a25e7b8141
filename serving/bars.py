"""`tsf-llm forecast --ohlcv`: quantiles of whole bars beside those of closes, and what paths say of price levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.files import check_apart, has_keys, write_json
from ..emission_tsf_llm import BarPaths
from ..evaluation.barriers import STOP, TARGET, first_of, max_drawdown, touched
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import FORECAST_QUANTILES, quantile_column

LEVELS = (0.1, 0.5, 0.9)
PARTS = ("open", "high", "low", "volume")
BYTES = 320  # of a bar, what it is made of and its quantiles
KEYS = ("horizon", "samples", "seed", "tickers")


@dataclass(frozen=True)
class Barriers:
    """Prices that paths are asked about."""

    levels: Sequence[str] = ()  # as they were written, which is what the answer calls them
    stop: float | None = None
    target: float | None = None

    @classmethod
    def read(cls, levels: str | None, stop: float | None, target: float | None, *, asked: bool) -> "Barriers":
        """From the options of the command line; `asked` says whether --ohlcv was given.

        Raises:
            ValueError: for what is no price, a stop without a target, or any of them without --ohlcv.
        """
        if not asked and (levels, stop, target) != (None, None, None):
            raise ValueError("--levels, --stop and --target are asked of whole bars: add --ohlcv")
        if (stop is None) != (target is None):
            raise ValueError("--stop and --target go together: give both, one below and one above the last close")
        names = [one.strip() for one in (levels or "").split(",") if one.strip()]
        for name, value in [("--levels", one) for one in names] + [("--stop", stop), ("--target", target)]:
            if value is not None and not _is_price(value):
                raise ValueError(f"{name} {value}: give a price above 0, as 180, or several levels, as 180,200")
        return cls(names, stop, target)


def _is_price(value: Any) -> bool:
    try:
        return 0 < float(value) < float("inf")
    except ValueError:
        return False


def risk_file(out: Path, *sources: Any) -> Path:
    """Where the answers about levels go: `forecast.csv` -> `forecast.risk.json` beside it.

    Raises:
        ValueError: a file of another kind stands there.
    """
    path = out.with_name(f"{out.stem}.risk.json")
    check_apart(path, *sources)
    if path.exists() and not has_keys(path, KEYS):
        raise ValueError(f"{path} is not of an earlier forecast and stands where one goes: choose another --out")
    return path


def forecast_bars(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    barriers: Barriers,
    *,
    horizon: int,
    samples: int,
    seed: int,
    calibration: str,
    calendar: str | None = None,
    quantile_levels: Sequence[float] = FORECAST_QUANTILES,
    **read: Any,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The forecast frame with columns `open_q10` to `volume_q90` behind the usual ones, and the answers about levels.

    The closes of the bars are sampled paths, calibrated as the usual columns are. `read` is what the pipeline's
    `preprocess` takes beside the bars.

    Raises:
        ValueError: the model has no head for bars, or the last close of a ticker lies outside of stop and target.
    """
    pipe.check_emits_bars()
    inputs = pipe.preprocess(bars, **read)
    batch, options = inputs["batch"], {"horizon": horizon, "samples": samples, "seed": seed}
    pipe.check_size(len(batch["ticker"]), batch["past_values"].shape[1], horizon=horizon, samples=samples, each=BYTES)
    paths, calibrated = pipe.sample(batch, **options), pipe.calibration(calibration, horizon)
    made = pipe.with_bars(paths if calibrated is None else calibrated(paths), batch, seed=seed)
    risk = {**options, "tickers": risk_rows(made, batch, barriers)}
    shown: dict[str, Any] = {"calendar": calendar, "quantile_levels": quantile_levels}
    frame = pipe.postprocess(pipe.forward(inputs, **options, calibration=calibration), **shown)
    columns = bar_quantiles(made)
    frame[list(columns)] = pd.DataFrame(columns)
    return frame, risk


def bar_quantiles(bars: BarPaths) -> dict[str, np.ndarray]:
    """`open_q10` to `volume_q90`, each `[B * P]`; NaN where no volume is known."""
    columns = {}
    for part in PARTS:
        values = np.quantile(getattr(bars, part), LEVELS, axis=1, method="weibull")  # as those of closes
        columns |= {f"{part}_{quantile_column(level)}": one.ravel() for level, one in zip(LEVELS, values, strict=True)}
    return columns


def risk_rows(bars: BarPaths, batch: Any, barriers: Barriers) -> list[dict[str, Any]]:
    """One per ticker: probabilities of levels and of what comes first, None where not asked, and the mean drawdown."""
    touch = {name: touched(bars, float(name)).mean(axis=1) for name in barriers.levels}
    first = None
    if barriers.stop is not None and barriers.target is not None:
        first = first_of(bars, stop=barriers.stop, target=barriers.target)
    fall = max_drawdown(bars).mean(axis=1)
    return [
        {
            "ticker": ticker,
            "origin": str(batch["origin"][row]),
            "last_close": float(bars.last_close[row]),
            "p_touch": {name: float(values[row]) for name, values in touch.items()},
            "p_stop_first": None if first is None else float((first[row] == STOP).mean()),
            "p_target_first": None if first is None else float((first[row] == TARGET).mean()),
            "expected_max_drawdown": float(fall[row]),
        }
        for row, ticker in enumerate(batch["ticker"])
    ]


def write_risk(risk: dict[str, Any], barriers: Barriers, path: Path) -> str:
    """Writes it, with what was asked; the line for the terminal."""
    write_json({**risk, "stop": barriers.stop, "target": barriers.target}, path)
    return f"levels and drawdown of {len(risk['tickers'])} ticker(s) written to {path}"
