"""Panels for the baselines, and a cache of their own."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries


def series_of(close, kind=OHLCV, ticker="AAA", ohlc=None, start="2015-01-05"):
    """An encoded series with the numbers that baselines read."""
    close = np.asarray(close, float)
    with np.errstate(all="ignore"):
        changes = np.append(np.nan, np.diff(kind.additive(close)))
    return EncodedSeries(
        ticker=ticker,
        timestamp=pd.bdate_range(start, periods=len(close)).to_numpy(),
        features=np.zeros((len(close), 2), np.float32),
        observed=np.isfinite(close),
        close=close,
        log_return=changes,
        sigma=kind.volatility(changes, kind.sigma_decay, kind.sigma_floor, None),
        ohlc=np.repeat(close[:, None], 4, axis=1) if ohlc is None and kind is OHLCV else ohlc,
    )


def panel_of(close, origins, kind=OHLCV, season=None):
    """A panel of one series."""
    return Panel([series_of(close, kind)], [np.asarray(origins)], kind, season)


@pytest.fixture
def make_panel():
    return panel_of


@pytest.fixture
def make_series():
    return series_of
