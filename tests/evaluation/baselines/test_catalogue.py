"""catalogue.py: groups hold one another, and what does not suit is refused by name."""

import pytest

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines.catalogue import CATALOGUE, choose


def names(*args):
    return [one.name for one in choose(*args)]


def test_groups_hold_one_another():
    fast, standard, everything = (names(group) for group in ("fast", "standard", "all"))
    assert fast == ["random_walk", "drift", "historical_volatility_20"]
    assert set(fast) <= set(standard) <= set(everything)
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)


def test_a_season_brings_the_seasonal_naive():
    assert "seasonal_naive" in names("fast", UNIVARIATE, 24)
    assert "seasonal_naive" not in names("fast", UNIVARIATE, None)


def test_names_are_taken_once_and_in_order():
    assert names("drift, random_walk,drift") == ["drift", "random_walk"]


def test_what_is_unknown_or_does_not_suit_is_refused():
    with pytest.raises(ValueError, match="--baselines garhc: choose fast, standard, all or from random_walk"):
        choose("drift,garhc")
    with pytest.raises(ValueError, match="--baselines seasonal_naive: needs a plain series with a season"):
        choose("seasonal_naive")
    with pytest.raises(ValueError, match="--baselines lstm: needs a plain series; leave it out"):
        choose("drift,lstm")
    with pytest.raises(ValueError, match="--baselines har_range: needs prices with open, high and low"):
        choose("har_range", UNIVARIATE)
