"""Windows: the fences hold, labels are what they claim, batches equal single items."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from tsf_llm.data_prep.windows import Split, WindowDataset
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURES
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.training_examples_tsf_llm import FLAT_SIGMAS

HORIZON = 3
FENCE = "2016-01-29"


@pytest.fixture(scope="module")
def bars(make_bars):
    return pd.concat([make_bars(400, ticker="AAA", seed=1), make_bars(350, ticker="BBB", seed=2, start="2015-04-01")])


@pytest.fixture(scope="module")
def processor(bars):
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=16)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, through=FENCE)


def dataset(processor, bars, objective="causal_lm", **options):
    series = processor.feature_extractor.encode(bars)
    return WindowDataset(processor, series, objective=objective, horizon=HORIZON, **options)


def stamps_of(data, processor, bars):
    return np.concatenate([one.timestamp for one in processor.feature_extractor.encode(bars)])


def test_training_windows_know_nothing_behind_the_fence(processor, bars):
    rng = np.random.default_rng(0)
    other = bars.copy()
    after = (other["timestamp"] > FENCE).to_numpy()
    noise = np.exp(rng.normal(0, 0.1, after.sum()))
    for column in ("open", "high", "low", "close"):
        other.loc[after, column] *= noise
    ours, theirs = (dataset(processor, frame, through=FENCE) for frame in (bars, other))
    assert len(ours) == len(theirs) > 400
    everything = np.arange(len(ours))
    for key, value in ours.__getitems__(everything).items():
        torch.testing.assert_close(value, theirs.__getitems__(everything)[key], rtol=0, atol=0, equal_nan=True)


def test_a_window_more_would_cross_the_fence(processor, bars):
    data = dataset(processor, bars, through=FENCE)
    stamps = stamps_of(data, processor, bars)
    last_label = stamps[data.origins + HORIZON]
    assert last_label.max() <= np.datetime64(FENCE)
    assert (last_label == np.datetime64(FENCE)).sum() == 2  # each ticker uses the last day it may


def test_validation_labels_lie_behind_fence_and_embargo(processor, bars):
    data = dataset(processor, bars, after=FENCE, embargo=HORIZON)
    stamps = stamps_of(data, processor, bars)
    business_day = np.busday_count(np.datetime64(FENCE), stamps[data.origins + 1].min().astype("datetime64[D]"))
    assert business_day == HORIZON + 1
    batch = data.__getitems__(np.arange(len(data)))
    rows = data.origins[:, None] - np.arange(16)[::-1]
    labelled = batch["labels"][:, :16].numpy() != -100
    assert labelled.any()
    assert (stamps[rows[labelled]] > np.datetime64(FENCE)).all()


def test_token_labels_are_the_standardised_returns(processor, bars):
    data = dataset(processor, bars)
    [one] = [s for s in processor.feature_extractor.encode(bars) if s.ticker == "AAA"]
    index = 200
    origin = data.origins[index]
    item = data[index]
    expected = processor.tokenizer.encode_returns(
        one.log_return[origin - 14 : origin + 1] / one.sigma[origin - 15 : origin]
    )
    assert item["labels"][0] == -100  # nothing in the window predicts the first bar
    np.testing.assert_array_equal(item["labels"][1:16], expected)
    ahead = processor.tokenizer.encode_returns(
        np.diff(np.log(one.close[origin : origin + HORIZON + 1])) / one.sigma[origin]
    )
    np.testing.assert_array_equal(item["labels"][16:], ahead)
    np.testing.assert_array_equal(item["input_ids"][16:], ahead)
    assert (item["input_ids"][:16] == processor.tokenizer.bar_token_id).all()


@pytest.mark.parametrize("objective", ["regression", "quantile", "classification"])
def test_head_labels_are_cumulative(processor, bars, objective):
    data = dataset(processor, bars, objective)
    [one] = [s for s in processor.feature_extractor.encode(bars) if s.ticker == "AAA"]
    origin = data.origins[100]
    z = np.log(one.close[origin + 1 : origin + HORIZON + 1] / one.close[origin]) / one.sigma[origin]
    labels = data[100]["labels"].numpy()
    if objective == "classification":
        edge = FLAT_SIGMAS * np.sqrt([1, 2, 3])
        np.testing.assert_array_equal(labels, np.where(z > edge, 2, np.where(z < -edge, 0, 1)))
        shares = np.bincount(data.__getitems__(np.arange(len(data)))["labels"].flatten(), minlength=3) / (
            3 * len(data)
        )
        assert (np.abs(shares - 1 / 3) < 0.1).all()
    else:
        np.testing.assert_allclose(labels, z, rtol=1e-5)


def test_a_missing_bar_is_masked_and_its_neighbours_labels_unknown(processor, bars):
    holed = bars.reset_index(drop=True)
    holed.loc[200, ["open", "high", "low", "close"]] = np.nan
    data = dataset(processor, holed)
    index = int(np.flatnonzero(data.origins == 205)[0])
    item = data[index]
    place = 15 - 5
    assert item["attention_mask"][place] == 0
    assert (item["past_values"][place] == 0).all()
    assert item["labels"][[place, place + 1]].tolist() == [-100, -100]
    assert (item["labels"][[place - 1, place + 2]] >= 0).all()
    assert 200 not in data.origins


def test_a_path_ends_at_its_first_unknown_return(processor, bars):
    holed = bars.reset_index(drop=True)
    holed.loc[200, ["open", "high", "low", "close"]] = np.nan
    data = dataset(processor, holed)
    item = data[int(np.flatnonzero(data.origins == 198)[0])]
    assert item["labels"][16:].tolist()[1:] == [-100, -100]
    assert item["labels"][16] >= 0
    assert item["attention_mask"][16:].tolist() == [1, 0, 0]


def test_early_windows_are_padded_on_the_left_and_never_reach_into_another_ticker(bars, make_bars):
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=64)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars)
    data = dataset(processor, bars)
    first_of_b = int(np.flatnonzero(data.start_of[data.origins] > 0)[0])
    bars_seen = data.origins[first_of_b] - data.start_of[data.origins[first_of_b]] + 1
    mask = data[first_of_b]["attention_mask"][:64]
    assert mask.sum() == bars_seen < 64
    assert mask[-bars_seen:].all()


def test_batches_equal_items(processor, bars):
    data = dataset(processor, bars, stride=7)
    batch = data.__getitems__([3, 11, 5])
    for row, index in enumerate([3, 11, 5]):
        for key, value in data[index].items():
            torch.testing.assert_close(batch[key][row], value, rtol=0, atol=0, equal_nan=True)


def test_split_by_date(bars):
    split = Split.of(bars)
    stamps = np.unique(bars["timestamp"])
    assert (stamps <= split.train_through).mean() == pytest.approx(0.8, abs=0.01)
    assert (stamps <= split.valid_through).mean() == pytest.approx(0.9, abs=0.01)
    given = Split.of(bars, "2016-01-01", "2016-03-01")
    assert given.train_through.date().isoformat() == "2016-01-01"
    with pytest.raises(ValueError, match="must increase"):
        Split.of(bars, "2016-03-01", "2016-01-01")
    with pytest.raises(ValueError, match="lie inside the data"):
        Split.of(bars, "2016-03-01", "2030-01-01")


@pytest.mark.parametrize("objective", ["causal_lm", "regression"])
def test_no_label_of_a_part_lies_within_the_embargo_of_the_next(processor, bars, objective):
    embargo, split = 5, Split.of(bars)
    fences = (None, split.train_through, split.valid_through, None)
    train, valid, test = (
        dataset(processor, bars, objective, after=after, through=through, embargo=embargo if after else 0)
        for after, through in itertools.pairwise(fences)
    )
    for earlier, later in ((train, valid), (valid, test)):
        for ticker in np.unique(train.start_of):
            before, behind = (_label_rows(data, ticker, objective) for data in (earlier, later))
            assert behind.min() - before.max() > embargo


def _label_rows(data, ticker, objective):
    """Rows whose bar is a label of some window of the ticker."""
    mine = np.flatnonzero(data.start_of[data.origins] == ticker)
    origins = data.origins[mine]
    rows = [(origins[:, None] + np.arange(1, HORIZON + 1)).ravel()]
    if objective == "causal_lm":
        labelled = data.__getitems__(mine)["labels"][:, :16].numpy() != -100
        rows.append((origins[:, None] - np.arange(16)[::-1])[labelled])
    return np.concatenate(rows)


def test_bar_targets_stand_where_labels_do_and_read_no_later_bar(processor, bars):
    """A target is a function of its own bar, the one before it and its units: cut behind the fence, the bits stay."""
    data = dataset(processor, bars, through=FENCE)
    batch = data.__getitems__(range(len(data)))
    targets, labels = batch["bar_targets"], batch["labels"]
    assert targets.shape == (*labels.shape, 5)
    assert torch.equal(targets[..., 0].isnan(), labels == -100)
    assert (targets[..., 2:4].nan_to_num(0) >= 0).all()
    tokens = processor.tokenizer.encode_returns(targets[..., 0].double().numpy())
    assert (tokens == labels.numpy()).mean() > 0.999  # but for rounding at an edge
    cut = dataset(processor, bars[bars["timestamp"] <= FENCE], through=FENCE)
    for one in (cut, dataset(processor, bars.assign(volume=bars["volume"].where(bars["timestamp"] <= FENCE, 7)))):
        same = one.__getitems__(range(len(one)))["bar_targets"][: len(data) if one is cut else 10]
        assert torch.equal(same.nan_to_num(9), targets[: len(same)].nan_to_num(9))


def test_heads_and_plain_series_have_no_bar_targets(processor, bars):
    assert "bar_targets" not in dataset(processor, bars, "quantile")[0]
    rows = np.arange(200)
    series = pd.DataFrame({"timestamp": pd.date_range("2020-01-01", periods=200), "value": np.sin(rows) + rows % 7})
    plain = TsfLlmProcessor(TsfLlmFeatureExtractor(kind="univariate", context_length=16), TsfLlmTokenizer(n_bins=32))
    windows = WindowDataset(plain, plain.fit_encode(series), objective="causal_lm", horizon=HORIZON)
    assert "bar_targets" not in windows[0]


# Context dropout


@pytest.fixture(scope="module")
def beside(bars, make_bars, make_index):
    """A processor of market and implied volatility, its bars, and their market."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar", "market", "implied"], context_length=16)
    market = [*(make_bars(420, ticker=name, seed=ord(name)) for name in "XYZ"), make_index(420, seed=3)]
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, through=FENCE, market=market), bars, market


