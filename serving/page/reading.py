"""A visitor's file -> bars, or a sentence that says what is wrong and what helps.

Design choices:
* `data_prep` reads; here its refusals become sentences in the visitor's language, without a path of this machine.
* What was uploaded lies in a folder of its own while it is read, and nowhere after.
* Limits come before reading: of bytes, also of what a compressed file unfolds to, and of rows.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from ...bars_tsf_llm import MIN_BARS, kind_of
from ...cells_tsf_llm import Unclear
from ...common.errors import printable
from ...data_prep.columns import Columns
from ...data_prep.sources import read_bars, read_for
from ...data_prep.tables import EXTENSIONS, TEXTS
from ...processing_tsf_llm import TsfLlmProcessor
from ..uploads import TooLarge, Unreadable, check_size
from .words import say

MEGABYTES = 10
MOST_BYTES = MEGABYTES * 2**20
UNFOLDED = 10  # times as many bytes, in a compressed file
MOST_ROWS, MOST_COLUMNS = 500_000, 64
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # the first bytes of a text that has zeros in it
KEPT = 6_000  # bars of each ticker: what a verdict at 20 bars ahead looks at
SIGNS = (  # of the readers' messages -> our key; the first that is found
    ("has an extension|is a pickle|is an archive|is a spreadsheet", "bad_type"),
    ("is empty|has no rows|holds no price files", "bad_empty"),
    ("has no header", "bad_header"),
    (r"has no column for (?P<missing>[\w, ]+);", "bad_columns"),
    (r"(?P<said>.*the static table.*)", "bad_table"),
    (r"nothing of seasons and steps: add --resample (?P<rule>[\w:]+)", "bad_uneven"),
    (r"^--resample", "bad_rule"),
    (r"no (?:one )?column '(?P<column>[^']*)', a static covariate", "bad_static"),
    (r"has columns of numbers: (?P<columns>.*?); choose", "bad_value"),
    ("times repeat, and column", "bad_id"),
    (r"(?P<column>[^:;]+) must be known (?P<count>\d+) steps ahead", "bad_known"),
    (r"but this model was trained for (?P<most>\d+) step", "bad_horizon"),
    (r"has no column '(?P<missing>[^']*)'|has no column of (?P<what>times|numbers)", "bad_columns"),
    (r"row (?P<row>\d+): column '[^']*' holds (?P<cell>'.*?'),? which is not a number", "bad_cell"),
    ("is not a .* file|cannot be read|more than one column", "bad_binary"),
    ("timestamp goes backwards|timestamp is repeated|the same timestamp", "bad_order"),
    ("price <= 0", "bad_prices"),
    ("high is below|low is above|outside", "bad_bars"),
    ("observed bars|returns are known", "bad_short"),
    ("never changed", "bad_flat"),
    ("a bar every", "bad_frequency"),
    ("timestamp|not a date|no date|is no time|not a time", "bad_time"),
)


class Refusal(ValueError):
    """What a visitor is told: the key of a text, and what fills it."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(say("en", key, **values))
        self.key, self.values = key, values

    def __reduce__(self) -> Any:
        """Copies, and goes from one process to another."""
        return partial(Refusal, self.key, **self.values), ()

    def said(self, language: str) -> str:
        return say(language, self.key, **self.values)


