"""One backtest: what trading on a model's forecasts would have earned, `backtest.json` and its plot.

Design choices:
* Decided at the close of every N-th bar, traded at the next open, ended at the close of the last bar of the period:
  `positions.py` says what is held, `backtest.py` what becomes of it. No bar after the period is read.
* One step ahead the forecast is a causal model's exact law, further ahead that of its paths, as in the evaluation.
* Beside every rule stand the same trades without costs, buy and hold of all tickers, and random entries: its own
  weights at other dates and on other tickers, with costs.
* "Better" needs two things: a Sharpe ratio above that of buy and hold, with an interval that says so, and a deflated
  one that survives the number of strategies which the log of trials counts.

Shapes: D decisions, N tickers, T closes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from tqdm.auto import tqdm
from transformers.utils import logging

from ..bars_tsf_llm import OHLCV, day_end, day_start
from ..common.files import check_free, check_output, claim, write_json
from ..common.provenance import provenance
from ..common.tables import Table, number, with_interval
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from .backtest import Accounts, Prices, buy_and_hold, random_entries, trade
from .performance import bars_per_year, expected_best, performance, probabilistic_sharpe, sharpe_difference
from .plots import equity_curves
from .positions import NEEDS, RULES, THRESHOLDS, Outlook, possible_rules
from .trials import NAME, add_trials, read_trials
from .walk_forward import ORIGINS_AT_ONCE, step_laws

BY = "backtest"
FILES = ("backtest.json", "equity.png")
HOLD = "buy_and_hold"
SURE = 0.95  # what the deflated Sharpe ratio of a strategy that is called better must reach
DRAWS, DRAWS_AT_ONCE = 200, 50  # of random entries

logger = logging.get_logger(__name__)


def backtest_model(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    *,
    start: Any,
    end: Any,
    horizon: int,
    out: Path,
    weights: str,
    rules: str | Sequence[str] = "sign",
    every: int | None = None,
    cost_bp: float = 10.0,
    samples: int = 256,
    seed: int = 0,
    market: pd.DataFrame | None = None,
    strict: bool = False,
    trials_log: Path | None = None,
) -> dict[str, Any]:
    """Trades on forecasts `horizon` bars ahead over [start, end]; writes `backtest.json` and `equity.png`.

    Args:
        weights: a digest of the model's, which tells trials of one model from those of another.
        rules: names of `RULES`, or "all" that the model tells enough for.
        every: bars between decisions, by default the horizon.
        cost_bp: basis points of what is traded.
        trials_log: by default `trials.jsonl` beside the folder `out`.

    Tickers that cannot be forecast are skipped: `skipped` says why; with `strict` they are refused.

    Raises:
        ValueError: a plain series, a rule that the model cannot serve, a period without bars, a log that is none.
    """
    extractor = pipe.processor.feature_extractor
    if extractor.series_kind is not OHLCV:
        raise ValueError("a plain series has no open to trade at: backtest a model of price bars")
    if not 0 <= cost_bp < 1e4:
        raise ValueError(f"cost_bp={cost_bp:g}: give basis points of what is traded, from 0 to less than 10,000")
    every, log = every or horizon, trials_log or out.parent / NAME
    names = _rules(pipe, rules)
    check_free(out, FILES, by=BY)
    check_output(log, ".jsonl")
    read_trials(log)
    panel = extractor.check_known(bars, strict=strict)
    series = pipe.processor.encode(panel, as_of=end, market=market)
    for one in series:
        if not len(one.origins(start, end)):
            panel.skip(one.ticker, f"{one.ticker}: no bar from {start} to {end} that a forecast can be made from")
    panel.settle()
    series = [one for one in series if one.ticker in panel]
    prices, decided = _period({one.ticker: panel[one.ticker] for one in series}, series, start, end, every)
    law = forecast_law(pipe, series, prices.times[decided], horizon=horizon, samples=samples, seed=seed)
    held = {name: RULES[name](law) for name in names}
    hold = buy_and_hold(prices, decided)
    # every rule with costs, then each without, then buy and hold
    stacked = np.stack([*held.values(), *held.values(), hold])
    rates = np.array([cost_bp] * len(names) + [0.0] * len(names) + [cost_bp])
    last = len(prices.times) - 1
    accounts = trade(prices, decided, stacked, rates, last=last)
    settings = {
        "weights": weights,
        "bars": _digest(prices),
        "start": str(start),
        "end": str(end),
        "horizon": horizon,
        "every": every,
        "cost_bp": cost_bp,
        "samples": samples,
        "seed": seed,
    }
    rows = {name: performance(accounts, k, seed) for k, name in enumerate(names)}
    rows[HOLD] = performance(accounts, len(names) * 2, seed)
    tried = [{"settings": {**settings, "rule": name}, "sharpe": rows[name]["sharpe"]} for name in names]
    add_trials(log, tried)
    trials = [*read_trials(log).values()]
    band: np.ndarray | None = None
    for k, name in enumerate(names):
        chance = _random(prices, decided, held[name], cost_bp, last, seed)
        band = np.quantile(chance, [0.05, 0.95], axis=0) if band is None else band
        gross = performance(accounts, len(names) + k, seed)
        rows[name] |= {f"gross_{key}": gross[key] for key in ("total_return", "cagr", "sharpe")}
        rows[name] |= _beside(accounts, k, len(names) * 2, chance, trials, seed)
    cutoff = pipe.model.config.trained_through
    first = pd.Timestamp(prices.times[decided[0]])
    unseen = None if cutoff is None else bool(first > day_end(cutoff))
    if unseen is False:
        logger.warning(f"not out of sample: the model has seen prices through {cutoff}, and trades from {first}")
    verdicts = {name: verdict(rows[name], rows[HOLD], len(trials)) for name in names}
    results = {
        "strategies": rows,
        "verdicts": verdicts,
        **{**settings, "start": str(first.date()), "end": str(pd.Timestamp(prices.times[-1]).date())},
        "decisions": len(decided),
        "bars_per_year": bars_per_year(accounts.times),
        "trials": len(trials),
        "trials_log": str(log),
        "random_entries": DRAWS,
        "tickers": [one.ticker for one in series],
        "skipped": panel.skipped,
        "trained_through": cutoff,
        "out_of_sample": unseen,
        **provenance(BY),
    }
    claim(out, FILES, by=BY)
    write_json(results, out / "backtest.json")
    curves = {name: accounts.equity[k] for k, name in enumerate(names)} | {HOLD: accounts.equity[-1]}
    note = f"{len(series)} ticker(s), decided on every {every} bar(s), {cost_bp:g} basis points of what is traded"
    equity_curves(accounts.times, curves, out / "equity.png", band=band, note=note)
    return results


def forecast_law(
    pipe: TsfLlmPipeline,
    series: Sequence[EncodedSeries],
    times: np.ndarray,
    *,
    horizon: int,
    samples: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> Outlook:
    """What is forecast at each of the times `[D]` of each series; NaN where it has no bar, or no known volatility."""
    D, N = len(times), len(series)
    p_up, mean, std = np.full((3, D, N), np.nan)
    quantiles = np.full((D, N, len(THRESHOLDS)), np.nan)
    rows = [one.origins() for one in series]
    rows = [mine[np.isin(one.timestamp[mine], times)] for one, mine in zip(series, rows, strict=True)]
    chunks = [
        (k, mine[i : i + ORIGINS_AT_ONCE]) for k, mine in enumerate(rows) for i in range(0, len(mine), ORIGINS_AT_ONCE)
    ]
    if pipe.samples_paths and horizon > max(pipe.law_reach, 1):
        together = max(len(mine) for _, mine in chunks)
        context = pipe.processor.feature_extractor.context_length
        pipe.check_size(together, context, horizon=horizon, samples=samples)
    classes = _is_classes(pipe)
    for k, mine in tqdm(chunks, desc="forecasts", unit="chunk", disable=None if progress else True, leave=False):
        at = np.searchsorted(times, series[k].timestamp[mine])
        batch = pipe.processor.batch([(series[k], mine)])
        if classes:
            down_flat_up = pipe.predict_head(batch, horizon)[:, -1]
            p_up[at, k] = down_flat_up[:, 2] + down_flat_up[:, 1] / 2
            continue
        law = step_laws(pipe, batch, horizon, samples, seed)[0][-1]
        p_up[at, k], mean[at, k] = law.p_up, law.point
        std[at, k], quantiles[at, k] = np.sqrt(law.variance), law.quantile(THRESHOLDS)
    if classes:
        return Outlook(p_up)
    return Outlook(p_up, mean, std, quantiles) if pipe.samples_paths else Outlook(p_up, mean)


def verdict(row: Mapping[str, Any], hold: Mapping[str, Any], trials: int) -> str:
    """What the figures of a strategy say beside buy and hold, in plain words."""
    interval, deflated = row["sharpe_difference_ci95"], row["deflated_sharpe"]
    if interval is None or deflated is None:
        reason = "it never moved" if row["sharpe"] is None else "too few bars"
        return f"nothing to compare with buy and hold: {reason}"
    low, high = interval
    than = "better than" if low > 0 and deflated >= SURE else "worse than" if high < 0 else "no edge over"
    return (
        f"{than} buy and hold: Sharpe {row['sharpe']:.2f} against {hold['sharpe']:.2f}, difference "
        f"{row['sharpe_difference']:+.2f} [{low:+.2f}, {high:+.2f}]; deflated Sharpe {deflated:.2f} "
        f"over {trials} trial(s), {SURE:.2f} wanted"
    )


def print_backtest(results: Mapping[str, Any]) -> None:
    """The figures that matter most, and the verdicts."""
    columns = {
        "": lambda row: row["name"],
        "return": lambda row: number(row["total_return"], "+.1%"),
        "gross": lambda row: number(row.get("gross_total_return"), "+.1%"),
        "Sharpe [95 % CI]": lambda row: with_interval(row, "sharpe", ".2f"),
        "max fall": lambda row: number(row["max_drawdown"], ".1%"),
        "turnover": lambda row: number(row["turnover"], ".1f"),
        "random": lambda row: number(row.get("random_percentile"), ".0f"),
    }
    table = Table.of([{"name": name, **row} for name, row in results["strategies"].items()], columns)
    console = Console()
    title = f"{results['start']} to {results['end']}, {len(results['tickers'])} ticker(s)"
    caption = "returns after costs; gross: without; turnover a year; random: percentile among random entries"
    look = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}
    console.print(table.terminal(title=title, caption=caption, **look))
    for name, words in results["verdicts"].items():
        console.print(f"{name}: {words}", highlight=False)
    if results["out_of_sample"] is None:
        console.print("Whether this is out of sample is unknown: the model does not say which dates it has seen.")


def _is_classes(pipe: TsfLlmPipeline) -> bool:
    return not pipe.model.can_generate() and pipe.model.config.prediction_type == "classification"


def _rules(pipe: TsfLlmPipeline, wanted: str | Sequence[str]) -> list[str]:
    """Raises ValueError for a rule that does not exist, or that needs more than the model tells."""
    number_known = None if _is_classes(pipe) else np.empty((0, 0))
    spread_known = number_known if pipe.samples_paths else None
    possible = possible_rules(Outlook(np.empty((0, 0)), number_known, spread_known, spread_known))
    if wanted == "all":
        return possible
    names = [*dict.fromkeys(wanted.split(",") if isinstance(wanted, str) else wanted)]
    if unknown := [name for name in names if name not in RULES]:
        raise ValueError(f"no rule {', '.join(unknown) or repr(wanted)}: choose from {', '.join(RULES)}, or all")
    if impossible := [name for name in names if name not in possible]:
        needs = ", ".join(NEEDS[impossible[0]])
        raise ValueError(
            f"rule {impossible[0]} needs {needs}, which this model does not tell: choose from {', '.join(possible)}"
        )
    return names


def _period(
    panel: Mapping[str, pd.DataFrame], series: Sequence[EncodedSeries], start: Any, end: Any, every: int
) -> tuple[Prices, np.ndarray]:
    """Prices up to the end, and the rows at whose closes is decided: from the first forecast on, before the last."""
    prices = Prices.of(panel)
    inside = prices.times <= day_end(end, prices.times).to_datetime64()
    inside &= prices.times >= day_start(start, prices.times).to_datetime64()
    prices = prices.part(0, int(np.flatnonzero(inside)[-1]))
    ready = np.concatenate([one.timestamp[one.origins(start, end)] for one in series])
    first = int(np.searchsorted(prices.times, ready.min()))
    decided = np.arange(first, len(prices.times) - 1, every)
    if not len(decided):
        raise ValueError(
            f"no bar between {start} and {end} comes after a forecast: a position needs a next open, so give a "
            "longer period"
        )
    return prices, decided


def _random(
    prices: Prices, decided: np.ndarray, weights: np.ndarray, cost_bp: float, last: int, seed: int
) -> np.ndarray:
    """Equity of random entries with the strategy's exposure, `[DRAWS,T]`, some of them at a time."""
    seeds = range(seed, seed + DRAWS // DRAWS_AT_ONCE)
    drawn = (random_entries(weights, DRAWS_AT_ONCE, one) for one in seeds)
    return np.concatenate([trade(prices, decided, one, cost_bp, last=last).equity for one in drawn])


def _beside(
    accounts: Accounts, which: int, hold: int, chance: np.ndarray, trials: Sequence[float], seed: int
) -> dict[str, Any]:
    """A strategy beside buy and hold, random entries and what else was tried, whose ratios are per year."""
    returns, root = accounts.returns[which], np.sqrt(bars_per_year(accounts.times))
    gap, interval = sharpe_difference(returns, accounts.returns[hold], accounts.times[1:], seed)
    ended, ours = chance[:, -1].round(9), accounts.equity[which, -1].round(9)
    return {
        "sharpe_difference": None if gap is None else float(gap * root),
        "sharpe_difference_ci95": None if interval is None else [float(bound * root) for bound in interval],
        "deflated_sharpe": probabilistic_sharpe(returns, expected_best(trials) / root),
        "random_percentile": float(100 * ((ended < ours).mean() + (ended == ours).mean() / 2)),
        "random_total_return": [float(end - 1) for end in np.quantile(ended, [0.05, 0.5, 0.95])],
    }


def _digest(prices: Prices) -> str:
    """Of the bars of the period and before it."""
    total = hashlib.blake2b(repr(prices.tickers).encode(), digest_size=16)
    for part in (prices.times.astype("datetime64[ns]"), prices.open, prices.close):
        total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()
