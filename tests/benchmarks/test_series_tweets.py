"""`series`, tweets: no tweet informs a return that began before it was written; a broken join is found."""

import doctest

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import series_page, series_tweets
from tsf_llm.benchmarks.series_frame import Context
from tsf_llm.benchmarks.series_tweets import (
    LEAKY,
    PUBLISHED,
    STRICT,
    TWEETS,
    Collection,
    adjusted,
    audit,
    facts,
    labels,
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    bars, tweets = series_tweets.made_up()
    return Collection(bars, tweets, series_tweets.made_up_encoder(tmp_path_factory.mktemp("encoder")), None)


@pytest.fixture
def with_tweets(collection):
    """`with_tweets(stamps)`: the collection with these tweets of T0, and an early one of T1."""

    def make(stamps):
        stamps = pd.to_datetime(pd.Series(["2015-01-05 15:00", *map(str, stamps)]), format="mixed")
        rows = pd.DataFrame({"timestamp": stamps, "date": stamps.dt.normalize(), "ticker": "T0", "text": "oil rises"})
        rows.loc[0, "ticker"] = "T1"
        few = Collection(collection.bars, rows.assign(next_ret=0.0), collection.encoder, None)
        few.__dict__["words"] = np.ones((len(stamps), 2))
        return few

    return make


def first_outcome(collection, join):
    """The first day whose return a tweet informs."""
    samples = collection.samples(join, ["words"])
    informed = samples.table[:, 0] > 0  # the number of tweets
    return [str(day.date()) for day in samples.rows["outcome_date"][informed & (samples.rows["ticker"] == "T0")]]


@pytest.mark.parametrize(
    ("stamp", "outcome"),
    [
        ("2015-07-06 19:59", "2015-07-07"),  # Monday, 15:59 in New York's summer: the return from Monday's close
        ("2015-07-06 20:00", "2015-07-08"),  # on the close
        ("2015-07-06 20:30", "2015-07-08"),
        ("2015-01-12 20:30", "2015-01-13"),  # 15:30 in winter
        ("2015-01-12 21:30", "2015-01-14"),
        ("2015-07-10 22:00", "2015-07-14"),  # Friday evening: from Monday's close on
        ("2015-07-11 12:00", "2015-07-14"),
        ("2015-11-27 17:59", "2015-11-30"),  # a day that closed at 13:00
        ("2015-11-27 18:30", "2015-12-01"),
    ],
)
def test_a_tweet_informs_the_return_from_the_first_close_after_it(with_tweets, stamp, outcome):
    assert first_outcome(with_tweets([stamp]), STRICT) == [outcome]


def test_the_other_joins_inform_a_return_that_has_begun(with_tweets):
    evening = with_tweets(["2015-07-06 20:30"])
    assert first_outcome(evening, PUBLISHED) == ["2015-07-07"]
    assert first_outcome(evening, LEAKY) == ["2015-07-07"]
    assert first_outcome(with_tweets(["2015-07-06 19:30"]), LEAKY) == ["2015-07-06"]  # its own day's


def test_the_audit_finds_what_is_wrong_and_only_that(collection, with_tweets):
    assert audit(collection, STRICT, cuts=4) == {"rows": 16, "changed": 0}
    assert audit(collection, LEAKY, cuts=4)["changed"] > 8
    days = pd.bdate_range("2015-07-31", "2015-12-30")
    late = with_tweets(days + pd.Timedelta("21h30min"))  # after the close in any season
    assert audit(late, STRICT, cuts=4)["changed"] == 0
    assert audit(late, PUBLISHED, cuts=4)["changed"] == 4


def test_the_audit_finds_a_wrong_zone(with_tweets, monkeypatch):
    """16:00 taken for a time of UTC is before the close, so clean; taken for one west of New York it is a leak."""
    days = pd.bdate_range("2015-07-31", "2015-12-30")
    late = with_tweets(days + pd.Timedelta("21h30min"))
    assert audit(late, STRICT, cuts=4)["changed"] == 0
    real = series_tweets.text_features
    monkeypatch.setattr(
        series_tweets, "text_features", lambda *a, **k: real(*a, **{**k, "zone": "America/Los_Angeles"})
    )
    assert audit(late, STRICT, cuts=4)["changed"] > 0


def test_no_input_and_no_sample_knows_a_later_bar(collection):
    sources = ["prices", "words", "minilm"]
    whole = collection.samples(STRICT, sources)
    day = np.datetime64("2015-09-01")
    early = (collection.bars["timestamp"] <= day).to_numpy()
    cut = Collection(collection.bars[early].reset_index(drop=True), collection.tweets, collection.encoder, None)
    cut.__dict__.update(words=collection.words, minilm=collection.minilm)
    part = cut.samples(STRICT, sources)
    for name, values in part.inputs.items():
        np.testing.assert_array_equal(values, whole.inputs[name][early])
    known = part.rows["ret"].notna().to_numpy()
    pd.testing.assert_frame_equal(part.rows[known], whole.rows[early].reset_index(drop=True)[known])
    assert (part.rows["date"][~known] == day).all()


def test_parts_follow_the_dates_of_outcomes(collection):
    rows = collection.rows
    ends = rows[rows["part"] != "later"].groupby("part")["outcome_date"].agg(["min", "max"])
    assert ends.loc["train", "max"] == pd.Timestamp("2015-07-31") < ends.loc["dev", "min"]
    assert ends.loc["dev", "max"] == pd.Timestamp("2015-09-30") < ends.loc["test", "min"]
    assert ends.loc["test", "max"] == pd.Timestamp("2015-12-31")


def test_labels_and_adjusted_bars():
    assert doctest.testmod(series_tweets).failed == 0
    assert labels(pd.Series([0.01, -0.01, 0.0])).tolist() == [1, 0, -1]
    prices = pd.DataFrame(
        {"date": pd.to_datetime(["2015-01-05", "2015-01-02"]), "ticker": "A", "open": [4.0, 4.0], "high": [5.0, 8.0]}
        | {"low": [3.0, 4.0], "close": [4.0, 8.0], "adj_close": [4.0, 4.0], "volume": [1.0, 1.0]}
    )
    bars = adjusted(prices)
    assert bars["close"].tolist() == [4.0, 4.0]
    assert bars["open"].tolist() == [2.0, 4.0]


def test_the_first_tweets_of_a_day_are_encoded_whatever_comes_later(with_tweets):
    few = with_tweets(["2015-07-06 09:00", "2015-07-06 10:00", "2015-07-06 11:00", "2015-07-07 09:00"])
    assert few.first.tolist() == [True, True, True, False, True]
    few.__dict__["minilm"] = np.ones((5, 1))
    counts = few.text_inputs("minilm", STRICT)[:, 0]
    assert np.expm1(counts).round().sum() == 4


def test_components_of_words_are_those_of_training_tweets(collection):
    later = (collection.tweets["timestamp"] > "2015-07-31 23:59").to_numpy()
    other = Collection(collection.bars, collection.tweets.copy(), collection.encoder, None)
    other.tweets.loc[later, "text"] = "falls falls the bank"
    np.testing.assert_array_equal(other.words[~later], collection.words[~later])


def test_what_the_collection_says_of_its_returns_is_checked(collection):
    told = facts(collection)
    assert told["next_ret_equal"] == 1.0
    wrong = collection.tweets.assign(next_ret=collection.tweets["next_ret"].shift(1).fillna(0.0))
    shifted = Collection(collection.bars, wrong, collection.encoder, None)
    shifted.__dict__["words"] = collection.words
    assert facts(shifted)["next_ret_equal"] < 0.1


def test_a_quick_run_writes_its_part_of_the_page(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    context = Context("tweets", tmp_path / "out", None, (0,), True, None, lambda line: None)
    rows = list(TWEETS.run(context))
    accuracy = {(row.task, row.model): row.found.scores["accuracy"] for row in rows}
    assert accuracy[STRICT.name, series_tweets.OURS] > 0.7 > accuracy[STRICT.name, series_tweets.PRICES]
    text = series_page.block(TWEETS, rows)
    for line in ("strict join: 0 of 12 rows change: clean", "rows change: LEAK", "basis points", "**Verdict:"):
        assert line in text
    none = [row for row in rows if row.task == STRICT.name]
    for row in none:
        row.found.losses["accuracy"][:] = none[0].found.losses["accuracy"]
    assert "**Verdict: no edge." in (told := series_tweets.more(none))
    assert "The published 58.2% lies" in told
