"""The audit passes what is honest, and names every leak."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm import audit_tsf_llm as audit
from tsf_llm.audit_tsf_llm import audit_features
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.indicators_tsf_llm import FEATURES, feature

NUMBERS = ["open", "high", "low", "close", "volume"]


@pytest.fixture
def table():
    """The feature table, put back as it was."""
    before = dict(FEATURES)
    yield FEATURES
    FEATURES.clear()
    FEATURES.update(before)


def test_the_audit_passes_on_the_sample(processor):
    report = processor.audit(read_bars("sample", ["MSFT", "FB"]))
    assert report["passed"]
    assert report["prefix_invariance"] == {"passed": True, "cuts_per_ticker": 6, "leaks": []}
    assert (report["features"], report["tickers"]) == (64, 2)
    for canary in ("random_walk", "shuffled_labels"):
        assert report[canary]["passed"]
        assert report[canary]["bars"] > 500
        assert report[canary]["direction_accuracy"] <= report[canary]["limit"] < 0.6
    assert json.loads(json.dumps(report)) == report


LEAKS = {
    "next_close": lambda b: np.log(b.close.shift(-1) / b.close),
    "centred_mean": lambda b: np.log(b.close.rolling(5, center=True).mean() / b.close),
    "full_sample_zscore": lambda b: (b.close.diff() - b.close.diff().mean()) / b.close.diff().std(),
    "warm_up_filled_backwards": lambda b: np.log(b.close / b.close.rolling(20).mean()).bfill(),
    "next_gap_in_days": lambda b: -b.timestamp.diff(-1) / pd.Timedelta(days=1),
    "far_future": lambda b: b.volume / b.volume.shift(-200),
}


@pytest.mark.parametrize("name", LEAKS)
def test_the_audit_names_every_leak(table, make_bars, name):
    feature(group="mine", lookback=0, name=name)(LEAKS[name])
    report = audit_features(make_bars(600), ["log_return_1", name])
    assert not report["passed"]
    assert not report["prefix_invariance"]["passed"]
    (leak,) = report["prefix_invariance"]["leaks"]
    assert leak["feature"] == name
    assert leak["ticker"] == "AAA"
    assert leak["reads_up_to_bars_ahead"] >= 1


def test_the_random_walk_canary_sings_for_a_leak_alone(table, make_bars):
    feature(group="mine", lookback=0, name="next_close")(LEAKS["next_close"])
    bars = make_bars(1200)
    leaking, honest = (audit_features(bars, ["rsi_14", *more]) for more in (["next_close"], []))
    assert not leaking["random_walk"]["passed"]
    assert leaking["random_walk"]["direction_accuracy"] > 0.9
    assert honest["random_walk"]["passed"]
    assert leaking["shuffled_labels"]["passed"]
    assert honest["shuffled_labels"]["passed"]


def test_the_audit_covers_the_market(beside_market, make_bars, monkeypatch):
    bars = [make_bars(500, ticker="AAA", seed=1), make_bars(480, ticker="BBB", seed=2)]
    names = ["market_return_1", "market_dispersion_5", "reversal_up_score"]
    assert audit_features(bars, names)["passed"]
    assert beside_market.audit(bars, market=bars[1])["passed"]

    honest = audit.market_state

    def centred(tickers):
        table = honest(tickers)
        return table.assign(dispersion_5=table["dispersion"].rolling(5, center=True).mean())

    monkeypatch.setattr(audit, "market_state", centred)
    report = audit_features(bars, names)
    assert not report["passed"]
    assert {leak["feature"] for leak in report["prefix_invariance"]["leaks"]} == {"market_dispersion_5"}


def test_the_audit_covers_gaps_and_own_features(table, make_bars):
    feature(group="mine", lookback=1, name="honest")(lambda b: b.close / b.close.shift(1))
    bars = make_bars(300)
    bars.loc[[40, 41, 150], NUMBERS] = np.nan
    assert audit_features(bars, ["honest", "volume_change", "rsi_14"])["passed"]


def test_a_short_history_skips_the_canary(make_bars):
    report = audit_features(make_bars(60), ["body"])
    assert report["passed"]
    assert "too few" in report["shuffled_labels"]["note"]