def beside_dataset(beside, part=None, **options):
    """Windows of the bars beside all of their market, or one part of it, or nothing."""
    processor, bars, market = beside
    chosen = {None: market, "universe": market[:3], "implied": market[3:], "nothing": None}[part]
    series = processor.feature_extractor.encode(bars, market=chosen)
    return WindowDataset(processor, series, objective="causal_lm", horizon=HORIZON, through=FENCE, **options)


def test_dropped_context_is_what_a_forecast_without_it_sees(beside):
    """Each window equals, to the bit, that of all, of no universe, of no index or of nothing, in these shares."""
    data = beside_dataset(beside, context_dropout=0.6, seed=3)
    rows = np.arange(len(data))
    batch = data.__getitems__(rows)
    kept = {part: beside_dataset(beside, part).__getitems__(rows) for part in (None, "universe", "implied", "nothing")}
    for key in batch.keys() - {"past_values"}:
        assert torch.equal(batch[key].nan_to_num(9), kept[None][key].nan_to_num(9)), key
    same = {p: (batch["past_values"] == other["past_values"]).all(dim=(1, 2)).numpy() for p, other in kept.items()}
    late = (kept[None]["past_values"] != 0).any(dim=1).all(dim=1).numpy()  # early windows know no index yet
    assert late.sum() > 250
    assert (np.sum([*same.values()], axis=0)[late] == 1).all()
    shares = {part: float(equal[late].mean()) for part, equal in same.items()}
    assert shares == pytest.approx({None: 0.4, "universe": 0.2, "implied": 0.2, "nothing": 0.2}, abs=0.08)


