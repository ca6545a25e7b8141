"""What tickers do together: the return of a portfolio, its risk, and which ticker does best, from joint paths.

Design choices:
* A portfolio is bought at the origin and held: its return is the weighted mean of the tickers' simple returns.
* Quantiles are those of Weibull, as in every forecast. VaR is the loss that 5 or 1 % of the paths exceed; ES is the
  mean of these worst paths, the last of them in part (Acerbi and Tasche 2002), so it is never below the VaR. A gain is
  a negative loss.
* Tickers are together only from one origin: the one that most of them share. Others are left out, with a word.
* The forecast of each ticker is the usual one, to the bit; the joint paths keep its law.

Shapes: A tickers, K sampled paths, P steps, n laws.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import logging

from ..bars_tsf_llm import OHLCV
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import FORECAST_QUANTILES, quantile_column
from .ranking import QUINTILES, quintiles

logger = logging.get_logger(__name__)
PORTFOLIO = "(portfolio)"  # in the column of tickers
TAILS = {95: 0.05, 99: 0.01}
SUM_WITHIN = 0.02  # of 1: three times 0.33 is meant as thirds


def joint_forecast(
    pipe: TsfLlmPipeline,
    bars: Any,
    *,
    horizon: int,
    weights: Mapping[str, float] | None = None,
    samples: int = 1024,
    seed: int = 0,
    calibration: str = "auto",
    as_of: Any = None,
    market: Any = None,
    calendar: str | None = None,
    strict: bool = False,
    quantile_levels: Sequence[float] = FORECAST_QUANTILES,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The forecast that `pipe(bars, ...)` gives, and `portfolio_table` of the tickers that share an origin.

    `weights` by ticker are scaled to a sum of 1; those not named are 0, and without any all are equal.

    Raises:
        ValueError: a model without paths, plain series, fewer than two tickers that share an origin, weights that name
            a ticker which is not among them or whose sum is not about 1; and as the pipeline.
    """
    if not pipe.model.can_generate():
        raise ValueError("a joint forecast needs sampled paths, which a model with a head has not: use a causal LM")
    if pipe.processor.kind is not OHLCV:
        raise ValueError("a joint forecast is one of returns, and plain series have none: give prices")
    inputs = pipe.preprocess(bars, as_of=as_of, market=market, strict=strict, joint=True)
    batch = inputs["batch"]
    rows, left_out = together(batch, strict=strict)
    tickers = [batch["ticker"][row] for row in rows]
    held = weights_of(weights, tickers, {**batch["skipped"], **left_out})
    settings: dict[str, Any] = {"horizon": horizon, "samples": samples, "seed": seed}
    alone = {"batch": type(batch)({key: value for key, value in batch.items() if key != "loading"})}
    shown: dict[str, Any] = {"calendar": calendar, "quantile_levels": quantile_levels}
    frame = pipe.postprocess(pipe.forward(alone, **settings, calibration=calibration), **shown)
    pipe.check_size(len(batch["ticker"]), batch["past_values"].shape[1], horizon=horizon, samples=samples)
    paths, calibrated = pipe.sample(batch, **settings), pipe.calibration(calibration, horizon)
    paths = paths if calibrated is None else calibrated(paths)
    keys = frame[frame["ticker"].isin(tickers)]
    table = portfolio_table(keys, paths[rows], held, np.asarray(batch["loading"])[rows])
    table.attrs["skipped"] = {**batch["skipped"], **left_out}
    return frame, table


def together(batch: Any, *, strict: bool = False) -> tuple[list[int], dict[str, str]]:
    """The rows of the origin that most tickers share (of several the last), and why the other tickers are left out.

    Raises:
        ValueError: they are fewer than two or, if `strict`, not all.
    """
    counts = Counter(batch["origin"])
    origin = max(counts, key=lambda one: (counts[one], one))
    rows = [row for row, one in enumerate(batch["origin"]) if one == origin]
    left_out = {
        ticker: f"{ticker}: its last bar is of {_short(one)}, that of the others of {_short(origin)}: choose a date "
        "that they share with --as-of"
        for ticker, one in zip(batch["ticker"], batch["origin"], strict=True)
        if one != origin
    }
    if left_out and (strict or len(rows) < 2):
        raise ValueError(next(iter(left_out.values())))
    if len(rows) < 2:
        raise ValueError(f"{batch['ticker'][0]} is alone: a joint forecast needs two tickers or more")
    for reason in left_out.values():
        logger.warning(f"{reason}; it is left out of the joint forecast")
    return rows, left_out


