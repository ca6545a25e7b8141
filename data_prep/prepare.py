"""A dataset on disk: cleaned bars with their scaled features and return tokens, one parquet shard per ticker.

Design choices:
- A shard holds what training reads, and the bars themselves: the folder alone is enough to train and to score.
- The processor is fitted on training dates only, before any shard is written, and lies in `processor/`.
- One ticker at a time: features of all tickers are never in memory together. Scalers and bins are fitted on at most
  `FIT_BARS` bars, of tickers chosen by the seed.
- Each shard carries a key of its bars and of the processor. A shard with the right key is kept, so an interrupted run
  goes on where it stopped, and several processes write the same bytes as one.
- `dataset.json` is written last: a folder without it is unfinished.

A window is any `context_length` rows of one shard in a row; `windows.py` cuts them when they are read, so a bar is
stored once and not once per window.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from ..processing_tsf_llm import EncodedSeries, TsfLlmProcessor, day_end
from .clean import clean_bars, policy_table
from .files import write_json, write_parquet, write_text
from .raw import read_raw
from .sources import COLUMNS, PRICES
from .windows import Split, WindowDataset

FORMAT = 1
FIT_BARS = 500_000  # 64 features of as many bars take 256 MB
KEY = b"tsf_llm_key"


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: what `load_prepared` finds in its folder."""

    folder: Path
    info: dict[str, Any]  # dataset.json
    processor: TsfLlmProcessor

    @property
    def split(self) -> Split:
        return Split(*(pd.Timestamp(self.info["split"][name]) for name in ("train_through", "valid_through")))

    def shards(self) -> Iterator[pa.Table]:
        for ticker in self.info["tickers"]:
            yield pq.read_table(shard_path(self.folder, ticker), memory_map=True)

    def bars(self) -> pd.DataFrame:
        """The cleaned bars of all tickers."""
        return pd.concat([shard.select(COLUMNS).to_pandas() for shard in self.shards()], ignore_index=True)

    def series(self) -> list[EncodedSeries]:
        """The stored arrays, equal to encoding the bars again."""
        return [_series_of(shard) for shard in self.shards()]


def is_prepared(source: str | Path | list) -> bool:
    return isinstance(source, str | Path) and (Path(source) / "dataset.json").is_file()


def load_prepared(folder: str | Path) -> Prepared:
    """Raises ValueError for a folder without `dataset.json`, or with one of another format."""
    folder = Path(folder)
    if not is_prepared(folder):
        raise ValueError(f"{folder} has no dataset.json: it is no prepared dataset, or an unfinished one")
    info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    if info.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {info.get('format')}, this version reads {FORMAT}: prepare it again")
    return Prepared(folder, info, TsfLlmProcessor.from_pretrained(folder / "processor"))


def prepare(
    source: str | Path | list,
    out: str | Path,
    *,
    processor: TsfLlmProcessor,
    horizon: int,
    tickers: Sequence[str] | None = None,
    train_through: Any = None,
    valid_through: Any = None,
    seed: int = 0,
    num_proc: int = 1,
) -> dict[str, Any]:
    """Cleans, fits and encodes `source` into the folder `out`; returns what `dataset.json` holds.

    `processor` says which features, scaling and bins; it is fitted here. `num_proc` processes encode, one fits.

    Raises:
        ValueError: for a source, dates or sizes that leave nothing to train on; with the reason.
    """
    out = Path(out)
    for part in source if isinstance(source, list | tuple) else [source]:
        if Path(part).is_dir() and out.resolve().is_relative_to(Path(part).resolve()):
            raise ValueError(
                f"{out} lies in {part}, which is read: a second run would read it too; name another folder"
            )
    bars, report = clean_bars(read_raw(source, tickers))
    split = Split.of(bars, train_through, valid_through)
    names = list(bars["ticker"].unique())
    fitted_on = _tickers_to_fit(bars, split, seed)
    processor.fit(bars[bars["ticker"].isin(fitted_on)], through=split.train_through)
    (out / "dataset.json").unlink(missing_ok=True)
    write_json(report, out / "cleaning.json")
    _save_processor(processor, out / "processor")
    jobs = _write_bars(bars, out, names)
    del bars
    state = [processor.feature_extractor.to_dict(), processor.tokenizer.init_kwargs, _versions(), FORMAT]
    settings = hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()
    results = _run(jobs, (out, settings, split, horizon), num_proc)
    written = {name: one for name, one in results.items() if "skipped" not in one}
    if not written:
        raise ValueError(f"no ticker can be encoded: {'; '.join(one['skipped'] for one in results.values())}")
    for path in (out / "data").glob("*.parquet"):
        if path not in {shard_path(out, name) for name in written}:
            path.unlink()  # of an earlier run on other tickers
    shutil.rmtree(out / ".bars")
    info = {
        "format": FORMAT,
        "split": {"train_through": str(split.train_through), "valid_through": str(split.valid_through)},
        "horizon": horizon,
        "embargo": horizon,
        "context_length": processor.feature_extractor.context_length,
        "features": processor.feature_extractor.names,
        "fitted_through": processor.fitted_through,
        "fitted_on": fitted_on,
        "counts": {
            part: {unit: sum(one[part][unit] for one in written.values()) for unit in ("bars", "windows")}
            for part in ("train", "valid", "test")
        },
        "tickers": written,
        "skipped": {name: one["skipped"] for name, one in results.items() if "skipped" in one},
        "seed": seed,
        "versions": _versions(),
    }
    write_text(_card(info, report), out / "README.md")
    write_json(info, out / "dataset.json")
    return info


