"""elsewhere.py: files of any market, one verdict each; what cannot be scored says why; days are made of hours."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from tsf_llm.benchmarks import elsewhere
from tsf_llm.evaluation import every_bar
from tsf_llm.serving.loading import load_pipeline

START = "2016-04-01"


@pytest.fixture(scope="module")
def files(make_bars, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    bars = pd.concat([make_bars(400, ticker="X", seed=5), make_bars(400, ticker="Y", seed=6)])
    bars.to_csv(folder / "usual.csv", index=False)
    hours_of(bars).to_csv(folder / "hours.csv", index=False)
    bars[["timestamp", "ticker", "close"]].to_csv(folder / "closes.csv", index=False)
    return folder


def hours_of(bars):
    """Three bars a day: the open, the range, the close."""
    start = bars.assign(high=bars["open"], low=bars["open"], close=bars["open"], volume=1.0)
    inside = bars.assign(open=bars["open"], close=bars["close"], volume=bars["volume"] - 2)
    end = bars.assign(open=bars["close"], high=bars["close"], low=bars["close"], volume=1.0)
    hours = [
        one.assign(timestamp=bars["timestamp"] + pd.Timedelta(hours=h)) for h, one in enumerate((start, inside, end))
    ]
    return pd.concat(hours).sort_values(["ticker", "timestamp"])


@pytest.fixture
def command(base_folder, files, command_line):
    usual = {"model": base_folder, "files": files / "usual.csv", "horizons": [1, 2], "start": START, "samples": 8}
    return lambda **options: elsewhere.main(command_line(**{**usual, **options}))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_file_has_its_rows_or_its_reason(command, base_folder, files, tmp_path, capsys):
    out = {"json": tmp_path / "e.json", "markdown": tmp_path / "e.md"}
    assert command(files=[files / "usual.csv", files / "hours.csv", files / "closes.csv"], **out) == 0
    results = read(out["json"])
    usual, hours = results["rows"][:2], results["rows"][2:]
    assert [row["file"] for row in results["rows"]] == ["usual.csv"] * 2 + ["hours.csv"] * 2
    for left, right in zip(usual, hours, strict=True):
        assert left["crps"] == pytest.approx(right["crps"], rel=1e-4)
        assert left["start"] == right["start"] == START
        assert (left["n"], left["tickers"]) == (right["n"], 2)
    assert "no column for open, high, low" in results["refused"]["closes.csv"]
    pipe = load_pipeline(base_folder)
    series = pipe.processor.encode(pd.read_csv(files / "usual.csv", parse_dates=["timestamp"]))
    outcomes = every_bar.Outcomes.of(series, START, None, 2)
    [ours] = every_bar.forecasts(pipe, series, [outcomes], samples=8, progress=False)
    theirs, _ = every_bar.baselines(["garch_t", "ewma"], series, outcomes, progress=False)
    assert usual[1]["ratio"] == pytest.approx(ours.losses.mean() / theirs["garch_t"].losses.mean())
    assert usual[1]["vs_ewma"]["ratio"] == pytest.approx(ours.losses.mean() / theirs["ewma"].losses.mean())
    assert usual[1]["ratio_ci95"][0] < usual[1]["ratio"] < usual[1]["ratio_ci95"][1]
    assert usual[1]["not_worse"] == (usual[1]["ratio_ci95"][0] <= 1)
    assert "closes.csv has no row" in out["markdown"].read_text(encoding="utf-8")
    assert "closes.csv has no row" in " ".join(capsys.readouterr().out.split())


def test_what_is_off_is_calibrated_on_earlier_dates(command, monkeypatch, tmp_path):
    asked = []
    state = {"kept": True, "shift": [0.0, 0.0], "spread": [1.0, 3.0], "method": "", "start": "", "through": ""}

    def calibrate(pipe, series, **options):
        asked.append((max(one.timestamp[-1] for one in series), options))
        return state

    monkeypatch.setattr(elsewhere, "calibrate", calibrate)
    monkeypatch.setattr(elsewhere, "COVERED", (0.999, 1.0))
    assert command(json=tmp_path / "e.json") == 0
    [(last, options)] = asked
    assert last < np.datetime64(START)
    assert options["horizon"] == 2
    one, two = read(tmp_path / "e.json")["rows"]
    assert one["calibrated"]["ratio"] == pytest.approx(one["ratio"])
    assert two["calibrated"]["coverage_80"] > two["coverage_80"]
    state.update(kept=False, reason="they are right")
    assert command(json=tmp_path / "e.json") == 0
    told = read(tmp_path / "e.json")["rows"][0]["calibrated"]
    assert told == dict.fromkeys(told) | {"kept": False, "reason": "they are right"}


def test_too_little_history_is_told_and_is_no_verdict(command, make_bars, tmp_path, capsys):
    make_bars(120, ticker="Z", seed=7).to_csv(tmp_path / "short.csv", index=False)
    assert command(files=tmp_path / "short.csv", start=None, json=tmp_path / "e.json") == 0
    row, _ = read(tmp_path / "e.json")["rows"]
    assert row["not_worse"] is row["ratio"] is row["ratio_ci95"] is None
    assert "and 250 are needed" in row["failed"]["garch_t"]
    assert "and 250 are needed" in " ".join(capsys.readouterr().out.split())


def test_a_short_day_is_a_part_of_the_next():
    friday, sunday, monday = (pd.date_range(day, periods=n, freq="h") for day, n in
                              (("2024-01-05", 24), ("2024-01-07 22:00", 2), ("2024-01-08", 24)))  # fmt: skip
    times = friday.append(sunday).append(monday)
    bars = pd.DataFrame({"timestamp": times, "ticker": "EUR", "volume": 1.0})
    bars = bars.assign(**dict.fromkeys(["open", "high", "low", "close"], np.arange(1.0, 51.0)))
    days = elsewhere.days_of(bars)
    assert days["timestamp"].tolist() == [pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-08")]
    assert_allclose(days[["open", "high", "low", "close", "volume"]], [[1, 24, 1, 24, 24], [25, 50, 25, 50, 26]])


@pytest.mark.parametrize(
    ("days", "cutoff", "at"),
    [
        (1000, "2015-12-31", 365),
        (1000, "2015-03-01", 270),
        (1000, None, 500),
        (400, "2016-01-20", 270),
        (300, None, 150),
    ],
)
def test_the_first_origin(days, cutoff, at):
    times = pd.Series(pd.date_range("2015-01-01", periods=days))
    assert elsewhere._start(times, cutoff) == times[at]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": None}, "--model and --files are needed"),
        ({"files": "nowhere.csv"}, "--files nowhere.csv: there is no such file"),
        ({"horizons": 0}, "give numbers from 1 on"),
        ({"markdown": "nowhere/page.md"}, "--markdown nowhere/page.md: give a file name"),
        ({"start": "2030-01-01"}, "no file can be scored: usual.csv"),
    ],
)
def test_bad_input_is_one_line(command, options, words, capsys):
    with pytest.raises(SystemExit) as end:
        command(**options)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_the_folder_of_the_model_stays_as_it_is(command, base_folder, tmp_path, monkeypatch):
    copy = tmp_path / "model"
    shutil.copytree(base_folder, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    monkeypatch.setattr(elsewhere, "COVERED", (0.999, 1.0))
    assert command(model=copy) == 0
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