def test_a_teacher_may_see_what_is_dropped(beside):
    data, whole = beside_dataset(beside, context_dropout=0.6, seed=3), beside_dataset(beside)
    rows = np.arange(50)
    dropped = data.__getitems__(rows)
    assert "whole_values" not in dropped
    data.keeps_whole = True
    batch = data.__getitems__(rows)
    assert torch.equal(batch.pop("whole_values"), whole.__getitems__(rows)["past_values"])
    assert all(torch.equal(value.nan_to_num(9), dropped[key].nan_to_num(9)) for key, value in batch.items())


def test_dropped_context_is_reproducible(beside):
    first, again = (beside_dataset(beside, context_dropout=0.5, seed=1) for _ in range(2))
    rows = np.arange(len(first))
    values = first.__getitems__(rows)["past_values"]
    assert torch.equal(values, again.__getitems__(rows)["past_values"])
    assert torch.equal(values[7], again[7]["past_values"])
    first.set_epoch(3)
    later = first.__getitems__(rows)["past_values"]
    assert not torch.equal(values, later)
    again.set_epoch(3)  # as a resumed run does
    assert torch.equal(later, again.__getitems__(rows)["past_values"])
    assert not torch.equal(
        values, beside_dataset(beside, context_dropout=0.5, seed=2).__getitems__(rows)["past_values"]
    )