def shard_path(folder: Path, ticker: str) -> Path:
    """`data/AAPL.parquet`; what a file name cannot hold is percent-encoded, what is long ends in a hash."""
    name = quote(ticker, safe="^=").replace(".", "%2E")
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(ticker.encode()).hexdigest()[:16]}"
    return folder / "data" / f"{name}.parquet"


def _tickers_to_fit(bars: pd.DataFrame, split: Split, seed: int) -> list[str]:
    """All, or a random choice whose training bars are no more than `FIT_BARS`; in order of appearance."""
    sizes = bars[bars["timestamp"] <= day_end(split.train_through)].groupby("ticker", sort=False).size()
    order = np.random.default_rng(seed).permutation(len(sizes))
    fits = np.cumsum(sizes.to_numpy()[order]) <= FIT_BARS
    fits[:1] = True
    return list(sizes.index[np.sort(order[fits])])


def _write_bars(bars: pd.DataFrame, out: Path, names: list[str]) -> list[tuple[str, Path]]:
    """Each ticker's cleaned bars to a file of its own, so that a worker need not hold the others'."""
    jobs = [(name, out / ".bars" / shard_path(out, name).name) for name in names]
    groups = dict(iter(bars.groupby("ticker", sort=False)))
    for name, path in jobs:
        write_parquet(groups[name], path)
    return jobs


def _save_processor(processor: TsfLlmProcessor, folder: Path) -> None:
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    processor.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)


def _run(
    jobs: list[tuple[str, Path]], common: tuple[Path, str, Split, int], num_proc: int
) -> dict[str, dict[str, Any]]:
    """Fresh processes, not forks: torch's threads do not survive a fork."""
    if num_proc == 1:
        processor = TsfLlmProcessor.from_pretrained(common[0] / "processor")
        return {name: _encode_shard(name, path, processor, *common) for name, path in jobs}
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn")) as pool:
        futures = {name: pool.submit(_encode_job, name, path, *common) for name, path in jobs}
        return {name: future.result() for name, future in futures.items()}


def _encode_job(name: str, path: Path, out: Path, *common: Any) -> dict[str, Any]:
    return _encode_shard(name, path, TsfLlmProcessor.from_pretrained(out / "processor"), out, *common)


def _encode_shard(
    name: str, path: Path, processor: TsfLlmProcessor, out: Path, settings: str, split: Split, horizon: int
) -> dict[str, Any]:
    """Writes a ticker's shard unless it is there already; counts its bars and windows by split."""
    key = hashlib.sha256(settings.encode() + path.read_bytes()).hexdigest().encode()
    shard = shard_path(out, name)
    if _key_of(shard) != key:
        bars = pd.read_parquet(path)
        try:
            [series] = processor.feature_extractor.encode(bars)
        except ValueError as error:  # too short, or of another frequency
            return {"skipped": str(error)}
        write_parquet(_table_of(bars, series, processor, key), shard)
    series = _series_of(pq.read_table(shard, memory_map=True))
    fences = {
        "train": (None, split.train_through),
        "valid": (split.train_through, split.valid_through),
        "test": (split.valid_through, None),
    }
    counts: dict[str, Any] = {"file": f"data/{shard.name}"}
    for part, (after, through) in fences.items():
        window = WindowDataset(
            processor,
            [series],
            objective="causal_lm",
            horizon=horizon,
            after=after,
            through=through,
            embargo=0 if after is None else horizon,
        )
        stamps = pd.Series(series.timestamp)
        inside = (stamps > (after or pd.Timestamp.min)) & (stamps <= (through or pd.Timestamp.max))
        counts[part] = {"bars": int((inside & series.observed).sum()), "windows": len(window)}
    return counts


