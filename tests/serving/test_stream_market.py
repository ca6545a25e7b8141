"""A market that grows bar by bar is the one that was given at once; times that are closed stay closed."""

import pandas as pd
import pytest

from tsf_llm.serving.stream_market import StreamedMarket


@pytest.fixture(scope="module")
def panel(make_bars, make_index):
    """Three tickers, one of which begins late and has a gap, and an implied-volatility index."""
    late = make_bars(90, ticker="ZZZ", seed=3).iloc[40:].drop(index=60)
    return pd.concat([make_bars(90, ticker="XXX", seed=1), make_bars(90, ticker="YYY", seed=2), late, make_index(90)])


@pytest.fixture(scope="module")
def extractor(beside_market):
    return beside_market.feature_extractor


def grown(extractor, panel, first, keep=10_000):
    times = sorted(panel["timestamp"].unique())
    market, _ = StreamedMarket(extractor, keep).extended(panel[panel["timestamp"] <= times[first]])
    for time in times[first + 1 :]:
        market, skipped = market.extended(panel[panel["timestamp"] == time])
        assert skipped == {}
    return market


def test_it_is_the_market_of_all_bars(extractor, panel):
    whole, _ = StreamedMarket(extractor, 10_000).extended(panel)
    pd.testing.assert_frame_equal(grown(extractor, panel, 20).state(), whole.state(), rtol=1e-12)


def test_it_remembers_a_bounded_number_of_times(extractor, panel):
    market, whole = grown(extractor, panel, 60, keep=40), grown(extractor, panel, 60)
    assert len(market.moments.table) == len(market.moments.implied["VIX"]) == 40
    columns = ["abs_return", "dispersion_5", "range", "implied", "implied_21"]
    ends = [one.state().set_index("timestamp")[columns].tail(10) for one in (market, whole)]
    pd.testing.assert_frame_equal(*ends, rtol=1e-12)
    levels = [one.state()["level"].diff().tail(10).to_numpy() for one in (market, whole)]
    assert levels[0] == pytest.approx(levels[1])


def test_a_time_is_closed_once_it_was_given(extractor, panel):
    market = grown(extractor, panel, 85)
    before = market.state()
    with pytest.raises(ValueError, match="give all bars of a time in one update"):
        market.extended(panel[panel["timestamp"] == panel["timestamp"].max()])
    after = panel["timestamp"].max() + pd.Timedelta(days=3)
    mixed = panel.groupby("ticker").tail(1).assign(timestamp=[after, panel["timestamp"].max(), after, after])
    longer, skipped = market.extended(mixed)
    assert list(skipped) == ["YYY"]
    assert longer.state()["timestamp"].iloc[-1] == after
    pd.testing.assert_frame_equal(market.state(), before)
    with pytest.raises(ValueError, match="market, YYY"):
        market.extended(mixed, strict=True)


def test_it_is_saved_as_numbers_and_names(extractor, panel):
    market = grown(extractor, panel, 85)
    arrays = market.arrays()
    assert {values.dtype.kind for values in arrays.values()} <= {"i", "f"}
    again = StreamedMarket(extractor, 10_000).restored(arrays, market.names())
    pd.testing.assert_frame_equal(again.state(), market.state(), check_exact=True)
    bars = panel.groupby("ticker").tail(1).assign(timestamp=panel["timestamp"].max() + pd.Timedelta(days=3))
    ends = [one.extended(bars)[0].state() for one in (again, market)]
    pd.testing.assert_frame_equal(*ends, check_exact=True)


def test_a_model_that_reads_none_says_so(small, panel):
    with pytest.raises(ValueError, match="no feature of this model reads it"):
        StreamedMarket(small.feature_extractor, 10).extended(panel)
