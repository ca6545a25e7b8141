"""Preference pairs: of the paths that a causal LM samples from a past day, in hindsight the best and the worst.

Design choices:
- Training dates only. Bars after the fence are cut off before anything is computed; so is an origin whose outcome
  would lie behind it. The fence is the earlier of what the processor and the weights have seen, or an earlier date.
  In Python a later `fence` can be named, for pairs that judge a model and never train one.
- A utility is a pure function of paths, outcome and sigma. It judges a path by what happened, so it is hindsight: fit
  for choosing what to train on, never a score of the model.
- Pairs are written chunk by chunk: neither windows nor paths of all origins are ever in memory together.
- The same model, bars and settings give the same bytes. `preferences.json` is written last: a folder without it is
  unfinished.

Shapes: B origins, T bars, F features, K sampled paths, P steps.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm
from transformers.utils import logging

from ..bars_tsf_llm import OHLCV, bars_through, day_end
from ..common.files import check_free, claim, remove, replace_file, write_json
from ..common.parser import option
from ..evaluation.profit import profit
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import ROWS_AT_ONCE, TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor
from ..training.arguments import check_dates, check_least
from ..training.data import TrainingData
from ..training.models import digest

logger = logging.get_logger(__name__)
FORMAT = 1
FILES = ("preferences.parquet", "preferences.json", "preferences.jsonl")
BY = "build_preferences"
TICKERS_AT_ONCE = 16  # encoded together
UTILITIES = ("crps", "pnl", "drawdown")
NESTED = pa.list_(pa.list_(pa.float32()))
SCHEMA = pa.schema(
    {
        "ticker": pa.string(),
        "origin": pa.timestamp("ns"),
        "past_values": NESTED,  # [T,F], scaled, left-padded with zeros
        "attention_mask": pa.list_(pa.int64()),  # [T], 0 where padded or missing
        "chosen_ids": pa.list_(pa.int64()),  # [P] return tokens
        "rejected_ids": pa.list_(pa.int64()),
        "sigma": pa.float64(),  # known at the origin
        "last_close": pa.float64(),
        "utilities": pa.list_(pa.float64()),  # [K], of all sampled paths
        "margin": pa.float64(),  # utility of the chosen minus that of the rejected path
    }
)


@dataclass(frozen=True)
class PairArguments:
    """How pairs are made."""

    _argument_group_name = "pairs"

    utility: str = option("crps", f"what a good path is: {', '.join(UTILITIES)}")
    horizon: int | None = option(None, "steps of a path; by default the model's")
    samples: int = option(16, "paths sampled from each origin, K")
    stride: int | None = option(None, "bars between origins; by default the horizon")
    min_margin: float = option(0.0, "least utility between chosen and rejected")
    cost_bp: float = option(5.0, "pnl, drawdown: basis points per unit of turnover")
    drawdown_weight: float = option(1.0, "drawdown: its weight against the pnl")
    start: str | None = option(None, "first origin")
    through: str | None = option(None, "last outcome; by default the training fence")
    seed: int = option(0, "seed of the sampled paths")

    def __post_init__(self) -> None:
        if self.utility not in UTILITIES:
            raise ValueError(f"utility={self.utility!r}: choose one of {', '.join(UTILITIES)}")
        if self.samples < 2:
            raise ValueError(f"samples={self.samples}: a pair needs 2 paths or more")
        check_least(self, 1, "horizon", "stride")
        check_least(self, 0, "min_margin", "cost_bp", "drawdown_weight", "seed")
        check_dates(self, "start", "through")


@dataclass
class UtilityArguments:
    """What a path earns, and how many of them make a pair."""

    cost_bp: float = option(PairArguments.cost_bp, "basis points per unit of turnover, in training and in the report")
    drawdown_weight: float = option(PairArguments.drawdown_weight, "drawdown: its weight against the profit")
    pair_samples: int = option(PairArguments.samples, "built pairs: paths per origin")

    def __post_init__(self) -> None:
        self.settings()

    def settings(self, **more: Any) -> PairArguments:
        """What `build_preferences` takes. Raises a `ValueError` for values that cannot be."""
        return PairArguments(
            cost_bp=self.cost_bp, drawdown_weight=self.drawdown_weight, samples=self.pair_samples, **more
        )


# --- utilities -----------------------------------------------------------------------------------------------------


def nearness(paths_BKP: np.ndarray, realised_BP: np.ndarray, sigma_B: np.ndarray) -> np.ndarray:
    """-mean_p |x[k,p] - y[p]| / sigma, `[B,K]`: a path's own term of the CRPS (energy score), averaged over steps.

    CRPS = E|X - y| - E|X - X'| / 2. Only the first term belongs to one path; the second is about how far paths spread.

    >>> nearness(np.array([[[0.01, 0.03], [0.0, 0.0]]]), np.array([[0.01, 0.01]]), np.array([0.01])).round(3).tolist()
    [[-1.0, -1.0]]
    """
    errors_BKP = np.abs(paths_BKP - realised_BP[:, None])
    return -errors_BKP.mean(axis=-1) / sigma_B[:, None]


def positions(paths_BKP: np.ndarray) -> np.ndarray:
    """What a path says to hold until its end, `[B,K]`: 1 long, -1 short, 0 nothing; the sign of its last value."""
    return np.sign(paths_BKP[..., -1])


def max_drawdown(position_BK: np.ndarray, realised_BP: np.ndarray) -> np.ndarray:
    """max over q <= p of e[q] - e[p], `[B,K]`; e[p] = position * (exp(y[p]) - 1) is the gain before costs, e[0] = 0.

    >>> max_drawdown(np.array([[1.0, -1.0, 0.0]]), np.log([[1.1, 0.9, 1.0]])).round(6).tolist()
    [[0.2, 0.1, 0.0]]
    """
    gain_BKP = position_BK[..., None] * np.expm1(realised_BP)[:, None]
    gain_BKP = np.concatenate((np.zeros_like(gain_BKP[..., :1]), gain_BKP), axis=-1)
    return (np.maximum.accumulate(gain_BKP, axis=-1) - gain_BKP).max(axis=-1)


def utilities(
    pairs: PairArguments, *, paths_BKP: np.ndarray, realised_BP: np.ndarray, sigma_B: np.ndarray
) -> np.ndarray:
    """The named utility of every path, `[B,K]`; more is better. Paths and outcomes are cumulative log returns."""
    if pairs.utility == "crps":
        return nearness(paths_BKP, realised_BP, sigma_B)
    position_BK = positions(paths_BKP)
    profit_BK = profit(position_BK, realised_BP, pairs.cost_bp)
    if pairs.utility == "pnl":
        return profit_BK
    return profit_BK - pairs.drawdown_weight * max_drawdown(position_BK, realised_BP)


def best_and_worst(utilities_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of chosen and rejected paths and their margins, `[B]` each; of equal paths the first sampled.

    >>> [values.tolist() for values in best_and_worst(np.array([[1.0, 3.0, 0.0], [2.0, 2.0, 2.0]]))]
    [[1, 0], [2, 0], [3.0, 0.0]]
    """
    best_B, worst_B = utilities_BK.argmax(axis=1), utilities_BK.argmin(axis=1)
    return best_B, worst_B, utilities_BK.max(axis=1) - utilities_BK.min(axis=1)


