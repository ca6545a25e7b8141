"""The shard of one ticker: what is in it, and which of its rows still hold when bars were added.

Design choices:
- A shard holds what training reads, and the bars themselves: the folder alone is enough to train and to score.
- Each shard carries two keys. `KEY` is of its bars, the market as of them and the processor: a shard with the right
  one is kept. `BASE` leaves its bars out: if it is right and the stored bars are the first of the new ones, bit for
  bit, only the features of later rows are computed (`TsfLlmFeatureExtractor.encode(known=)`).
- One changed bit in an old bar, as after a correction, a split or a dividend that re-bases adjusted prices, or in the
  market as of it, and the ticker is encoded as a whole.
- Settings are of the code, too: of the files that the running processor comes from, not of those stored beside it.
- Plain series are encoded as a whole: their scale remembers all rows, and known covariates reach back over the end.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..bars_tsf_llm import OHLCV, UNIVARIATE, CheckedBars, Kind
from ..common.files import write_parquet
from ..common.provenance import release
from ..feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor
from ..tokenization_tsf_llm import TsfLlmTokenizer
from .windows import Split, labels_between, origins_of

KEY, BASE = b"tsf_llm_key", b"tsf_llm_base"
ENCODED = ("features", "observed", "log_return", "sigma", "token", "known", "static")  # beside the columns of the bars
LIBRARIES = ("tsf-llm", "numpy", "pandas", "pandas-ta-classic")  # whose code features run


def hash_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def hash_of_rows(frame: pd.DataFrame | None, through: Any = None) -> str:
    """Of the bits of a frame of times and numbers, as far as `through`."""
    if frame is None:
        return ""
    frame = frame if through is None else frame[frame["timestamp"] <= through]
    digest = hashlib.sha256(frame["timestamp"].to_numpy().astype("datetime64[us]").tobytes())
    digest.update(frame.drop(columns="timestamp").to_numpy(dtype=float).tobytes())
    return digest.hexdigest()


def hash_of_code(extractor: Any) -> str:
    """Of the code that fits and encodes: the root modules of the extractor, wherever it was loaded from, and of this
    package, whose workers encode; the files of a user's own features; this file; the libraries."""
    packages = {kind.__module__.rpartition(".")[0] for kind in (type(extractor), TsfLlmFeatureExtractor)}
    code = sorted({part for package in packages for part in _code_of(package)})
    return hash_of(code, hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), versions())


def _code_of(package: str) -> Iterator[str]:
    """Digests of the root modules of a package, and of the code of every feature that it knows."""
    module = sys.modules[f"{package}.indicators_tsf_llm"]
    root = Path(str(module.__file__)).parent
    for path in root.glob("*_tsf_llm.py"):
        yield f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    for row in module.FEATURES.values():
        code = getattr(row.compute, "__code__", None)
        file = Path(code.co_filename if code else "")
        if not file.is_file():  # typed in, or no plain function
            yield f"{row.name} {(code.co_code, code.co_names, code.co_consts) if code else row.compute}"
        elif file.parent != root:
            yield f"{row.name} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def versions() -> dict[str, str | None]:
    """Of the libraries; None where one is missing, as pandas-ta-classic may be."""
    return {name: release(name) for name in LIBRARIES}


def file_name(ticker: str) -> str:
    """`AAPL.parquet`; what a file name cannot hold is percent-encoded, what is long ends in a hash."""
    name = quote(ticker, safe="^=").replace(".", "%2E")
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(ticker.encode()).hexdigest()[:16]}"
    return f"{name}.parquet"


def shard_path(folder: Path, ticker: str) -> Path:
    return folder / "data" / file_name(ticker)


def series_of(shard: pa.Table) -> EncodedSeries:
    """The stored arrays, equal to encoding the bars again."""

    def array(name: str) -> np.ndarray:
        return shard[name].combine_chunks().to_numpy(zero_copy_only=False)

    def rows(name: str) -> np.ndarray | None:
        if name not in shard.column_names:
            return None
        column = shard[name].combine_chunks()
        return column.flatten().to_numpy().reshape(len(shard), column.type.list_size)

    kind = OHLCV if OHLCV.id in shard.column_names else UNIVARIATE
    features = rows("features")
    return EncodedSeries(
        ticker=shard[kind.id][0].as_py(),
        timestamp=array("timestamp").astype("datetime64[ns]"),
        features=np.empty((len(shard), 0), np.float32) if features is None else features,
        observed=array("observed"),
        close=array(kind.value),
        log_return=array("log_return"),
        sigma=array("sigma"),
        ohlc=np.stack([array(name) for name in kind.columns[:4]], axis=1) if kind is OHLCV else None,
        volume=array("volume") if kind is OHLCV else None,
        known=rows("known"),
        static=rows("static"),
    )


class Encoder(NamedTuple):
    """The two parts of a processor, without what takes seconds to import."""

    feature_extractor: TsfLlmFeatureExtractor
    tokenizer: TsfLlmTokenizer


