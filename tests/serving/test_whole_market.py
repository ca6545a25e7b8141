"""Forecasts in groups: the rows of the pipeline, on every engine, after every stop, for every layout of files."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tsf_llm.common.files import WRITTEN, write_table
from tsf_llm.data_prep import sources, ticker_files
from tsf_llm.data_prep.sources import read_bars, read_for, read_market
from tsf_llm.evaluation.track_record import Appended, Chain, TrackRecord
from tsf_llm.serving import whole_market
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.whole_market import forecast_market, skipped_file, work_folder

ASKED = {"horizon": 3, "samples": 8, "seed": 0, "calibration": "auto", "as_of": None, "calendar": None}
COUNT = 7


def bars_of(number, rows=90):
    rng = np.random.default_rng(number)
    close = 50 * np.exp(np.cumsum(0.01 * rng.standard_normal(rows)))
    prices = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
    stamps = pd.bdate_range("2012-01-03", periods=rows)
    return pd.DataFrame({"timestamp": stamps, "ticker": f"T{number}", **prices, "volume": 1e6 + number})


@pytest.fixture(scope="module")
def frames():
    return [bars_of(number, 90 + number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def folder(frames, tmp_path_factory):
    """A file per ticker; one of them is too short, one is no table."""
    folder = tmp_path_factory.mktemp("market")
    for frame in frames:
        frame.drop(columns="ticker").to_csv(folder / f"{frame['ticker'].iloc[0]}.csv", index=False)
    bars_of(8, 12).drop(columns="ticker").to_csv(folder / "SHORT.csv", index=False)
    (folder / "BROKEN.csv").write_text("timestamp,close\n2012-01-03,x\n")
    return folder


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(ticker_files, "GROUP", 3)


@pytest.fixture(scope="module")
def pipe(model):
    return load_pipeline(model)


@pytest.fixture(scope="module")
def plain(pipe, folder, tmp_path_factory):
    """The same by the plain way."""
    out = tmp_path_factory.mktemp("plain") / "forecast.csv"
    frame = pipe(read_bars(folder), **ASKED)
    write_table(frame, out)
    return frame, out.read_bytes()


def read(path):
    return pd.read_csv(path, parse_dates=["origin", "timestamp"], float_precision="round_trip")


def test_it_is_the_plain_forecast_in_bounded_memory(model, folder, plain, tmp_path):
    out = tmp_path / "forecast.csv"
    done = forecast_market(folder, out, model=str(model), **ASKED)
    frame, _ = plain
    pd.testing.assert_frame_equal(read(out), frame.reset_index(drop=True), check_dtype=False, rtol=1e-6)
    assert (done.rows, done.tickers, done.groups, done.kept) == (len(frame), COUNT, 3, 0)
    assert done.skipped == frame.attrs["skipped"]
    assert list(done.skipped) == ["BROKEN", "SHORT"]
    assert json.loads(skipped_file(out).read_text())["skipped"] == done.skipped
    assert {path.name for path in tmp_path.iterdir()} == {out.name, skipped_file(out).name}


def test_the_bytes_do_not_depend_on_the_layout_of_files(model, folder, frames, tmp_path, monkeypatch):
    """A file per ticker, and one file by date that is read, and spilled, a few rows at a time."""
    forecast_market(folder, tmp_path / "one.csv", model=str(model), **ASKED)
    everything = pd.concat([bars_of(8, 12).assign(ticker="SHORT"), *frames])
    by_date = everything.sort_values(["timestamp", "ticker"], ignore_index=True)
    by_date.to_parquet(tmp_path / "by_date.parquet", index=False)
    monkeypatch.setattr(ticker_files, "BUFFER", 290)
    monkeypatch.setattr(sources, "ROWS", 100)
    done = forecast_market(tmp_path / "by_date.parquet", tmp_path / "two.csv", model=str(model), **ASKED)
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert [*done.skipped] == ["SHORT"]


def test_parquet_has_the_same_rows(model, folder, plain, tmp_path):
    out = tmp_path / "forecast.parquet"
    forecast_market(folder, out, model=str(model), tickers=["T5", "T1"], **ASKED)
    frame, _ = plain
    chosen = frame[frame["ticker"].isin(["T1", "T5"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_parquet(out), chosen, check_dtype=False, rtol=1e-6)


def test_a_market_reaches_every_group(folder, tmp_path):
    market = read_market("sample")
    options = {"model": "mini", **ASKED}
    forecast_market(folder, tmp_path / "with.csv", market=market, **options)
    forecast_market(folder, tmp_path / "without.csv", **options)
    pipe = load_pipeline("mini")
    expected = pipe(read_bars(folder), market=market, **ASKED)
    pd.testing.assert_frame_equal(read(tmp_path / "with.csv"), expected, check_dtype=False, rtol=1e-5)
    assert (tmp_path / "with.csv").read_bytes() != (tmp_path / "without.csv").read_bytes()


def stopped(monkeypatch, after):
    """Lets only the first groups be forecast, as if somebody had stopped it then."""
    forecast, calls = whole_market.forecast_group, []

    def stop(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return forecast(*args)

    monkeypatch.setattr(whole_market, "forecast_group", stop)
    return calls


def test_it_goes_on_where_it_stopped(model, folder, plain, tmp_path, monkeypatch):
    out = tmp_path / "forecast.csv"
    whole = tmp_path / "whole.csv"
    forecast_market(folder, whole, model=str(model), **ASKED)
    with monkeypatch.context() as patch:
        stopped(patch, after=2)
        with pytest.raises(KeyboardInterrupt):
            forecast_market(folder, out, model=str(model), **ASKED)
    assert not out.exists()
    assert len(list((work_folder(out) / "parts").iterdir())) == 2
    with monkeypatch.context() as patch:
        calls = stopped(patch, after=99)
        done = forecast_market(folder, out, model=str(model), **ASKED)
    assert (done.kept, len(calls)) == (2, 1)
    assert out.read_bytes() == whole.read_bytes()
    assert not work_folder(out).exists()


@pytest.mark.parametrize("change", ["bars", "settings", "part"])
def test_what_changed_is_computed_again(model, folder, frames, tmp_path, monkeypatch, change):
    for frame in frames:
        frame.drop(columns="ticker").to_csv(tmp_path / f"{frame['ticker'].iloc[0]}.csv", index=False)
    out, asked = tmp_path.parent / f"{change}.csv", dict(ASKED)
    with monkeypatch.context() as patch:
        stopped(patch, after=2)
        with pytest.raises(KeyboardInterrupt):
            forecast_market(tmp_path, out, model=str(model), **asked)
    if change == "bars":
        later = frames[4].assign(volume=2e6).drop(columns="ticker")
        later.to_csv(tmp_path / "T4.csv", index=False)
    elif change == "settings":
        asked["horizon"] = 2
    else:
        (work_folder(out) / "parts" / "000000.parquet").write_bytes(b"torn")
    done = forecast_market(tmp_path, out, model=str(model), **asked)
    assert done.kept == {"bars": 1, "settings": 0, "part": 1}[change]
    fresh = tmp_path.parent / f"{change}_fresh.csv"
    forecast_market(tmp_path, fresh, model=str(model), **asked)
    assert out.read_bytes() == fresh.read_bytes()


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_half_and_is_gone_on_with(folder, tmp_path):
    """SIGKILL, at a moment of its own, of the command as people run it."""
    out = tmp_path / "forecast.csv"
    words = ["--data", str(folder), "--model", "mini", "--horizon", "3", "--engine", "local", "--out", str(out)]
    code = (
        "import sys; from tsf_llm.data_prep import ticker_files; ticker_files.GROUP = 1; "
        "from tsf_llm.serving.cli import main; sys.argv[0] = 'tsf-llm'; main()"
    )
    command = [sys.executable, "-c", code, "forecast", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = work_folder(out) / "parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("[0-9]*"))) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not out.exists()
    assert (work_folder(out) / WRITTEN).is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "groups kept from a run that was stopped" in again.stdout
    assert f"21 rows of {COUNT} tickers" in again.stdout
    assert {path.name for path in tmp_path.iterdir()} == {out.name, skipped_file(out).name}


def test_one_group_without_any_forecast_stops_no_other(model, tmp_path):
    for number in range(4):
        bars_of(number, 12 if number < 3 else 90).drop(columns="ticker").to_csv(tmp_path / f"T{number}.csv")
    done = forecast_market(tmp_path, tmp_path.parent / "some.csv", model=str(model), **ASKED)
    assert (done.tickers, [*done.skipped]) == (1, ["T0", "T1", "T2"])
    assert "12 observed bars" in done.skipped["T1"]
    (tmp_path / "T3.csv").unlink()
    with pytest.raises(ValueError, match="T0: 12 observed bars"):
        forecast_market(tmp_path, tmp_path.parent / "none.csv", model=str(model), **ASKED)
    assert not work_folder(tmp_path.parent / "none.csv").exists()
    with pytest.raises(ValueError, match="T0: 12 observed bars"):
        forecast_market(tmp_path, tmp_path.parent / "none.csv", model=str(model), strict=True, **ASKED)


def test_times_of_day_are_written_in_one_way(tmp_path, monkeypatch):
    """One group's steps all lie at midnight, those of another do not."""
    parts = [pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-02 01:00")]
    frames = [pd.DataFrame({"origin": [stamp], "timestamp": [stamp], "mean": [0.5]}) for stamp in parts]
    for number, frame in enumerate(frames):
        frame.to_parquet(tmp_path / f"{number}.parquet")
    out = tmp_path / "out.csv"
    texts = [whole_market._rows(tmp_path / f"{n}.parquet", out, has_clock=True)["origin"].iloc[0] for n in (0, 1)]
    assert texts == ["2024-01-02 00:00:00", "2024-01-02 01:00:00"]


def test_foreign_files_stay(model, folder, tmp_path):
    out = tmp_path / "forecast.csv"
    (work_folder(out) / "parts").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not written by this package"):
        forecast_market(folder, out, model=str(model), **ASKED)
    (work_folder(out) / "parts").rmdir()
    (work_folder(out) / "mine.txt").write_text("mine")
    forecast_market(folder, out, model=str(model), **ASKED)
    assert [path.name for path in work_folder(out).iterdir()] == ["mine.txt"]
    skipped_file(out).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="not of an earlier forecast"):
        forecast_market(folder, out, model=str(model), **ASKED)


