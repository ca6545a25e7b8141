"""A dataset on disk: cleaned bars with their scaled features and return tokens, one parquet shard per ticker.

Design choices:
- A shard holds what training reads, and the bars themselves: the folder alone is enough to train and to score.
- The processor is fitted on training dates only, before any shard is written, and lies in `processor/`.
- One ticker at a time: features of all tickers are never in memory together. Scalers and bins are fitted on at most
  `FIT_BARS` bars, of tickers chosen by the seed.
- Each shard carries a key of its bars and of the processor. A shard with the right key is kept, so an interrupted run
  goes on where it stopped, and several processes write the same bytes as one.
- An engine only says where `_encode_job` runs: in processes of this machine, or as tasks of a Ray cluster. Results
  are files and counts, so a task whose worker died is run again and loses nothing.
- New days are added by running again: the folder keeps its fences, so the processor stays, and only tickers whose bars
  changed are encoded, each as a whole. Features are recursive and rolling sums: started at a later row they differ in
  their last bits, and a folder must not depend on how often it was renewed.
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
from typing import Any, Literal
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
FENCES = ".split.json"  # the dates of a finished folder while it is renewed
FITTED = {"center", "scale", "target_center", "target_scale", "bar_seconds", "fitted_through", "fitted_with_market"}
RETRIES = 3  # of a Ray task whose worker died


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
    refit: bool = False,
    seed: int = 0,
    num_proc: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Cleans, fits and encodes `source` into the folder `out`; returns what `dataset.json` holds.

    `processor` says which features, scaling and bins; it is fitted here. `num_proc` processes encode, one fits.
    A folder that was prepared before keeps its dates unless others are given or `refit` is true; what bars, dates and
    settings leave unchanged is not computed again, and the result is that of an empty folder and these dates.
    With `engine="ray"` they are tasks: of the cluster at `ray_address`, all of whose machines must see `out` under the
    same path, or of a cluster of `num_proc` workers that is started on this machine and stopped again.

    Raises:
        ValueError: for a source, dates or sizes that leave nothing to train on, or without Ray; with the reason.
    """
    _check_engine(engine, ray_address)
    out = Path(out)
    for part in source if isinstance(source, list | tuple) else [source]:
        if Path(part).is_dir() and out.resolve().is_relative_to(Path(part).resolve()):
            raise ValueError(
                f"{out} lies in {part}, which is read: a second run would read it too; name another folder"
            )
    bars, report = clean_bars(read_raw(source, tickers))
    split = _split(bars, out, train_through, valid_through, refit)
    names = list(bars["ticker"].unique())
    fitted_on = _tickers_to_fit(bars, split, seed)
    to_fit = bars[bars["ticker"].isin(fitted_on) & (bars["timestamp"] <= split.train_through)]
    fitted_from = _fit_key(to_fit, split, processor)
    is_fitted = _fitted_from(out) == fitted_from
    if is_prepared(out) or (out / FENCES).is_file():
        write_json({"split": _dates(split)}, out / FENCES)
    (out / "dataset.json").unlink(missing_ok=True)
    if is_fitted:
        _take_fit(processor, TsfLlmProcessor.from_pretrained(out / "processor"))
    else:
        _save_processor(processor.fit(to_fit, through=split.train_through), out / "processor")
    del to_fit
    write_json(report, out / "cleaning.json")
    jobs = _write_bars(bars, out, names)
    del bars
    settings = _hash(_versions(), FORMAT, *(path.read_bytes() for path in sorted((out / "processor").iterdir())))
    common = (out, settings, split, horizon)
    results = _run_on_ray(jobs, common, num_proc, ray_address) if engine == "ray" else _run(jobs, common, num_proc)
    written = {name: one for name, one in results.items() if "skipped" not in one}
    if not written:
        raise ValueError(f"no ticker can be encoded: {'; '.join(one['skipped'] for one in results.values())}")
    for path in [*(out / "data").glob("*.parquet"), *(out / "data").glob(".*.parquet.*")]:
        if path not in {shard_path(out, name) for name in written}:
            path.unlink()  # of an earlier run on other tickers, or what a killed worker left half written
    shutil.rmtree(out / ".bars")
    info = {
        "format": FORMAT,
        "split": _dates(split),
        "horizon": horizon,
        "embargo": horizon,
        "context_length": processor.feature_extractor.context_length,
        "features": processor.feature_extractor.names,
        "fitted_through": processor.fitted_through,
        "fitted_on": fitted_on,
        "fitted_from": fitted_from,
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
    (out / FENCES).unlink(missing_ok=True)
    return info


def shard_path(folder: Path, ticker: str) -> Path:
    """`data/AAPL.parquet`; what a file name cannot hold is percent-encoded, what is long ends in a hash."""
    name = quote(ticker, safe="^=").replace(".", "%2E")
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(ticker.encode()).hexdigest()[:16]}"
    return folder / "data" / f"{name}.parquet"


