"""Peak memory and speed of `tsf-llm forecast --engine local`, beside the plain command, as tickers grow.

    python -m tsf_llm.benchmarks.whole_market --json whole_market.json
    python -m tsf_llm.benchmarks.whole_market --tickers 300 1000 --model shipped
    python -m tsf_llm.benchmarks.whole_market --markdown docs/whole_market.md

* Tickers are made of the days of the embedded prices (`data_speed.py`), 1,000 bars each, a CSV file per ticker or one
  parquet file by date.
* Every measurement is the command in a process of its own: its peak memory and its time, starting and importing
  included. So a plain forecast of one ticker is measured first: what it takes, all take.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.pages import write_between
from ..common.parser import Parser
from ..common.tables import Columns, Row, Table, number
from ..data_prep.clean import clean_bars
from ..data_prep.sources import read_raw
from ..data_prep.tables import SAMPLE
from .data_speed import apart, real_days, synthetic_ticker
from .results import Output, circumstances

BARS, HORIZON = 1000, 5
LAYOUTS = ("a file per ticker", "one file by date")
MOST_PLAIN = 1000  # tickers of the plain command, whose memory grows
CODE = "import sys; from tsf_llm.serving.cli import main; sys.argv[0] = 'tsf-llm'; main()"


@dataclass
class Arguments(Output):
    """How many tickers, and which model."""

    tickers: list[int] | None = field(
        default=None, metadata={"help": "how many (default 300 1000 3000; 3 with --quick)"}
    )
    model: str = field(default="mini", metadata={"help": "folder, shipped or mini"})
    markdown: Path | None = field(
        default=None, metadata={"help": "page with <!-- whole_market --> markers to write the table into"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tickers is not None and min(self.tickers, default=0) < 1:
            raise ValueError(f"--tickers {self.tickers}: give 1 or more")


def write_market(folder: Path, tickers: int) -> dict[str, Path]:
    """The made tickers in each of the `LAYOUTS`."""
    days = real_days(clean_bars(read_raw(SAMPLE).drop(columns=["row", "note", "file"]))[0])
    frames = [synthetic_ticker(days, number, BARS) for number in range(tickers)]
    files = folder / "files"
    files.mkdir(parents=True)
    for frame in frames:
        frame.to_csv(files / f"{frame['ticker'].iloc[0]}.csv", index=False)
    together = pd.concat(frames).sort_values(["timestamp", "ticker"], ignore_index=True)
    together.to_parquet(folder / "together.parquet")
    return dict(zip(LAYOUTS, (files, folder / "together.parquet"), strict=True))


def measure(how: str, layout: str, tickers: int, data: Path, model: str, *options: str) -> dict[str, Any]:
    """A row of results: the command on these prices."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "forecast.csv"
        words = ["forecast", "--data", str(data), "--model", model, "--horizon", str(HORIZON), "--out", str(out)]
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, *words, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not out.is_file():
            raise ValueError(f"the command failed on {data}: run tsf-llm {' '.join(words)} to see why")
        rows = sum(1 for _ in out.open(encoding="utf-8")) - 1
    seconds = time.perf_counter() - started
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return {"how": how, "layout": layout, "tickers": tickers, "rows": rows, "seconds": seconds, "peak_mb": peak}


def run(counts: Sequence[int], model: str, say: Callable[[str], None]) -> dict[str, Any]:
    """The command with and without `--engine local`, for each number of tickers and each layout."""
    rows: list[dict[str, Any]] = []

    def add(how: str, layout: str, tickers: int, data: Path, *options: str) -> None:
        rows.append(measure(how, layout, tickers, data, model, *options))
        say(", ".join(table(rows[-1:]).cells[0]))

    with tempfile.TemporaryDirectory() as folder:
        add("plain", LAYOUTS[0], 1, apart(write_market, Path(folder) / "first", 1)[LAYOUTS[0]])
        for count in sorted(counts):
            places = apart(write_market, Path(folder) / str(count), count)
            for layout, data in places.items():
                add("--engine local", layout, count, data, "--engine", "local")
            if count <= MOST_PLAIN:
                add("plain", LAYOUTS[0], count, places[LAYOUTS[0]])
    settings = {"model": Path(model).name, "bars": BARS, "horizon": HORIZON}
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"rows": rows, "settings": settings, **circumstances("torch", "pandas", omp_num_threads=threads)}


def table(rows: Sequence[Row]) -> Table:
    columns: Columns = {
        "": lambda row: row["how"],
        "prices": lambda row: row["layout"],
        "tickers": lambda row: f"{row['tickers']:,}",
        "seconds": lambda row: number(row["seconds"], ",.0f"),
        "tickers per second": lambda row: number(row["tickers"] / row["seconds"], ",.1f"),
        "peak MB": lambda row: number(row["peak_mb"], ",.0f"),
    }
    return Table.of(rows, columns)


@one_line_errors("whole_market")
def main(arguments: list[str] | None = None) -> int:
    (parsed,) = Parser(Arguments, prog="whole_market", description=__doc__).parse_args_and_config(arguments)
    counts = parsed.tickers or ([3] if parsed.quick else [300, 1000, 3000])
    results = run(counts, parsed.model, Console(stderr=True).print)
    Console(width=max(Console().width, 120)).print(table(results["rows"]).terminal(title=f"model: {parsed.model}"))
    if parsed.json is not None:
        write_json(results, parsed.json)
    if parsed.markdown is not None:
        write_between(parsed.markdown, table(results["rows"]).markdown(), "whole_market")
    return 0


if __name__ == "__main__":
    main()
