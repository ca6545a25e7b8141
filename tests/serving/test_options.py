"""What the words of options mean."""

import pytest

from tsf_llm.serving.options import looked_up, market_bars, names
from tsf_llm.serving.symbols import Symbols


def test_names_stand_between_commas():
    assert names(None) is None
    assert names("AAPL, MSFT,,") == ["AAPL", "MSFT"]


def test_no_market_is_none_and_the_sample_is_prices_with_the_vix():
    assert market_bars(None, None, None) is None
    assert "VIX" in set(market_bars("sample", None, None)["ticker"])


def test_symbols_are_looked_up_where_a_source_is_named():
    assert looked_up(None) is None
    assert isinstance(looked_up("yahoo"), Symbols)
    with pytest.raises(ValueError, match="--source bloomberg: choose yahoo"):
        looked_up("bloomberg")
