"""Walk-forward: forecasts use what was known, outcomes are what happened, and an edge is found where there is one."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation.distributions import Samples
from tsf_llm.evaluation.walk_forward import pick_origins, pool, walk_forward
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

PERIOD = {"start": "2016-01-01", "end": "2016-03-31"}


def encoded(pipe, bars):
    return pipe.processor.feature_extractor.encode(bars)


@pytest.fixture(scope="module")
def result(pipe, bars):
    return walk_forward(pipe, encoded(pipe, bars), **PERIOD, horizon=3, samples=16, progress=False)


def test_outcomes_are_what_happened(result, bars):
    for i in (0, len(result.origin) // 2, -1):
        closes = bars[bars["ticker"] == result.ticker[i]].set_index("timestamp")["close"]
        after = closes[closes.index >= result.origin[i]].to_numpy()[:4]
        np.testing.assert_allclose(result.realised[i], np.log(after[1:] / after[0]))


def test_a_forecast_equals_that_of_the_pipeline_as_of_its_origin(result, pipe, bars):
    i = len(result.origin) // 3
    frame = pipe(bars[bars["ticker"] == result.ticker[i]], as_of=pd.Timestamp(result.origin[i]), horizon=3, samples=16)
    last_close = bars[(bars["ticker"] == result.ticker[i]) & (bars["timestamp"] == result.origin[i])]["close"].item()
    for step in range(3):
        scored = result.steps[step]["model"]
        for column, level in (("q05", 0.05), ("q25", 0.25), ("q90", 0.9)):
            [low] = last_close * np.exp(scored.quantile([level])[i])
            assert frame[column][step] == pytest.approx(low, rel=1e-3)
        assert frame["p_up"][step] == pytest.approx(scored.p_up[i], abs=1e-6)


def test_the_future_changes_no_forecast(pipe, bars, result):
    middle = pd.Timestamp(np.sort(result.origin)[len(result.origin) // 2])
    other = bars.copy()
    other.loc[other["timestamp"] > middle, ["open", "high", "low", "close"]] *= 1.1
    changed = walk_forward(pipe, encoded(pipe, other), **PERIOD, horizon=3, samples=16, progress=False)
    known = result.origin <= middle
    assert known.any()
    for step in range(3):
        known &= np.isin(result.realised[:, step], changed.realised[:, step])  # else the loss differs
        for name in result.steps[step]:
            for part in ("point", "quantiles", "losses"):
                ours, theirs = (getattr(one.steps[step][name], part)[known] for one in (result, changed))
                np.testing.assert_array_equal(ours, theirs)


def test_paths_that_no_machine_holds_are_refused_before_the_first(pipe, bars):
    dates = {"start": "2015-05-01", "end": "2015-06-01"}
    with pytest.raises(ValueError, match=r"100,000,000 samples x 5 steps .* GB"):
        walk_forward(pipe, encoded(pipe, bars), **dates, horizon=5, samples=100_000_000)


def test_origins_share_their_dates_and_do_not_overlap(result):
    days_of_a, days_of_b = (set(result.origin[result.ticker == name]) for name in ("AAA", "BBB"))
    assert days_of_a == days_of_b
    gaps = np.busday_count(
        *(np.sort(list(days_of_a)).astype("datetime64[D]")[i] for i in (slice(None, -1), slice(1, None)))
    )
    assert (gaps == 3).all()
    assert result.origin.min() >= np.datetime64("2016-01-01")
    assert result.origin.max() <= np.datetime64("2016-03-31")


def test_rows_and_verdicts_cover_every_model(result):
    rows = result.rows()
    assert [row["model"] for row in rows] == ["model", "random_walk", "drift", "historical_volatility_20"]
    assert "wrmsse" not in rows[0]
    assert all(row["horizon"] == 3 and len(row["crps_by_step"]) == 3 for row in rows)
    assert all(row["crps"] == row["crps_by_step"][-1] for row in rows)
    assert all(row["mase"] == row["mase_by_step"][-1] for row in rows)
    for name, row in result.by_name().items():
        medians = np.stack([one[name].median for one in result.steps], axis=1)
        scaled = np.abs(result.realised - medians) / result.scale
        losses = np.stack([one[name].losses for one in result.steps], axis=1)
        np.testing.assert_allclose((row["mase_mean"], row["crps_mean"]), (scaled.mean(), losses.mean()))
    assert set(result.verdicts()) == {row["model"] for row in rows[1:]}
    assert rows[1]["direction_accuracy"] is None


def test_an_unknown_outcome_is_left_out(processor, bars):
    series = processor.feature_extractor.encode(bars)
    last = bars["timestamp"].max()
    origins = pick_origins(series, "2016-01-01", last, horizon=3, stride=1)
    assert [rows.max() for rows in origins] == [400 - 1 - 3] * 2
    with pytest.raises(ValueError, match="the bars run from"):
        pick_origins(series, last, last, horizon=3, stride=1)


def test_missing_outcomes_are_left_out(processor, bars):
    holed = bars.reset_index(drop=True)
    holed.loc[300, ["open", "high", "low", "close"]] = np.nan
    [a, b] = pick_origins(processor.feature_extractor.encode(holed), "2016-01-01", "2016-06-01", horizon=3, stride=1)
    assert set(b) - set(a) == {297, 298, 299, 300}


def test_one_number_has_no_interval_and_classes_have_no_return(tiny_model, processor, bars):
    heads = {kind: tiny_model(TsfLlmForPrediction, prediction_type=kind) for kind in ("regression", "classification")}
    regression, classes = (TsfLlmPipeline(model=model, processor=processor) for model in heads.values())
    [row, *_] = walk_forward(regression, encoded(regression, bars), **PERIOD, horizon=3, progress=False).rows()
    assert row["coverage_80"] is None
    assert row["crps"] == pytest.approx(row["mae"])
    with pytest.raises(ValueError, match="classification"):
        walk_forward(classes, encoded(classes, bars), **PERIOD, horizon=3, progress=False)


def test_a_forecaster_who_knows_tomorrow_is_found_out(result):
    """The score would show an edge if there were one: feed it the outcome with a little noise."""
    knowing = type(result)(**{**vars(result), "steps": [dict(step) for step in result.steps]})
    for step, forecasts in enumerate(knowing.steps):
        noise = np.random.default_rng(step).normal(0, 0.005, (len(result.origin), 16))
        forecasts["model"] = Samples(result.realised[:, [step]] + noise)
    assert all(answer["verdict"].startswith("better than") for answer in knowing.verdicts().values())
    assert not any(answer["verdict"].startswith("better than") for answer in result.verdicts().values())


# Plain series


@pytest.fixture(scope="module")
def loads():
    """Two series of one rhythm, one of them a thousand times as large."""
    rng = np.random.default_rng(0)
    value = 5 * np.sin(2 * np.pi * np.arange(600) / 24) + rng.normal(0, 0.5, 600)
    frame = pd.DataFrame({"timestamp": pd.date_range("2020-01-01", periods=600, freq="h"), "value": value})
    return pd.concat([frame.assign(series_id="small"), frame.assign(series_id="large", value=1000 * value)])


@pytest.fixture(scope="module")
def load_result(loads, tiny_model):
    extractor = TsfLlmFeatureExtractor(kind="univariate", context_length=16)
    fitted = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(loads, through="2020-01-15")
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33}
    pipe = TsfLlmPipeline(model=tiny_model(num_features=extractor.feature_size, **tokens), processor=fitted)
    return walk_forward(
        pipe, encoded(pipe, loads), start="2020-01-16", end="2020-01-24", horizon=30, samples=16, progress=False
    )


def test_differences_are_scored_in_units_known_at_the_origin(load_result, loads):
    small, large = (load_result.ticker == name for name in ("small", "large"))
    np.testing.assert_allclose(load_result.realised[small], load_result.realised[large])
    np.testing.assert_allclose(load_result.scale[:, 0], 1)
    value = loads[loads["series_id"] == "small"].set_index("timestamp")["value"]
    origin = pd.Timestamp(load_result.origin[small][0])
    unit = value[:origin].diff().abs().mean()
    ahead = value[origin + pd.Timedelta(hours=1) :].to_numpy()[:30]
    np.testing.assert_allclose(load_result.realised[small][0], (ahead - value[origin]) / unit)


def test_a_seasonal_baseline_stands_beside_the_others(load_result):
    rows = {row["model"]: row for row in load_result.rows()}
    assert list(rows) == ["model", "random_walk", "drift", "historical_volatility_20", "seasonal_naive"]
    assert rows["seasonal_naive"]["crps"] < 0.5 * rows["random_walk"]["crps"]
    small, large = (load_result.ticker == name for name in ("small", "large"))
    for forecast in list(load_result.steps[29].values())[1:]:
        np.testing.assert_allclose(forecast.median[small], forecast.median[large], atol=1e-9)


def test_a_plain_series_has_the_scores_of_demand(load_result):
    rows = {row["model"]: row for row in load_result.rows()}
    assert rows["seasonal_naive"]["wrmsse"] < 0.5 * rows["random_walk"]["wrmsse"]
    verdicts = load_result.demand_verdicts()
    assert list(verdicts) == list(rows)[1:]
    assert verdicts["drift"]["wql"]["difference"] == pytest.approx(rows["model"]["wql"] - rows["drift"]["wql"])
    assert pool([load_result]).rows() == load_result.rows()


def test_pooled_folds_speak_of_all_their_forecasts(pipe, bars):
    periods = [("2016-01-01", "2016-01-31"), ("2016-02-01", "2016-02-29")]
    parts = [
        walk_forward(pipe, encoded(pipe, bars), start=a, end=b, horizon=2, samples=8, progress=False)
        for a, b in periods
    ]
    pooled = pool(parts)
    sizes = [len(part.origin) for part in parts]
    assert len(pooled.origin) == sum(sizes)
    assert {row["model"] for row in pooled.rows()} == {row["model"] for row in parts[0].rows()}
    for i, row in enumerate(pooled.rows()):
        crps = np.average([part.rows()[i]["crps"] for part in parts], weights=sizes)
        assert row["crps"] == pytest.approx(crps, abs=1e-6)
    assert set(pooled.verdicts()) == set(parts[0].verdicts())
    with pytest.raises(ValueError, match="must not overlap"):
        pool([parts[0], parts[0]])
    with pytest.raises(ValueError, match="at least one"):
        pool([])


def test_one_step_ahead_the_law_is_exact(pipe, bars):
    """Many paths come near it; their number changes nothing."""
    series, options = encoded(pipe, bars), {**PERIOD, "horizon": 1, "stride": 5, "progress": False}
    exact, same = (walk_forward(pipe, series, samples=k, **options) for k in (2, 64))
    np.testing.assert_array_equal(exact.crps(), same.crps())
    [chunk] = [
        (one, rows[:3])
        for one, rows in zip(
            series, pick_origins(series, **{k: options[k] for k in ("start", "end", "horizon", "stride")}), strict=True
        )
    ][:1]
    paths = pipe.sample(pipe.processor.batch([chunk]), horizon=1, samples=20_000)[..., 0]
    sampled = Samples(paths).crps(exact.realised[:3, 0])
    np.testing.assert_allclose(exact.crps()[:3], sampled, rtol=0.05)


def test_paths_have_an_energy_score_and_baselines_none(result, pipe, bars):
    rows = result.by_name()
    assert rows["model"]["energy_score"] > rows["model"]["crps"]  # the distance over all steps
    assert rows["drift"]["energy_score"] is None
    one = walk_forward(pipe, encoded(pipe, bars), **PERIOD, horizon=1, stride=9, progress=False)
    assert one.by_name()["model"]["energy_score"] is None
