"""What a client sent as bars -> frames: JSON as it stands, a file by the reader of `data_prep`, with its refusals.

Design choices:
* A file is read from a folder of its own that is gone afterwards. Its name, of which a ticker may come, is made plain;
  no message names the folder.
* JSON whose rows a rule is to make even goes the way of a file: what is read is checked before it is resampled.
* What a file would become is bounded before it is read: a few bytes of gzip or parquet can hold billions.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...bars_tsf_llm import UNIVARIATE
from ...cells_tsf_llm import NumberFormat, TimeFormat, read_numbers, read_times
from ...columns_tsf_llm import ALIASES, SERIES_ALIASES, find_columns, join_static, key_texts
from ...data_prep.columns import Columns, join_names, with_names
from ...data_prep.sources import read_for, read_market
from ...processing_tsf_llm import TsfLlmProcessor
from ..uploads import check_size
from .bodies import MAX_BARS, MAX_COLUMNS, Hints, Tables

NUMBERS = {name: aliases for name, aliases in ALIASES.items() if name not in ("timestamp", "ticker")}


def sent_tables(asked: Tables, processor: TsfLlmProcessor) -> dict[str, Any]:
    """Bars, market and names of columns, as the pipeline of this processor takes them.

    Raises:
        ValueError: the records have too many columns, or are not written as the hints say; the model reads no static
            table, or it does not fit the bars.
    """
    market = None if asked.market is None else _frame(asked.market, asked)
    if asked.resample is not None:
        static = None if asked.static is None else _as_file(asked.static, "static")
        return {"bars": uploaded(*_as_file(asked.bars, "bars"), asked, processor, static), "market": market}
    names = {"id_column": asked.id, "timestamp_column": asked.time, "target_column": asked.value}
    given = {name: value for name, value in names.items() if value is not None}
    bars = join_names(_frame(asked.bars, asked), asked.id)
    if asked.static is not None:
        bars = _with_static(bars, asked, processor.feature_extractor.static_covariates)
    return {"bars": bars, "market": market, **given}


def _as_file(bars: list[dict[str, Any]] | dict[str, list[Any]], name: str) -> "File":
    return pd.DataFrame(bars).to_csv(index=False).encode(), f"{name}.csv"


def _with_static(bars: pd.DataFrame, asked: Tables, names: Sequence[str]) -> pd.DataFrame:
    assert asked.static is not None
    check_reads_static(names)
    table, usual = _frame(asked.static, asked), {UNIVARIATE.id: SERIES_ALIASES[UNIVARIATE.id]}
    id = asked.id or find_columns(bars, usual).get(UNIVARIATE.id)
    if id is None or id not in bars:
        raise ValueError("static is joined by the name of a series, and the bars have none: add a column series_id")
    named = with_names(table, asked.id)
    joined = [name for name in names if name in named]
    keys = key_texts(bars[id])
    known = join_static(bars.assign(**{UNIVARIATE.id: keys}), named, joined, strict=asked.strict) if joined else bars
    return known if id == UNIVARIATE.id or not joined else known.drop(columns=UNIVARIATE.id)


def check_reads_static(names: Sequence[str]) -> None:
    """Raises ValueError for a static table that a model without static covariates is given."""
    if not names:
        raise ValueError("static: the model of this server reads no static covariates; leave it out")


def _frame(bars: list[dict[str, Any]] | dict[str, list[Any]], asked: Hints) -> pd.DataFrame:
    frame = pd.DataFrame(bars)
    if len(frame.columns) > MAX_COLUMNS:
        raise ValueError(f"the records have {len(frame.columns)} columns: give at most {MAX_COLUMNS}")
    known = find_columns(frame, {"timestamp": SERIES_ALIASES["timestamp"], **NUMBERS})
    if asked.dates is not None:
        time = asked.time or known.get("timestamp")
        if time in frame:
            stamps, bad = read_times(frame[time], TimeFormat.of(frame[time], asked.dates))
            frame[time] = frame[time] if bad.size else stamps  # whatever is no time, the processor names
    if asked.decimal is not None:
        for name in {*known.values(), asked.value} - {known.get("timestamp"), asked.time, None} & {*frame}:
            numbers, bad = read_numbers(frame[name], NumberFormat(asked.decimal, proven=True), scales=True)
            frame[name] = frame[name] if bad.size else numbers
    return frame


File = tuple[bytes, str]  # content and name


def uploaded(
    content: bytes, name: str, asked: Hints, processor: TsfLlmProcessor, static: File | None = None
) -> pd.DataFrame:
    """The bars, or the plain series, of a file of this name, with what a file of static covariates says of them.

    Raises:
        ValueError: the reader refuses one, or it holds too much.
    """
    columns = Columns(asked.value, asked.id, asked.time, asked.dates, asked.decimal, resample=asked.resample)
    if static is None:
        return _read(content, name, lambda path: read_for(processor, path, columns=columns, strict=asked.strict))
    check_reads_static(processor.feature_extractor.static_covariates)

    def beside(path: str) -> pd.DataFrame:
        whole = replace(columns, static_file=path)
        return _read(content, name, lambda bars: read_for(processor, bars, columns=whole, strict=asked.strict))

    return _read(*static, beside)


def uploaded_market(content: bytes, name: str, asked: Hints) -> pd.DataFrame:
    """The bars of an index, or of a universe, in a file of this name; raises ValueError as `uploaded`."""
    return _read(content, name, lambda path: read_market(path, dates=asked.dates, decimal=asked.decimal))


def _read(content: bytes, name: str, read: Any) -> pd.DataFrame:
    with tempfile.TemporaryDirectory(prefix="tsf-llm-") as folder:
        path = Path(folder) / plain_file_name(name)
        path.write_bytes(content)
        try:
            check_size(path, rows=MAX_BARS, columns=MAX_COLUMNS)
            frame = read(str(path))
        except (OSError, ValueError) as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from None
    if len(frame) > MAX_BARS:
        raise ValueError(f"{len(frame):,} rows after resample: give at most {MAX_BARS:,}, or a longer step")
    return frame


def plain_file_name(name: str) -> str:
    """The last part of a client's name for a file, of plain characters.

    >>> plain_file_name("../../etc/BRK B.csv"), plain_file_name("C:\\\\AAPL.csv.gz"), plain_file_name("")
    ('BRK_B.csv', 'AAPL.csv.gz', 'file')
    """
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w.^=-]", "_", last)[-80:].lstrip(".-") or "file"