# --- pairs ---------------------------------------------------------------------------------------------------------


def build_preferences(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    out: str | Path,
    pairs: PairArguments | None = None,
    *,
    market: pd.DataFrame | None = None,
    fence: Any = None,
    jsonl: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes `out/preferences.parquet`, on wish `.jsonl`, then `.json`, which it returns.

    `bars` and `market` are as `read_data` and `read_bars` give them. `fence` is the last date of an outcome; by
    default the end of training. Pairs behind that end are for judging alone.

    Raises:
        ValueError: no causal LM, a fence later than training's, a utility that is not for this kind of series, or no
            origin or pair to be had.
    """
    pairs, out = _checked(pipe, pairs or PairArguments(), fence), Path(out)
    check_free(out, FILES, by=BY, told_by=("preferences.json", "format", "settings", "counts"))
    processor = pipe.processor
    kind, covariates = processor.feature_extractor.series_kind, processor.feature_extractor.covariates
    frames = bars_through(bars, pairs.through, kind, covariates)
    named = {ticker: frame.assign(**{kind.id: ticker}) for ticker, frame in frames.items()}
    all_tickers = [str(name) for name in bars[kind.id].unique()] if kind.id in bars else list(frames)
    del frames
    if market is not None:
        market = market[market["timestamp"] <= day_end(pairs.through)]
    elif "universe" in processor.feature_extractor.market_parts:
        market = bars[bars["timestamp"] <= day_end(pairs.through)]
    remove(out, ["preferences.json", "preferences.jsonl"], by=BY)
    told: dict[str, Any] = {}
    path = out / "preferences.parquet"
    chunks = _chunks(pipe, named, pairs, market, progress)

    def write(unfinished: Path) -> None:
        told.update(_write_pairs(pipe, chunks, pairs, unfinished))
        claim(out, FILES, by=BY)  # a run without pairs leaves nothing

    replace_file(path, write)
    if jsonl:
        replace_file(out / "preferences.jsonl", lambda unfinished: _write_jsonl(path, processor, unfinished))
    info = {
        "format": FORMAT,
        "settings": asdict(pairs),
        "fitted_through": processor.fitted_through,
        "trained_through": pipe.model.config.trained_through,
        "context_length": processor.feature_extractor.context_length,
        "features": processor.feature_extractor.names,
        "n_bins": processor.tokenizer.n_bins,
        **told,
        "too_few_bars": [name for name in all_tickers if name not in named],
    }
    write_json(info, out / "preferences.json")
    return info


def _checked(pipe: TsfLlmPipeline, pairs: PairArguments, fence: Any = None) -> PairArguments:
    """The settings with all defaults filled in."""
    if not pipe.model.can_generate():
        raise ValueError("the model has a head for numbers and samples no paths: preference pairs need a causal LM")
    special = {pipe.processor.tokenizer.pad_token_id, pipe.processor.tokenizer.bar_token_id}
    if not special <= set(pipe.model.generation_config.suppress_tokens or ()):
        raise ValueError(f"the model may sample <pad> or <bar>: its generation_config.json must suppress {special}")
    if pairs.utility != "crps" and pipe.processor.feature_extractor.series_kind is not OHLCV:
        raise ValueError(f"utility={pairs.utility!r}: nobody holds a position in a plain series; use crps")
    seen = [date for date in (pipe.processor.fitted_through, pipe.model.config.trained_through) if date is not None]
    if not seen:
        raise ValueError("the processor is not fitted: train the model first, pairs are from its training dates")
    fence = min(seen, key=day_end) if fence is None else str(fence)
    through = fence if pairs.through is None else pairs.through
    if day_end(through) > day_end(fence):
        raise ValueError(
            f"through={through}: training ended with {fence}, and later days must stay unseen to test on; "
            "give that date or an earlier one"
        )
    horizon = pairs.horizon or pipe.reach
    return replace(pairs, horizon=horizon, stride=pairs.stride or horizon, through=through)


def _chunks(
    pipe: TsfLlmPipeline,
    frames: dict[str, pd.DataFrame],
    pairs: PairArguments,
    market: pd.DataFrame | None,
    progress: bool,
) -> Iterator[tuple[EncodedSeries, np.ndarray]]:
    """Encoded series with some of their origins, ticker by ticker."""
    at_once = max(1, ROWS_AT_ONCE // pairs.samples)
    names = list(frames)
    with tqdm(total=len(names), desc="preferences", unit="ticker", disable=None if progress else True) as bar:
        for i in range(0, len(names), TICKERS_AT_ONCE):
            group = [frames[name] for name in names[i : i + TICKERS_AT_ONCE]]
            for series in pipe.processor.feature_extractor.encode(group, market=market):
                rows = series.origins(pairs.start, horizon=pairs.horizon)[:: pairs.stride]  # the outcome is known
                for start in range(0, len(rows), at_once):
                    yield series, rows[start : start + at_once]
                bar.update()


def _write_pairs(
    pipe: TsfLlmPipeline, chunks: Iterator[tuple[EncodedSeries, np.ndarray]], pairs: PairArguments, path: Path
) -> dict[str, Any]:
    """The pairs of all chunks; what became of the origins."""
    counts, written = Counter({"origins": 0, "pairs": 0, "ties": 0, "below_margin": 0}), []
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for series, rows in chunks:
            table, margin_B = _pairs_of(pipe, series, rows, pairs)
            ties = int((margin_B == 0).sum())
            counts.update(origins=len(rows), pairs=len(table), ties=ties, below_margin=len(rows) - ties - len(table))
            if len(table):
                writer.write_table(table)
                written.append(table.select(["ticker", "origin", "margin"]).to_pandas())
    if not counts["origins"]:
        raise ValueError(
            f"no origin from {pairs.start or 'the first bar'} whose {pairs.horizon} step(s) end by {pairs.through}: "
            "give more history, an earlier start or a shorter horizon"
        )
    if not counts["pairs"]:
        raise ValueError(
            f"no pair left of {counts['origins']} origin(s): {counts['ties']} tie(s), "
            f"{counts['below_margin']} below min_margin={pairs.min_margin}; lower it or sample more paths"
        )
    kept = pd.concat(written)
    margins, levels = kept["margin"].to_numpy(), (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    quantiles = {f"q{round(100 * q):02d}": float(np.quantile(margins, q)) for q in levels}
    return {
        "counts": dict(counts),
        "margin": {"mean": float(np.mean(margins)), **quantiles},
        "first_origin": str(kept["origin"].min()),
        "last_origin": str(kept["origin"].max()),
        "pairs_by_ticker": kept["ticker"].value_counts(sort=False).to_dict(),
    }


def _pairs_of(
    pipe: TsfLlmPipeline, series: EncodedSeries, rows: np.ndarray, pairs: PairArguments
) -> tuple[pa.Table, np.ndarray]:
    """The pairs of some origins of one ticker, ties and small margins left out; and the margins of all, `[B]`."""
    assert pairs.horizon is not None
    processor = pipe.processor
    batch = processor.batch([(series, rows)])
    ids_BKP = pipe.sample_tokens(batch, horizon=pairs.horizon, samples=pairs.samples, seed=pairs.seed)
    if ids_BKP.max() >= processor.tokenizer.n_bins:
        raise ValueError("the model gives no finite probabilities of return tokens: its weights are broken")
    change = processor.feature_extractor.series_kind.change
    utilities_BK = utilities(
        pairs,
        paths_BKP=processor.path_returns(ids_BKP, batch),
        realised_BP=change(series.ahead(rows, pairs.horizon), series.close[rows, None]),
        sigma_B=series.sigma[rows],
    )
    best_B, worst_B, margin_B = best_and_worst(utilities_BK)
    kept = np.flatnonzero((margin_B > 0) & (margin_B >= pairs.min_margin))
    windows = processor.windows(series, rows[kept])
    columns = {
        "ticker": np.repeat(series.ticker, len(kept)).astype(object),
        "origin": series.timestamp[rows[kept]],
        "margin": margin_B[kept],
        "past_values": _nested(windows["past_values"]),
        "attention_mask": list(windows["attention_mask"]),
        "chosen_ids": list(ids_BKP[kept, best_B[kept]]),
        "rejected_ids": list(ids_BKP[kept, worst_B[kept]]),
        "sigma": series.sigma[rows[kept]],
        "last_close": series.close[rows[kept]],
        "utilities": list(utilities_BK[kept]),
    }
    return pa.table(columns, schema=SCHEMA), margin_B


def _nested(values_BTF: np.ndarray) -> pa.ListArray:
    """Lists of lists, without a Python object per number."""
    B, T, F = values_BTF.shape
    bars = pa.ListArray.from_arrays(np.arange(B * T + 1, dtype=np.int32) * F, pa.array(values_BTF.ravel()))
    return pa.ListArray.from_arrays(np.arange(B + 1, dtype=np.int32) * T, bars)


def _write_jsonl(source: Path, processor: TsfLlmProcessor, path: Path) -> None:
    """One pair per line: `prompt [1][T][F]` without padding, `chosen [P]` and `rejected [P]`, returns over sigma."""
    with path.open("w", encoding="utf-8") as file:
        for chunk in pq.ParquetFile(source).iter_batches(batch_size=64):
            for row in chunk.to_pylist():
                first = row["attention_mask"].index(1)
                line = {"prompt": [_short(row["past_values"][first:])]}
                for name in ("chosen", "rejected"):
                    line[name] = processor.tokenizer.decode_returns(np.array(row[f"{name}_ids"])).tolist()
                file.write(json.dumps(line) + "\n")


def _short(values: list[list[float]]) -> list[list[float]]:
    """The shortest decimals that are still the same float32 numbers."""
    return [[float(str(np.float32(value))) for value in bar] for bar in values]


def build(data: TrainingData, model: Any, folder: Path, settings: PairArguments, *, progress: bool = True) -> Path:
    """Pairs of `settings` in `folder`; finished ones of the same model, bars and settings are used again."""
    made_of = {"settings": asdict(settings), **fingerprints(data, model)}
    note = folder / "made_of.json"
    if note.is_file() and json.loads(note.read_text()) == made_of:
        logger.warning(f"{folder} is finished and used as it is")
        return folder
    check_free(folder, [note.name], by="dpo", told_by=(note.name, "settings", "weights", "bars"))
    remove(folder, [note.name], by="dpo")
    pipe = TsfLlmPipeline(model=model, processor=data.processor, device=model.device)
    build_preferences(pipe, data.bars, folder, settings, market=data.market, fence=settings.through, progress=progress)
    claim(folder, [note.name], by="dpo")
    write_json(made_of, note)
    return folder


def fingerprints(data: TrainingData, model: Any) -> dict[str, str]:
    """Digests of the weights, the processor and the bars."""
    processor = data.processor.feature_extractor.to_json_string() + json.dumps(data.processor.tokenizer.bin_edges)
    tables = [table for table in (data.bars, data.market) if table is not None]
    bars = b"".join(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes() for table in tables)
    return {
        "weights": digest(model),
        "processor": hashlib.sha256(processor.encode()).hexdigest(),
        "bars": hashlib.sha256(bars).hexdigest(),
    }