@dataclass(frozen=True)
class Upload:
    """A file as it came, in memory alone."""

    name: str
    content: bytes

    @classmethod
    def take(cls, path: Path, name: str) -> "Upload":
        """Reads it and removes it from the disk, with the folder that was made for it.

        Raises:
            Refusal: it is too large.
        """
        try:
            size = path.stat().st_size
            if size > MOST_BYTES:
                raise _too_large(shown(name))
            return cls(shown(name), path.read_bytes())
        finally:
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()

    def bars(
        self,
        dates: str | None = None,
        *,
        processor: TsfLlmProcessor | None = None,
        column: str = "",
        rule: str = "",
        table: "Upload | None" = None,
    ) -> pd.DataFrame:
        """The last bars of every ticker; `dates` is `dmy` or `mdy` where cells do not tell. `skipped` is in its attrs.

        With the `processor` of a model of plain series these are read, the values from a `column` if it is named, the
        rows made even by a `rule`, and what never changes of each from a `table`.

        Raises:
            Refusal: it cannot be read, for a reason that it says.
        """
        plain = processor is not None
        with TemporaryDirectory(prefix="tsf-llm-page-") as folder, refusing(self.name, plain=plain):
            path = self._written(Path(folder) / "file")
            if processor is None:
                bars = read_bars(path, dates=dates)
            else:
                beside = None if table is None else str(table._written(Path(folder) / "table"))
                columns = Columns(column or None, dates=dates, static_file=beside, resample=rule or None)
                bars = read_for(processor, str(path), columns=columns)
        skipped = {one: refusal_of(ValueError(why), one, plain=plain) for one, why in bars.attrs["skipped"].items()}
        kept = bars.groupby(kind_of(bars).id, sort=False).tail(KEPT).reset_index(drop=True)
        kept.attrs |= {"skipped": skipped}
        return kept

    def check(self) -> None:
        """Raises Refusal for what is no table, by its name and first bytes."""
        name = self.name.lower()
        if not self.content:
            raise Refusal("bad_empty", name=self.name)
        if not name.endswith((*EXTENSIONS, *TEXTS)):
            raise Refusal("bad_type", name=self.name)
        if not name.endswith((".gz", ".parquet")) and b"\0" in self.content and not self.content.startswith(UTF16):
            raise Refusal("bad_binary", name=self.name)

    def _written(self, folder: Path) -> Path:
        self.check()
        folder.mkdir()
        path = folder / self.name
        path.write_bytes(self.content)
        try:
            check_size(path, rows=MOST_ROWS, columns=MOST_COLUMNS, unpacked=UNFOLDED * MOST_BYTES)
        except TooLarge as error:
            raise _too_large(self.name) from error
        except Unreadable as error:
            raise Refusal("bad_binary", name=self.name) from error
        return path


def shown(name: str) -> str:
    """A file's own name, short, without folders or control characters; the ticker may come from it.

    >>> shown("../../etc/AAPL.csv"), shown("C:\\\\x\\\\AAPL.csv")
    ('AAPL.csv', 'AAPL.csv')
    """
    own = PurePath(name.replace("\\", "/")).name.replace("\0", "")
    return printable(own)[-80:].lstrip(".") or "file"


@contextmanager
def refusing(name: str, *, plain: bool = False) -> Iterator[None]:
    """Turns what the readers and the processor say of their input into a `Refusal` about `name`."""
    try:
        yield
    except Refusal:
        raise
    except (ValueError, OSError) as error:
        raise refusal_of(error, name, plain=plain) from error


def refusal_of(error: Exception, name: str, *, plain: bool = False) -> Refusal:
    """What a reader's message means to a visitor, of `plain` series in words about these; one that is not known is
    told as it is, without folders."""
    said = " ".join(str(error).split())
    if isinstance(error, Unclear) or isinstance(error.__cause__, Unclear):
        return Refusal("bad_dates" if "(dmy)" in said or "(mdy)" in said else "bad_decimal", name=name)
    for sign, key in SIGNS:
        if found := re.search(sign, said):
            told = {part: (text or "").replace("timestamp", "date") for part, text in found.groupdict().items()}
            if key == "bad_columns":
                told["missing"] = told["missing"] or told.get("what", "")
            told |= {"least": str(MIN_BARS)} if key == "bad_short" else {}
            return Refusal(key, name=name, plain=plain, **told)
    return Refusal("bad_other", name=name, said=printable(re.sub(r"(/[^\s/:;,]+)+/", "", said))[:300])


def _too_large(name: str) -> Refusal:
    return Refusal("bad_large", name=name, limit=MEGABYTES, rows=f"{MOST_ROWS:,}")
