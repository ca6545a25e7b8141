"""A dataset on disk: cleaned bars with their scaled features and return tokens, one parquet shard per ticker.

Design choices:
- The processor is fitted on training dates only, before any shard is written, and lies in `processor/`.
- One ticker at a time: `ticker_files` reads and cleans, `shards` encodes. Scalers and bins are fitted on at most
  `FIT_BARS` bars, of tickers chosen by the seed. So memory does not grow with the number of tickers.
- Several processes share reading, cleaning and encoding (`Crew`). What concerns all tickers is this one's alone: their
  dates, the choice of those to fit on, and the fit, which takes no longer the more tickers there are.
- A shard that is right already is kept, so an interrupted run goes on where it stopped, and several processes write
  the same bytes as one.
- An engine only says where `_encode_job` runs: in processes of this machine, or as tasks of a Ray cluster. Results
  are files and counts, so a task whose worker died is run again and loses nothing.
- New days are added by running again: the folder keeps its fences, so the processor stays, and of a ticker that only
  grew the new rows are computed. The folder is that of a first run on all days, byte for byte; only `report.json` says
  what this run did.
- A market is kept as `market.parquet`, the state that features read: training and scoring read it from there.
- `dataset.json` is written last: a folder without it is unfinished.
- Only files of an earlier run are replaced or removed (`files`): a folder with others in their place is refused.

A window is any `context_length` rows of one shard in a row; `windows.py` cuts them when they are read, so a bar is
stored once and not once per window.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from ..bars_tsf_llm import KINDS, OHLCV, CheckedBars, day_end, split_tickers, step_fence
from ..common.crew import Crew, progress_bar
from ..common.files import (
    WRITTEN,
    adopt,
    check_apart,
    check_free,
    check_ours,
    claim,
    remove,
    remove_unfinished,
    replace_folder,
    write_json,
    write_parquet,
    write_text,
    written,
)
from ..common.reading import read_json, refuse_pipes, shapes_of
from ..feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor
from ..market_tsf_llm import MarketMoments, implied_index
from ..processing_tsf_llm import TsfLlmProcessor
from . import ticker_files
from .clean import policy_table
from .columns import USUAL, Columns
from .shards import (
    ENCODED,
    encode_group,
    encoder_of,
    file_name,
    hash_of,
    hash_of_code,
    hash_of_rows,
    is_shard,
    read_market_of,
    series_of,
    shard_path,
    versions,
    without_names,
)
from .sources import check_no_value, read_market
from .ticker_files import Collected, collect_bars, collect_series, groups_of
from .windows import Split, fence, side_by_side

FORMAT = 2
FIT_BARS = 200_000  # 64 features of as many bars take 100 MB
FENCES = ".split.json"  # the dates of a finished folder while it is renewed
WORK = ".work"  # what a run needs on the way
BESIDE = ("README.md", "cleaning.json", "market.parquet", "report.json", "dataset.json")  # in the order of writing
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")  # and its code
BY = "prepare"  # the author of all in the folder
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

    def bars(self) -> pd.DataFrame:
        """The cleaned bars, or the values of plain series, of all tickers."""
        paths = [shard_path(self.folder, ticker) for ticker in self.info["tickers"]]
        columns = [name for name in pq.read_schema(paths[0]).names if name not in ENCODED]
        tables = [pq.read_table(path, columns=columns).replace_schema_metadata(None) for path in paths]
        return pa.concat_tables(tables).to_pandas()

    def series(self) -> list[EncodedSeries]:
        """The stored arrays, equal to encoding the bars again; those of all tickers lie side by side."""
        paths = [shard_path(self.folder, ticker) for ticker in self.info["tickers"]]
        rows = sum(pq.read_metadata(path).num_rows for path in paths)
        return side_by_side((series_of(pq.read_table(path)) for path in paths), rows)

    def market(self) -> pd.DataFrame | None:
        """What the features read of the market: the `market=` of the processor, the pipeline and the evaluation."""
        return read_market_of(self.folder)


def is_prepared(source: str | Path | list) -> bool:
    return isinstance(source, str | Path) and (Path(source) / "dataset.json").is_file()


def load_prepared(folder: str | Path) -> Prepared:
    """Raises ValueError for a folder without `dataset.json`, or with one of another format."""
    folder = Path(folder)
    if not is_prepared(folder):
        raise ValueError(f"{folder} has no dataset.json: it is no prepared dataset, or an unfinished one")
    _refuse_pipes(folder)
    info = read_json(folder / "dataset.json")
    if info.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {info.get('format')}, this version reads {FORMAT}: prepare it again")
    with shapes_of(folder, "prepare it again"):
        return Prepared(folder, info, TsfLlmProcessor.from_pretrained(folder / "processor"))


def prepare(
    source: str | Path | list,
    out: str | Path,
    *,
    processor: TsfLlmProcessor,
    horizon: int,
    tickers: Sequence[str] | None = None,
    market: str | Path | list | None = None,
    columns: Columns = USUAL,
    train_through: Any = None,
    valid_through: Any = None,
    refit: bool = False,
    seed: int = 0,
    num_proc: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Cleans, fits and encodes `source` into the folder `out`.

    `processor` says which kind of series, features, scaling, covariates and bins; it is fitted here. `num_proc`
    processes, this one among them, read, clean and encode; one fits.
    A folder that was prepared before keeps its dates unless others are given or `refit` is true; what bars, dates and
    settings leave unchanged is not computed again, and the result is that of an empty folder and these dates.
    `market` is price files that the features read beside their own; where the group of that name was chosen, and no
    universe or index is given, all tickers together are the universe. `columns` names those of unusual names.
    With `engine="ray"` they are tasks: of the cluster at `ray_address`, all of whose machines must see `out` under the
    same path, or of a cluster of `num_proc` workers that is started on this machine and stopped again.

    Tickers without enough bars, and files that cannot be read beside others, are skipped; with `strict` refused.

    Returns:
        What `dataset.json` holds and, as `run`, what `report.json` does.

    Raises:
        ValueError: for a source, dates or sizes that leave nothing to train on, or without Ray; with the reason.
    """
    check_engine(engine, ray_address)
    out = Path(out)
    check_apart(out, source, market, whole=True)
    _check_folder(out)
    work = out / WORK
    remove(out, [WORK], by=BY)  # of a killed run
    claim(out, [WORK], by=BY)
    with ExitStack() as stack:
        stack.callback(remove, out, [WORK], by=BY)
        crew = stack.enter_context(Crew(num_proc if engine == "local" else 1, ticker_files.__name__))
        beside = None if market is None else read_market(market, dates=columns.dates, decimal=columns.decimal)
        others = {} if beside is None else split_tickers(beside)
        data = _collect(source, work, processor.feature_extractor, tickers, others, columns, crew, strict=strict)
        earlier = _earlier(out)
        kept = {} if refit else earlier.get("split", {})
        given = {"train_through": train_through, "valid_through": valid_through}
        stamps = pd.Series(data.times)
        given = {name: step_fence(stamps, at, data.lasting) for name, at in given.items()}
        split = _split(data.times, out, kept, **given)
        state = _market(data, others)
        fitted_on = _tickers_to_fit(data, split, seed)
        to_fit = {name: _bars_through(data.files[name], split.train_through) for name in fitted_on}
        fitted_from = _fit_key(to_fit, split, processor, state)
        is_fitted = earlier.get("fitted_from") == fitted_from and (out / "processor").is_dir()
        if earlier:
            _write_beside(out, FENCES, {"split": _dates(split)}, write_json)
        remove(out, ["dataset.json"], by=BY)
        if is_fitted:
            _take_fit(processor, TsfLlmProcessor.from_pretrained(out / "processor"))
        else:
            checked = CheckedBars({name: without_names(bars, processor.kind) for name, bars in to_fit.items()})
            checked.static = {name: bars.attrs.get("static", {}) for name, bars in to_fit.items()}
            processor.fit(checked, through=split.train_through, market=state)
            replace_folder(out / "processor", processor.save_pretrained, by=BY)
        del to_fit
        _write_beside(out, "cleaning.json", data.report, write_json)
        _write_beside(out, "market.parquet", state, write_parquet)
        _check_market(processor.feature_extractor, state, data)
        stored = [path.read_bytes() for path in sorted((out / "processor").glob("*.json"))]
        settings = hash_of(hash_of_code(processor.feature_extractor), FORMAT, *stored)
        common = (out, settings, split, horizon)
        claim(out, [f"data/{file_name(name)}" for name in data.files], by=BY)
        if engine == "ray":
            results = _run_on_ray(data.files, common, num_proc, ray_address)
        else:
            results = _run(data, common, crew)
    shards = {name: one for name, one in results.items() if "skipped" not in one}
    unencoded = {name: one["skipped"] for name, one in results.items() if "skipped" in one}
    if not shards:
        raise ValueError(f"no ticker can be encoded: {'; '.join(unencoded.values())}")
    if strict and unencoded:
        raise ValueError(next(iter(unencoded.values())))
    ours = {name for name in written(out) if name.startswith("data/")}
    remove_unfinished(out, ours)  # by killed workers
    remove(out, ours - {one["file"] for one in shards.values()}, by=BY)  # of an earlier run on other tickers
    encoded = {name: one.pop("encoded") for name, one in shards.items()}
    info = {
        "format": FORMAT,
        "kind": processor.feature_extractor.kind,
        "split": _dates(split),
        "horizon": horizon,
        "embargo": horizon,
        "context_length": processor.feature_extractor.context_length,
        "features": processor.feature_extractor.names,
        "fitted_through": processor.fitted_through,
        "fitted_on": fitted_on,
        "fitted_from": fitted_from,
        "counts": {
            part: {unit: sum(one[part][unit] for one in shards.values()) for unit in ("bars", "windows")}
            for part in ("train", "valid", "test")
        },
        "tickers": shards,
        "skipped": {**data.skipped, **unencoded},
        "seed": seed,
        "versions": versions(),
    }
    run = _report(out, encoded, is_fitted=is_fitted)
    _write_beside(out, "README.md", _card(info, data.report), write_text)
    _write_beside(out, "report.json", run, write_json)
    _write_beside(out, "dataset.json", info, write_json)
    remove(out, [FENCES], by=BY)
    return {**info, "run": run}


