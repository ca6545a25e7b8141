"""How a CSV is written, told by its first lines: encoding, separator, lines before the header, levels of the header.

Design choices:
- The header is the first line that names a time and something else, or four prices. Lines before it are titles.
- What is not certain is refused in one line that shows what was seen. Cells stay text: nothing is parsed here.
"""

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..cells_tsf_llm import BLANKS, MONEY
from ..columns_tsf_llm import ALIASES, PERHAPS_KEYS, RAW_ALIASES, SERIES_ALIASES, plain_name

SAMPLE_BYTES = 1 << 16
TITLES = 40  # most lines before a header
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
UNKNOWN_BYTES = "latin-1"  # bytes that are no UTF-8; read where no cell that is used has one
# Binance's archive has no header in most of its files.
BINANCE_COLUMNS = [
    *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
]
TIMES = {*SERIES_ALIASES["timestamp"]}
PRICE_NAMES = [{*ALIASES[name]} for name in ("open", "high", "low", "close")]
KNOWN = [{*names} for names in (ALIASES | RAW_ALIASES | SERIES_ALIASES).values()]
USED_TEXTS = {*ALIASES["ticker"], *SERIES_ALIASES["series_id"], *PERHAPS_KEYS}
NUMBER_OR_DATE = r"[-+]?[\d.,:/\s-]+(e[-+]?\d+)?"
NO_TICKER = rf"[-+{MONEY}]*[\d.,{BLANKS}]+(e[-+]?\d+)?[{BLANKS}{MONEY}]*|nan|null"  # but a price, as $1,234.50