def test_a_second_run_is_kept_away(model, folder, plain, tmp_path, monkeypatch):
    out, said, usual = tmp_path / "forecast.csv", [], whole_market._run

    def meanwhile(*args, **options):
        monkeypatch.setattr(whole_market, "_run", usual)
        with pytest.raises(ValueError, match="another run writes") as caught:
            forecast_market(folder, out, model=str(model), **ASKED)
        said.append(str(caught.value))
        return usual(*args, **options)

    monkeypatch.setattr(whole_market, "_run", meanwhile)
    forecast_market(folder, out, model=str(model), **ASKED)
    assert len(said) == 1
    assert not work_folder(out).exists()
    forecast_market(folder, out, model=str(model), **ASKED)


def test_plain_series(loads, tmp_path):
    """Through the same groups."""
    groups, skipped = ticker_files.collect_groups(
        loads, tmp_path / "bars", kind=ticker_files.UNIVARIATE, columns=ticker_files.Columns(value="OT")
    )
    assert (len(groups), skipped) == (1, {})
    frame = groups[0].read()
    assert list(frame.columns) == ["timestamp", "series_id", "value"]
    assert len(frame) == 900


def test_series_with_static_covariates_and_even_rows_are_the_plain_forecast(shop_pipe, sales, tmp_path):
    pipe = shop_pipe()
    pipe.model.save_pretrained(tmp_path / "model")
    pipe.processor.save_pretrained(tmp_path / "model")
    noon = sales.assign(timestamp=sales["timestamp"] + pd.Timedelta("12h"))
    noon.to_csv(tmp_path / "sales.csv", index=False)
    columns = ticker_files.Columns(resample="1d:sum")
    asked = {
        "horizon": 4,
        "as_of": "2023-06-20T18:00",
        "seed": 0,
        "samples": 8,
        "calibration": "auto",
        "calendar": None,
    }
    forecast_market(
        tmp_path / "sales.csv", tmp_path / "out.csv", model=str(tmp_path / "model"), columns=columns, **asked
    )
    expected = pipe(read_for(pipe.processor, str(tmp_path / "sales.csv"), columns=columns), **asked)
    found = pd.read_csv(tmp_path / "out.csv", parse_dates=["origin", "timestamp"])
    assert (found["origin"] == "2023-06-19").all()
    np.testing.assert_allclose(found["q90"], expected["q90"])
    assert found["ticker"].tolist() == expected["ticker"].tolist()


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(model, folder, tmp_path):
    forecast_market(folder, tmp_path / "one.csv", model=str(model), **ASKED)
    done = forecast_market(folder, tmp_path / "two.csv", model=str(model), num_proc=2, **ASKED)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert [*done.skipped] == ["BROKEN", "SHORT"]
    with pytest.raises(ValueError, match="SHORT: 12 observed"):
        forecast_market(folder / "SHORT.csv", tmp_path / "no.csv", model=str(model), num_proc=2, strict=True, **ASKED)