def _key_of(shard: Path) -> bytes | None:
    try:
        return (pq.read_schema(shard).metadata or {}).get(KEY)
    except (OSError, pa.ArrowInvalid):
        return None


def _table_of(bars: pd.DataFrame, series: EncodedSeries, processor: TsfLlmProcessor, key: bytes) -> pa.Table:
    features = pa.FixedSizeListArray.from_arrays(pa.array(series.features.ravel()), series.features.shape[1])
    tokens = processor.tokenizer.encode_returns(series.standard_return())
    columns = {
        "timestamp": pa.array(series.timestamp.astype("datetime64[us]")),
        "ticker": pa.array([series.ticker] * len(bars), pa.string()),
        **{name: pa.array(bars[name].to_numpy()) for name in [*PRICES, "volume"]},
        "features": features,
        "observed": pa.array(series.observed),
        "log_return": pa.array(series.log_return),
        "sigma": pa.array(series.sigma),
        "token": pa.array(tokens.astype(np.int32)),
    }
    return pa.table(columns).replace_schema_metadata({KEY: key})


def _series_of(shard: pa.Table) -> EncodedSeries:
    def array(name: str) -> np.ndarray:
        return shard[name].combine_chunks().to_numpy(zero_copy_only=False)

    features = shard["features"].combine_chunks()
    return EncodedSeries(
        ticker=shard["ticker"][0].as_py(),
        timestamp=array("timestamp").astype("datetime64[ns]"),
        features=features.flatten().to_numpy().reshape(len(shard), features.type.list_size),
        observed=array("observed"),
        close=array("close"),
        log_return=array("log_return"),
        sigma=array("sigma"),
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("tsf-llm", "numpy", "pandas")}


def _card(info: dict[str, Any], report: dict[str, Any]) -> str:
    """The dataset card: metadata that the Hub reads, then what is in the folder and how it came about."""
    total = sum(one["bars"] for one in info["counts"].values())
    sizes = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7, "10M<n<100M": 1e8}
    metadata = DatasetCardData(
        pretty_name="Market bars prepared for TSF-LLM",
        tags=["time-series", "finance", "tsf-llm"],
        task_categories=["time-series-forecasting"],
        size_categories=[next((name for name, most in sizes.items() if total < most), "100M<n<1B")],
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    counts = [f"| {part} | {one['bars']:,} | {one['windows']:,} |" for part, one in info["counts"].items()]
    found = [
        f"| `{name}` | {one['policy']} | {one['rows']:,} |" for name, one in report["rules"].items() if one["rows"]
    ]
    skipped = [f"* {reason}" for reason in info["skipped"].values()] or ["None."]
    lines = [
        f"---\n{metadata.to_yaml()}\n---\n",
        "# Market bars prepared for TSF-LLM\n",
        f"{total:,} bars of {len(info['tickers'])} tickers, one parquet file each, written by `tsf-llm prepare`.\n",
        "```python",
        "from datasets import load_dataset",
        'bars = load_dataset("parquet", data_files="data/*.parquet", split="train")  # all dates, memory-mapped',
        "```\n",
        "| column | what |",
        "| --- | --- |",
        "| `timestamp`, `ticker` | when and whose |",
        "| `open`, `high`, `low`, `close`, `volume` | the cleaned bar; NaN for a missing one |",
        f"| `features` | {len(info['features'])} scaled features, 0 where unknown; names in `dataset.json` |",
        "| `observed` | false for a missing bar |",
        "| `log_return`, `sigma` | the bar's log return, and the volatility known after it |",
        "| `token` | bin of `log_return` over the `sigma` before; -100 where unknown |\n",
        "## Splits\n",
        f"By date, never at random: training through {info['split']['train_through']}, validation through "
        f"{info['split']['valid_through']}, test after. {info['embargo']} bars lie between a fence and the first "
        f"label behind it. Scalers and return bins were fitted through {info['fitted_through']}. A window is an "
        f"observed bar of known volatility with {info['horizon']} bars ahead of it.\n",
        "| split | bars | windows |",
        "| --- | --- | --- |",
        *counts,
        "\n## Cleaning\n",
        f"{report['rows_in']:,} rows = {report['bars']:,} bars + {report['missing_bars']:,} missing bars + "
        f"{report['rows_dropped']:,} dropped rows; every case is in `cleaning.json`.\n",
        "| rule | policy | rows |",
        "| --- | --- | --- |",
        *(found or ["| none | | 0 |"]),
        "\nThe rules:\n",
        policy_table(),
        "\n## Skipped tickers\n",
        *skipped,
        "\nSource, licence and permitted use are those of the prices that were given.\n",
    ]
    return "\n".join(lines)
