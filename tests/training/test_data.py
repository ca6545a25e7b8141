"""What a training starts from: read, checked and encoded once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tsf_llm import bars_tsf_llm, feature_extraction_tsf_llm
from tsf_llm.bars_tsf_llm import day_end
from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.prepare import prepare
from tsf_llm.data_prep.windows import Split
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.training.arguments import DataArguments
from tsf_llm.training.data import TrainingData, with_static_names


def test_a_training_checks_each_bar_and_computes_each_feature_once(train, prices, tmp_path, monkeypatch):
    """Its fit, its windows and its scores before and after."""
    check, look = bars_tsf_llm.check_bars, bars_tsf_llm._sound_tickers
    compute = feature_extraction_tsf_llm.features_of
    checked, computed = Counter(), Counter()

    def counted_check(bars, ticker, *args, **kwargs):
        checked[ticker] += len(bars)
        return check(bars, ticker, *args, **kwargs)

    def counted_look(*args, **kwargs):
        sound = look(*args, **kwargs)
        checked.update({ticker: len(bars) for ticker, bars in sound.items() if bars is not None})
        return sound

    def counted_compute(tickers, names, **kwargs):
        tables, errors = compute(tickers, names, **kwargs)
        computed.update(dict.fromkeys(names, sum(map(len, tables.values()))))
        return tables, errors

    monkeypatch.setattr(bars_tsf_llm, "check_bars", counted_check)
    monkeypatch.setattr(bars_tsf_llm, "_sound_tickers", counted_look)
    monkeypatch.setattr(feature_extraction_tsf_llm, "features_of", counted_compute)
    report = train(tmp_path, num_train_epochs=1, report_samples=8)
    assert report["before"]["crps"] != report["after"]["crps"]
    rows = pd.read_csv(prices).groupby("ticker").size()
    assert checked == rows.to_dict()
    assert set(computed.values()) == {rows.sum()}


def test_held_out_tickers_and_later_bars_are_not_read(prices, tmp_path):
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    through = str(bars["timestamp"].iloc[300].date())
    data = TrainingData.read(DataArguments(data=str(prices), through=through, held_out=["BBB"], n_bins=32))
    assert {one.ticker for one in data.series} == {"AAA"}
    assert data.bars["timestamp"].max() == pd.Timestamp(through)
    market = tmp_path / "market.csv"
    bars[bars["ticker"] == "BBB"].to_csv(market, index=False)
    args = DataArguments(data=str(prices), through=through, tickers=["AAA"], market=str(market), n_bins=32)
    args = replace(args, feature_groups=["returns", "market"])
    assert TrainingData.read(args).market["timestamp"].max() == pd.Timestamp(through)
    with pytest.raises(ValueError, match="leave no bar"):
        TrainingData.read(replace(args, held_out=["AAA"]))


def test_validation_may_end_with_the_last_bar_to_read(prices):
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    before, through = (str(bars["timestamp"].iloc[row].date()) for row in (250, 300))
    args = DataArguments(data=str(prices), train_through=before, valid_through=through, through=through, n_bins=32)
    data = TrainingData.read(args)
    assert data.split == Split(day_end(before), day_end(through))
    _, valid = data.windows("causal_lm")
    assert len(valid) > 0


def test_bags_of_years_repeat_and_leave_out(prices):
    args = DataArguments(data=str(prices), n_bins=32, stride=1, context_length=8, feature_groups=["returns"])
    plain, bagged = (TrainingData.read(replace(args, bag_years=bag)) for bag in (False, True))
    [whole, valid], [bag, same] = plain.windows("causal_lm", seed=3), bagged.windows("causal_lm", seed=3)
    assert set(bag.origins) <= set(whole.origins)
    assert (valid.origins == same.origins).all()
    counts = Counter(bag.origins.tolist())
    by_year = {year: {counts[o] for o in whole.origins if whole.timestamp[o].astype("datetime64[Y]") == year}
               for year in np.unique(whole.timestamp[whole.origins].astype("datetime64[Y]"))}  # fmt: skip
    assert all(len(times) == 1 for times in by_year.values())
    assert (bagged.windows("causal_lm", seed=3)[0].origins == bag.origins).all()


def test_validation_windows_may_lie_further_apart(prices):
    args = DataArguments(data=str(prices), n_bins=32, stride=2, context_length=8, feature_groups=["returns"])
    [train, valid], [same, fewer] = (
        TrainingData.read(replace(args, valid_stride=stride)).windows("causal_lm") for stride in (None, 6)
    )
    assert (train.origins == same.origins).all()
    assert set(fewer.origins) < set(valid.origins)
    assert len(valid) / len(fewer) == pytest.approx(3, rel=0.1)


def test_static_covariates_are_all_of_a_table_but_its_names(tmp_path):
    goods = pd.DataFrame({"item": ["a", "b"], "store": [1, 1], "kind": ["dry", "fresh"]})
    goods.to_csv(tmp_path / "goods.csv", index=False)
    of_two = DataArguments(data="sales.csv", static=str(tmp_path / "goods.csv"), id_column="store,item")
    assert with_static_names(of_two).static_covariates == ["item", "store", "kind"]
    assert with_static_names(replace(of_two, id_column="item")).static_covariates == ["store", "kind"]
    assert with_static_names(replace(of_two, static_covariates=["kind"])).static_covariates == ["kind"]


def test_a_value_that_never_changes_is_not_told_to_bring_more_history_alone(tmp_path):
    days = pd.date_range("2022-01-01", periods=200)
    pd.DataFrame({"timestamp": days, "series_id": "a", "value": 3.0}).to_csv(tmp_path / "still.csv", index=False)
    args = DataArguments(data=str(tmp_path / "still.csv"), horizon=3, feature_groups=["covariates"])
    with pytest.raises(
        ValueError, match=r"no training window of 3 steps fits: .*\(a value that never changed has none"
    ):
        TrainingData.read(args, series_form=True).windows("regression")


def test_no_row_is_learned_from_that_is_not_over_at_a_fence(tmp_path):
    """Days of sixteen years, by the month: `train_through` in mid-May ends with April, in a prepared folder too."""
    times = pd.date_range("2005-01-01", "2020-12-31")
    values = 10 + np.sin(np.arange(len(times)))
    pd.DataFrame({"timestamp": times, "value": values}).to_csv(tmp_path / "s.csv", index=False)
    fences = {"train_through": "2018-05-15", "valid_through": "2019-12-31", "through": "2020-09-10"}
    options = {"data": str(tmp_path / "s.csv"), "horizon": 3, "context_length": 8, "n_bins": 32}
    data = TrainingData.read(DataArguments(**options, resample="month:mean", **fences))
    april = pd.Timestamp("2018-04-01")
    assert data.split == Split(april, day_end("2019-12-31"))
    assert data.bars["timestamp"].max() == pd.Timestamp("2020-08-01")
    assert pd.Timestamp(data.processor.fitted_through) <= april
    processor = TsfLlmProcessor(
        TsfLlmFeatureExtractor(context_length=8, kind="univariate"), TsfLlmTokenizer(n_bins=32), horizons=(1,)
    )
    columns = Columns(value="value", resample="month:mean")
    del fences["through"]
    info = prepare(tmp_path / "s.csv", tmp_path / "out", processor=processor, horizon=3, columns=columns, **fences)
    assert info["split"]["train_through"] == str(april)
