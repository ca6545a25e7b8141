"""Scores of demand: plain series in their own units, over all steps of an origin at once.

* RMSSE and WRMSSE are those of the M5 competition (Makridakis et al. 2022): the root of the mean squared error over
  the steps, each square over the mean squared one-step difference known at the origin, from the first value that is
  not zero on. Its point forecast is the mean. Of each origin the series are weighed by what they sold in the last
  `SOLD` rows, which add up to 1; series that never moved have no scale and are left out.
* The weighted quantile loss is twice the quantile loss at nine levels over the sum of what was sold: a large series
  counts by its size.
* The bias is what the mean forecasts have too much, as a share of what was sold.
* The share of zeros that came stands beside the mean probability that was given to them. Of whole numbers all below a
  half counts as zero, so that a continuous law is asked the same question.
* A test compares losses of [n] whose mean is the score, so origins of one date count as one.

Shapes: n origins of all series, P steps, L levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scoringrules

from ..bars_tsf_llm import UNIVARIATE
from ..feature_extraction_tsf_llm import EncodedSeries
from .baselines.naive import naive_scale, naive_square_scale
from .distributions import LEVELS, Forecast, Scored
from .significance import Figure, compare

SAME = 1e-9  # of a value and zero, in units
SOLD = 28  # rows whose sum is the weight of a series
WQL_LEVELS = np.arange(1, 10) / 10
FIGURES = {"wrmsse": Figure("WRMSSE", "+.1f", relative=True), "wql": Figure("WQL", "+.1f", relative=True)}


@dataclass(frozen=True)
class Demand:
    """What is known at n origins, in the series' own units."""

    value: np.ndarray  # [n]
    unit: np.ndarray  # [n] that forecasts and outcomes are in: the mean absolute one-step difference
    square: np.ndarray  # [n] mean squared one-step difference
    sold: np.ndarray  # [n] sum of the last `SOLD` values
    whole: np.ndarray  # bool [n], only whole numbers so far

    @classmethod
    def of(cls, one: EncodedSeries, rows: np.ndarray) -> "Demand":
        """Of the origins `rows` of a plain series."""
        close = one.close
        values = np.nan_to_num(close)
        first = int((values != 0).argmax())
        moving = rows > first
        square = np.zeros(len(rows))
        square[moving] = naive_square_scale(close[first:], rows[moving] - first, 1, UNIVARIATE)
        total = np.concatenate([np.zeros(SOLD), np.cumsum(np.abs(values))])
        fractions = np.cumsum(values != np.round(values))
        return cls(
            value=close[rows],
            unit=naive_scale(close, rows, 1, UNIVARIATE),
            square=square,
            sold=total[rows + SOLD] - total[rows],
            whole=fractions[rows] == 0,
        )

    @classmethod
    def joined(cls, parts: "Sequence[Demand]") -> "Demand":
        """All of these, in order."""
        return cls(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)})


@dataclass(frozen=True)
class DemandErrors:
    """Of one model: what each origin adds to the scores; the means over n of `wrmsse` and `wql` are the scores."""

    rmsse: np.ndarray  # [n], NaN without a scale
    wrmsse: np.ndarray  # [n]
    wql: np.ndarray  # [n]
    bias: float
    zeros: float
    zeros_forecast: float

    @classmethod
    def of(cls, steps: Sequence[Forecast], realised: np.ndarray, demand: Demand, dates: np.ndarray) -> "DemandErrors":
        """Of forecasts of each step, and outcomes `[n,P]` in units, NaN where unknown; dates `[n]` of the origins."""
        unit = demand.unit[:, None]
        outcome = realised * unit + demand.value[:, None]
        known = np.isfinite(outcome)
        error = np.stack([one.point for one in steps], axis=1) * unit + demand.value[:, None] - outcome
        with np.errstate(all="ignore"):
            rmsse = np.sqrt(np.nanmean(error**2, axis=1) / demand.square)
        rmsse = np.where(demand.square > 0, rmsse, np.nan)
        sold = float(np.nansum(np.abs(outcome))) or np.nan
        loss = np.stack([_quantile_loss(one, realised[:, p]) for p, one in enumerate(steps)], axis=1) * unit
        zero = [_p_zero(one, demand, known[:, p]) for p, one in enumerate(steps)]
        return cls(
            rmsse=rmsse,
            wrmsse=np.nan_to_num(rmsse) * _weights(demand.sold, rmsse, dates),
            wql=np.nansum(loss, axis=1) / sold * len(loss),
            bias=float(np.nansum(error) / sold),
            zeros=float((np.abs(outcome) < SAME * unit)[known].mean()),  # in units and back, a zero is nearly one
            zeros_forecast=float(np.concatenate(zero).mean()),
        )

    def row(self) -> dict[str, float | None]:
        """The scores, for `results.json`; None where no series has moved, or nothing was sold."""
        scaled, sold = np.isfinite(self.rmsse), np.isfinite(self.bias)
        return {
            "wrmsse": float(self.wrmsse.mean()) if scaled.any() else None,
            "rmsse_m5": float(self.rmsse[scaled].mean()) if scaled.any() else None,
            "wql": float(self.wql.mean()) if sold else None,
            "bias": self.bias if sold else None,
            "zeros": self.zeros,
            "zeros_forecast": self.zeros_forecast,
        }


def _quantile_loss(forecast: Forecast, outcome: np.ndarray) -> np.ndarray:
    """Twice the mean quantile loss over `WQL_LEVELS`, `[n]`."""
    quantiles = forecast.quantile(WQL_LEVELS)
    return 2 * scoringrules.quantile_score(outcome[:, None], quantiles, WQL_LEVELS, backend="numpy").mean(axis=1)


def _p_zero(forecast: Forecast, demand: Demand, known: np.ndarray) -> np.ndarray:
    """Probability of zero (of less than a half, of whole numbers) `[n known]`, from its percentiles, or deciles."""
    levels = forecast.levels if isinstance(forecast, Scored) else LEVELS
    values = forecast.quantile(levels) * demand.unit[:, None] + demand.value[:, None]
    edge = np.where(demand.whole, 0.5, SAME * demand.unit)[:, None]
    return ((values < edge).mean(axis=1) - (values <= -edge).mean(axis=1))[known]


def _weights(sold: np.ndarray, rmsse: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """`[n]`, proportional to what was sold among the origins of one date, with a mean of 1 over all n."""
    _, day = np.unique(dates, return_inverse=True)
    sold = np.where(np.isfinite(rmsse), sold, 0.0)
    total = np.bincount(day, weights=sold)
    with np.errstate(all="ignore"):
        share = np.where(total[day] > 0, sold / total[day], 0.0)
    return share * len(day) / max((total > 0).sum(), 1)


def demand_verdicts(
    errors: Mapping[str, DemandErrors], dates: np.ndarray, *, horizon: int, seed: int = 0, ours: str = "model"
) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each other model and figure (`FIGURES`) the paired difference, in numbers and in words; see `compare`.

    Where nothing was sold there is no loss per unit sold, and no difference."""
    return {
        name: {
            figure: compare(
                *(getattr(one, figure) for one in (errors[ours], theirs)),
                dates,
                name,
                horizon=horizon,
                seed=seed,
                figure=FIGURES[figure],
            )
            for figure in FIGURES
            if np.isfinite(getattr(theirs, figure)).all()
        }
        for name, theirs in errors.items()
        if name != ours
    }