def test_nothing_is_left_of_a_dropped_context_by_augmentation(beside):
    data = beside_dataset(beside, context_dropout=0.999999, augment={"jitter": 1.0, "mixup": 1.0})
    names = beside[0].feature_extractor.names
    market, implied = ([i for i, n in enumerate(names) if FEATURES[n].group == g] for g in ("market", "implied"))
    values = data.__getitems__(np.arange(len(data)))["past_values"]
    assert ((values[..., market] == 0).all(dim=(1, 2)) | (values[..., implied] == 0).all(dim=(1, 2))).all()
    assert (values[..., :5] != 0).any(dim=1).all()


def test_context_that_cannot_be_dropped_is_refused(processor, bars, make_bars):
    with pytest.raises(ValueError, match=r"context_dropout=0\.5: no feature is of the groups market or implied"):
        dataset(processor, bars, context_dropout=0.5)
    extractor = TsfLlmFeatureExtractor(feature_groups=["market", "reversal"])
    market = [make_bars(420, ticker=name, seed=ord(name)) for name in "XYZ"]
    known = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, through=FENCE, market=market)
    with pytest.raises(ValueError, match="reversal_down_score reads the market, and is not zero without one"):
        dataset(known, bars, context_dropout=0.5)


# Laws of the horizons


@pytest.mark.parametrize("fences", [{"through": FENCE}, {"after": FENCE, "embargo": HORIZON}, {}])
def test_a_law_label_is_the_bin_of_the_return_to_its_horizon_between_the_fences(processor, bars, fences):
    data = dataset(processor, bars, **fences)
    batch, horizons = data.__getitems__(np.arange(len(data))), processor.tokenizer.horizons[1:]
    context = data.origins[:, None] - np.arange(16)[::-1]
    series = processor.feature_extractor.encode(bars)
    close, end = np.concatenate([one.close for one in series]), np.cumsum([len(one.close) for one in series])
    known = 0
    for (i, t, j), label in np.ndenumerate(batch["law_labels"].numpy()):
        row, h = context[i, t], horizons[j]
        inside = row + h < end[np.searchsorted(end, row, side="right")] and batch["attention_mask"][i, t] > 0
        if not inside or not (data.is_label[row + 1] and data.is_label[row + h]) or np.isnan(data.sigma[row]):
            assert label == -100
            continue
        z = np.log(close[row + h] / close[row]) / (data.sigma[row] * h**0.5)
        assert label == processor.tokenizer.encode_returns(np.array([z]), horizon=h)[0]
        known += 1
    assert known > 1000