def _short(time: pd.Timestamp) -> str:
    return str(time).removesuffix(" 00:00:00")


def weights_of(weights: Mapping[str, float] | None, tickers: Sequence[str], absent: Mapping[str, str]) -> np.ndarray:
    """Weights `[A]` of these tickers, with a sum of 1; `absent` says why another ticker is not among them.

    >>> weights_of({"A": 0.33, "C": 0.67}, ["A", "B", "C"], {}).tolist(), weights_of(None, ["A", "B"], {}).tolist()
    ([0.33, 0.0, 0.67], [0.5, 0.5])
    """
    if weights is None:
        return np.full(len(tickers), 1 / len(tickers))
    for ticker in weights:
        if ticker not in tickers:
            told = absent.get(ticker, f"there is no {ticker} among {', '.join(tickers[:10])}")
            raise ValueError(f"weights: {told}; give it no weight")
    values = np.array([weights.get(ticker, 0.0) for ticker in tickers], dtype=float)
    if not np.isfinite(values).all() or abs(values.sum() - 1) > SUM_WITHIN:
        raise ValueError(f"weights: their sum is {values.sum():g}, and must be 1: give shares, as 0.5 for a half")
    return values / values.sum()


def portfolio_table(keys: pd.DataFrame, paths: np.ndarray, weights: np.ndarray, loading: np.ndarray) -> pd.DataFrame:
    """One row per step of the portfolio, then of every ticker, in simple returns from the origin.

    `keys` has `ticker, origin, step, timestamp` of joint paths `[A,K,P]` of cumulative log returns, in their order.

    Columns: these, weight, loading (of the common factor; 1 and NaN for the portfolio), mean, quantiles, p_loss,
    var_95, es_95, var_99, es_99, and of tickers p_best and p_top_fifth (NaN for fewer than five).
    """
    num_tickers, _, num_steps = paths.shape
    returns = np.expm1(paths)
    whole = np.concatenate([np.einsum("a,akp->kp", weights, returns)[None], returns])  # [1+A,K,P]
    own = keys[["ticker", "origin", "step", "timestamp"]]
    last = own.groupby("step", sort=True)["timestamp"].max()
    first = own.iloc[:num_steps].assign(ticker=PORTFOLIO, timestamp=last.to_numpy())
    table = pd.concat([first, own], ignore_index=True)
    table["weight"] = np.repeat([1.0, *weights], num_steps)
    table["loading"] = np.repeat([np.nan, *loading], num_steps)
    for name, values in risk(whole.transpose(0, 2, 1).reshape(-1, paths.shape[1])).items():
        table[name] = values
    best, top = np.full((2, 1 + num_tickers, num_steps), np.nan)
    for p in range(num_steps):
        best[1:, p] = share_best(returns[..., p])
        if num_tickers >= QUINTILES:
            top[1:, p] = quintiles(returns[..., p])[:, -1]
    return table.assign(p_best=best.ravel(), p_top_fifth=top.ravel())


def risk(returns: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, quantiles, P(loss), VaR and ES of laws given by samples `[n,K]`, `[n]` each; a tie with 0 counts half."""
    ordered = np.sort(returns, axis=1)
    found = {"mean": returns.mean(axis=1)}
    for level, values in zip(FORECAST_QUANTILES, _quantiles(ordered, FORECAST_QUANTILES), strict=True):
        found[quantile_column(level)] = values
    found["p_loss"] = (returns < 0).mean(axis=1) + 0.5 * (returns == 0).mean(axis=1)
    for percent, share in TAILS.items():
        found[f"var_{percent}"] = -_quantiles(ordered, [share])[0]
        found[f"es_{percent}"] = expected_shortfall(ordered, share)
    return found


def _quantiles(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    return np.quantile(values, levels, axis=1, method="weibull")


def expected_shortfall(ordered: np.ndarray, share: float) -> np.ndarray:
    """Mean loss of the worst `share` of samples `[n,K]` in rising order, `[n]`; the last of them counts in part.

    >>> expected_shortfall(np.array([[-3.0, -1.0, 0.0, 2.0]]), 0.5).tolist()
    [2.0]
    """
    wanted = share * ordered.shape[1]
    part = np.clip(wanted - np.arange(ordered.shape[1]), 0, 1)
    return -(ordered @ (part / wanted))


def share_best(returns: np.ndarray) -> np.ndarray:
    """Share of the paths in which each ticker of `[A,K]` returns the most, `[A]`; those that tie share one."""
    best = returns == returns.max(axis=0)
    return (best / best.sum(axis=0)).mean(axis=1)
