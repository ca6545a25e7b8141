"""What the data commands print and write: `clean`, `prepare` and `describe`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ..bars_tsf_llm import OHLCV, UNIVARIATE
from ..common.files import check_apart, check_output, has_keys, write_json, write_parquet
from ..data_prep.clean import clean_bars
from ..data_prep.columns import USUAL, Columns
from ..data_prep.sources import has_prices, read_raw
from ..data_prep.windows import fence

MOST_TICKERS = 5  # named per rule


def clean(
    source: str,
    out: Path,
    tickers: list[str] | None = None,
    covariates: Sequence[str] = (),
    *,
    columns: Columns = USUAL,
    strict: bool = False,
) -> dict[str, Any]:
    """The cleaned bars, with these columns, at `out` (parquet), the report as `cleaning.json` beside it.

    Raises:
        ValueError: for another extension, or if no bar is left; if `strict`, for one file that is no table of prices.
    """
    check_output(out, ".parquet")  # which keeps dates and numbers exactly
    report_file = out.with_name("cleaning.json")
    check_apart(out, source)
    check_apart(report_file, source)
    if report_file.exists() and not has_keys(report_file, ("rows_in", "rules", "tickers")):
        raise ValueError(f"{report_file} is no report of cleaning and stands where one goes: write to another folder")
    raw = read_raw(source, tickers, covariates=covariates, strict=strict, **columns.of_bars())
    frame, report = clean_bars(raw, covariates, strict=strict)
    write_parquet(frame, out)
    write_json(report, report_file)
    return report


def prepare(source: str, out: Path, given: dict[str, Any], *, series_form: bool = False, **run: Any) -> dict[str, Any]:
    """The dataset that training with the `given` data arguments would make; those that are None take training's
    defaults. `run` says how it is made, as in `data_prep.prepare`."""
    from ..data_prep.prepare import prepare as prepare_dataset
    from ..training.arguments import DataArguments
    from ..training.data import new_processor, with_static_names

    arguments = with_static_names(DataArguments(**{name: one for name, one in given.items() if one is not None}))
    kind = OHLCV if arguments.value_column is None and has_prices(source) else UNIVARIATE
    return prepare_dataset(
        source,
        out,
        processor=new_processor(arguments, kind, series_form=series_form),
        horizon=arguments.horizon,
        tickers=arguments.tickers,
        market=arguments.market,
        columns=arguments.columns,
        train_through=arguments.train_through,
        valid_through=arguments.valid_through,
        **run,
    )


def print_prepared(info: dict[str, Any]) -> None:
    """Bars and windows by split, the tickers left out, and what this run computed of it all."""
    table = Table("split", "bars", "windows", box=None, pad_edge=False)
    for part, count in info["counts"].items():
        table.add_row(part, f"{count['bars']:,}", f"{count['windows']:,}")
    console = Console()
    console.print(table)
    fences = {name: fence(pd.Timestamp(moment)) for name, moment in info["split"].items()}
    console.print("training through {train_through}, validation through {valid_through}".format(**fences))
    for reason in info["skipped"].values():
        console.print(f"skipped {reason}", highlight=False, markup=False)
    run, tickers = info["run"], info["run"]["tickers"]
    console.print(
        f"computed {run['rows_encoded']:,} of {run['rows']:,} rows; tickers encoded {tickers['encoded']:,}, "
        f"extended {tickers['extended']:,}, kept {tickers['kept']:,}",
        highlight=False,
    )


def print_cleaning(report: dict[str, Any]) -> None:
    """One line per rule that found something, with the tickers that have most of it."""
    table = Table("rule", "policy", "rows", "tickers", "most in", box=None, pad_edge=False)
    for name, found in report["rules"].items():
        if found["rows"]:
            table.add_row(name, found["policy"], f"{found['rows']:,}", str(found["tickers"]), _most(report, name))
    console = Console()
    if table.row_count:
        console.print(table)
    console.print(
        f"{report['rows_in']:,} rows = {report['bars']:,} bars + {report['missing_bars']:,} missing bars + "
        f"{report['rows_dropped']:,} dropped rows",
        highlight=False,
    )


def _most(report: dict[str, Any], rule: str) -> str:
    rows = {t: one["rules"][rule]["rows"] for t, one in report["tickers"].items() if rule in one["rules"]}
    top = sorted(rows, key=lambda ticker: -rows[ticker])[:MOST_TICKERS]
    return ", ".join(f"{ticker or '(none)'} {rows[ticker]:,}" for ticker in top) + (
        " ..." if len(rows) > len(top) else ""
    )
