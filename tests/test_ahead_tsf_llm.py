"""What is known of each step ahead: exact, the same alone or among others, and nothing of a later value."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import set_seed

import tsf_llm.configuration_tsf_llm as configuration
from tsf_llm.ahead_tsf_llm import Ahead, Rhythm, Steps, check_ahead, num_ahead, waves_of
from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.calendars_tsf_llm import next_timestamps
from tsf_llm.columns_tsf_llm import join_static
from tsf_llm.data_prep.windows import WindowDataset, identity
from tsf_llm.evaluation.baselines.naive import naive_scale
from tsf_llm.evaluation.walk_forward import walk_forward
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.laws_tsf_llm import PiecewiseLaw
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import SERIES_INPUTS, TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import sft

P, T = 10, 32
KNOWN, STATIC = ["promo"], ["shop", "size", "series_id"]


def sales(name="a", rows=300, seed=0, **static):
    """Days with a week in them, zeros, a gap, a covariate that is known ahead, and what never changes."""
    rng = np.random.default_rng(seed)
    promo = (rng.uniform(size=rows) < 0.2).astype(float)
    value = np.rint(8 + 4 * np.sin(2 * np.pi * np.arange(rows) / 7) + 5 * promo + rng.normal(0, 2, rows)).clip(0)
    value[40:43] = np.nan
    frame = {"timestamp": pd.date_range("2021-01-01", periods=rows), "series_id": name, "value": value, "promo": promo}
    return pd.DataFrame(frame).assign(**{"shop": "north", "size": 1.5, **static})


def fitted(bars, **settings):
    given = {"kind": "univariate", "context_length": T, "steps_ahead": P, "feature_groups": ["level"]}
    extractor = TsfLlmFeatureExtractor(**{**given, **settings})
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32), horizons=[1]).fit(bars, "2021-08-31")


@pytest.fixture(scope="module")
def bars():
    return pd.concat([sales(), sales("b", 280, 1, shop="south", size=2.25), sales("c", 300, 2)], ignore_index=True)


@pytest.fixture(scope="module")
def plain(bars):
    return fitted(bars)


@pytest.fixture(scope="module")
def rich(bars):
    return fitted(bars, known_covariates=KNOWN, static_covariates=STATIC, nonnegative=True, integer=True)


def numbers_of(batch):
    return {name: np.asarray(value) for name, value in batch.items() if hasattr(value, "dtype")}


def inputs_of(processor, bars, origins, ticker="a"):
    series = {one.ticker: one for one in processor.encode(bars)}
    return numbers_of(processor.batch([(series[ticker], np.asarray(origins))]))


def same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


# What each input is


def test_inputs_are_what_a_loop_says(rich, bars):
    [one] = [series for series in rich.encode(bars) if series.ticker == "a"]
    y, s, origin = one.close, one.sigma, 200
    told = inputs_of(rich, bars, [origin])
    context = np.arange(origin - T + 1, origin + 1)
    np.testing.assert_allclose(told["past_target"][0], (y[context] - y[origin]) / s[origin], rtol=1e-6)
    assert told["zero_level"][0] == np.float32(-y[origin] / s[origin])
    seasons = rich.feature_extractor.seasons
    assert seasons[0] == 7
    for k in range(1, P + 1):
        for i, m in enumerate(seasons):
            rows = [origin + k - m * (-(-k // m) + j) for j in range(3)]
            past = [(y[row] - y[origin]) / s[origin] for row in rows if row >= 0]
            expected = [past[0], np.mean(past)]
            np.testing.assert_allclose(told["season_values"][0, k - 1, 2 * i : 2 * i + 2], expected, rtol=1e-5)
    ahead = told["ahead_values"][0]
    time = pd.to_datetime(one.timestamp[origin + 1 : origin + 1 + P])
    np.testing.assert_allclose(ahead[:, 0], np.sin(2 * np.pi * time.day_of_week / 7), atol=1e-5)
    promo = bars.loc[bars["series_id"] == "a", "promo"].to_numpy()[origin + 1 : origin + 1 + P]
    state = rich.feature_extractor.ahead
    np.testing.assert_allclose(ahead[:, 6], (promo - state["center"][0]) / state["scale"][0], rtol=1e-6)
    assert (ahead[:, 7] == 0).all()  # known
    assert (
        ahead.shape[1] == num_ahead(state["waves"], 2) == rich.feature_extractor.series_fields()["num_ahead_features"]
    )
    assert told["static_ids"].tolist() == [[1, 1]]  # north, and a: the size is a number
    np.testing.assert_allclose(ahead[:, 8], (1.5 - state["center"][1]) / state["scale"][1], rtol=1e-6)


def test_what_is_unknown_is_zero(plain, bars):
    told = inputs_of(plain, bars, [41 + 5])
    assert (told["past_target"][0, -7:-4] == 0).all()  # the gap
    assert not told["attention_mask"][0, -7:-4].any()
    early = inputs_of(plain, bars, [25])
    assert early["past_target"].shape == (1, 26)
    assert np.isfinite(early["season_values"]).all()


def test_a_label_of_zero_is_the_level_of_zero(rich, bars):
    dataset = WindowDataset(rich, rich.encode(bars), objective="quantile", horizon=P)
    batch = dataset.__getitems__(list(range(len(dataset))))
    rows = dataset.origins[:, None] + np.arange(1, P + 1)
    zero = dataset.ahead.value[rows] == 0
    level = batch["zero_level"][:, None].expand(-1, P)
    assert zero.sum() > 20
    assert ((batch["labels"] == level).numpy() == zero).all()
    assert batch["labels"].isnan().numpy()[np.isnan(dataset.ahead.value[rows])].all()


# No later value, no other series


@pytest.mark.parametrize("origin", [60, 150, 222])
def test_cutting_off_the_future_changes_no_bit(plain, bars, origin):
    a = bars[bars["series_id"] == "a"].reset_index(drop=True)
    whole = inputs_of(plain, bars, [origin])
    same_bits(inputs_of(plain, a.iloc[: origin + 1], [origin]), whole)
    other = a.assign(value=a["value"].where(a.index <= origin, 1e6))
    same_bits(inputs_of(plain, other, [origin]), whole)


@pytest.mark.parametrize("origin", [60, 222])
def test_of_later_rows_known_covariates_alone_are_read(rich, bars, origin):
    a = bars[bars["series_id"] == "a"].reset_index(drop=True)
    whole = inputs_of(rich, bars, [origin])
    hidden = a.assign(value=a["value"].where(a.index <= origin))
    same_bits(inputs_of(rich, hidden, [origin]), whole)
    asked = rich(bars[bars["series_id"] == "a"], as_of=a["timestamp"][origin], return_tensors="np")
    same_bits(numbers_of(asked), whole)
    other = inputs_of(rich, a.assign(promo=1 - a["promo"]), [origin])
    assert not np.array_equal(other["ahead_values"], whole["ahead_values"])


def test_a_series_has_the_same_bits_among_others(rich, bars):
    series = rich.encode(bars)
    together = numbers_of(rich.batch([(one, np.array([100, 150])) for one in series]))
    for i, one in enumerate(series):
        [alone] = rich.encode(bars[bars["series_id"] == one.ticker])
        mine = {name: value[2 * i : 2 * i + 2] for name, value in together.items()}
        same_bits(numbers_of(rich.batch([(alone, np.array([100, 150]))])), mine)


# Times of the steps


def shop_days(rows):
    days = pd.date_range("2019-01-01", periods=2 * rows)
    return days[days.day_of_week != 5][:rows]


def holed(times, every):
    return times.delete(np.arange(every, len(times), every))


def office_hours(rows):
    hours = pd.date_range("2020-01-01", periods=rows, freq="h")
    return hours[(hours.hour > 8) & (hours.hour < 18)]


def steps_of(stamps, *, told=False):
    n = len(stamps)
    return Steps(stamps, np.zeros(n, int), np.full(n, n), Rhythm.of(stamps, None), None, told=told)


TIMES = {
    "hours": pd.date_range("2020-01-01", periods=3000, freq="h"),
    "ten minutes": pd.date_range("2020-01-01 00:10", periods=6000, freq="10min"),
    "eighteen hours": pd.date_range("2020-01-01", periods=900, freq="18h"),
    "six hours": pd.date_range("2020-01-01", periods=900, freq="6h"),
    "days": pd.date_range("2019-06-03", periods=700),
    "a shop": shop_days(600),
    "a shop with holidays": holed(shop_days(600), 31),
    "workdays": pd.bdate_range("2015-01-01", periods=600),
    "workdays with holidays": holed(pd.bdate_range("2015-01-01", periods=600), 29),
    "hours with holes": holed(pd.date_range("2020-01-01", periods=3000, freq="h"), 50),
    "office hours": office_hours(4000),
    "days at noon": pd.date_range("2019-06-03 12:00", periods=300),
    "weeks": pd.date_range("2015-01-04", periods=200, freq="7D"),
    "months": pd.date_range("2000-01-01", periods=200, freq="MS"),
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_steps_have_the_times_of_a_forecast(times):
    stamps = times.to_numpy().astype("datetime64[ns]")
    n = len(stamps)
    origins = np.unique(np.linspace(25, n - 1, 12).astype(int))
    found = steps_of(stamps).times(origins, 40)
    for row, origin in zip(found, origins, strict=True):
        np.testing.assert_array_equal(row, next_timestamps(stamps[: origin + 1], 40).to_numpy(), err_msg=str(origin))


@pytest.mark.parametrize("name", ["hours", "ten minutes", "days", "a shop", "six hours"])
def test_even_rows_are_told_in_closed_form_and_are_the_rows_that_come(name):
    stamps = TIMES[name].to_numpy().astype("datetime64[ns]")
    n = len(stamps)
    rhythm = Rhythm.of(stamps, None)
    late = np.arange(n * 3 // 4, n - 40)
    assert ((rhythm.step[late] > 0) | (rhythm.days[late] > 0)).all()
    asked, told = (steps_of(stamps, told=told).times(late, 40) for told in (False, True))
    np.testing.assert_array_equal(asked, told)
    np.testing.assert_array_equal(told, stamps[late[:, None] + np.arange(1, 41)])
    ends = np.array([n - 5, n - 1])
    np.testing.assert_array_equal(steps_of(stamps, told=True).times(ends, 40), steps_of(stamps).times(ends, 40))


def test_weeks_begin_on_monday():
    monday = np.array([["2024-01-01T06:00"]], "datetime64[ns]")
    day, week = waves_of(monday, ["day"])[0, 0], waves_of(monday, ["week"])[0, 0]
    np.testing.assert_allclose(day[:2], [1, 0], atol=1e-6)
    np.testing.assert_allclose(week[0], np.sin(2 * np.pi / 28), atol=1e-5)


# Windows for training


def test_windows_of_training_are_those_of_a_forecast(rich, bars):
    series = rich.encode(bars)
    dataset = WindowDataset(rich, series, objective="quantile", horizon=P, stride=7)
    windows = identity(dataset.__getitems__(list(range(len(dataset)))))
    first = np.cumsum([0, *(len(one.close) for one in series)])
    rows = dataset.origins
    places = [rows[(rows >= start) & (rows < end)] - start for start, end in pairwise(first)]
    batch = rich.batch([*zip(series, places, strict=True)])
    for name in ("past_values", "attention_mask", *SERIES_INPUTS):
        assert windows[name].numpy().tobytes() == batch[name].numpy().tobytes(), name
    assert windows["loss_weight"].shape == (len(dataset),)
    rows = places[0][3]
    deviation = np.nanstd(series[0].close)
    assert windows["loss_weight"][3].item() == pytest.approx(series[0].sigma[rows] / deviation)


def test_windows_of_a_plain_dataset_are_cut_when_they_are_read(rich, bars):
    table = rich.training_dataset(bars, P, head="quantile", stride=5)
    dataset = WindowDataset(rich, rich.encode(bars), objective="quantile", horizon=P)
    assert table.data.nbytes < 10_000
    of_origin = {origin: i for i, origin in enumerate(dataset.origins)}
    some = table[3:9]
    first = int(rich.encode(bars)[0].origins()[0])
    origins = np.arange(first, 290)
    origins = origins[origins % 5 == 4][3:9]
    expected = dataset.__getitems__([of_origin[one] for one in origins])
    assert expected.keys() == some.keys()
    for name in some:
        np.testing.assert_array_equal(some[name].numpy(), expected[name].numpy(), err_msg=name)
    with pytest.raises(ValueError, match="no window of 10 step"):
        rich.training_dataset(bars, P, head="quantile", after="2021-10-25")
    with pytest.raises(ValueError, match="causal_lm: the series form answers numbers"):
        rich.training_dataset(bars, P)
    with pytest.raises(ValueError, match="horizon=5, but the processor tells of 10 steps"):
        rich.training_dataset(bars, 5, head="quantile")


# Static covariates


def test_vocabularies_survive_a_folder_in_their_order(rich, bars, tmp_path):
    rich.save_pretrained(tmp_path)
    again = TsfLlmProcessor.from_pretrained(tmp_path)
    assert [*again.feature_extractor.ahead["vocabularies"]] == ["series_id", "shop"]
    same_bits(inputs_of(again, bars, [100, 200]), inputs_of(rich, bars, [100, 200]))


def test_a_value_that_training_did_not_see_is_unknown(rich, bars, caplog):
    told = inputs_of(rich, sales("new", shop="west"), [100], "new")
    assert told["static_ids"].tolist() == [[0, 0]]
    assert "series_id 'new', shop 'west' was not there in training" in caplog.text


def test_a_series_has_one_value(rich, bars):
    two = bars.assign(shop=bars["shop"].where(bars.index != 5, "west"))
    batch = rich(two[["timestamp", "series_id", "value", "promo", "shop", "size"]], as_of="2021-09-01")
    assert batch["ticker"] == ["b", "c"]
    assert batch["skipped"]["a"] == "a: static covariate 'shop' is north and west; give one value per series"
    with pytest.raises(ValueError, match="no one column 'shop', a static covariate of this model"):
        rich(bars.drop(columns="shop"))


def test_a_table_of_static_covariates_is_joined_by_name(rich, bars, caplog):
    table = bars.groupby("series_id", as_index=False)[["shop", "size"]].first()
    bare = bars.drop(columns=["shop", "size"])
    same_bits(inputs_of(rich, join_static(bare, table), [100]), inputs_of(rich, bars, [100]))
    left = join_static(bare, table.iloc[:2])
    assert left.attrs["skipped"] == {"c": "c: the static table has no row for it; add one"}
    assert "skipped c: the static table has no row for it" in caplog.text
    with pytest.raises(ValueError, match=r"^c: the static table has no row for it; add one\.$"):
        join_static(bare, table.iloc[:2], strict=True)
    with pytest.raises(ValueError, match="two rows for a"):
        join_static(bare, pd.concat([table, table]))
    with pytest.raises(ValueError, match="the static table has no column 'colour'"):
        join_static(bare, table, ["colour"])
    with pytest.raises(ValueError, match="the static table has a column 'value', as series have; rename it"):
        join_static(bare, table.rename(columns={"size": "value"}))


def test_a_static_table_does_not_overwrite_what_the_series_have(bars):
    table = bars.groupby("series_id", as_index=False)[["shop", "size"]].first()
    kept = bars.assign(shop=bars["shop"].where(bars["series_id"] != "a", ""))
    again = join_static(kept, table)
    pd.testing.assert_series_equal(again["shop"], bars["shop"], check_dtype=False)
    pd.testing.assert_series_equal(again["size"], bars["size"])
    moved = table.assign(shop=table["shop"].where(table["series_id"] != "a", "moon"))
    left = join_static(bars, moved)
    said = "a: shop is north in its rows and moon in the static table; correct one"
    assert left.attrs["skipped"] == {"a": said}
    assert left["series_id"].unique().tolist() == ["b", "c"]
    with pytest.raises(ValueError, match=f"^{said}\\.$"):
        join_static(bars, moved, strict=True)


# Settings and refusals


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"nonnegative": True, "kind": "ohlcv"}, "go with kind='univariate'"),
        ({"steps_ahead": 0}, "give 1 to"),
        ({"static_covariates": ["shop"]}, "a model in series form alone reads them"),
        ({"static_covariates": ["value"], "steps_ahead": 3}, "cannot be static covariates"),
    ],
)
def test_settings_that_do_not_go_together(settings, word):
    with pytest.raises(ValueError, match=word):
        TsfLlmFeatureExtractor(**{"kind": "univariate", **settings})


def test_values_that_contradict_the_settings_are_refused(bars):
    with pytest.raises(ValueError, match=r"nonnegative: a is -1 at 2021-01-06 00:00:00; leave nonnegative out"):
        fitted(bars.assign(value=bars["value"].where(bars.index != 5, -1.0)), nonnegative=True)
    with pytest.raises(ValueError, match=r"integer: a is 0\.5 at 2021-01-06"):
        fitted(bars.assign(value=bars["value"].where(bars.index != 5, 0.5)), integer=True)
    assert fitted(bars.assign(value=bars["value"].where(bars.index != 299, -1.0)), nonnegative=True)  # after the fence


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1.0, "a is -1 at 2021-10-27 00:00:00, and this model was trained for none below zero (nonnegative)"),
        (0.5, "a is 0.5 at 2021-10-27 00:00:00, and this model was trained for whole numbers alone (integer)"),
    ],
)
def test_a_history_that_contradicts_the_model_is_skipped(pipe, bars, value, said):
    wrong = with_rows_to_come(bars.assign(value=bars["value"].where(bars.index != 299, value)))
    frame = pipe(wrong, horizon=P)
    assert frame["ticker"].unique().tolist() == ["b", "c"]
    assert frame.attrs["skipped"].keys() == {"a"}
    assert frame.attrs["skipped"]["a"].startswith(said)
    before = pipe(wrong, horizon=P, as_of="2021-10-26")  # it is not known then
    assert before["ticker"].unique().tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"^a is .* \((nonnegative|integer)\): correct the data, or train a model"):
        pipe(wrong[wrong["series_id"] == "a"], horizon=P)
    anew = TsfLlmProcessor(pipe.processor.feature_extractor.unfitted(), TsfLlmTokenizer(n_bins=32), horizons=[1])
    told = anew.fit_encode(wrong, "2021-08-31")  # the fit did not see it
    assert [one.ticker for one in told] == ["b", "c"]


def test_a_law_and_its_samples_mean_the_same_whole_numbers(rich):
    law = PiecewiseLaw(np.array([[-2.0, -0.2, 0.3, 3.0]] * 2), np.array([[0.0, 0.3, 0.6, 1.0]] * 2))
    stamps = pd.date_range("2021-10-01", periods=30)
    batch = {"ticker": ["a", "b"], "origin": [stamps[-1]] * 2, "bar_times": [stamps.to_numpy()] * 2}
    batch["last_close"] = np.array([0.0, 4.0])
    told = rich.decode_laws([law], batch)
    samples = rich.decode(law.quantile(np.arange(1, 4000) / 4000)[..., None], batch)
    np.testing.assert_allclose(told["p_up"], samples["p_up"], atol=1e-3)
    np.testing.assert_array_equal(told["q50"], samples["q50"])
    assert told["p_up"][0] > told["p_up"][1]  # what is zero cannot fall


@pytest.mark.parametrize(
    "change", [{"waves": ["moon"]}, {"scale": [0.0, 1.0]}, {"vocabularies": {"shop": [1]}}, {"center": "a"}]
)
def test_a_fitted_state_that_no_fit_wrote_is_refused(rich, change):
    state = json.loads(json.dumps(rich.feature_extractor.ahead))
    check_ahead(state)
    with pytest.raises(ValueError, match="no state of steps ahead"):
        check_ahead({**state, **change})


@pytest.fixture(scope="module")
def pipe(rich, tiny_model):
    set_seed(0)
    told = rich.feature_extractor.series_fields()
    size = {"num_features": len(rich.feature_extractor.names), "prediction_length": P, "patch_length": 8}
    model = tiny_model(
        TsfLlmForPrediction, **size, **told, prediction_type="quantile", zero_inflated=True, initializer_range=0.02
    )
    return TsfLlmPipeline(model=model, processor=rich)


def with_rows_to_come(bars, rows=P):
    parts = []
    for _, one in bars.groupby("series_id"):
        come = one.tail(1).iloc[[0] * rows].assign(value=np.nan, promo=0.0)
        come["timestamp"] = pd.date_range(one["timestamp"].iloc[-1], periods=rows + 1)[1:]
        parts += [one, come]
    return pd.concat(parts, ignore_index=True)


def test_a_forecast_is_possible_and_tells_the_probability_of_zero(pipe, bars):
    frame = pipe(with_rows_to_come(bars), horizon=P)
    quantiles = frame.filter(regex="^q")
    assert len(frame) == 3 * P
    assert (quantiles >= 0).all(axis=None)
    assert (quantiles % 1 == 0).all(axis=None)
    assert frame["p_zero"].between(0, 1).all()
    alone = pipe(with_rows_to_come(bars[bars["series_id"] == "b"]), horizon=P)
    pd.testing.assert_frame_equal(alone, frame[frame["ticker"] == "b"].reset_index(drop=True), rtol=1e-5)


def test_rows_to_come_date_the_steps(pipe, bars):
    come = with_rows_to_come(bars, P + 3)
    come = come[come["value"].notna() | (come["timestamp"].dt.day_name() != "Sunday")]
    frame = pipe(come, horizon=P)
    for name, one in come.groupby("series_id"):
        stamps = frame.loc[frame["ticker"] == name, "timestamp"]
        later = one.loc[one["timestamp"] > frame.loc[frame["ticker"] == name, "origin"].iloc[0], "timestamp"]
        assert stamps.tolist() == later.tolist()[:P]


def test_quantiles_up_to_the_probability_of_zero_are_zero(bars, tiny_model):
    processor = fitted(bars, nonnegative=True)
    extractor, levels = processor.feature_extractor, [0.02, 0.3, 0.45, 0.9]
    size = {"num_features": len(extractor.names), "prediction_length": P, "patch_length": 8, "zero_inflated": True}
    model = tiny_model(
        TsfLlmForPrediction, **size, **extractor.series_fields(), prediction_type="quantile", initializer_range=0.02
    )
    frame = TsfLlmPipeline(model=model, processor=processor)(bars, horizon=P, quantile_levels=levels)
    quantiles = frame.filter(regex="^q").to_numpy()
    below = np.array(levels) < frame["p_zero"].to_numpy()[:, None] - 1 / 257
    assert below[:, 1].all()
    assert (quantiles[below] == 0).all()
    assert (quantiles[:, -1] > 0).all()


def test_a_static_number_that_is_none_is_unknown(rich, bars, caplog):
    told = inputs_of(rich, bars.assign(size=bars["size"].astype(str).replace("1.5", "big")), [200])
    unknown = inputs_of(rich, bars.assign(size=bars["size"].where(bars["series_id"] != "a")), [200])
    same_bits(told, unknown)
    assert "a: size 'big' is no number: it is read as unknown" in caplog.text


def test_covariates_that_are_unknown_for_a_step_are_refused(pipe, bars):
    come = with_rows_to_come(bars)
    hole = (come["series_id"] == "b") & (come["timestamp"] == "2021-10-12")
    come.loc[hole, "promo"] = np.nan
    frame = pipe(come, horizon=P)
    assert [*frame["ticker"].unique()] == ["a", "c"]
    assert "promo must be known 10 steps ahead, and step 5 is not" in frame.attrs["skipped"]["b"]
    assert pipe(come, horizon=4)["ticker"].nunique() == 3
    with pytest.raises(ValueError, match="give the rows to come, with these and without a value"):
        pipe(bars, horizon=1)
    with pytest.raises(ValueError, match="horizon=11, but this model was trained for 10"):
        pipe(with_rows_to_come(bars, 11), horizon=11)


def test_model_and_processor_know_the_same_of_the_steps(pipe, plain, rich, tiny_model):
    with pytest.raises(ValueError, match="load both from one folder"):
        TsfLlmPipeline(model=pipe.model, processor=plain)
    head = tiny_model(TsfLlmForPrediction, num_features=len(rich.feature_extractor.names), prediction_length=P)
    with pytest.raises(ValueError, match="differ in what they know of the steps ahead"):
        TsfLlmPipeline(model=head, processor=rich)


def test_ahead_of_no_waves_and_no_covariates_is_empty():
    times = pd.DataFrame({"timestamp": pd.date_range("2000", periods=60, freq="365D"), "value": np.arange(60.0) % 7})
    yearly = fitted_yearly = TsfLlmFeatureExtractor(kind="univariate", steps_ahead=2, feature_groups=[]).fit(times)
    [one] = yearly.encode(times)
    told = Ahead.of([one], fitted_yearly).inputs(np.array([40]), np.ones((1, 5), bool), one.sigma[[40]])
    assert told["ahead_values"].shape == (1, 2, 0)
    assert one.features.shape == (60, 0)


# The whole way


def test_the_value_itself_is_not_known_ahead(bars):
    with pytest.raises(ValueError, match=r"known covariate 'units' is the value to forecast itself, .*: leave it out"):
        fitted(bars.assign(units=bars["value"]), known_covariates=["units"])
    fitted(bars.assign(units=bars["value"]), past_covariates=["units"])  # of no use, and no leak
    fitted(bars.assign(units=bars.groupby("series_id")["value"].shift(7)), known_covariates=["units"])


def test_all_baselines_are_bounded_as_the_model_is(pipe, rich, bars):
    series = rich.encode(bars)
    result = walk_forward(
        pipe, series, start="2021-09-01", end="2021-10-10", horizon=P, samples=16, baselines="fast", progress=False
    )
    assert {"random_walk", "seasonal_naive"} < {*result.steps[0]}
    by_name = {one.ticker: one for one in series}
    now, unit = np.empty(len(result.ticker)), np.empty(len(result.ticker))
    for i, (name, at) in enumerate(zip(result.ticker, result.origin, strict=True)):
        known = by_name[name].close[by_name[name].timestamp <= at]
        now[i], unit[i] = known[-1], naive_scale(known, np.array([len(known) - 1]), 1, UNIVARIATE)[0]
    for name, scored in result.steps[-1].items():
        values = scored.quantiles[:, [9, 49, 89]] * unit[:, None] + now[:, None]
        assert (values > -1e-9).all(), name
        assert (np.abs(values - np.rint(values)) < 1e-6).all(), name


@pytest.fixture(scope="module")
def trained(bars, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    bars.drop(columns=["shop", "size"]).to_csv(folder / "sales.csv", index=False)
    bars.groupby("series_id", as_index=False)[["shop", "size"]].first().to_csv(folder / "shops.csv", index=False)
    with_rows_to_come(bars).drop(columns=["shop", "size"]).to_csv(folder / "come.csv", index=False)
    options = {
        "--config": str(Path(configuration.__file__).parent / "train_scripts" / "configs" / "series.yaml"),
        "--data": str(folder / "sales.csv"),
        "--static": str(folder / "shops.csv"),
        "--known_covariates": "promo",
        "--nonnegative": "true",
        "--integer": "true",
        "--horizon": str(P),
        "--context_length": "48",
        "--max_steps": "2",
        "--disable_tqdm": "true",
        "--output_dir": str(folder / "model"),
    }
    words = [word for option in options.items() for word in option]
    return folder, sft.main(*sft.parse(words)), words


@pytest.fixture
def run_cli(monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


def test_a_model_is_trained_forecasts_and_is_scored(trained, run_cli, capsys):
    folder, report, _ = trained
    assert report["steps"] == 2
    told, out = ["--model", folder / "model", "--static", folder / "shops.csv"], folder / "forecast.csv"
    assert not run_cli("forecast", *told, "--data", folder / "come.csv", "--horizon", P, "--out", out)
    frame = pd.read_csv(out)
    assert len(frame) == 3 * P
    assert (frame["q05"] >= 0).all()
    assert (frame["q90"] % 1 == 0).all()
    period = ["--start", "2021-09-20", "--end", "2021-10-10"]
    asked = [*told, "--data", folder / "sales.csv", *period, "--baselines", "fast", "--out", folder / "scores"]
    assert not run_cli("evaluate", *asked, "--horizon", P)
    assert json.loads((folder / "scores" / "results.json").read_text())["tickers"] == ["a", "b", "c"]
    capsys.readouterr()
    few = pd.read_csv(folder / "shops.csv").iloc[:1]
    few.to_csv(folder / "few.csv", index=False)
    told[-1] = folder / "few.csv"
    assert not run_cli("forecast", *told, "--data", folder / "come.csv", "--horizon", P, "--out", out)
    assert "2 skipped" in capsys.readouterr().out
    assert run_cli("forecast", *told, "--data", folder / "come.csv", "--horizon", P, "--out", out, "--strict") == 2
    assert capsys.readouterr().err.strip().endswith("b: the static table has no row for it; add one (and 1 more).")


def test_every_command_of_a_model_takes_the_static_table(trained, run_cli, capsys):
    folder, *_ = trained
    asked = ["--model", folder / "model", "--data", folder / "sales.csv"]
    told = ["--static", folder / "shops.csv"]
    assert not run_cli("calibrate", *asked, *told)
    assert not run_cli("explain", *asked, *told, "--most", 2, "--repeats", 1, "--out", folder / "explained")
    assert not run_cli("audit", *asked, *told, "--cuts", 1, "--ticker", "a")
    capsys.readouterr()
    assert run_cli("calibrate", *asked) == 2
    assert "name a table with it with --static" in capsys.readouterr().err


def test_a_prepared_folder_holds_the_same(trained, run_cli):
    folder, report, words = trained
    asked = ["--known-covariates", "promo", "--nonnegative", "--integer", "--series-form", "--groups", "covariates"]
    asked += ["--static", folder / "shops.csv", "--horizon", P, "--context-length", 48, "--out", folder / "dataset"]
    assert not run_cli("prepare", "--data", folder / "sales.csv", *asked)
    options = dict(zip(words[::2], words[1::2], strict=True)) | {"--data": str(folder / "dataset")}
    for name in ("--static", "--known_covariates", "--nonnegative", "--integer"):
        del options[name]
    options["--output_dir"] = str(folder / "again")
    again = sft.main(*sft.parse([word for option in options.items() for word in option]))
    assert again["valid_loss"] == report["valid_loss"]
    causal = {**options, "--config": options["--config"].replace("series", "debug_sft"), "--head": "causal_lm"}
    with pytest.raises(ValueError, match="prepare it with no --series-form"):
        sft.main(*sft.parse([word for option in causal.items() for word in option]))