@dataclass(frozen=True)
class Layout:
    """How to read a CSV.

    Args:
        first: number of the first line of data, from 0.
        names: of the columns; pairs of (time, or price) and ticker where the header has several `levels`.
    """

    encoding: str
    separator: str
    first: int
    names: Sequence[Any]
    levels: int = 1
    blanks: bool = False  # between a separator and a quotation mark

    @property
    def options(self) -> dict[str, Any]:
        """Of `pandas.read_csv`; all cells as text."""
        return {
            "dtype": str,
            "keep_default_na": False,
            "index_col": False,
            "encoding": self.encoding,
            "sep": self.separator,
            "header": None,
            "names": list(range(len(self.names))),
            "skiprows": self.first,
            "skipinitialspace": self.blanks,
        }

    def named(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The cells under their names; of a header with several levels, times as index and pairs as columns."""
        if self.levels == 1:
            return cells.set_axis(_unique(self.names), axis=1)
        pairs = pd.MultiIndex.from_tuples(self.names[1:])
        return cells.set_index(0).rename_axis(self.names[0][0]).set_axis(pairs, axis=1)

    def check(self, table: pd.DataFrame, is_known: Callable[[str], bool] = str.isascii, share: float = 0.0) -> None:
        """Raises UnicodeError where more than a share of the names of series are in bytes of unknown letters."""
        if self.encoding != UNKNOWN_BYTES:
            return
        is_keyed = any(plain_name(name) in ALIASES["ticker"] for name in table.columns)
        used = {*ALIASES["ticker"]} if is_keyed else USED_TEXTS
        for name in table.columns:
            if plain_name(name) in used and (~table[name].astype(str).map(is_known)).mean() > share:
                raise UnicodeError(f"column '{name}' has letters in an unknown encoding; save it as UTF-8")


def layout_of(path: Path) -> Layout:
    """Raises ValueError for a file without lines or without a header, with what was seen; OSError as `open`."""
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
    encoding = _encoding(start)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(start)
    lines = text.splitlines()[: None if len(start) < SAMPLE_BYTES else -1]
    if not "".join(lines).strip():
        raise ValueError(f"{path} is empty; download or export it again.")
    blanks = re.search(r'[,;|\t] +"', text) is not None
    for number, line in enumerate(lines[:TITLES]):
        for separator in SEPARATORS:
            rows = _cells(lines[number : number + 12], separator, blanks)
            if levels := _levels(rows):
                return Layout(encoding, separator, number + len(levels), _pairs(levels), len(levels), blanks)
            if line.strip() and _is_header(rows[0]):
                return _with_header(path, encoding, separator, number, rows, blanks)
    return _without_known_names(path, encoding, lines, blanks)


def _encoding(start: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return encoding
    if b"\0" in start[:200]:
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeError:
        return UNKNOWN_BYTES
    return "utf-8-sig"


def _cells(lines: Sequence[str], separator: str, blanks: bool) -> list[list[str]]:
    try:
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=blanks)
        return [[cell.strip() for cell in row] for row in rows] or [[]]
    except csv.Error:
        return [[]]


def _is_header(cells: Sequence[str]) -> bool:
    """A time and one more name, or four prices beside a column without a name."""
    names = {plain_name(cell) for cell in cells} - {""}
    has_prices = all(names & known for known in PRICE_NAMES)
    is_text = not any(re.fullmatch(NUMBER_OR_DATE, cell) for cell in cells)
    return len(names) > 1 and is_text and (has_prices or bool(names & TIMES))


def _with_header(
    path: Path, encoding: str, separator: str, number: int, rows: Sequence[Sequence[str]], blanks: bool
) -> Layout:
    header, data = list(rows[0]), [row for row in rows[1:] if any(row)]
    for known in KNOWN:
        same = [cell for cell in header if plain_name(cell) in known]
        if twice := sorted({cell for cell in same if same.count(cell) > 1}):
            raise ValueError(f"{path} has more than one column '{twice[0]}'; keep one of each.")
    if data and all(len(row) == len(header) + 1 and not row[-1] for row in data):
        header.append("")  # a separator at the end of each line
    return Layout(encoding, separator, number + 1, header, blanks=blanks)


def _levels(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The lines of a header of prices and tickers, the prices first, as yfinance's frames are written; else none."""
    for prices, tickers in ((0, 1), (1, 0)):
        if len(rows) < 3 or len(rows[0]) < 5 or len(rows[0]) != len(rows[1]):
            return []
        names: dict[str, set[str]] = {}
        for price, ticker in zip(rows[prices][1:], rows[tickers][1:], strict=True):
            names.setdefault(ticker, set()).add(plain_name(price))
        is_text = all(ticker and not re.fullmatch(NO_TICKER, ticker, re.IGNORECASE) for ticker in names)
        if is_text and all(of_one & known for of_one in names.values() for known in PRICE_NAMES):
            third = [rows[2]] if plain_name(rows[2][0] if rows[2] else "") in TIMES and not any(rows[2][1:]) else []
            return [rows[prices], rows[tickers], *third]
    return []


def _pairs(levels: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    time = next((row[0] for row in levels if plain_name(row[0]) in TIMES), "timestamp")
    return [(time, ""), *zip(levels[0][1:], levels[1][1:], strict=True)]


def _without_known_names(path: Path, encoding: str, lines: Sequence[str], blanks: bool) -> Layout:
    """The first line that is no remark: a header of other names, one of Binance's rows, or refused."""
    number = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith(("#", "sep="))), 0)
    some = lines[number : number + 12]
    counts = {one: [len(row) for row in _cells(some, one, blanks) if row] for one in SEPARATORS}
    separator = max(SEPARATORS, key=lambda one: (len(set(counts[one])) == 1) * counts[one][0])
    first = _cells(some, separator, blanks)[0]
    if len(first) == len(BINANCE_COLUMNS) and re.fullmatch(r"\d{13}(\d{3})?", first[0]):
        return Layout(encoding, separator, number, BINANCE_COLUMNS)
    if len(first) > 1 and sum(bool(re.fullmatch(NUMBER_OR_DATE, cell)) for cell in first) > len(first) / 2:
        raise ValueError(
            f"{path} has no header: its first line is '{some[0][:80]}'. Add a line with the names of its columns, as "
            f"{separator.join(['timestamp', 'open', 'high', 'low', 'close', 'volume'])}."
        )
    return _with_header(path, encoding, separator, number, _cells(some, separator, blanks), blanks)


def _unique(names: Sequence[str]) -> list[str]:
    """As pandas calls columns without a name and those of one name."""
    seen: dict[str, int] = {}
    unique = []
    for place, name in enumerate(names):
        name = name or f"Unnamed: {place}"
        seen[name] = seen.get(name, -1) + 1
        unique.append(f"{name}.{seen[name]}" if seen[name] else name)
    return unique


def described(layout: Layout) -> str:
    """For a message: `comma-separated UTF-8`."""
    separated = f"{SEPARATORS[layout.separator]}-separated"
    is_known = layout.encoding != UNKNOWN_BYTES
    return f"{separated} {layout.encoding.upper().removesuffix('-SIG')}" if is_known else separated


def begins_like_a_table(path: Path) -> bool:
    """Whether a text file has a header of a time and prices, or a value, in its first lines."""
    try:
        layout = layout_of(path)
    except (OSError, ValueError, EOFError, zlib.error):
        return False
    names = {plain_name(name) for name in (layout.names if layout.levels == 1 else ())}
    return layout.levels > 1 or (bool(names & TIMES) and any(names & known for known in PRICE_NAMES))
