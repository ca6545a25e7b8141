"""Describing data: figures against pandas, planted gaps and moves, pictures, and a page that needs no server."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.describe import describe, describe_series
from tsf_llm.data_prep.survey import survey
from tsf_llm.serving import cli


@pytest.fixture(scope="module")
def bars(make_bars):
    first, second = make_bars(900, ticker="AAA"), make_bars(500, ticker="<B&B>", seed=1, start="2016-06-01")
    first = first.drop(index=range(300, 340))
    second.loc[100, ["open", "high", "low", "close"]] *= 1.8
    second.loc[200, "close"] = np.nan
    return pd.concat([first, second, first.tail(1)], ignore_index=True)


@pytest.fixture(scope="module")
def described(bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("described")
    bars.to_csv(out / "prices.csv", index=False)
    return describe(out / "prices.csv", out / "out"), out / "out"


def test_coverage_counts_bars_by_ticker_and_year(bars, described):
    coverage = described[0]["coverage"]
    assert coverage["unit"] == "year"
    assert coverage["periods"] == ["2015", "2016", "2017", "2018"]
    known = bars.dropna().drop_duplicates()
    for name, row in coverage["bars"].items():
        years = known.loc[known["ticker"] == name, "timestamp"].dt.year
        assert row == [int((years == year).sum()) for year in range(2015, 2019)]


def test_gaps_and_absent_bars(described):
    summary, _ = described
    assert summary["gaps"][0]["ticker"] == "AAA"
    assert summary["gaps"][0]["days"] == 57
    assert summary["tickers"]["<B&B>"]["missing_bars"] == 1
    assert summary["tickers"]["<B&B>"]["absent_bars"] == 1
    assert summary["rows_in"] == summary["bars"] + summary["missing_bars"] + summary["rows_dropped"]


def test_returns_agree_with_pandas_and_scipy(bars, described):
    known = bars.dropna().drop_duplicates()
    returns = known.groupby("ticker")["close"].transform(lambda close: np.log(close).diff()).dropna()
    found = described[0]["returns"]["log_return"]
    assert found["n"] == len(returns)
    np.testing.assert_allclose(found["std"], returns.std(), rtol=1e-9)
    np.testing.assert_allclose(found["excess_kurtosis"], stats.kurtosis(returns), rtol=1e-9)
    largest = described[0]["returns"]["largest_moves"][0]
    assert largest["ticker"] == "<B&B>"
    np.testing.assert_allclose(abs(largest["log_return"]), returns.abs().max(), atol=1e-6)


def test_defects_are_those_of_cleaning(described):
    defects = described[0]["defects"]
    assert defects["repeated"]["by_ticker"] == {"AAA": 1}
    assert defects["missing"]["by_ticker"] == {"<B&B>": 1}
    assert defects["spike"]["policy"] == "keep"


def test_files_are_whole_and_the_page_stands_alone(described):
    summary, out = described
    assert {path.name for path in out.iterdir()} == {
        *("describe.json", "describe.html", "coverage.png", "defects.png", "returns.png"),
        ".tsf_llm.json",
    }
    assert json.loads((out / "describe.json").read_text()) == summary
    for name in ("coverage", "defects", "returns"):
        assert Image.open(out / f"{name}.png").size[0] > 900
    page = (out / "describe.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "&lt;B&amp;B&gt;" in page
    assert "<B&B>" not in page


def test_few_bars_many_tickers_and_months(make_bars, tmp_path):
    make_bars(2).to_csv(tmp_path / "two.csv", index=False)
    summary = describe(tmp_path / "two.csv", tmp_path / "two")
    assert summary["coverage"]["unit"] == "month"
    assert summary["returns"]["log_return"] == {
        **{"n": 1, "mean": None, "std": None, "skew": None, "excess_kurtosis": None}
    }
    assert not (tmp_path / "two" / "defects.png").exists()
    make_bars(1).to_csv(tmp_path / "one.csv", index=False)
    assert describe(tmp_path / "one.csv", tmp_path / "one")["gaps"] == []
    many = pd.concat([make_bars(5, ticker=f"T{i}", seed=i) for i in range(90)])
    many.to_csv(tmp_path / "many.csv", index=False)
    assert len(describe(tmp_path / "many.csv", tmp_path / "many")["coverage"]["bars"]) == 90


def test_describe_command(bars, tmp_path, monkeypatch, capsys):
    bars.to_csv(tmp_path / "prices.csv", index=False)
    words = ["describe", "--data", tmp_path / "prices.csv", "--out", tmp_path / "out", "--ticker", "AAA"]
    monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "860 bars of 1 tickers" in capsys.readouterr().out


# Plain series


def days(name, values, start="2022-01-01"):
    times = pd.date_range(start, periods=len(values))
    return pd.DataFrame({"date": times, "item": name, "units": np.asarray(values, dtype=float), "price": 1.5})


@pytest.fixture(scope="module")
def goods():
    week = np.arange(400) % 7.0
    gap = np.where((np.arange(400) >= 50) & (np.arange(400) < 90), np.nan, week)
    parts = [days("<a>", week), days("gap", gap), days("dead", week[:200]), days("new", week[:100], "2022-10-28")]
    return pd.concat([*parts, days("one", np.full(400, 3.0))], ignore_index=True)


@pytest.fixture(scope="module")
def seen(goods, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    goods.to_csv(folder / "sales.csv", index=False)
    return describe_series(folder / "sales.csv", folder / "out", columns=Columns("units", "item")), folder


def test_plain_series_are_described_as_they_are_surveyed(goods, seen):
    found, folder = seen
    told = survey(goods.rename(columns={"date": "timestamp", "item": "series_id", "units": "value"}), ["price"])
    assert {name: found[name] for name in told.to_json()} == told.to_json()
    assert found["facts"] == told.facts()
    assert (found["begun"], found["ended"], found["constant"], found["longest_unknown"]) == (1, 1, 1, 40)
    odd = {name: one["odd"] for name, one in found["each"].items()}
    assert odd == {
        **{"<a>": "", "gap": "", "one": "of one value"},
        **{"dead": "ended long before the others", "new": "begun long after the others"},
    }
    gap = goods.loc[goods["item"] == "gap", "units"]
    assert found["each"]["gap"]["without_value"] == found["each"]["gap"]["in_a_row"] == 40
    assert found["each"]["gap"]["zeros"] == round((gap == 0).sum() / gap.notna().sum(), 4)
    assert found["each"]["gap"]["mean"] == pytest.approx(gap.mean())
    assert json.loads((folder / "out" / "describe.json").read_text()) == found
    page = (folder / "out" / "describe.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert page.index(">one<") < page.index(">gap<") < page.index("&lt;a&gt;")
    assert "<a>" not in page


def test_series_without_values_of_one_row_or_of_odd_steps(tmp_path):
    path = tmp_path / "s.csv"
    days("a", [np.nan] * 30).to_csv(path, index=False)
    with pytest.raises(ValueError, match="no value of these series is known"):
        describe_series(path, tmp_path / "out", columns=Columns("units", "item"))
    days("a", [2.0]).to_csv(path, index=False)
    told = describe_series(path, tmp_path / "one", columns=Columns("units", "item"))
    assert (told["rows"], told["seconds"], told["step"]) == (1, None, "unknown")
    odd = days("odd", range(60)).assign(date=pd.to_datetime("2022-01-01") + pd.to_timedelta(np.arange(60) ** 2, "h"))
    pd.concat([days("a", range(60)), odd]).to_csv(path, index=False)
    told = describe_series(path, tmp_path / "two", columns=Columns("units", "item"))
    assert list(told["each"]) == ["a"]
    assert list(told["skipped"]) == ["odd"]
    assert "Skipped" in (tmp_path / "two" / "describe.html").read_text()
    again = describe_series(path, tmp_path / "two", columns=Columns("units", "item", resample="1d:mean"))
    assert list(again["each"]) == ["a", "odd"]


def test_one_series_with_a_bad_row_stops_no_other(tmp_path):
    bad = days("bad", range(60)).assign(units=[1.0, np.inf] * 30)
    pd.concat([days("a", range(60)), bad]).to_csv(tmp_path / "s.csv", index=False)
    told = describe_series(tmp_path / "s.csv", tmp_path / "out", columns=Columns("units", "item"))
    assert (list(told["each"]), list(told["skipped"])) == (["a"], ["bad"])


def test_the_command_tells_series_from_prices(goods, bars, tmp_path, monkeypatch, capsys):
    goods.to_csv(tmp_path / "sales.csv", index=False)
    bars.to_csv(tmp_path / "prices.csv", index=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", "describe", "--out", str(tmp_path / "out"), *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, capsys.readouterr()

    code, told = run("--data", tmp_path / "prices.csv")
    assert code == 0
    code, told = run("--data", tmp_path / "sales.csv", "--value", "units", "--id", "item")
    assert code == 0
    assert "1,500 of 5 series" in told.out
    assert "1 begun long after the others" in told.out
    assert {path.name for path in (tmp_path / "out").glob("*.*")} == {
        *("describe.json", "describe.html", "coverage.png", ".tsf_llm.json")
    }
    code, told = run("--data", tmp_path / "sales.csv")
    assert (code, "choose what to forecast with --value" in told.err) == (2, True)
    code, told = run("--data", tmp_path / "prices.csv", "--resample", "sum")
    assert (code, "--resample sum is for plain series" in told.err) == (2, True)