def _check_folder(out: Path) -> None:
    """Raises ValueError, before anything is read, if a file of somebody else stands where the dataset will.

    All of `data/` and `processor/` is the dataset's: whoever loads it reads every file there."""
    _refuse_pipes(out)
    if not (out / WRITTEN).is_file():
        _adopt(out)
    check_free(out, [*BESIDE, FENCES, WORK, "data/**/*"], by=BY)
    check_ours(out / "processor", by=BY)


def _refuse_pipes(folder: Path) -> None:
    for place in (folder, folder / "processor", folder / "data"):
        if place.is_dir():
            refuse_pipes(place)


def _adopt(out: Path) -> None:
    """A dataset of a version without manifests: its description and its shards tell that they are ours."""
    try:
        info = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        files = {one["file"] for one in info["tickers"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    shards = [name for name in files if is_shard(out / name)]
    adopt(out, [*shards, *(name for name in BESIDE if (out / name).is_file())], by=BY)
    saved = [path.name for path in (out / "processor").glob("*")]
    processor = [one for one in saved if one.endswith("_tsf_llm.py") or one in PROCESSOR_FILES]
    adopt(out / "processor", processor, by=BY)


# --- the bars, their dates and their market ------------------------------------------------------------------------


def _collect(
    source: str | Path | list,
    work: Path,
    extractor: TsfLlmFeatureExtractor,
    tickers: Sequence[str] | None,
    others: Mapping[str, pd.DataFrame],
    columns: Columns,
    crew: Crew,
    *,
    strict: bool = False,
) -> Collected:
    """The bars, and the moments of their universe where the group `market` was chosen and `others` hold none."""
    if taken := {*extractor.covariates, *extractor.static_covariates} & {*ENCODED}:
        raise ValueError(f"{sorted(taken)}: a prepared dataset has columns of these names; rename the covariates")
    if extractor.series_kind is not OHLCV:
        return collect_series(source, work, tickers, columns=columns, covariates=extractor.covariates, strict=strict)
    if columns.value is not None:
        raise ValueError(f"'{columns.value}' names the value of plain series, and these are bars: leave it out")
    check_no_value(columns)
    options = {"columns": columns, "covariates": extractor.covariates, "strict": strict}
    chosen = "market" in (extractor.feature_groups or ()) and all(map(implied_index, others))
    return collect_bars(source, work, tickers, universe=chosen, crew=crew, **options)


def _earlier(out: Path) -> dict[str, Any]:
    """What a finished folder says of itself, or the dates of one that is being renewed; else nothing."""
    path = next((out / name for name in ("dataset.json", FENCES) if (out / name).is_file()), None)
    return {} if path is None else read_json(path)


def _split(times: np.ndarray, out: Path, kept: dict[str, str], **given: Any) -> Split:
    """Each date as given, or as the folder has it, or by share."""
    given = {name: date for name, date in given.items() if date}
    try:
        with shapes_of(out, "--refit chooses its dates anew"):
            return Split.of(pd.DataFrame({"timestamp": times}), **{**kept, **given})
    except ValueError as error:
        if len(given) == 2 or not kept:
            raise
        raise ValueError(f"{error}; {out} keeps the dates it has: give both, or --refit to choose anew") from error


def _dates(split: Split) -> dict[str, str]:
    return {"train_through": str(split.train_through), "valid_through": str(split.valid_through)}


def _market(data: Collected, others: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """The state of the market's own bars and of the universe, or None."""
    if data.moments is None and not others:
        return None
    moments = data.moments or MarketMoments()
    for name, bars in others.items():
        moments.add(name, bars)
    return moments.state()


def _check_market(extractor: TsfLlmFeatureExtractor, market: pd.DataFrame | None, data: Collected) -> None:
    """Raises ValueError for bars of another frequency, in the market or in one ticker of a universe."""
    if market is not None:
        extractor.check_market_spacing("", market["timestamp"].to_numpy())
    for name, path in data.files.items() if data.moments is not None else ():
        extractor.check_market_spacing(f", {name}", _times(path))


def _times(path: Path) -> np.ndarray:
    return pd.read_parquet(path, columns=["timestamp"])["timestamp"].to_numpy()


# --- the fit -------------------------------------------------------------------------------------------------------


def _tickers_to_fit(data: Collected, split: Split, seed: int) -> list[str]:
    """All, or a random choice whose training bars are no more than `FIT_BARS`; in order of appearance."""
    last = day_end(split.train_through).to_datetime64()
    names = [name for name, first in data.first.items() if first <= last]
    chosen, size = list[int](), 0
    for i in np.random.default_rng(seed).permutation(len(names)):
        size += int((_times(data.files[names[i]]) <= last).sum())
        if chosen and size > FIT_BARS:
            break
        chosen.append(int(i))
    return [names[i] for i in sorted(chosen)]


def _bars_through(path: Path, last: pd.Timestamp) -> pd.DataFrame:
    bars = pd.read_parquet(path)
    return bars[bars["timestamp"] <= last]


def _fit_key(
    bars: Mapping[str, pd.DataFrame], split: Split, processor: TsfLlmProcessor, market: pd.DataFrame | None
) -> str:
    """Of all that fitting reads: bars and market through the fence, the fence, the settings and the code."""
    sizes = [(name, len(one)) for name, one in bars.items()]
    state = {**processor.feature_extractor.to_dict(), "n_bins": processor.tokenizer.n_bins}
    state["horizons"] = processor.horizons
    state = {name: value for name, value in state.items() if name not in ("fitted", "feature_size", "auto_map")}
    read = (
        [hash_of_rows(one.drop(columns=processor.kind.id)) for one in bars.values()],
        hash_of_rows(market, split.train_through),
    )
    static = {name: one.attrs.get("static", {}) for name, one in bars.items()}
    return hash_of(read, sizes, static, split.train_through, state, hash_of_code(processor.feature_extractor), FORMAT)


def _take_fit(processor: TsfLlmProcessor, stored: TsfLlmProcessor) -> None:
    """Only what fitting sets: a loaded tokenizer also says where it came from, in the files that it saves."""
    processor.feature_extractor = stored.feature_extractor
    for name in ("bin_edges", "law_edges"):
        value = getattr(stored.tokenizer, name)
        setattr(processor.tokenizer, name, value)
        processor.tokenizer.init_kwargs[name] = value


def _write_beside(out: Path, name: str, content: Any, write: Any) -> None:
    """Writes the file, or removes an earlier run's where there is nothing to write."""
    if content is None:
        remove(out, [name], by=BY)
    else:
        claim(out, [name], by=BY)
        write(content, out / name)


# --- the shards ----------------------------------------------------------------------------------------------------


def _run(data: Collected, common: tuple[Path, str, Split, int], crew: Crew) -> dict[str, dict[str, Any]]:
    encoder_of.cache_clear()  # of an earlier run
    groups = groups_of(data.rows)
    jobs = [partial(encode_group, {name: data.files[name] for name in group}, *common) for group in groups]
    with progress_bar("encoding", len(data.files)) as bar:
        answers = crew.run(jobs, lambda answer: bar.update(len(answer)))
    return {name: one for answer in answers for name, one in answer.items()}


def check_engine(engine: str, ray_address: str | None) -> None:
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
    files: dict[str, Path], common: tuple[Path, str, Split, int], num_proc: int, address: str | None
) -> dict[str, dict[str, Any]]:
    """`_encode_job` as Ray tasks."""
    import ray

    out, *others = common
    with ray_cluster(num_proc, address):
        encode = ray.remote(max_retries=RETRIES)(_encode_job)
        tasks = [encode.remote(name, path.resolve(), out.resolve(), *others) for name, path in files.items()]
        return dict(zip(files, ray.get(tasks), strict=True))


@contextmanager
def ray_cluster(num_proc: int, address: str | None) -> Iterator[None]:
    """That at the address, or one of `num_proc` workers on this machine, which is stopped again. A cluster that the
    caller is connected to is used and left as it is."""
    import ray

    start = not ray.is_initialized()
    if start:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
        size = {} if address else {"num_cpus": num_proc, "include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, logging_level="error", **size)
    try:
        yield
    finally:
        if start:
            ray.shutdown()


def _encode_job(name: str, path: Path, out: Path, *common: Any) -> dict[str, Any]:
    return encode_group({name: path}, out, *common)[name]


# --- what is said of it --------------------------------------------------------------------------------------------


def _report(out: Path, encoded: dict[str, int], *, is_fitted: bool) -> dict[str, Any]:
    """What a run did: the one file that depends on what was in the folder before."""
    rows = {name: pq.read_metadata(shard_path(out, name)).num_rows for name in encoded}
    done = ["kept" if not n else "extended" if n < rows[name] else "encoded" for name, n in encoded.items()]
    return {
        "fitted": not is_fitted,
        "rows": sum(rows.values()),
        "rows_encoded": sum(encoded.values()),
        "tickers": {one: done.count(one) for one in ("kept", "extended", "encoded")},
    }


def _card(info: dict[str, Any], report: dict[str, Any] | None) -> str:
    """The dataset card: metadata that the Hub reads, then what is in the folder and how it came about."""
    total = sum(one["bars"] for one in info["counts"].values())
    sizes = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7, "10M<n<100M": 1e8}
    metadata = DatasetCardData(
        pretty_name="Market bars prepared for TSF-LLM" if report else "Time series prepared for TSF-LLM",
        tags=["time-series", *(["finance"] if report else []), "tsf-llm"],
        task_categories=["time-series-forecasting"],
        size_categories=[next((name for name, most in sizes.items() if total < most), "100M<n<1B")],
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    kind = KINDS[info["kind"]]
    row, more = ("cleaned bar", "") if report else ("value", ". Covariates follow it")
    fences = {name: fence(pd.Timestamp(moment)) for name, moment in info["split"].items()}
    counts = [f"| {part} | {one['bars']:,} | {one['windows']:,} |" for part, one in info["counts"].items()]
    skipped = [f"* {reason}" for reason in info["skipped"].values()] or ["None."]
    lines = [
        f"---\n{metadata.to_yaml()}\n---\n",
        f"# {metadata.pretty_name}\n",
        f"{total:,} bars of {len(info['tickers'])} tickers, one parquet file each, written by `tsf-llm prepare`.\n",
        "```python",
        "from datasets import load_dataset",
        'bars = load_dataset("parquet", data_files="data/*.parquet", split="train")  # all dates, memory-mapped',
        "```\n",
        "| column | what |",
        "| --- | --- |",
        f"| `timestamp`, `{kind.id}` | when and whose |",
        f"| {', '.join(f'`{name}`' for name in kind.columns)} | the {row}; NaN for a missing one{more} |",
        f"| `features` | {len(info['features'])} scaled features, 0 where unknown; names in `dataset.json` |",
        "| `observed` | false where missing |",
        "| `log_return`, `sigma` | the log return (of a plain series the difference), its scale known after it |",
        "| `token` | bin of `log_return` over the `sigma` before; -100 where unknown |\n",
        "## Splits\n",
        f"By date, never at random: training through {fences['train_through']}, validation through "
        f"{fences['valid_through']}, test after. {info['embargo']} bars lie between a fence and the first "
        f"label behind it. Scalers and return bins were fitted through {info['fitted_through']}. A window is an "
        f"observed bar of known volatility with {info['horizon']} bars ahead of it.\n",
        "| split | bars | windows |",
        "| --- | --- | --- |",
        *counts,
        *([] if report is None else _cleaning(report)),
        "\n## Skipped tickers\n",
        *skipped,
        "\nSource, licence and permitted use are those of the data that were given.\n",
    ]
    return "\n".join(lines)


def _cleaning(report: dict[str, Any]) -> list[str]:
    found = [
        f"| `{name}` | {one['policy']} | {one['rows']:,} |" for name, one in report["rules"].items() if one["rows"]
    ]
    return [
        "\n## Cleaning\n",
        f"{report['rows_in']:,} rows = {report['bars']:,} bars + {report['missing_bars']:,} missing bars + "
        f"{report['rows_dropped']:,} dropped rows; every case is in `cleaning.json`.\n",
        "| rule | policy | rows |",
        "| --- | --- | --- |",
        *(found or ["| none | | 0 |"]),
        "\nThe rules:\n",
        policy_table(),
    ]
