r"""Preference pairs for DPO: of the paths that a causal LM samples from a past day, in hindsight the best and worst.

    python -m tsf_llm.train_scripts.build_preferences --model outputs/sft --data prices.csv --out preferences
    python -m tsf_llm.train_scripts.build_preferences --model outputs/sft --data prices.csv --out preferences \
        --utility pnl --cost-bp 5 --min-margin 0.002 --jsonl

`preferences/pairs.py` has the design choices: training dates only, and a folder without `preferences.json` is
unfinished.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from transformers.utils import logging

from ..common.files import check_apart
from ..common.parser import option, parse_for, run
from ..data_prep.columns import Columns
from ..data_prep.prepare import is_prepared, load_prepared
from ..data_prep.sources import read_for, read_market
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..preferences.pairs import PairArguments, build_preferences
from ..processing_tsf_llm import TsfLlmProcessor
from ..training.models import load_causal_lm, load_processor


@dataclass(frozen=True)
class FileArguments:
    """What is read and written."""

    _argument_group_name = "files"

    model: str = option(help="folder of a causal LM with its processor")
    data: str = option(help="price file, folder, prepared dataset, or 'sample'")
    out: str = option(help="folder for the pairs")
    jsonl: bool = option(False, "write preferences.jsonl as well")
    tickers: list[str] | None = option(None, "only these tickers")
    market: list[str] | None = option(None, "price files that features read; all tickers of the data if none")
    value_column: str | None = option(None, "plain series: column to forecast")
    id_column: str | None = option(None, "column that names the tickers or the plain series, if it has no usual name")
    time_column: str | None = option(None, "column of times, if it has no usual name")
    dates: str | None = option(None, "order of numeric dates, where they do not tell: dmy, mdy or ymd")
    decimal: str | None = option(None, "decimal mark, where numbers do not tell: point or comma")
    resample: str | None = option(None, "plain series: even rows by sum, mean, last or nearest, or as 1h:mean")


def main(files: FileArguments, pairs: PairArguments) -> dict[str, Any]:
    """Loads, reads and writes; returns what `preferences.json` holds."""
    check_apart(files.out, files.data, files.market)
    logging.disable_progress_bar()  # of loading, which takes no time
    model = load_causal_lm(files.model, "preference pairs need")
    pipe = TsfLlmPipeline(model=model, processor=load_processor(files.model), task="time-series-forecasting")
    bars = read(files, pipe.processor)
    market = None if files.market is None else read_market(files.market, dates=files.dates, decimal=files.decimal)
    info = build_preferences(pipe, bars, files.out, pairs, market=market, jsonl=files.jsonl)
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in info["counts"].items())
    print(f"{counts}; written to {files.out}")
    return info


def read(files: FileArguments, processor: TsfLlmProcessor) -> pd.DataFrame:
    """The bars of `data`, or the series of the kind that the processor reads."""
    if is_prepared(files.data):
        bars = load_prepared(files.data).bars()
        if unknown := sorted(set(files.tickers or ()) - set(bars["ticker"])):
            raise ValueError(f"unknown ticker {', '.join(unknown)}: {files.data} does not hold it")
        return bars if files.tickers is None else bars[bars["ticker"].isin(files.tickers)]
    cells = {"dates": files.dates, "decimal": files.decimal, "resample": files.resample}
    columns = Columns(files.value_column, files.id_column, files.time_column, **cells)
    return read_for(processor, files.data, files.tickers, columns)


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
