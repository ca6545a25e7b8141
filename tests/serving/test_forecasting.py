"""`tsf-llm forecast`: the files that it writes, and options that do not go together."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS


def test_forecast_writes_the_contract(run, model, tmp_path):
    out, plot = tmp_path / "deep" / "forecast.csv", tmp_path / "fan.png"
    options = ["--model", model, "--data", "sample", "--ticker", "AAPL", "--horizon", 3, "--out", out]
    code, _, _ = run("forecast", *options, "--as-of", "2012-06-29", "--plot", plot, "--samples", 64)
    frame = pd.read_csv(out, parse_dates=["origin", "timestamp"])
    assert code == 0
    assert list(frame.columns) == FORECAST_COLUMNS
    assert frame["step"].tolist() == [1, 2, 3]
    assert (frame["origin"] == "2012-06-29").all()
    assert frame["timestamp"].dt.strftime("%F").tolist() == ["2012-07-02", "2012-07-03", "2012-07-05"]  # no 4 July
    quantiles = frame[[name for name in FORECAST_COLUMNS if name[0] == "q"]].to_numpy()
    assert (np.diff(quantiles) > 0).all()
    assert frame["p_up"].between(0, 1).all()
    assert plot.exists()
    first = out.read_bytes()
    run("forecast", *options, "--as-of", "2012-06-29", "--samples", 64)
    assert out.read_bytes() == first


def test_forecast_writes_parquet_where_the_name_says_so(run, model, tmp_path):
    options = ["--model", model, "--data", "sample", "--ticker", "AAPL", "--horizon", 2, "--samples", 8]
    assert run("forecast", *options, "--out", tmp_path / "a.parquet")[0] == 0
    assert run("forecast", *options, "--out", tmp_path / "a.csv")[0] == 0
    parquet, csv = pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv", parse_dates=["timestamp"])
    np.testing.assert_allclose(parquet["mean"], csv["mean"])
    for words, says in {
        ("--out", tmp_path): "is a folder, and a file is to be written",
        ("--out", tmp_path / "a.xlsx"): "must end in .csv or .parquet",
        ("--out", tmp_path / "b.csv", "--plot", tmp_path / "b.jpg"): "must end in .png",
    }.items():
        code, _, error = run("forecast", *options, *words)
        assert (code, error.count("\n")) == (2, 1)
        assert says in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "AAPL=1"], "add --joint"),
        (["--joint", "--ohlcv"], "two different questions"),
        (["--plot", "fan.gif"], ".png"),
        (["--stop", 10], "add --ohlcv"),
        (["--ticker", ""], "--ticker '' names none"),
        (["--ticker", " , ", "--engine", "local"], "--ticker ' , ' names none"),
        (["--log", "both.html", "--report", "both.html"], "both.html is another output too"),
        (["--log", "both.png", "--plot", "./both.png"], "both.png is another output too"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_model_is_loaded(run, tmp_path, words, says):
    options = ["--model", tmp_path / "none", "--data", "sample", "--horizon", 2, "--out", tmp_path / "forecast.csv"]
    code, _, error = run("forecast", *options, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert says in error


def test_a_report_says_what_made_it_and_what_that_is_worth(run, model, tmp_path):
    page = tmp_path / "deep" / "report.html"
    options = ["--model", model, "--data", "sample", "--ticker", "AAPL", "--horizon", 3, "--out", tmp_path / "a.csv"]
    code, said, _ = run("forecast", *options, "--as-of", "2012-06-29", "--report", page)
    assert code == 0
    assert f"report written to {page}" in said
    text = page.read_text(encoding="utf-8")
    assert "--as-of 2012-06-29 --report" in text
    assert "Forecast once more from" in text
    code, _, error = run("forecast", *options, "--report", tmp_path / "report.pdf")
    assert (code, error.count("\n")) == (2, 1)
    assert "must end in .html" in error
