"""inputs.py: what a model reads, what of a file it leaves aside, and what it was not given."""

import pandas as pd

from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.serving.inputs import PARTS, inputs_of, parts_of_market


def test_columns_of_bars_and_parts_of_a_market(make_bars, make_index):
    bars = make_bars(400)
    beside = pd.concat([make_bars(400, ticker="X", seed=3), make_bars(400, ticker="Y", seed=4)])
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar", "market"]).fit(bars, market=beside)
    found = inputs_of(extractor, bars, columns=[*bars.columns, "Sector", "VWAP"])
    assert found["used"] == ["open, high, low, close", "volume"]
    assert found["ignored"] == ["Sector", "VWAP"]
    assert found["masked"] == [PARTS["universe"]]
    given = inputs_of(extractor, bars.assign(volume=float("nan")), beside)
    assert given == {"used": ["open, high, low, close", PARTS["universe"]], "ignored": [], "masked": ["volume"]}
    assert parts_of_market(pd.concat([beside, make_index(400)])) == {"universe", "implied"}


def test_columns_of_the_files_own_names_are_not_called_ignored(make_bars):
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"]).fit(make_bars(400))
    columns = ["Handelstag", "Name", "Open", "High", "Low", "Close", "Adj Close", "Vol."]
    found = inputs_of(extractor, make_bars(300), columns=columns, named=["Handelstag", "Name"])
    assert found["ignored"] == []


def test_covariates_and_plain_series(loads):
    table = pd.read_csv(loads)
    series = table.rename(columns={"date": "timestamp", "OT": "value"})[["timestamp", "value", "flag"]]
    series["timestamp"] = pd.to_datetime(series["timestamp"])
    extractor = TsfLlmFeatureExtractor(kind="univariate", known_covariates=["flag"]).fit(series)
    found = inputs_of(extractor, series.assign(series_id="OT"), columns=["date", "value", "flag", "HUFL"])
    assert found == {"used": ["the value", "flag"], "ignored": ["HUFL"], "masked": []}
