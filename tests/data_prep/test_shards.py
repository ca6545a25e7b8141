"""A shard is kept, extended or made anew; whichever it is, its bytes are the same."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.common.files import write_parquet
from tsf_llm.data_prep.shards import Encoder, encode_shard, file_name, hash_of_rows, shard_path
from tsf_llm.data_prep.windows import Split
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.market_tsf_llm import market_state
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

SPLIT = Split(pd.Timestamp("2015-08-01"), pd.Timestamp("2015-10-01"))


@pytest.fixture(scope="module")
def bars(make_bars):
    bars = make_bars(300, ticker="A")
    return bars.astype({"timestamp": "datetime64[us]"})


@pytest.fixture(scope="module")
def market(make_bars):
    return market_state({"X": make_bars(300, seed=5), "Y": make_bars(300, seed=6)})


@pytest.fixture(scope="module")
def processor(bars, market):
    extractor = TsfLlmFeatureExtractor(context_length=16, feature_groups=["averages", "market"])
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, "2015-08-01", market=market)


@pytest.fixture
def encode(tmp_path, processor, market):
    """`encode(bars, market=, settings=, out=)` -> what `encode_shard` returns, and the bytes of the shard."""

    def run(bars, market=market, settings="s", out="out"):
        write_parquet(bars, tmp_path / "bars.parquet")
        encoder = Encoder(processor.feature_extractor, processor.tokenizer)
        counts = encode_shard("A", tmp_path / "bars.parquet", encoder, market, tmp_path / out, settings, SPLIT, 3)
        return counts, shard_path(tmp_path / out, "A").read_bytes()

    return run


def assert_encoded(encode, rows, bars, **kwargs):
    """So many rows were computed, and the shard is that of an empty folder."""
    counts, shard = encode(bars, **kwargs)
    assert counts["encoded"] == rows
    assert shard == encode(bars, out=f"new{np.random.default_rng().integers(1 << 60)}", **kwargs)[1]


def test_it_is_kept_extended_or_made_anew(encode, bars):
    assert_encoded(encode, 250, bars.head(250))
    assert_encoded(encode, 0, bars.head(250))
    assert_encoded(encode, 1, bars.head(251))
    assert_encoded(encode, 49, bars)
    assert_encoded(encode, 299, bars.head(299))  # a bar was withdrawn
    assert_encoded(encode, 300, bars, settings="others")


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume", "timestamp"])
def test_one_bit_of_an_old_bar(encode, bars, column):
    encode(bars.head(250))
    other = bars.copy()
    if column == "timestamp":
        other.loc[0, column] -= pd.Timedelta("1us")
    else:
        other.loc[0, column] = np.nextafter(other.loc[0, column], 1e9 if column == "high" else 0)
    assert_encoded(encode, 300, other)


def test_the_market_as_of_its_bars(encode, bars, market):
    encode(bars.head(250))
    ahead = market.copy()
    ahead.loc[260:, "level"] += 1  # after what was stored
    assert_encoded(encode, 50, bars, market=ahead)
    ahead.loc[200, "range"] = np.nextafter(ahead.loc[200, "range"], 1)
    assert_encoded(encode, 300, bars, market=ahead)


def test_a_torn_shard_is_made_anew(encode, bars, tmp_path):
    encode(bars)
    shard_path(tmp_path / "out", "A").write_bytes(b"torn")
    assert_encoded(encode, 300, bars)


def test_names_of_files():
    assert file_name("BRK/B") == "BRK%2FB.parquet"
    assert file_name("^GSPC") == "^GSPC.parquet"
    assert len(file_name("x" * 300)) < 120
    assert file_name("x" * 300 + "a") != file_name("x" * 300 + "b")


def test_a_hash_of_rows_ends_where_it_is_told(bars):
    rows, day = bars.drop(columns="ticker"), bars["timestamp"].iloc[99]
    assert hash_of_rows(rows, day) == hash_of_rows(rows.head(100)) != hash_of_rows(rows.head(101))
    assert hash_of_rows(None) != hash_of_rows(rows.head(0))


def test_the_last_window_alone_is_that_of_the_whole(processor, market, make_bars):
    bars = make_bars(2300, ticker="A")
    bars.loc[bars.index[-3:], "close"] = np.nan  # the last origin lies before them
    [whole] = processor.feature_extractor.encode(bars, market=market)
    [last] = processor.feature_extractor.encode(bars, market=market, last_window=True)
    origins = whole.origins()[-1:]
    assert origins[0] == 2296
    batches = [processor.batch([(one, origins)], return_tensors="np") for one in (whole, last)]
    assert batches[0]["past_values"].tobytes() == batches[1]["past_values"].tobytes()
    assert batches[0]["past_values"].any()
    assert not last.features[: 2296 - 15].any()