def _split(bars: pd.DataFrame, out: Path, train_through: Any, valid_through: Any, refit: bool) -> Split:
    """Each date as given, or as the folder has it, or by share."""
    earlier = next((path for path in (out / "dataset.json", out / FENCES) if path.is_file()), None)
    if earlier is None or refit or (train_through and valid_through):
        return Split.of(bars, train_through, valid_through)
    kept = json.loads(earlier.read_text(encoding="utf-8")).get("split", {})
    try:
        return Split.of(bars, train_through or kept.get("train_through"), valid_through or kept.get("valid_through"))
    except ValueError as error:
        raise ValueError(f"{error}; {out} keeps the dates it has: give both, or --refit to choose anew") from error


def _dates(split: Split) -> dict[str, str]:
    return {"train_through": str(split.train_through), "valid_through": str(split.valid_through)}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _fit_key(bars: pd.DataFrame, split: Split, processor: TsfLlmProcessor) -> str:
    """Of all that fitting reads: the bars through the fence, the fence, the settings and the code."""
    digest = hashlib.sha256(bars["timestamp"].to_numpy().astype("datetime64[us]").tobytes())
    digest.update(bars[[*PRICES, "volume"]].to_numpy().tobytes())
    sizes = bars.groupby("ticker", sort=False).size().to_dict()
    state = {**processor.feature_extractor.to_dict(), "n_bins": processor.tokenizer.n_bins}
    state = {name: value for name, value in state.items() if name not in {*FITTED, "auto_map"}}  # set by saving
    return _hash(digest.hexdigest(), list(sizes.items()), split.train_through, state, _versions(), FORMAT)


def _take_fit(processor: TsfLlmProcessor, stored: TsfLlmProcessor) -> None:
    """Only what fitting sets: a loaded tokenizer also says where it came from, in the files that it saves."""
    for name in FITTED:
        setattr(processor.feature_extractor, name, getattr(stored.feature_extractor, name))
    processor.tokenizer.bin_edges = processor.tokenizer.init_kwargs["bin_edges"] = stored.tokenizer.bin_edges


def _fitted_from(out: Path) -> str | None:
    """The key of the processor in a finished folder."""
    if not is_prepared(out) or not (out / "processor").is_dir():
        return None
    return json.loads((out / "dataset.json").read_text(encoding="utf-8")).get("fitted_from")


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


def _check_engine(engine: str, ray_address: str | None) -> None:
    """Before anything is read: a run must not end at its last step because Ray is missing."""
    if engine not in ("local", "ray"):
        raise ValueError(f"engine={engine!r}: choose local or ray")
    if engine == "local" and ray_address is not None:
        raise ValueError(f"ray_address={ray_address!r} goes with engine='ray', not 'local'")
    if engine == "ray":
        try:
            import ray  # noqa: F401 (optional, and seconds to import)
        except ImportError as error:
            raise ValueError("engine='ray' needs Ray, which is not installed: pip install 'tsf-llm[ray]'") from error


def _run_on_ray(
    jobs: list[tuple[str, Path]], common: tuple[Path, str, Split, int], num_proc: int, address: str | None
) -> dict[str, dict[str, Any]]:
    """`_encode_job` as Ray tasks. A cluster that the caller is connected to is used and left as it is."""
    import ray

    out, *others = common
    start = not ray.is_initialized()
    if start:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
        size = {} if address else {"num_cpus": num_proc, "include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, logging_level="error", **size)
    try:
        encode = ray.remote(max_retries=RETRIES)(_encode_job)
        tasks = [encode.remote(name, path.resolve(), out.resolve(), *others) for name, path in jobs]
        return {name: result for (name, _), result in zip(jobs, ray.get(tasks), strict=True)}
    finally:
        if start:
            ray.shutdown()


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
