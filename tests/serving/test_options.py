"""What the words of options mean."""

from tsf_llm.serving.options import market_bars, names


def test_names_stand_between_commas():
    assert names(None) is None
    assert names("AAPL, MSFT,,") == ["AAPL", "MSFT"]


def test_no_market_is_none_and_the_sample_is_prices_with_the_vix():
    assert market_bars(None, None, None) is None
    assert "VIX" in set(market_bars("sample", None, None)["ticker"])
