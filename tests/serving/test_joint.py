"""`forecast --joint`: weights as people write them, the files, and one line where it cannot be."""

import doctest
import re

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation.portfolio import PORTFOLIO
from tsf_llm.serving import joint as module
from tsf_llm.serving.joint import read_weights

NAMES = ["AAPL", "FB", "GOOG", "IBM", "MSFT"]


@pytest.fixture
def forecast(run, model, tmp_path):
    """`forecast(*words)` -> exit code, stdout, stderr of a run on the embedded prices."""
    usual = ["forecast", "--model", model, "--data", "sample", "--as-of", "2012-12-31", "--horizon", 2]
    return lambda *words: run(*usual, "--out", tmp_path / "f.csv", *words)


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(module) == (0, 1)


def test_it_writes_a_table_beside_the_forecast_and_shows_it(forecast, tmp_path):
    assert forecast("--samples", 128)[0] == 0
    usual = (tmp_path / "f.csv").read_bytes()
    code, text, _ = forecast("--joint", "--samples", 128, "--weights", "AAPL=0.5,MSFT=0.5")
    assert code == 0
    assert (tmp_path / "f.csv").read_bytes() == usual
    table = pd.read_csv(tmp_path / "f.joint.csv", keep_default_na=False, na_values=[""])
    assert table["ticker"].unique().tolist() == [PORTFOLIO, *NAMES]
    assert table["weight"].tolist()[::2] == [1, 0.5, 0, 0, 0, 0.5]
    ends = table[(table["step"] == 2) & (table["ticker"] != PORTFOLIO)]
    assert ends["p_best"].sum() == pytest.approx(1)
    assert ends["p_top_fifth"].sum() == pytest.approx(1)
    words = " ".join(text.split())
    assert "Return of the portfolio of 5 tickers from 2012-12-31, %" in words
    assert all(heading in text for heading in ("P(loss)", "VaR 95", "ES 99", "P(best)", "P(top fifth)", "loading"))
    assert "…" not in text  # nothing cut on a terminal of 80 columns
    assert f"{100 * table['var_95'][1]:.2f}" in text
    assert re.search(r"12 rows of the joint forecast written to .*f\.joint\.csv", words)


def test_parquet_beside_parquet_and_weights_of_a_file(run, model, tmp_path):
    (tmp_path / "w.csv").write_text("ticker,weight\nIBM,0.25\nAAPL,0.75\n", encoding="utf-8")
    words = ["--data", "sample", "--horizon", 1, "--samples", 64, "--joint", "--weights", tmp_path / "w.csv"]
    assert run("forecast", "--model", model, *words, "--out", tmp_path / "f.parquet")[0] == 0
    table = pd.read_parquet(tmp_path / "f.joint.parquet")
    assert table.set_index("ticker")["weight"][NAMES].tolist() == [0.75, 0, 0, 0.25, 0]
    assert np.isfinite(table["es_99"]).all()


def test_weights_as_people_write_them(tmp_path):
    assert read_weights(None) is None
    assert read_weights(" AAPL = 0.5 , EURUSD=X=.5,") == {"AAPL": 0.5, "EURUSD=X": 0.5}
    path = tmp_path / "w.csv"
    path.write_text("weight,ticker,note\n1e-1, NA ,x\n0.9,007,y\n", encoding="utf-8")
    assert read_weights(str(path)) == {"NA": 0.1, "007": 0.9}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "AAPL=1"], "--weights are those of a portfolio: add --joint"),
        (["--joint", "--weights", "AAPL"], 'write them as "AAPL=0.5,MSFT=0.5", or name a CSV file'),
        (["--joint", "--weights", ""], "write them as"),
        (["--joint", "--weights", "AAPL=much"], "'much' of AAPL is no number"),
        (["--joint", "--weights", "AAPL=.5,AAPL=.5"], "AAPL has two weights"),
        (["--joint", "--weights", "AAPL=50,MSFT=50"], "their sum is 100, and must be 1"),
        (["--joint", "--weights", "AAPL=nan"], "their sum is nan, and must be 1"),
        (["--joint", "--weights", "ZZZ=1"], "there is no ZZZ among AAPL, FB, GOOG, IBM, MSFT"),
        (["--joint", "--weights", "nowhere.csv"], "there is no such file"),
        (["--joint", "--weights", "{empty}"], "is no CSV file"),
        (["--joint", "--weights", "{other}"], "no column weight; it has ticker, share"),
        (["--joint", "--ticker", "IBM"], "IBM is alone"),
    ],
)
def test_what_cannot_be_is_one_line(forecast, tmp_path, words, says):
    for name, text in (("empty", ""), ("other", "ticker,share\nIBM,1\n")):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    names = {name: tmp_path / f"{name}.csv" for name in ("empty", "other")}
    code, _, error = forecast(*(word.format(**names) for word in words))
    assert code == 2
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "f.csv").exists()
    assert not (tmp_path / "f.joint.csv").exists()