def test_heads_need_no_law_labels(processor, bars):
    assert dataset(processor, bars, "quantile").laws is None


# --- the series form -------------------------------------------------------------------------------------------------


def series_windows(series_form, frame, **options):
    processor = series_form().processor
    return WindowDataset(processor, processor.encode(frame), objective="quantile", horizon=3, **options)


def test_mixup_of_the_series_form_mixes_labels_with_the_past_of_another_series_at_the_same_time(
    series_form, weekly_sales
):
    plain, mixed = (series_windows(series_form, weekly_sales, augment=one) for one in ({}, {"mixup": 0.5}))
    stamps, index = plain.timestamp[plain.origins], 40
    before, after = plain[index], mixed[index]
    beside = [plain[int(i)] for i in np.flatnonzero(stamps == stamps[index])]
    assert len(beside) == 4
    names = ("past_target", "season_values", "zero_level", "labels", "past_values")
    found = []
    for other in beside:  # one weight explains all of them
        moved, apart = after["labels"] - before["labels"], other["labels"] - before["labels"]
        share = (moved @ apart / (apart @ apart).clamp(min=1e-9)).item()
        blend = {name: before[name] + share * (other[name] - before[name]) for name in names}
        found.append(all(torch.allclose(blend[name], after[name], atol=1e-4) for name in names))
    assert any(found)
    assert torch.equal(after["static_ids"], before["static_ids"])
    assert torch.equal(after["ahead_values"], before["ahead_values"])
    mixed.set_epoch(1)
    assert not torch.equal(mixed[index]["labels"], after["labels"])


def test_scale_of_the_series_form_leaves_zero_where_it_is(series_form, weekly_sales):
    frame = weekly_sales.assign(value=weekly_sales["value"].where(weekly_sales.index % 3 > 0, 0.0))
    plain, scaled = (series_windows(series_form, frame, augment=one) for one in ({}, {"scale": 0.5}))
    before, after = (data.__getitems__(range(30)) for data in (plain, scaled))
    factor = after["zero_level"] / before["zero_level"]
    known = before["zero_level"] != 0
    assert factor[known].unique().numel() > 5
    torch.testing.assert_close(after["labels"][known], before["labels"][known] * factor[known, None])
    torch.testing.assert_close(after["past_target"][known], before["past_target"][known] * factor[known, None])
    zero = before["labels"] == before["zero_level"][:, None]
    assert zero.any()
    assert torch.equal(zero, after["labels"] == after["zero_level"][:, None])


def test_warp_is_refused_in_the_series_form(series_form, weekly_sales):
    with pytest.raises(ValueError, match="warp"):
        series_windows(series_form, weekly_sales, augment={"warp": 0.5})


def test_no_augmentation_changes_the_time_of_a_plain_series(series_form, weekly_sales):
    names = series_form().processor.feature_extractor.names
    time = [i for i, name in enumerate(names) if "week_" in name or "month_" in name]
    other = [i for i, name in enumerate(names) if name == "level"]
    plain = series_windows(series_form, weekly_sales)
    changed = series_windows(series_form, weekly_sales, augment={"jitter": 1.0})
    before, after = (data.__getitems__(range(20))["past_values"] for data in (plain, changed))
    assert time
    assert torch.equal(before[..., time], after[..., time])
    assert not torch.equal(before[..., other], after[..., other])
