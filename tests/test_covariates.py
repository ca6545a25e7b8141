"""Further columns beside prices: they join the features, no bar knows a later one, and a model learns from them."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import feature_extraction_tsf_llm
from tsf_llm.audit_tsf_llm import audit_features
from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE, kind_of
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.prepare import load_prepared, prepare
from tsf_llm.data_prep.sources import read_bars, read_data, read_raw
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURES
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

FENCE = "2015-12-31"
FEW = settings(max_examples=6, deadline=None, derandomize=True)


@pytest.fixture(scope="session")
def wide(make_bars):
    """`wide(rows, ticker=, seed=)` -> bars with a calendar flag, a number in other units, and one with gaps."""

    def build(rows=400, *, ticker="AAA", seed=0):
        rng = np.random.default_rng(100 + seed)
        spread = np.where(rng.random(rows) < 0.3, np.nan, rng.normal(0, 1e6, rows))
        more = {"mood_0": rng.normal(5, 2, rows), "mood_1": spread, "meeting": (rng.random(rows) < 0.1).astype(float)}
        return make_bars(rows, ticker=ticker, seed=seed).assign(**more)

    return build


def extractor(**options):
    usual = {"past_covariates": ["mood_*"], "known_covariates": ["meeting"], "feature_groups": ["returns", "bar"]}
    return TsfLlmFeatureExtractor(**{"context_length": 32, **usual, **options})


@pytest.fixture(scope="module")
def processor(wide):
    bars = pd.concat([wide(ticker="AAA"), wide(ticker="BBB", seed=1)])
    return TsfLlmProcessor(extractor(), TsfLlmTokenizer(n_bins=32)).fit(bars, through=FENCE)


@pytest.fixture
def warned(monkeypatch):
    """What the processor warns of."""
    messages = []
    monkeypatch.setattr(feature_extraction_tsf_llm.logger, "warning_once", messages.append)
    return messages


def encoded(fitted, bars, **options):
    return fitted.encode(bars, **options)[0].features


# --- features ------------------------------------------------------------------------------------------------------


def test_they_stand_behind_the_indicators_and_change_none(wide):
    bars = wide()
    plain = TsfLlmFeatureExtractor(context_length=32).fit(bars, through=FENCE)
    ours = extractor(feature_groups=None).fit(bars, through=FENCE)
    ahead = [f"known:meeting+{k}" for k in range(1, 8)]
    assert ours.names == [*plain.names, "past:mood_0", "past:mood_1", "known:meeting", *ahead]
    assert ours.feature_size == 64 + 10
    assert encoded(ours, bars)[:, :64].tobytes() == encoded(plain, bars).tobytes()


def test_they_are_scaled_on_the_training_dates_and_zero_where_unknown(wide):
    bars = wide()
    fitted = extractor().fit(bars, through=FENCE)
    for name in ("mood_0", "mood_1"):
        training = bars.loc[bars["timestamp"] <= FENCE, name]
        low, middle, high = np.nanpercentile(training, [25, 50, 75])
        expected = np.clip((bars[name] - middle) / (high - low), -10, 10).fillna(0.0)
        column = encoded(fitted, bars)[:, fitted.names.index(f"past:{name}")]
        np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-6)
    assert bars["mood_1"].isna().sum() > 50


def test_each_ticker_may_have_its_own_scale(wide):
    other = wide(ticker="BBB", seed=1).assign(mood_0=lambda bars: 100 * bars["mood_0"])
    fitted = extractor(per_ticker=True).fit(pd.concat([wide(), other]))
    place = fitted.names.index("past:mood_0")
    assert fitted.scale["BBB"][place] > 50 * fitted.scale["AAA"][place]


def test_a_column_that_starts_after_the_fence_is_refused(wide):
    """Its scale would be a guess, and the model would meet numbers that it never saw."""
    bars = wide()
    late = bars.assign(mood_1=bars["mood_1"].where(bars["timestamp"] > FENCE))
    with pytest.raises(ValueError, match=rf"\['mood_1'\] are empty up to {FENCE}: leave them out"):
        extractor().fit(late, through=FENCE)
    both = pd.concat([late, wide(ticker="BBB", seed=1)])  # one ticker's numbers are enough
    assert encoded(extractor().fit(both, through=FENCE), both).any()


def test_covariates_are_a_group(wide):
    alone = extractor(feature_groups=["covariates"]).fit(wide())
    assert alone.names == [name for name in extractor().fit(wide()).names if ":" in name]
    beside = extractor(feature_groups=["calendar", "covariates"], known_covariates=[]).fit(wide())
    assert beside.names[-3:] == ["session_gap", "past:mood_0", "past:mood_1"]


def test_fit_reads_nothing_after_the_fence(wide):
    bars, later = wide(), wide()["timestamp"] > FENCE
    changed = bars.assign(**{name: bars[name].where(~later, 1e9) for name in ("mood_0", "mood_1", "meeting")})
    ours, theirs = (extractor().fit(frame, through=FENCE) for frame in (bars, changed))
    assert ours.to_json_string() == theirs.to_json_string()


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(40, 390))
def test_no_bar_reads_a_later_one(wide, seed, cut):
    """A known covariate alone may differ, for the seven bars before the cut that read it ahead."""
    bars = wide(seed=seed)
    fitted = extractor().fit(bars, through=FENCE)
    whole, now = encoded(fitted, bars), bars["timestamp"][cut - 1]
    noise = bars.copy()
    noise.loc[cut:, ["mood_0", "mood_1"]] = np.random.default_rng(seed).normal(0, 1e7, (len(bars) - cut, 2))
    noise.loc[cut:, ["open", "high", "low", "close"]] *= 1.5
    assert encoded(fitted, noise)[:cut].tobytes() == whole[:cut].tobytes()
    assert encoded(fitted, bars, as_of=now)[:cut].tobytes() == whole[:cut].tobytes()
    past = [i for i, name in enumerate(fitted.names) if not name.startswith("known:")]
    assert encoded(fitted, bars.head(cut))[:, past].tobytes() == whole[:cut, past].tobytes()
    assert encoded(fitted, bars.head(cut))[: cut - 7].tobytes() == whole[: cut - 7].tobytes()


def test_a_known_covariate_is_read_from_rows_that_have_no_prices_yet(wide, processor):
    bars = wide()
    now = bars["timestamp"][300]
    ahead = bars.iloc[301:309].assign(**dict.fromkeys(["open", "high", "low", "close", "volume", "mood_0"], np.nan))
    given = pd.concat([bars.head(301), ahead])
    batch = processor(given)
    assert batch["origin"] == [now]
    assert torch.equal(batch["past_values"], processor(bars, as_of=now)["past_values"])
    other = given.assign(meeting=given["meeting"].where(given["timestamp"] <= now, 1 - given["meeting"]))
    assert not torch.equal(batch["past_values"], processor(other)["past_values"])


def test_patterns_become_columns_and_stay_so(wide, processor, tmp_path):
    features = processor.feature_extractor
    assert features.past_covariates == ["mood_0", "mood_1"]
    processor.save_pretrained(tmp_path)
    again = TsfLlmProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.to_json_string() == features.to_json_string()
    more = wide().assign(mood_2=1.0)  # a column that was not there when it was fitted
    assert torch.equal(again(more)["past_values"], processor(wide())["past_values"])
    everything = extractor(past_covariates=["*"]).fit(wide())
    assert everything.names == extractor().fit(wide()).names  # neither prices nor what is known ahead


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"past_covariates": ["mood_2"]}, r"column\(s\) \['mood_2'\] missing"),
        ({"past_covariates": ["tone_*"]}, r"column\(s\) \['tone_\*'\] missing"),
        ({"past_covariates": ["close"]}, r"\['close'\] cannot be covariates"),
        ({"seasons": [5]}, "seasons go with kind='univariate'"),
    ],
)
def test_wrong_choices(wide, options, message):
    with pytest.raises(ValueError, match=message):
        extractor(**options).fit(wide())


@pytest.mark.parametrize(
    ("value", "message"), [(np.inf, "infinite value"), ("high", "mood_0 is 'high', not a number")]
)
def test_bad_cells_are_named(wide, processor, value, message):
    bars = wide().astype({"mood_0": object})
    bars.loc[7, "mood_0"] = value
    with pytest.raises(ValueError, match=f"AAA, row 7.*{message}"):
        processor(bars)


def test_columns_that_are_not_given_are_masked_with_a_warning(wide, processor, warned):
    bars = wide()
    masked = processor(bars.drop(columns=["mood_0", "meeting"]))["past_values"]
    assert warned == ["the bars have no column(s) ['mood_0', 'meeting']: what the processor knows of them is masked"]
    whole, names = processor(bars)["past_values"], processor.feature_extractor.names
    gone = [i for i, name in enumerate(names) if "mood_0" in name or "meeting" in name]
    kept = [i for i in range(len(names)) if i not in gone]
    assert not masked[..., gone].any()
    assert whole[..., gone].any()
    assert torch.equal(masked[..., kept], whole[..., kept])
    assert len(warned) == 1


# --- the audit -----------------------------------------------------------------------------------------------------


def test_the_audit_covers_them(wide, processor):
    bars = pd.concat([wide(), wide(ticker="BBB", seed=1)])
    report = processor.audit(bars, cuts=6)
    assert report["passed"], report
    assert report["features"] == len(processor.feature_extractor.names) > 10
    table = audit_features(bars, ["log_return_1", "past:mood_0"], past_covariates=["mood_0"], cuts=6)
    assert (table["passed"], table["features"]) == (True, 2)
    whole = audit_features(wide(200), cuts=1, past_covariates=["mood_*"], known_covariates=["meeting"])
    assert whole["passed"], whole
    assert whole["features"] == len(FEATURES) + 10


def test_the_audit_finds_a_covariate_that_is_read_ahead(wide):
    """As it would be if a past covariate were taken for a known one."""
    honest = extractor(past_covariates=["mood_0"], known_covariates=[]).fit(wide())

    def ahead(bars, market=None):
        return honest.raw_features(bars.assign(mood_0=bars["mood_0"].shift(-2)), market)

    report = audit_features(wide(), compute=ahead, past_covariates=["mood_0"])
    [leak] = report["prefix_invariance"]["leaks"]
    assert leak["feature"] == "past:mood_0"


@pytest.mark.parametrize(
    ("column", "ahead"),
    [
        (lambda bars: 100 * (bars["close"].shift(-5) / bars["close"] - 1), 5),  # as the original's future_return_5d
        (lambda bars: np.log(bars["close"]).diff().shift(-1), 1),
        (lambda bars: np.log(bars["close"].shift(-3)), 3),
    ],
)
def test_the_audit_finds_a_column_into_which_the_future_was_written(wide, column, ahead):
    bars = wide().assign(mood_0=column)
    report = audit_features(bars, ["log_return_1", "past:mood_0"], past_covariates=["mood_0"])
    assert not report["passed"]
    [leak] = report["prefix_invariance"]["leaks"]
    assert (leak["feature"], leak["ticker"], leak["reads_up_to_bars_ahead"]) == ("mood_0", "AAA", ahead)


def test_columns_made_of_the_past_are_no_leak(wide):
    bars = wide().assign(mood_0=lambda frame: np.log(frame["close"]), mood_1=lambda frame: frame["close"].diff())
    assert audit_features(bars, ["past:mood_0", "past:mood_1"], past_covariates=["mood_0", "mood_1"])["passed"]


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_price_files_keep_the_columns_that_are_asked_for(wide, tmp_path, suffix):
    bars, path = wide(30).assign(note="x"), tmp_path / f"wide.{suffix}"
    bars.to_csv(path, index=False) if suffix == "csv" else bars.to_parquet(path)
    usual = ["timestamp", "ticker", "open", "high", "low", "close", "volume"]
    assert list(read_data(path)) == usual
    frame = read_data(path, covariates=["meeting", "mood_*"])
    assert list(frame) == [*usual, "meeting", "mood_0", "mood_1"]
    np.testing.assert_allclose(frame["mood_1"], bars["mood_1"])
    assert frame["mood_1"].dtype == float


def test_a_pattern_passes_over_what_the_bars_are_made_of(wide, tmp_path):
    names = {"timestamp": "Date", "close": "Close", "volume": "Vol."}
    wide(30).rename(columns=names).assign(**{"Adj Close": 1.0}).to_csv(tmp_path / "AAA.csv", index=False)
    assert list(read_bars(tmp_path / "AAA.csv", covariates=["*"]))[7:] == ["mood_0", "mood_1", "meeting"]


def test_a_row_keeps_its_covariates_whatever_order_the_tickers_have(wide, tmp_path):
    mixed = pd.concat([wide(20), wide(20, ticker="BBB", seed=1)]).sort_values(["timestamp", "ticker"])
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    frame = read_bars(tmp_path / "mixed.csv", covariates=["mood_0"])
    np.testing.assert_allclose(frame["mood_0"], pd.concat([wide(20), wide(20, ticker="BBB", seed=1)])["mood_0"])


def test_adjusting_for_splits_leaves_covariates_alone(wide, tmp_path):
    bars = wide(30)
    bars.assign(adj_close=bars["close"] / 2).to_csv(tmp_path / "split.csv", index=False)
    frame = read_bars(tmp_path / "split.csv", covariates=["mood_0"])
    np.testing.assert_allclose(frame["close"], bars["close"] / 2)
    np.testing.assert_allclose(frame["mood_0"], bars["mood_0"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("mood_7", r"wide\.csv has no column 'mood_7'; found: timestamp, ticker, .*, meeting, note"),
        ("tone_*", r"has no column 'tone_\*'"),
        ("volume", "bars have a column of this name"),
        ("note", "row 1: column 'note' holds 'x', which is not a number"),
    ],
)
def test_columns_that_cannot_be_kept(wide, tmp_path, wanted, message):
    wide(30).assign(note="x").to_csv(tmp_path / "wide.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read_bars(tmp_path / "wide.csv", covariates=[wanted])


def test_the_column_of_names_tells_series_from_bars(wide, tmp_path):
    wide(60).to_csv(tmp_path / "wide.csv", index=False)
    series = read_data(tmp_path / "wide.csv", columns=Columns(value="volume"), covariates=["close", "mood_0"])
    assert kind_of(series) is UNIVARIATE
    fitted = TsfLlmFeatureExtractor(kind="univariate", past_covariates=["close"], seasons=[]).fit(series)
    assert fitted.names[-1] == "past:close"
    wide(60).rename(columns={"mood_0": "value"}).to_csv(tmp_path / "value.csv", index=False)
    assert kind_of(read_data(tmp_path / "value.csv", covariates=["value"])) is OHLCV


def test_files_for_a_finished_model_may_lack_columns(wide, processor, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    wide(30).to_csv(folder / "AAA.csv", index=False)
    wide(30, ticker="BBB").drop(columns="mood_0").to_csv(folder / "BBB.csv", index=False)
    features = processor.feature_extractor
    frame = read_data(folder, kind=features.series_kind, covariates=features.covariates)
    assert frame.groupby("ticker")["mood_0"].count().to_dict() == {"AAA": 30, "BBB": 0}
    with pytest.raises(ValueError, match=r"BBB\.csv has no column 'mood_0'"):
        read_data(folder, covariates=features.covariates, strict=True)
    skipped = read_data(folder, covariates=features.covariates).attrs["skipped"]
    assert list(skipped) == ["BBB"]


# --- cleaned and prepared ------------------------------------------------------------------------------------------


def test_in_cleaning_a_covariate_follows_its_row(wide, tmp_path):
    bars = wide(60).assign(mood_0=np.arange(60.0), mood_1=1.0).astype({"mood_0": object})
    bars.loc[[5, 6], "mood_0"] = ["#REF!", np.inf]
    bars.loc[9, "close"] = -1.0  # masked
    again = bars.iloc[[20]].assign(mood_0=99.0)  # dropped
    defective = pd.concat([bars.iloc[:30], again, bars.iloc[:29:-1]])  # sorted
    defective.to_csv(tmp_path / "bars.csv", index=False)
    expected = np.arange(60.0)
    expected[[5, 6]] = np.nan
    for raw in (read_raw(tmp_path / "bars.csv", covariates=["mood_*"]), defective):
        frame, report = clean_bars(raw, ["mood_*"])
        assert list(frame)[7:] == ["mood_0", "mood_1"]
        np.testing.assert_array_equal(frame["mood_0"], expected)
        assert frame["close"].isna().to_numpy().nonzero()[0].tolist() == [9]
        assert report["rules"]["conflicting"]["rows"] == report["rules"]["text"]["rows"] == 1
    assert list(clean_bars(read_raw(tmp_path / "bars.csv"))[0])[7:] == []
    with pytest.raises(ValueError, match=r"\['row'\] cannot be covariates"):
        clean_bars(bars.assign(row=1.0), ["row"])


@pytest.mark.parametrize(("known", "renewed"), [([], "extended"), (["meeting"], "encoded")])
def test_prepared_columns_are_those_of_the_file(wide, tmp_path, known, renewed):
    """New bars give a past covariate new rows alone; a known one is read by the last old rows, too."""

    def run(frame):
        frame.to_parquet(tmp_path / "bars.parquet")
        features = extractor(known_covariates=known, feature_groups=["returns"])
        made = TsfLlmProcessor(features, TsfLlmTokenizer(n_bins=32))
        return prepare(tmp_path / "bars.parquet", tmp_path / "out", processor=made, horizon=2)["run"]["tickers"]

    bars = pd.concat([wide(), wide(ticker="BBB", seed=1)], ignore_index=True)
    run(bars[bars["timestamp"] < bars["timestamp"][390]])
    assert run(bars)[renewed] == 2
    prepared = load_prepared(tmp_path / "out")
    assert list(prepared.bars())[7:] == ["mood_0", "mood_1", *known]
    fresh = prepared.processor.feature_extractor.encode(bars)
    for stored, computed in zip(prepared.series(), fresh, strict=True):
        assert stored.features.tobytes() == computed.features.tobytes()
    changed = bars.assign(mood_0=bars["mood_0"].where(bars.index != 10, 0.5))
    assert run(changed)["encoded"] == 2


# --- a model that learns from them ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(make_bars, tmp_path_factory):
    """`planted(late)` -> a price file with a column that tells whether the next bar rises, known `late` bars later."""

    def write(late):
        frames = []
        for seed, name in enumerate(("AAA", "BBB")):
            bars = make_bars(500, ticker=name, seed=seed)
            rises = np.sign(np.log(bars["close"]).diff().shift(-1))
            frames.append(bars.assign(hint_0=rises.shift(late), hint_1=1.0))
        path = tmp_path_factory.mktemp("planted") / "prices.csv"
        pd.concat(frames).to_csv(path, index=False)
        return path

    return write


@pytest.fixture(scope="module")
def learned(train, planted, tmp_path_factory):
    """`learned(late)` -> folder of a model trained on it, and the price file."""

    def run(late):
        out, data = tmp_path_factory.mktemp("learned"), planted(late)
        options = {"past_covariates": "hint_*", "feature_groups": ["returns", "volatility"], "horizon": 1}
        train(out, data=data, report_samples=64, num_train_epochs=6, learning_rate=0.01, **options)
        return out, data

    return run


@pytest.fixture(scope="module")
def in_time(learned):
    return learned(0)


def test_a_column_that_tells_tomorrow_is_learned(in_time):
    report = json.loads((in_time[0] / "report.json").read_text())
    assert report["after"]["direction_accuracy"] > 0.9
    assert report["before"]["direction_accuracy"] < 0.7
    assert report["after"]["crps"] < 0.9 * report["baselines"]["random_walk"]["crps"]


def test_the_same_column_a_bar_late_tells_nothing(learned):
    folder, _ = learned(1)
    report = json.loads((folder / "report.json").read_text())
    low, high = report["after"]["direction_ci95"]
    assert low < 0.5 < high or report["after"]["direction_accuracy"] < 0.5


def test_forecasts_read_the_column_and_do_without_it(in_time, warned):
    folder, data = in_time
    pipe = load_pipeline(folder)
    assert pipe.processor.feature_extractor.past_covariates == ["hint_0", "hint_1"]
    bars = read_data(data, covariates=["hint_*"])
    dates = bars["timestamp"].unique()[-12:-1]
    rises = np.log(bars["close"]).groupby(bars["ticker"]).diff().shift(-1)
    right = []
    for date in dates:
        forecast = pipe(bars, as_of=date, samples=64).set_index("ticker")
        truth = rises[bars["timestamp"] == date].set_axis(bars.loc[bars["timestamp"] == date, "ticker"])
        right += [(forecast.loc[name, "p_up"] > 0.5) == (truth[name] > 0) for name in ("AAA", "BBB")]
    assert np.mean(right) > 0.9
    assert not warned
    blind = pipe(read_data(data), as_of=dates[0], samples=64)
    pd.testing.assert_frame_equal(blind, pipe(bars.assign(hint_0=np.nan, hint_1=np.nan), as_of=dates[0], samples=64))
    assert len(warned) == 1


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(*words)` -> exit code, stdout, stderr of the command line."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


def test_the_commands_take_them(in_time, run, tmp_path):
    (folder, data), out = in_time, tmp_path / "out"
    model, dates = ["--model", folder, "--data", data], ["--start", "2016-10-01", "--end", "2016-11-28"]
    code, _, error = run("forecast", *model, "--horizon", 1, "--samples", 32, "--out", out / "forecast.csv")
    assert (code, len(pd.read_csv(out / "forecast.csv"))) == (0, 2), error
    code, _, error = run("evaluate", *model, *dates, "--horizon", 1, "--samples", 32, "--out", out)
    rows = {row["model"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert code == 0, error
    assert rows["model"]["direction_accuracy"] > 0.9
    code, text, error = run("audit", "--model", folder, "--data", data, "--ticker", "AAA")
    assert code == 0, error
    assert json.loads(text)["passed"]
    plain = pd.read_csv(data).drop(columns=["hint_0", "hint_1"])
    plain.to_csv(tmp_path / "plain.csv", index=False)
    words = ["--model", folder, "--data", tmp_path / "plain.csv", "--horizon", 1]
    assert run("forecast", *words, "--samples", 32, "--out", out / "blind.csv")[0] == 0
    code, _, error = run("audit", "--data", tmp_path / "plain.csv", "--past-covariates", "hint_*")
    assert (code, error.count("\n")) == (2, 1)
    assert "has no column 'hint_*'" in error
