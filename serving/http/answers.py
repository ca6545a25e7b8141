"""Forecast frames -> JSON or CSV, to as many digits as do not depend on who else asked."""

import math
from typing import Any

import pandas as pd

DIGITS = 8  # significant; float64 answers agree to 14 or more whatever rows share a pass


def rounded(number: float) -> float | None:
    """To `DIGITS`, None for what is undefined.

    >>> rounded(123.4567891), rounded(float("nan"))
    (123.45679, None)
    """
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows, as JSON knows them."""
    columns: dict[str, list[Any]] = {}
    for name, cells in frame.items():
        if pd.api.types.is_datetime64_any_dtype(cells):
            columns[str(name)] = [stamp.isoformat() for stamp in cells]
        elif pd.api.types.is_float_dtype(cells):
            columns[str(name)] = [rounded(number) for number in cells.tolist()]
        else:
            columns[str(name)] = cells.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def as_csv(frame: pd.DataFrame) -> str:
    """Rows as a spreadsheet reads them; a ticker that it would run gets an apostrophe, as in files."""
    safe = frame.assign(ticker=[f"'{one}" if one[:1] in "=+-@\t\r" and one else one for one in frame["ticker"]])
    return safe.to_csv(index=False, float_format=f"%.{DIGITS}g", date_format="%Y-%m-%dT%H:%M:%S")
