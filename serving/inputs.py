"""What a forecast was made of: inputs that the model read, columns that it left aside, and what it did without."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..bars_tsf_llm import OHLCV
from ..columns_tsf_llm import ALIASES, SERIES_ALIASES, find_columns
from ..feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from ..market_tsf_llm import implied_index, parts_of

PARTS = {"universe": "the market (a universe of tickers, or an index)", "implied": "an implied-volatility index (VIX)"}


def inputs_of(
    extractor: TsfLlmFeatureExtractor,
    bars: pd.DataFrame,
    market: pd.DataFrame | None = None,
    *,
    columns: Sequence[Any] = (),
    named: Sequence[str | None] = (),
) -> dict[str, list[str]]:
    """`used`, `ignored` and `masked`, in words.

    `bars` are as they were read; `columns` are those of the file that they were read from, and `named` the ones that
    the user called the key, the time or the value."""
    kind = extractor.series_kind
    known = [name for name in extractor.covariates if name in bars]
    used, masked = ["open, high, low, close" if kind is OHLCV else "the value"], list[str]()
    for name in ["volume"] if kind is OHLCV else []:
        (used if name in bars and bars[name].notna().any() else masked).append(name)
    for name in extractor.covariates:
        (used if name in known and bars[name].notna().any() else masked).append(name)
    given = parts_of_market(market)
    for part in extractor.market_parts if extractor.reads_market else []:
        (used if part in given else masked).append(PARTS[part])
    table = pd.DataFrame(columns=[*(columns or bars.columns)])
    read = {*find_columns(table, ALIASES if kind is OHLCV else SERIES_ALIASES).values(), *known, *bars.columns, *named}
    return {"used": used, "ignored": [str(name) for name in table.columns if name not in read], "masked": masked}


def parts_of_market(market: pd.DataFrame | None) -> set[str]:
    """Which parts of a market these bars, or this state of one, hold."""
    if market is not None and OHLCV.id not in market:
        return {*parts_of(market)}
    names = [] if market is None else [str(name) for name in market[OHLCV.id].unique()]
    return {"universe" if implied_index(name) is None else "implied" for name in names}
