"""Prepared datasets: what is in the folder, the fence, the same bytes whatever the way, and going on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from tsf_llm import indicators_tsf_llm as indicators
from tsf_llm.data_prep import prepare as module
from tsf_llm.data_prep import shards, ticker_files
from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.prepare import is_prepared, load_prepared, prepare
from tsf_llm.data_prep.shards import shard_path
from tsf_llm.data_prep.sources import read_bars, read_series
from tsf_llm.data_prep.windows import WindowDataset
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURE_GROUPS, FEATURES, SELECTABLE_GROUPS
from tsf_llm.market_tsf_llm import market_state
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import sft
from tsf_llm.training.arguments import DataArguments
from tsf_llm.training.data import TrainingData

FIELDS = ("timestamp", "features", "observed", "close", "log_return", "sigma")


def read_exact(path):
    """Prices to write again: pandas 2 changes the last bits of numbers unless asked not to."""
    return pd.read_csv(path, parse_dates=["timestamp"], float_precision="round_trip")


def settings(**features):
    processor = TsfLlmProcessor(TsfLlmFeatureExtractor(context_length=16, **features), TsfLlmTokenizer(n_bins=32))
    return {"horizon": 3, "processor": processor}


@pytest.fixture(scope="module")
def prices(make_bars, tmp_path_factory):
    """Three tickers with odd names and some defects, and one that is too short."""
    bars = [make_bars(220, ticker=name, seed=i) for i, name in enumerate(["^AAA", "BRK/B", ".INX"])]
    bars[0].loc[50, "close"] = np.nan
    bars[1].loc[60, "high"] = -1
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    pd.concat([*bars, make_bars(10, ticker="NEW")]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def folder(prices, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    prepare(prices, out, **settings())
    return out


def contents(folder):
    """All files but the one that says what the run did."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "report.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_what_is_in_the_folder(folder):
    info = json.loads((folder / "dataset.json").read_text())
    assert list(info["tickers"]) == ["^AAA", "BRK/B", ".INX"]
    assert "NEW: 10 observed bars" in info["skipped"]["NEW"]
    assert len(info["features"]) == 64
    assert info["embargo"] == info["horizon"] == 3
    assert info["fitted_through"] == info["split"]["train_through"][:10] < info["split"]["valid_through"]
    report = json.loads((folder / "cleaning.json").read_text())
    assert report["missing_bars"] == 2
    assert {path.name for path in folder.iterdir()} == {
        *("data", "processor", "README.md", "dataset.json", "cleaning.json", "report.json"),
        ".tsf_llm.json",
    }
    assert sum(count["bars"] for count in info["counts"].values()) == report["bars"] - 10