@lru_cache(maxsize=1)
def encoder_of(out: Path, settings: str) -> tuple[Encoder, pd.DataFrame | None]:
    """What a folder encodes with, and its market; a process reads them once for the `settings`."""
    settings_of, rest = TsfLlmFeatureExtractor.get_feature_extractor_dict(out / "processor")
    extractor = TsfLlmFeatureExtractor.from_dict(settings_of, **rest)
    return Encoder(extractor, TsfLlmTokenizer.from_pretrained(out / "processor")), read_market_of(out)


def read_market_of(out: Path) -> pd.DataFrame | None:
    path = out / "market.parquet"
    return pd.read_parquet(path) if path.is_file() else None


def encode_group(files: dict[str, Path], out: Path, settings: str, *common: Any) -> dict[str, dict[str, Any]]:
    """`encode_shard` of some tickers."""
    encoder, market = encoder_of(out, settings)
    return {name: encode_shard(name, path, encoder, market, out, settings, *common) for name, path in files.items()}


def encode_shard(
    name: str,
    path: Path,
    encoder: Encoder,
    market: pd.DataFrame | None,
    out: Path,
    settings: str,
    split: Split,
    horizon: int,
) -> dict[str, Any]:
    """Brings a ticker's shard up to date with the bars at `path`.

    Returns its bars and windows by split, and `encoded`: the rows whose features were computed.
    """
    bars = pd.read_parquet(path)
    shard, end = shard_path(out, name), bars["timestamp"].iloc[-1]
    key = hash_of(settings, hash_of_rows(market, end), hashlib.sha256(path.read_bytes()).hexdigest())
    encoded = 0
    if _metadata(shard).get(KEY) != key.encode():
        known = _known(shard, bars, settings, market, encoder.feature_extractor)
        checked = CheckedBars({name: without_names(bars, encoder.feature_extractor.series_kind)})
        checked.static = {name: bars.attrs.get("static", {})}
        try:
            [series] = encoder.feature_extractor.encode(checked, market=market, known=known)
        except ValueError as error:  # too short, or of another frequency
            return {"skipped": str(error)}
        encoded = len(bars) - sum(len(part.features) for part in known.values())
        metadata = {KEY: key, BASE: hash_of(settings, hash_of_rows(market, end))}
        write_parquet(_table_of(bars, series, encoder).replace_schema_metadata(metadata), shard)
    else:
        series = series_of(pq.read_table(shard, memory_map=True))
    return {"file": f"data/{shard.name}", **_counts(series, split, horizon), "encoded": encoded}


def without_names(bars: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """The bars of a ticker's file as `check_bars` made them."""
    return bars.drop(columns=kind.id).astype({"timestamp": "datetime64[ns]"})


def _known(
    shard: Path, bars: pd.DataFrame, settings: str, market: pd.DataFrame | None, extractor: TsfLlmFeatureExtractor
) -> dict[str, EncodedSeries]:
    """The stored series by its ticker, if that had these settings, this market and, so far, these bars."""
    base, kind = _metadata(shard).get(BASE), extractor.series_kind
    if base is None or kind is not OHLCV or extractor.known_covariates:
        return {}
    old = pq.read_table(shard)
    if len(old) > len(bars) or base != hash_of(settings, hash_of_rows(market, old["timestamp"][-1].as_py())).encode():
        return {}
    columns = ["timestamp", *kind.columns, *extractor.past_covariates]
    before, now = old.select(columns).to_pandas(), bars[columns].head(len(old))
    same = all(before[name].to_numpy().tobytes() == now[name].to_numpy().tobytes() for name in columns)
    return {old[kind.id][0].as_py(): series_of(old)} if same else {}


def is_shard(path: Path) -> bool:
    """Whether a file says so itself."""
    return KEY in _metadata(path)


def _metadata(shard: Path) -> dict[bytes, bytes]:
    try:
        return pq.read_schema(shard).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}


def _table_of(bars: pd.DataFrame, series: EncodedSeries, encoder: Encoder) -> pa.Table:
    extractor = encoder.feature_extractor
    kind = extractor.series_kind
    told = {"features": series.features, "known": series.known, "static": series.static}
    lists = {name: array for name, array in told.items() if array is not None and array.shape[1]}
    columns = {
        "timestamp": series.timestamp.astype("datetime64[us]"),
        kind.id: pa.array([series.ticker] * len(bars), pa.string()),
        **{name: bars[name].to_numpy() for name in [*kind.columns, *extractor.covariates]},
        **{name: pa.array([text] * len(bars), pa.string()) for name, text in bars.attrs.get("static", {}).items()},
        **{name: pa.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1]) for name, array in lists.items()},
        "observed": series.observed,
        "log_return": series.log_return,
        "sigma": series.sigma,
        "token": encoder.tokenizer.encode_returns(series.standard_return()).astype(np.int32),
    }
    return pa.table(columns)


def _counts(series: EncodedSeries, split: Split, horizon: int) -> dict[str, Any]:
    counts, after, bars = {}, None, series.timestamp[series.observed]
    for part, through in (("train", split.train_through), ("valid", split.valid_through), ("test", None)):
        windows = origins_of(series, labels_between(series.timestamp, after, through, embargo=horizon), horizon)
        counts[part] = {"bars": len(bars[labels_between(bars, after, through)]), "windows": len(windows)}
        after = through
    return counts
