"""Streams: the pipeline's rows bar by bar, bars that are refused and change nothing, states that are saved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tsf_llm.configuration_tsf_llm as configuration
from tsf_llm.bars_tsf_llm import volatility_bars
from tsf_llm.calibration_tsf_llm import AdaptiveSpread
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.stream_model import LOGITS, WindowReader
from tsf_llm.serving.streaming import StreamingForecaster
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

NUMBERS = ["mean", "q05", "q10", "q25", "q50", "q75", "q90", "q95"]


@pytest.fixture(scope="module")
def mini():
    return load_pipeline(Path(configuration.__file__).parent / "mini")


@pytest.fixture(scope="module")
def pipe(law_pipe):
    return law_pipe()


@pytest.fixture(scope="module")
def panel(make_bars):
    return pd.concat([make_bars(360, ticker=name, seed=seed) for seed, name in enumerate(("AAA", "BBB", "CCC"))])


@pytest.fixture
def stream(pipe, panel):
    return StreamingForecaster(pipe, until(panel, 300), horizon=5)


def times(panel):
    return sorted(panel["timestamp"].unique())


def until(panel, count):
    return panel[panel["timestamp"] < times(panel)[count]]


def at(panel, row, *names):
    bars = panel[panel["timestamp"] == times(panel)[row]]
    return bars[bars["ticker"].isin(names)] if names else bars


def snapshot(stream):
    """All that a stream knows, as bytes."""
    tensors = {name: values.numpy().tobytes() for name, values in stream._tensors().items()}
    return tensors, stream.symbols, None if stream._market is None else stream._market.names()


def assert_same_laws(frame, other, atol):
    """Equal rows whose prices differ by `atol` of the price at most."""
    pd.testing.assert_frame_equal(frame.drop(columns=[*NUMBERS, "p_up"]), other.drop(columns=[*NUMBERS, "p_up"]))
    assert np.abs(frame[NUMBERS].to_numpy() / other[NUMBERS].to_numpy() - 1).max() < atol
    assert np.abs(frame["p_up"] - other["p_up"]).max() < atol


# The forecast


def test_it_starts_where_the_pipeline_is(mini, panel):
    history = until(panel, 300)
    stream = StreamingForecaster(mini, history, horizon=20)
    pd.testing.assert_frame_equal(stream.forecast(), mini(history, horizon=20), check_exact=True)
    assert stream.symbols == ["AAA", "BBB", "CCC"]
    assert len(StreamingForecaster(mini, history).forecast(["BBB"])) == mini.reach


def test_as_long_as_the_window_fills_it_is_the_pipeline_itself(mini, make_bars):
    bars = make_bars(60)
    stream = StreamingForecaster(mini, bars[:55], horizon=5)
    for row in range(55, 60):
        rows = stream.update(bars[row : row + 1])
        assert list(rows) == list(mini(bars[: row + 1], horizon=5))
        assert_same_laws(rows, mini(bars[: row + 1], horizon=5), atol=1e-6)
        assert rows.attrs["skipped"] == {}


def test_it_stays_close_to_the_windows_of_the_pipeline(mini, panel):
    """Bars that have left the window are still felt by way of those that saw them: by thousandths of a sigma."""
    panel = panel[panel["ticker"] == "AAA"]
    stream = StreamingForecaster(mini, until(panel, 300), horizon=5)
    for row in range(300, 340):
        rows = stream.update(at(panel, row))
    windows = mini(until(panel, 340), horizon=5)
    sigma = stream._state["scale"].item() * np.sqrt(rows["step"].to_numpy())
    difference = np.log(rows[NUMBERS] / windows[NUMBERS]).to_numpy() / sigma[:, None]
    assert 0 < np.abs(difference).max() < 0.05


def test_features_from_the_kept_bars_are_those_of_the_whole_history(mini, make_bars):
    bars = make_bars(2400)
    extractor = mini.processor.feature_extractor
    whole = extractor.encode(bars)[0]
    for row in range(1100, 2400, 137):
        tail = bars[row - extractor.memory : row + 1].reset_index(drop=True)
        newest = extractor.encode_newest(extractor.check_known(tail))[0]
        assert newest.features[-1] == pytest.approx(whole.features[row], abs=1e-6)
        assert newest.sigma[-1] == pytest.approx(whole.sigma[row], rel=1e-12)


def test_a_stream_computes_the_bits_of_the_whole_history(mini, make_bars, monkeypatch):
    bars, newest = make_bars(1500), []
    whole = mini.processor.feature_extractor.encode(bars)[0]
    stream = StreamingForecaster(mini, bars[:1200], horizon=1)
    encode = type(stream._extractor).encode_newest
    monkeypatch.setattr(
        type(stream._extractor), "encode_newest", lambda *args: newest.append(encode(*args)[0]) or newest[-1:]
    )
    for row in range(1200, 1500):
        stream.update(bars[row : row + 1])
    for name in ("features", "sigma", "close", "ohlc", "volume", "timestamp"):
        streamed = np.concatenate([getattr(one, name) for one in newest])
        np.testing.assert_array_equal(streamed, getattr(whole, name)[1200:], err_msg=name)


def test_the_memory_covers_a_slow_volatility(small):
    assert TsfLlmFeatureExtractor(feature_groups=["bar"], sigma_decay=0.999).memory > 27_000
    assert (
        small.feature_extractor.memory == volatility_bars(0.94) > 633
    )  # of which the last ones have weights of 1e-17


def test_a_symbol_is_forecast_as_if_it_were_alone(pipe, panel, stream):
    one = panel[panel["ticker"] == "BBB"]
    alone = StreamingForecaster(pipe, until(one, 300), horizon=5)
    for row in range(300, 330):
        together = stream.update(at(panel, row) if row % 3 else at(panel, row, "BBB", "CCC"))
        rows = alone.update(at(one, row))
        assert_same_laws(together[together["ticker"] == "BBB"].reset_index(drop=True), rows, atol=1e-6)


def test_a_single_symbol_takes_a_dict_and_usual_names(pipe, make_bars):
    bars = make_bars(302, ticker="ACME")
    streams = [StreamingForecaster(pipe, bars[:300], horizon=1) for _ in range(3)]
    bar = bars.iloc[300].to_dict()
    rows = streams[0].update(bar)
    named = {"Date": "2016-02-25", "Open": bar["open"], "High": bar["high"], "Low": bar["low"], "Close": bar["close"]}
    assert_same_laws(streams[1].update({**named, "Volume": bar["volume"]}), rows, atol=1e-12)
    assert rows["ticker"].tolist() == ["ACME"]
    assert rows["origin"].tolist() == [bars["timestamp"].iloc[300]]
    pd.testing.assert_frame_equal(rows, streams[0].forecast(), check_exact=True)


def test_a_model_with_a_front_end_is_read_by_the_window(law_pipe, panel):
    pipe = law_pipe(use_mscnn=True)
    stream = StreamingForecaster(pipe, until(panel, 300), horizon=5)
    assert isinstance(stream._reader, WindowReader)
    for row in range(300, 304):
        rows = stream.update(at(panel, row))
    assert_same_laws(rows, pipe(until(panel, 304), horizon=5), atol=1e-6)


def test_a_market_grows_beside_the_bars(beside_market, law_pipe, make_bars):
    pipe = law_pipe(beside_market)
    bars, market = make_bars(320), pd.concat([make_bars(320, ticker=name, seed=ord(name)) for name in "XYZ"])
    stream = StreamingForecaster(pipe, bars[:314], market=until(market, 314), horizon=5)
    pd.testing.assert_frame_equal(
        stream.forecast(), pipe(bars[:314], market=until(market, 314), horizon=5), check_exact=True
    )
    for row in range(314, 320):
        stream.update(bars[row : row + 1], market=at(market, row))
    extractor = pipe.processor.feature_extractor
    newest = extractor.encode_newest(extractor.check_known(bars), stream._market.state())[0].features[-1]
    whole = extractor.encode(bars, market=market)[0].features[-1]
    assert newest == pytest.approx(whole, abs=1e-6)
    late = bars[-1:].assign(timestamp=bars["timestamp"].iloc[-1] + pd.Timedelta(days=1))
    before = snapshot(stream)
    with pytest.raises(ValueError, match="give all bars of a time in one update"):
        stream.update(late, market=at(market, 319))
    assert snapshot(stream) == before


def test_steps_beyond_the_laws_and_models_without_them_are_refused(pipe, panel, law_pipe):
    for horizon in (0, 21, 2.5):
        with pytest.raises(ValueError, match="forecasts 1 to 20 steps"):
            StreamingForecaster(pipe, until(panel, 300), horizon=horizon)
    with pytest.raises(ValueError, match="names no law"):
        StreamingForecaster(law_pipe(horizons=None), until(panel, 300))
    with pytest.raises(ValueError, match="quantile_levels"):
        StreamingForecaster(pipe, until(panel, 300), horizon=1, quantile_levels=[2.0])
    with pytest.raises(ValueError, match="calibration=on"):
        StreamingForecaster(pipe, until(panel, 300), horizon=1, calibration="on")


def test_inputs_without_a_bounded_memory_are_refused(make_bars, law_pipe):
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], known_covariates=["flag"], context_length=24)
    bars = make_bars(400).assign(flag=1.0)
    bars.loc[::7, "flag"] = 0.0
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(32)).fit(bars)
    with pytest.raises(ValueError, match="no bounded past"):
        StreamingForecaster(law_pipe(processor), bars, horizon=1)


# Bars that are refused


def bad_bars(panel):
    good, after = at(panel, 300, "AAA"), pd.Timestamp(times(panel)[300])
    return {
        "known already": good.assign(timestamp=times(panel)[299]),
        "comes too late": good.assign(timestamp=times(panel)[200]),
        "price <= 0": good.assign(close=-1.0),
        "high is below low": good.assign(high=good["low"] * 0.5),
        "open, high, low or close is missing": good.assign(close=np.nan),
        "infinite value": good.assign(volume=np.inf),
        "not a number": good.astype({"close": object}).assign(close="dear"),
        "timestamp is empty": good.assign(timestamp=pd.NaT),
        "is not streamed": good.assign(ticker="WHO"),
        "missing from": good.drop(columns="close"),
        "after the last bar": good.assign(timestamp=pd.Timestamp(times(panel)[299]) + pd.Timedelta(hours=1)),
        "2 bars in one update": pd.concat([good, good.assign(timestamp=after + pd.Timedelta(days=1))]),
        "timestamp is repeated": pd.concat([good, good]),
        "say of which symbol": good.drop(columns="ticker"),
        "no rows": good.iloc[:0],
    }


WRONG = [
    *("known already", "comes too late", "price <= 0", "high is below low", "open, high, low or close is missing"),
    *("infinite value", "not a number", "timestamp is empty", "is not streamed", "missing from", "after the last bar"),
    *("2 bars in one update", "timestamp is repeated", "say of which symbol", "no rows"),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_bar_is_refused_in_one_line_and_changes_nothing(wrong, stream, panel):
    before = snapshot(stream)
    with pytest.raises(ValueError, match=wrong) as refusal:
        stream.update(bad_bars(panel)[wrong])
    assert "\n" not in str(refusal.value)
    assert snapshot(stream) == before


def test_a_bar_whose_forecast_fails_is_taken_back(stream, panel, monkeypatch):
    before, processor = snapshot(stream), stream.pipe.processor
    with monkeypatch.context() as patch:
        patch.setattr(type(processor), "decode_laws", lambda *_: next(iter(())))
        with pytest.raises(StopIteration):
            stream.update(at(panel, 300))
    assert snapshot(stream) == before
    assert len(stream.update(at(panel, 300)))


def test_what_is_no_frame_is_refused(stream):
    before = snapshot(stream)
    for bars in ([1, 2], None, "AAA", {}, {"close": 3}):
        with pytest.raises(ValueError, match=r"a new bar is|missing from|no column"):
            stream.update(bars)
    assert snapshot(stream) == before


def test_one_bad_bar_does_not_stop_the_others(stream, panel, pipe):
    bars = at(panel, 300)
    wrong = bars.assign(close=bars["close"].where(bars["ticker"] != "BBB", -1.0))
    before = snapshot(stream)
    with pytest.raises(ValueError, match="BBB"):
        stream.update(wrong, strict=True)
    assert snapshot(stream) == before
    rows = stream.update(wrong)
    assert rows["ticker"].unique().tolist() == ["AAA", "CCC"]
    assert "price <= 0" in rows.attrs["skipped"]["BBB"]
    assert stream.forecast(["BBB"])["origin"].iloc[0] == times(panel)[299]
    stream.update(at(panel, 300, "BBB"))
    fresh = StreamingForecaster(pipe, until(panel, 300), horizon=5)
    assert_same_laws(stream.forecast(), fresh.update(bars), atol=1e-6)


def test_bars_that_have_become_rare_are_refused(pipe, make_bars):
    bars = make_bars(300)
    stream = StreamingForecaster(pipe, bars, horizon=1)
    weekly = [
        bars[-1:].assign(timestamp=bars["timestamp"].iloc[-1] + pd.Timedelta(weeks=week)) for week in range(1, 13)
    ]
    for bar in weekly[:7]:
        stream.update(bar)
    with pytest.raises(ValueError, match="bars have become rare"):
        stream.update(weekly[7])


def test_no_symbol_has_no_forecast(stream):
    with pytest.raises(ValueError, match="no symbol is named"):
        stream.forecast([])


def test_a_bar_after_a_halt_of_years_goes_on(stream, panel):
    rows = stream.update(at(panel, 300, "AAA").assign(timestamp=pd.Timestamp("2033-01-03")))
    assert rows["step"].tolist() == [1, 2, 3, 4, 5]
    assert (rows["timestamp"] > "2033-01-03").all()
    assert stream.forecast().groupby("ticker")["step"].count().tolist() == [5, 5, 5]


def test_a_jump_is_told_once(stream, panel, warnings_of):
    bars = at(panel, 300, "AAA")
    half = bars.assign(**{name: bars[name] / 2 for name in ("open", "high", "low", "close")})
    assert any("split" in line for line in warnings_of(lambda: stream.update(half)))
    after = at(panel, 301, "AAA")
    after = after.assign(**{name: after[name] / 2 for name in ("open", "high", "low", "close")})
    assert warnings_of(lambda: stream.update(after)) == []


# Symbols that come and go


def test_symbols_come_and_go(stream, panel, pipe, make_bars):
    history = make_bars(301, ticker="DDD", seed=9)
    stream.drop(["AAA"])
    rows = stream.add(pd.concat([history, at(panel, 300, "BBB")]))
    assert stream.symbols == ["BBB", "CCC", "DDD"]
    assert list(rows.attrs["skipped"]) == ["BBB"]
    pd.testing.assert_frame_equal(rows, pipe(history, horizon=5), check_exact=True)
    assert stream.update(at(panel, 300, "CCC"))["ticker"].unique().tolist() == ["CCC"]
    before = snapshot(stream)
    with pytest.raises(ValueError, match="streamed already"):
        stream.add(history)
    for call in (stream.drop, stream.forecast):
        with pytest.raises(ValueError, match="AAA is not streamed"):
            call(["AAA"])
    with pytest.raises(ValueError, match="no symbol would be left"):
        stream.drop(stream.symbols)
    assert snapshot(stream) == before


# Calibration


def test_the_stored_calibration_is_used(law_processor, law_pipe, panel):
    kept = {"kept": True, "shift": [0.3] * 5, "spread": [1.5] * 5, "through": "2016-01-01"}
    parts = law_processor.feature_extractor, law_processor.tokenizer
    pipe = law_pipe(TsfLlmProcessor(*parts, calibration=kept))
    for choice in ("auto", "off"):
        stream = StreamingForecaster(pipe, until(panel, 300), horizon=7, calibration=choice)
        expected = pipe(until(panel, 300), horizon=7, calibration=choice)
        pd.testing.assert_frame_equal(stream.forecast(), expected, check_exact=True)


def test_an_adaptive_stream_follows_its_own_misses(pipe, panel):
    plain, moved = (StreamingForecaster(pipe, until(panel, 300), horizon=5, adaptive=on) for on in (False, True))
    by_hand = AdaptiveSpread()
    for row in range(300, 315):
        before = plain.forecast(["AAA"]).iloc[0]
        close = at(panel, row, "AAA")["close"].iloc[0]
        last = plain._state["last_close"][0].item()
        ends = [[np.log(before[name] / last)] for name in ("q10", "q50", "q90")]
        by_hand.update(*ends, [np.log(close / last)])
        rows, wider = plain.update(at(panel, row)), moved.update(at(panel, row))
    assert moved._state["spread"][0].item() == pytest.approx(by_hand.spread, rel=1e-9)
    first, other = rows.iloc[0], wider.iloc[0]
    assert first["q50"] == pytest.approx(other["q50"])
    width = np.log(other["q95"] / other["q50"]) / np.log(first["q95"] / first["q50"])
    assert width == pytest.approx(by_hand.spread)


# Saved and loaded


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_loaded_stream_goes_on_with_the_same_bits(adaptive, pipe, panel, tmp_path):
    stream = StreamingForecaster(pipe, until(panel, 300), horizon=5, adaptive=adaptive, quantile_levels=[0.2, 0.8])
    stream.update(at(panel, 300))
    stream.save(tmp_path / "state")
    again = StreamingForecaster.load(tmp_path / "state", pipe)
    assert snapshot(again) == snapshot(stream)
    for row in range(301, 305):
        pd.testing.assert_frame_equal(again.update(at(panel, row)), stream.update(at(panel, row)), check_exact=True)
    assert snapshot(again) == snapshot(stream)
    names = {path.name for path in (tmp_path / "state").iterdir()}
    assert {path.rsplit(".", 1)[-1] for path in names} == {"json", "safetensors"}


def test_a_market_is_saved_with_it(beside_market, law_pipe, make_bars, tmp_path):
    pipe = law_pipe(beside_market)
    bars, market = make_bars(302), pd.concat([make_bars(302, ticker=name, seed=ord(name)) for name in "XYZ"])
    stream = StreamingForecaster(pipe, bars[:300], market=until(market, 300), horizon=5)
    stream.save(tmp_path)
    again = StreamingForecaster.load(tmp_path, pipe)
    ends = [one.update(bars[300:301], market=at(market, 300)) for one in (stream, again)]
    pd.testing.assert_frame_equal(*ends, check_exact=True)


def test_a_save_that_is_cut_off_leaves_the_last_one(stream, panel, pipe, tmp_path, monkeypatch):
    stream.save(tmp_path)
    expected = stream.forecast()
    stream.update(at(panel, 300))
    with monkeypatch.context() as patch:
        patch.setattr("tsf_llm.serving.streaming.write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.save(tmp_path)
    pd.testing.assert_frame_equal(StreamingForecaster.load(tmp_path, pipe).forecast(), expected)
    for _ in range(3):
        stream.save(tmp_path)
        assert len([*tmp_path.glob("*.safetensors")]) == 1
    pd.testing.assert_frame_equal(StreamingForecaster.load(tmp_path, pipe).forecast(), stream.forecast())


def test_the_state_of_another_model_is_refused(stream, pipe, law_pipe, tmp_path):
    stream.save(tmp_path)
    other = law_pipe()
    with torch.no_grad():
        other.model.lm_head.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="saved with another model"):
        StreamingForecaster.load(tmp_path, other)


def test_a_broken_state_is_refused_in_one_line(stream, pipe, tmp_path):
    stream.save(tmp_path / "good")
    with pytest.raises(FileNotFoundError):
        StreamingForecaster.load(tmp_path / "nowhere", pipe)

    def broken(change):
        folder = tmp_path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", folder)
        change(folder)
        with pytest.raises(ValueError, match=r"stream\.json|no whole stream") as refusal:
            StreamingForecaster.load(folder, pipe)
        assert "\n" not in str(refusal.value)

    def told(**changes):
        def change(folder):
            content = json.loads((folder / "stream.json").read_text())
            (folder / "stream.json").write_text(json.dumps({**content, **changes}))

        return change

    def cut(folder):
        [path] = folder.glob("*.safetensors")
        path.write_bytes(path.read_bytes()[:-100])

    broken(cut)
    broken(lambda folder: next(folder.glob("*.safetensors")).unlink())
    broken(lambda folder: (folder / "stream.json").write_text("{"))
    broken(told(version=99))
    broken(told(tensors="../model.safetensors"))
    broken(told(symbols=["AAA"]))
    broken(told(settings={"horizon": 5}))
    broken(told(settings={"horizon": 5, "strange": 1}))


def test_it_writes_over_nothing_of_others(stream, tmp_path):
    (tmp_path / "stream.json").write_text("mine")
    with pytest.raises(ValueError, match="was not written by this package"):
        stream.save(tmp_path)
    assert (tmp_path / "stream.json").read_text() == "mine"


def test_the_state_does_not_grow(stream, panel):
    sizes = []
    for row in range(300, 330):
        stream.update(at(panel, row, "AAA"))
        sizes.append(sum(len(values) for name, values in snapshot(stream)[0].items() if not name.startswith("tails")))
    assert len(set(sizes)) == 1
    assert stream._state[LOGITS].shape[0] == 3
    stream._keep = 20
    stream.update(at(panel, 340))
    assert {len(tail) for tail in stream._tails.values()} == {20}