@pytest.mark.slow
def test_two_ray_workers_write_the_bytes_of_one_process(model, folder, tmp_path, ray_workers):
    forecast_market(folder, tmp_path / "local.csv", model=str(model), **ASKED)
    done = forecast_market(folder, tmp_path / "ray.csv", model=str(model), engine="ray", num_proc=2, **ASKED)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
    assert [*done.skipped] == ["BROKEN", "SHORT"]
    assert ray_workers.is_initialized()  # not ours to stop
    short = folder / "SHORT.csv"
    with pytest.raises(ValueError, match="SHORT: 12 observed"):
        forecast_market(short, tmp_path / "no.csv", model=str(model), engine="ray", num_proc=2, strict=True, **ASKED)


def test_options_of_the_command(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "forecast.csv"
    common = ["forecast", "--data", folder, "--model", "mini", "--horizon", 2, "--out", out]
    code, said, _ = run(*common, "--engine", "local")
    assert code == 0
    assert f"{2 * COUNT} rows of {COUNT} tickers written to {out}" in said
    assert f"2 skipped: {skipped_file(out)}" in said
    monkeypatch.setitem(sys.modules, "ray", None)  # as if not installed
    for words, says in {
        ("--num-proc", 2): "add --engine",
        ("--engine", "local", "--joint", "--report", tmp_path / "a.html"): "--joint and --report read all bars",
        ("--engine", "local", "--ray-address", "auto"): "goes with engine='ray'",
        ("--engine", "spark"): "choose local or ray",
        ("--engine", "ray"): "pip install 'tsf-llm[ray]'",
        ("--engine", "local", "--ticker", "T9"): "Unknown ticker T9",
        ("--engine", "local", "--value", "close"): "leave --value out",
    }.items():
        code, _, error = run(*common, *words)
        assert (code, error.count("\n")) == (2, 1), error
        assert says in error
    assert not work_folder(out).exists()


@pytest.mark.parametrize("ends", ["csv", "parquet"])
def test_a_track_record_changes_nothing_in_what_is_written(folder, model, tmp_path, ends):
    out, log = [tmp_path / f"{name}.{ends}" for name in ("with", "without")], tmp_path / "record.sqlite"
    done = forecast_market(folder, out[0], model=str(model), log=log, **ASKED)
    forecast_market(folder, out[1], model=str(model), **ASKED)
    assert out[0].read_bytes() == out[1].read_bytes()
    chain = Chain()
    rows = pd.concat(TrackRecord(log).chunks(chain), ignore_index=True)
    assert done.logged == Appended(done.rows, done.rows, 0, chain.head)
    assert forecast_market(folder, out[0], model=str(model), log=log, **ASKED).logged.repeated == done.rows
    assert (chain.sound, len(rows), rows["ticker"].nunique()) == (True, done.rows, COUNT)
    assert set(rows["late"]) == {"its first bar was over"}