def test_datasets_reads_it_memory_mapped(folder, tmp_path):
    rows = load_dataset(
        "parquet", data_files=str(folder / "data" / "*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert rows.cache_files  # on disk, not in memory
    assert len(rows) == 660
    assert set(rows["ticker"]) == {"^AAA", "BRK/B", ".INX"}
    first = rows.with_format("numpy")[0]
    assert first["features"].shape == (64,)
    assert rows.features["features"].length == 64


def test_the_card_has_valid_metadata(folder):
    card = DatasetCard.load(folder / "README.md")
    assert card.data.configs == [{"config_name": "default", "data_files": "data/*.parquet"}]
    assert card.data.task_categories == ["time-series-forecasting"]
    assert "| `missing` | mask | 1 |" in card.text


def test_the_stored_arrays_are_those_of_the_processor(folder):
    stored = load_prepared(folder)
    encoded = stored.processor.feature_extractor.encode(stored.bars())
    for one, other in zip(stored.series(), encoded, strict=True):
        assert one.ticker == other.ticker
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        tokens = pq.read_table(shard_path(folder, one.ticker))["token"].to_numpy()
        np.testing.assert_array_equal(tokens, stored.processor.tokenizer.encode_returns(one.standard_return()))


def test_counts_are_those_of_the_windows(folder):
    stored = load_prepared(folder)
    valid = WindowDataset(
        stored.processor,
        stored.series(),
        objective="causal_lm",
        horizon=3,
        after=stored.split.train_through,
        through=stored.split.valid_through,
        embargo=3,
    )
    assert stored.info["counts"]["valid"]["windows"] == len(valid) > 0


def test_bars_after_the_fence_change_nothing_that_was_fitted(prices, folder, tmp_path):
    stored = load_prepared(folder)
    bars = read_exact(prices)
    late = bars["timestamp"] > stored.split.train_through
    bars.loc[late, ["open", "high", "low", "close"]] *= np.exp(np.linspace(0, 3, late.sum()))[:, None]
    bars.to_csv(tmp_path / "other.csv", index=False)
    fences = {f"{part}_through": str(getattr(stored.split, f"{part}_through")) for part in ("train", "valid")}
    prepare(tmp_path / "other.csv", tmp_path / "out", **settings(), **fences)
    other = load_prepared(tmp_path / "out")
    assert other.processor.feature_extractor.to_dict() == stored.processor.feature_extractor.to_dict()
    assert other.processor.tokenizer.bin_edges == stored.processor.tokenizer.bin_edges
    for one, two in zip(stored.series(), other.series(), strict=True):
        past = one.timestamp <= stored.split.train_through.to_datetime64()
        np.testing.assert_array_equal(one.features[past], two.features[past])


def test_it_equals_the_processor_fitted_by_hand(folder):
    stored = load_prepared(folder)
    bars = stored.bars()
    processor = TsfLlmProcessor(TsfLlmFeatureExtractor(context_length=16), TsfLlmTokenizer(n_bins=32)).fit(
        bars, through=stored.split.train_through
    )
    assert processor.feature_extractor.center == stored.processor.feature_extractor.center
    assert processor.tokenizer.bin_edges == stored.processor.tokenizer.bin_edges


def test_two_processes_write_the_bytes_of_one(prices, folder, tmp_path):
    prepare(prices, tmp_path, **settings(), num_proc=2)
    assert contents(tmp_path) == contents(folder)


@pytest.mark.slow
def test_ray_writes_the_bytes_of_one_process(prices, folder, tmp_path, ray_workers):
    prepare(prices, tmp_path, **settings(), engine="ray")
    assert contents(tmp_path) == contents(folder)
    assert ray_workers.is_initialized()  # not ours to stop


@pytest.mark.slow
def test_a_killed_ray_worker_loses_nothing(prices, folder, tmp_path, ray_workers, monkeypatch):
    encode, killed = module._encode_job, tmp_path / "killed"

    def die_once(name, path, out, *common):
        """At the worst moment: half of a shard is written."""
        if name == "BRK/B" and not killed.exists():
            killed.touch()
            shard = shard_path(out, name)
            shard.parent.mkdir(exist_ok=True)
            shard.with_name(f".{shard.name}.{os.getpid()}").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(name, path, out, *common)

    monkeypatch.setattr(module, "_encode_job", die_once)
    prepare(prices, tmp_path / "out", **settings(), engine="ray")
    assert killed.exists()
    assert contents(tmp_path / "out") == contents(folder)


@pytest.mark.slow
def test_ray_on_a_cluster_of_its_own(run, prices, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tsf-llm[ray]'")
    if ray.is_initialized():
        ray.shutdown()
    common = ["prepare", "--data", prices, "--horizon", 2, "--bins", 32]
    assert run(*common, "--out", tmp_path / "ray", "--engine", "ray", "--num-proc", 2)[0] == 0
    assert not ray.is_initialized()
    assert run(*common, "--out", tmp_path / "local")[0] == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_engine_refusals(run, prices, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if not installed
    common = ["prepare", "--data", prices, "--out", tmp_path / "out"]
    code, _, error = run(*common, "--engine", "ray")
    assert code == 2
    assert "pip install 'tsf-llm[ray]'" in error
    for words in (["--engine", "dask"], ["--ray-address", "auto"]):
        code, _, error = run(*common, *words)
        assert code == 2
        assert "engine=" in error
    assert not (tmp_path / "out").exists()


def test_it_goes_on_where_it_stopped(prices, folder, tmp_path, monkeypatch):
    encode, done = shards.encode_shard, []

    def stop_at_the_third(name, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        return encode(name, *rest)

    monkeypatch.setattr(shards, "encode_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(prices, tmp_path, **settings())
    assert not is_prepared(tmp_path)
    with pytest.raises(ValueError, match=r"no dataset\.json"):
        load_prepared(tmp_path)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.parquet")}
    assert len(kept) == 2
    prepare(prices, tmp_path, **settings())
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert contents(tmp_path) == contents(folder)


# One more day


@pytest.fixture
def one_more_day(prices, tmp_path):
    """The prices, and one bar more of one ticker."""
    bars = read_exact(prices)
    last = bars[bars["ticker"] == "BRK/B"].tail(1)
    path = tmp_path / "one_more_day.csv"
    new = last.assign(timestamp=last["timestamp"] + pd.Timedelta(days=1), volume=last["volume"] + 1)
    pd.concat([bars, new]).to_csv(path, index=False)
    return path


def test_one_more_day_is_a_full_rebuild_bit_for_bit(prices, one_more_day, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = prepare(prices, out, **settings())
    then = {path.name: path.stat().st_mtime_ns for path in (out / "data").iterdir()}
    fits = []
    fit = TsfLlmProcessor.fit
    monkeypatch.setattr(TsfLlmProcessor, "fit", lambda *args, **kwargs: fits.append(1) or fit(*args, **kwargs))
    given = settings()
    info = prepare(one_more_day, out, **given)
    assert not fits
    assert given["processor"].fitted_through == first["fitted_through"]  # fitted, as after a fit
    changed = {path.name for path in (out / "data").iterdir() if path.stat().st_mtime_ns != then[path.name]}
    assert changed == {shard_path(out, "BRK/B").name}
    assert info["split"] == first["split"]
    assert sum(one["bars"] for one in info["counts"].values()) == 1 + sum(
        one["bars"] for one in first["counts"].values()
    )
    prepare(one_more_day, tmp_path / "full", **settings(), **first["split"])
    assert fits
    assert contents(out) == contents(tmp_path / "full")


def test_an_interrupted_renewal_keeps_the_dates(prices, one_more_day, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = prepare(prices, out, **settings())

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(one_more_day, out, **settings())
    monkeypatch.undo()
    assert not is_prepared(out)
    assert prepare(one_more_day, out, **settings())["split"] == first["split"]
    prepare(one_more_day, tmp_path / "full", **settings(), **first["split"])
    assert contents(out) == contents(tmp_path / "full")


@pytest.fixture
def computed(monkeypatch):
    """The lengths of all panels of which features are computed."""
    lengths = []
    panel = indicators.Panel
    monkeypatch.setattr(
        indicators, "Panel", lambda tickers: lengths.extend(len(one["close"]) for one in tickers) or panel(tickers)
    )
    return lengths


@pytest.mark.parametrize(
    ("freq", "groups"),
    [("h", None), pytest.param("B", list(FEATURE_GROUPS + SELECTABLE_GROUPS), marks=pytest.mark.slow)],
)
def test_new_bars_are_all_that_is_computed(make_bars, tmp_path, computed, freq, groups):
    """Tickers of several lengths, all of which end on the same day, and 1, 5 and 694 new days for all."""
    lengths = (60, 4094, 4096, 4400)
    shape = {"freq": freq, "start": "1995-01-01"}
    bars = [make_bars(5200, ticker=f"T{n}", seed=n, **shape).iloc[4500 - n :] for n in lengths]
    bars[3].loc[150, ["open", "high", "low", "close"]] = np.nan
    times = make_bars(5200, **shape)["timestamp"]
    fences = {"train_through": str(times[4470]), "valid_through": str(times[4480])}
    common = settings(feature_groups=groups)
    out = tmp_path / "out"
    for before, end in ((0, 4500), (4500, 4501), (4501, 4506), (4506, 5200)):
        path = tmp_path / f"{end}.parquet"
        pd.concat([one[one["timestamp"] <= times[end - 1]] for one in bars]).to_parquet(path)
        computed.clear()
        run = prepare(path, out, **common, **fences)["run"]
        if before:
            assert run["rows_encoded"] == len(lengths) * (end - before)
            assert run["tickers"] == {"kept": 0, "extended": 4, "encoded": 0}
            assert not run["fitted"]
            reach = max(row.reach for row in FEATURES.values() if groups or row.group in FEATURE_GROUPS)
            assert max(computed) <= reach + end - before
        prepare(path, tmp_path / f"full{end}", **common, **fences)
        assert contents(out) == contents(tmp_path / f"full{end}")
    assert json.loads((out / "report.json").read_text()) == run


def test_a_corrected_bar_is_found(prices, tmp_path):
    """Behind the fence, so that only this ticker is encoded again; a split that re-bases prices is another fit."""
    out = tmp_path / "out"
    first = prepare(prices, out, **settings())
    bars = read_exact(prices)
    late = bars["timestamp"] > first["split"]["train_through"]
    bars.loc[bars.index[late & (bars["ticker"] == "^AAA")][3], "volume"] *= 1 + 1e-15
    bars.to_csv(tmp_path / "other.csv", index=False)
    run = prepare(tmp_path / "other.csv", out, **settings())["run"]
    assert run["tickers"] == {"kept": 2, "extended": 0, "encoded": 1}
    prepare(tmp_path / "other.csv", tmp_path / "full", **settings(), **first["split"])
    assert contents(out) == contents(tmp_path / "full")
    mine = bars["ticker"] == "^AAA"
    bars.loc[mine, ["open", "high", "low", "close"]] /= 2
    bars.to_csv(tmp_path / "split.csv", index=False)
    run = prepare(tmp_path / "split.csv", out, **settings())["run"]
    assert run["fitted"]
    assert run["tickers"]["encoded"] == 3
    prepare(tmp_path / "split.csv", tmp_path / "full2", **settings(), **first["split"])
    assert contents(out) == contents(tmp_path / "full2")


def test_a_changed_past_is_fitted_again(prices, folder, tmp_path):
    out = tmp_path / "out"
    first = prepare(prices, out, **settings())
    bars = read_exact(prices)
    bars.loc[10, "volume"] *= 2
    bars.to_csv(tmp_path / "other.csv", index=False)
    prepare(tmp_path / "other.csv", out, **settings())
    assert contents(out) != contents(folder)
    prepare(tmp_path / "other.csv", tmp_path / "full", **settings(), **first["split"])
    assert contents(out) == contents(tmp_path / "full")


def test_dates_are_kept_unless_others_are_asked_for(prices, folder, tmp_path):
    by_share = json.loads((folder / "dataset.json").read_text())["split"]
    early = {"train_through": "2015-03-02", "valid_through": "2015-05-01"}
    chosen = prepare(prices, tmp_path / "out", **settings(), **early)["split"]
    assert chosen != by_share
    assert prepare(prices, tmp_path / "out", **settings())["split"] == chosen
    later = prepare(prices, tmp_path / "out", **settings(), valid_through="2015-06-01")["split"]
    assert later["train_through"] == chosen["train_through"]
    with pytest.raises(ValueError, match=r"keeps the dates it has.*--refit"):
        prepare(prices, tmp_path / "out", **settings(), train_through="2015-06-02")
    again = settings()  # the second and third time with a processor that is fitted already
    for out in (tmp_path / "out", tmp_path / "out", tmp_path / "new"):
        prepare(prices, out, **again, refit=True)
        assert contents(out) == contents(folder)


def test_other_settings_or_bars_replace_what_is_there(prices, folder, tmp_path, make_bars):
    prepare(prices, tmp_path, **settings(scaling="standard"))
    assert contents(tmp_path) != contents(folder)
    (shard_path(tmp_path, "^AAA")).write_bytes(b"torn")
    prepare(prices, tmp_path, **settings())
    assert contents(tmp_path) == contents(folder)
    prepare(prices, tmp_path, **settings(), tickers=["BRK/B"])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["BRK%2FB.parquet"]


def test_many_bars_are_fitted_on_a_choice_of_tickers(prices, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIT_BARS", 400)
    info = prepare(prices, tmp_path, **settings())
    assert len(info["fitted_on"]) == 2
    assert len(info["tickers"]) == 3


def test_a_long_name_gets_a_short_file(tmp_path):
    paths = {shard_path(tmp_path, "x" * 300 + end) for end in "ab"}
    assert len(paths) == 2
    assert all(len(path.name) < 120 for path in paths)


def test_refusals(prices, tmp_path, make_bars):
    with pytest.raises(ValueError, match="which is read"):
        prepare(prices.parent, prices.parent / "out", **settings())
    make_bars(15).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(ValueError, match="no ticker has 21 bars"):
        prepare(tmp_path / "short.csv", tmp_path / "out", **settings())
    with pytest.raises(ValueError, match="dates must increase"):
        prepare(prices, tmp_path / "out", **settings(), train_through="2030-01-01")
    (tmp_path / "dataset.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="format 0, this version reads 2"):
        load_prepared(tmp_path)


# In little memory


def test_the_size_of_the_pieces_changes_nothing(prices, folder, tmp_path, monkeypatch):
    bars = read_exact(prices)
    shuffled = bars.sort_values(
        ["timestamp", "volume"]
    )  # by date, as many vendors' files: every piece has all tickers
    (tmp_path / "files").mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(shuffled)), 3)):
        shuffled.iloc[part].to_csv(tmp_path / "files" / f"{number}.csv", index=False)
    prepare(tmp_path / "files", tmp_path / "one", **settings())
    monkeypatch.setattr(ticker_files, "BUFFER", 100)
    monkeypatch.setattr(ticker_files, "ROWS", 37)
    prepare(tmp_path / "files", tmp_path / "two", **settings())
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    monkeypatch.setattr(ticker_files, "LARGE", 0)  # each file in pieces, cell by cell in any process
    monkeypatch.setattr(ticker_files, "JOB", 0)
    prepare(tmp_path / "files", tmp_path / "pieces", **settings())
    assert contents(tmp_path / "one") == contents(tmp_path / "pieces")
    prepare(prices, tmp_path / "three", **settings())
    assert contents(tmp_path / "three") == contents(folder)


# With a market


def encoded_equals(folder, bars, **kwargs):
    stored = load_prepared(folder)
    encoded = stored.processor.feature_extractor.encode(bars, **kwargs)
    assert [one.ticker for one in encoded] == [one.ticker for one in stored.series()]
    for one, other in zip(stored.series(), encoded, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    return stored


@pytest.fixture(scope="module")
def stocks(make_bars, tmp_path_factory):
    """Three tickers of one length, and an index."""
    folder = tmp_path_factory.mktemp("stocks")
    pd.concat([make_bars(260, ticker=name, seed=i) for i, name in enumerate("ABC")]).to_csv(folder / "stocks.csv")
    make_bars(260, ticker="INDEX", seed=9).to_csv(folder / "index.csv")
    return folder


def test_a_market_of_its_own_files(stocks, tmp_path):
    chosen = settings(feature_groups=["returns", "market"])
    prepare(stocks / "stocks.csv", tmp_path, **chosen, market=stocks / "index.csv")
    stored = encoded_equals(tmp_path, load_prepared(tmp_path).bars(), market=read_bars(stocks / "index.csv"))
    by_hand = TsfLlmProcessor(
        TsfLlmFeatureExtractor(context_length=16, feature_groups=["returns", "market"]), TsfLlmTokenizer(n_bins=32)
    ).fit(stored.bars(), through=stored.split.train_through, market=read_bars(stocks / "index.csv"))
    assert by_hand.feature_extractor.center == stored.processor.feature_extractor.center
    encoded_equals(tmp_path, stored.bars(), market=stored.market())
    with pytest.raises(ValueError, match="no feature of this processor reads it"):
        prepare(stocks / "stocks.csv", tmp_path / "no", **settings(), market=stocks / "index.csv")
    prepare(stocks / "stocks.csv", tmp_path, **settings())  # and without it nothing of it stays
    assert load_prepared(tmp_path).market() is None


def test_all_tickers_are_the_market_where_the_group_was_chosen(stocks, tmp_path):
    chosen = settings(feature_groups=["returns", "market"])
    bars = read_exact(stocks / "stocks.csv")
    days = bars["timestamp"].unique()
    bars[bars["timestamp"] < days[-1]].to_csv(tmp_path / "before.csv")
    first = prepare(tmp_path / "before.csv", tmp_path / "out", **chosen)
    run = prepare(stocks / "stocks.csv", tmp_path / "out", **chosen)["run"]
    assert run["rows_encoded"] == 3
    encoded_equals(tmp_path / "out", read_bars(stocks / "stocks.csv"), market=read_bars(stocks / "stocks.csv"))
    late = (bars["ticker"] == "A") & (bars["timestamp"] == days[-4])  # a day of one stock changes the market of all
    bars.assign(close=bars["close"].mask(late, bars["low"])).to_csv(tmp_path / "other.csv")
    run = prepare(tmp_path / "other.csv", tmp_path / "out", **chosen)["run"]
    assert run["tickers"]["encoded"] == 3
    prepare(tmp_path / "other.csv", tmp_path / "full", **chosen, **first["split"])
    assert contents(tmp_path / "out") == contents(tmp_path / "full")


def test_a_market_does_not_know_how_long_a_ticker_will_live(stocks, make_bars, tmp_path):
    """Six bars of a new ticker count in the market of their days, as they do once many more have followed."""
    old = read_exact(stocks / "stocks.csv")
    days = sorted(old["timestamp"].unique())
    new = make_bars(60, ticker="NEW", seed=7).assign(timestamp=days[-60:])
    states = []
    for count in (6, 60):
        pd.concat([old[old["timestamp"] <= days[count - 61]], new.head(count)]).to_csv(tmp_path / f"{count}.csv")
        prepare(tmp_path / f"{count}.csv", tmp_path / f"{count}", **settings(feature_groups=["market"]))
        states.append(pd.read_parquet(tmp_path / f"{count}" / "market.parquet"))
        args = DataArguments(data=str(tmp_path / f"{count}.csv"), feature_groups=["market"], context_length=16)
        market = TrainingData.read(args).market
        pd.testing.assert_frame_equal(market_state(dict(iter(market.groupby("ticker")))), states[-1])
    pd.testing.assert_frame_equal(states[1].head(len(states[0])), states[0], check_exact=True)
    without = market_state(dict(iter(old.groupby("ticker"))))
    assert (without["abs_return"].head(len(states[0])).tail(5) != states[0]["abs_return"].tail(5)).all()


def test_a_universe_of_two_frequencies_is_refused(stocks, make_bars, tmp_path):
    pd.concat([read_exact(stocks / "stocks.csv"), make_bars(60, ticker="W", freq="W")]).to_csv(tmp_path / "mixed.csv")
    with pytest.raises(ValueError, match="market, W: a bar every 7 days"):
        prepare(tmp_path / "mixed.csv", tmp_path / "out", **settings(feature_groups=["market"]))


# Plain series


@pytest.fixture(scope="module")
def loads(tmp_path_factory):
    """Two hourly series with a daily cycle, a gap and a covariate."""
    path = tmp_path_factory.mktemp("loads") / "loads.csv"
    rng, hours = np.random.default_rng(0), np.arange(400)
    parts = []
    for name in "xy":
        value = np.sin(2 * np.pi * hours / 24) + rng.normal(0, 0.2, 400)
        stamps = pd.date_range("2024-01-01", periods=400, freq="h")
        parts.append(pd.DataFrame({"date": stamps, "id": name, "load": value, "heat": rng.normal(0, 1, 400)}))
    parts[0].loc[70, "load"] = np.nan
    pd.concat(parts).to_csv(path, index=False)
    return path


def series_settings():
    return settings(kind="univariate", past_covariates=["heat"]) | {"columns": Columns(value="load")}


def test_plain_series(loads, tmp_path):
    info = prepare(loads, tmp_path / "out", **series_settings())
    stored = load_prepared(tmp_path / "out")
    bars = read_series(loads, value="load", covariates=["heat"])
    assert info["kind"] == "univariate"
    assert list(stored.bars()) == ["timestamp", "series_id", "value", "heat"]
    assert stored.processor.feature_extractor.seasons[0] == 24
    assert "Time series prepared" in (tmp_path / "out" / "README.md").read_text()
    encoded_equals(tmp_path / "out", bars)
    by_hand = TsfLlmProcessor(
        TsfLlmFeatureExtractor(context_length=16, kind="univariate", past_covariates=["heat"]),
        TsfLlmTokenizer(n_bins=32),
    ).fit(bars, through=stored.split.train_through)
    assert by_hand.feature_extractor.center == stored.processor.feature_extractor.center
    assert by_hand.tokenizer.bin_edges == stored.processor.tokenizer.bin_edges


def test_one_more_row_of_plain_series(loads, tmp_path):
    frame = pd.read_csv(loads, float_precision="round_trip")
    frame[frame["date"] < "2024-01-17 15:00:00"].to_csv(tmp_path / "before.csv", index=False)
    first = prepare(tmp_path / "before.csv", tmp_path / "out", **series_settings())
    run = prepare(loads, tmp_path / "out", **series_settings())["run"]
    assert not run["fitted"]
    prepare(loads, tmp_path / "full", **series_settings(), **first["split"])
    assert contents(tmp_path / "out") == contents(tmp_path / "full")


def test_refusals_of_columns_and_covariates(loads, prices, tmp_path):
    frame = pd.read_csv(loads, float_precision="round_trip")
    frame.assign(token=1.0).to_csv(tmp_path / "token.csv", index=False)
    taken = settings(kind="univariate", past_covariates=["token"]) | {"columns": Columns(value="load")}
    with pytest.raises(ValueError, match=r"\['token'\]: a prepared dataset has columns"):
        prepare(tmp_path / "token.csv", tmp_path / "out", **taken)
    frame.iloc[[1, 0, *range(2, len(frame))]].to_csv(tmp_path / "backwards.csv", index=False)
    with pytest.raises(ValueError, match="timestamp goes backwards"):
        prepare(tmp_path / "backwards.csv", tmp_path / "out", **series_settings(), strict=True)
    with pytest.raises(ValueError, match="and these are bars"):
        prepare(prices, tmp_path / "out", **settings(), columns=Columns(value="close"))


# Training on it


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "kv_lora_rank": 8, "n_routed_experts": 2}


def train(data, out, *words):
    options = ["--context_length", 16, "--horizon", 3, "--n_bins", 32, "--report_samples", 0, "--num_train_epochs", 1]
    model = ["--model_config", json.dumps(TINY), "--disable_tqdm", "true", "--output_dir", out]
    return sft.main(*sft.parse([str(word) for word in ["--data", data, *options, *model, *words]]))


def test_training_on_the_folder_is_training_on_its_bars(folder, tmp_path):
    stored = load_prepared(folder)
    stored.bars().to_parquet(tmp_path / "bars.parquet")
    one, two = train(folder, tmp_path / "one"), train(tmp_path / "bars.parquet", tmp_path / "two")
    for key in ("train_through", "valid_through", "windows", "valid_loss"):
        assert one[key] == two[key]
    again = train(folder, tmp_path / "on", "--model_name_or_path", tmp_path / "two")
    assert again["windows"] == two["windows"]


def test_training_on_plain_series_is_training_on_their_file(loads, tmp_path):
    prepare(loads, tmp_path / "set", **series_settings())
    one = train(tmp_path / "set", tmp_path / "one", "--head", "quantile")
    words = ["--value_column", "load", "--past_covariates", "heat", "--head", "quantile"]
    two = train(loads, tmp_path / "two", *words)
    for key in ("train_through", "valid_through", "windows", "valid_loss"):
        assert one[key] == two[key]


def test_its_dates_are_fixed(folder, tmp_path):
    with pytest.raises(ValueError, match="is prepared, so train_through cannot be chosen"):
        train(folder, tmp_path, "--train_through", "2015-06-01")


# The commands


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


# Other code

EDITED = """
import json
import sys
from pathlib import Path
from tsf_llm.data_prep.prepare import prepare
from tsf_llm.processing_tsf_llm import TsfLlmFeatureExtractor, TsfLlmProcessor, TsfLlmTokenizer
import tsf_llm.data_prep.prepare
assert Path(tsf_llm.data_prep.prepare.__file__).is_relative_to(sys.argv[3]), "not the edited package"
processor = TsfLlmProcessor(TsfLlmFeatureExtractor(context_length=16), TsfLlmTokenizer(n_bins=32))
print(json.dumps(prepare(sys.argv[1], sys.argv[2], horizon=3, processor=processor)["run"]))
"""


def test_a_feature_whose_code_changed_is_computed_again(prices, folder, tmp_path):
    """By a copy of this package in which one indicator is another; every version number is the same."""
    root = Path(module.__file__).parents[1]
    package = tmp_path / "site" / "tsf_llm"
    for name in ("common", "data_prep", "evaluation"):
        shutil.copytree(root / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in root.glob("*_tsf_llm.py"):
        shutil.copy(path, package)
    indicators = package / "indicators_tsf_llm.py"
    text = indicators.read_text()
    assert text.count("np.log(p.close / p.open)") == 1
    indicators.write_text(text.replace("np.log(p.close / p.open)", "np.log(p.high / p.open)"))
    out = shutil.copytree(folder, tmp_path / "out")
    answer = subprocess.run(
        [sys.executable, "-c", EDITED, prices, out, tmp_path / "site"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["tickers"] == {"kept": 0, "extended": 0, "encoded": 3}
    before, after = (load_prepared(one).series()[0].features for one in (folder, out))
    names = load_prepared(folder).info["features"]
    changed = [name for name, same in zip(names, (before == after).all(axis=0), strict=True) if not same]
    assert changed == ["body"]


@pytest.fixture
def my_features(tmp_path):
    """Defines a user's feature by a file, each time in the place of the one before."""
    known = set(FEATURES)

    def define(formula):
        for name in set(FEATURES) - known:
            del FEATURES[name]
        path = tmp_path / "mine.py"
        path.write_text(
            "from tsf_llm.indicators_tsf_llm import feature\n"
            f"@feature(group='mine', lookback=1)\ndef mine(bars):\n    return {formula}\n"
        )
        exec(compile(path.read_text(), str(path), "exec"), {})

    yield define
    for name in set(FEATURES) - known:
        del FEATURES[name]


def test_so_is_a_feature_of_the_users_own(prices, tmp_path, my_features):
    done = []
    for formula in ("bars.close / bars.open - 1", "bars.close / bars.open - 1", "bars.high / bars.low - 1"):
        my_features(formula)
        done.append(prepare(prices, tmp_path / "out", **settings(feature_groups=["mine"]))["run"]["tickers"])
    assert [one["encoded"] for one in done] == [3, 0, 3]


# What is not ours


@pytest.fixture
def source(prices, tmp_path):
    """`proj/data/prices.parquet`, alone in its folder."""
    path = tmp_path / "proj" / "data" / "prices.parquet"
    path.parent.mkdir(parents=True)
    pd.read_csv(prices, parse_dates=["timestamp"]).to_parquet(path)
    return path


@pytest.mark.parametrize("out", ["proj", "proj/data", "proj/data/out", "link", "proj/data/prices.parquet"])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_what_is_read_and_what_is_written_lie_apart(run, source, tmp_path, out, whole_folder):
    (tmp_path / "link").symlink_to(tmp_path / "proj")
    before = contents(tmp_path)
    apart = out == "proj/data/out" and not whole_folder
    code, _, error = run("prepare", "--data", source.parent if whole_folder else source, "--out", tmp_path / out)
    if apart:
        assert code == 0
    else:
        assert code == 2
        assert "which is read" in error
        assert len(error.splitlines()) == 1
        assert contents(tmp_path) == before
    assert before.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    "name", ["README.md", "data/other.parquet", "data/note.txt", "processor/note.txt", "dataset.json", ".work/note"]
)
def test_a_file_of_somebody_else_is_left_alone(run, prices, folder, tmp_path, name):
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    before = contents(tmp_path)
    code, _, error = run("prepare", "--data", prices, "--out", tmp_path / "out")
    assert code == 2
    assert str(foreign).removesuffix("/note") in error
    assert "move it away" in error
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["data/mine.parquet", "processor/note.txt"])
def test_nor_does_it_go_with_an_earlier_run(run, prices, folder, tmp_path, name):
    out = shutil.copytree(folder, tmp_path / "out")
    (out / name).write_text("mine")
    before = contents(out)
    code, _, error = run("prepare", "--data", prices, "--out", out, "--bins", 64)
    assert code == 2
    assert f"{out / name} was not written by this package" in error
    assert contents(out) == before


def test_files_elsewhere_in_the_folder_stay(prices, folder, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.parquet").write_text("mine")
    prepare(prices, tmp_path, **settings())
    assert (tmp_path / "notes" / "a.parquet").read_text() == "mine"


def test_a_dataset_without_manifests_is_known_by_what_it_says(prices, folder, tmp_path):
    """So they were written once. Another ticker's shard goes, a file that is no shard does not."""
    out = shutil.copytree(folder, tmp_path / "out")
    for path in out.rglob(".tsf_llm.json"):
        path.unlink()
    (out / "data" / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"note\.txt was not written by this package"):
        prepare(prices, out, **settings(), tickers=["^AAA", "BRK/B"])
    (out / "data" / "note.txt").unlink()
    prepare(prices, out, **settings(), tickers=["^AAA", "BRK/B"])
    prepare(prices, tmp_path / "full", **settings(), tickers=["^AAA", "BRK/B"])
    assert contents(out) == contents(tmp_path / "full")
