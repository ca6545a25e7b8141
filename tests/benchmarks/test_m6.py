"""The M6 replay: windows and scores as the organisers have them, nothing after a window's start is read."""

import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.benchmarks import m6
from tsf_llm.dependence_tsf_llm import one_factor

ASSETS = [f"A{i:02}" for i in range(20)]


@pytest.fixture(scope="module")
def prices():
    """A market that moves all, and assets of unlike volatility."""
    days, rng = pd.bdate_range("2022-01-31", "2023-02-03"), np.random.default_rng(0)
    size = (len(days), len(ASSETS))
    returns = np.linspace(0.005, 0.03, len(ASSETS)) * (
        0.8 * rng.standard_normal((size[0], 1)) + 0.6 * rng.standard_normal(size)
    )
    frame = pd.DataFrame(100 * np.exp(returns.cumsum(axis=0)), days, ASSETS)
    return frame.rename_axis("date").rename_axis("symbol", axis=1)


@pytest.fixture
def write(prices, tmp_path):
    """A file of prices, whose long table may be changed before."""

    def write(change=lambda table: table):
        path = tmp_path / "prices.csv"
        change(prices.stack().rename("price").reset_index()).to_csv(path, index=False)
        return path

    return write


def test_the_windows_are_those_of_the_competition():
    assert [str(day.date()) for day in m6.BOUNDARIES[[0, 1, 2, 10, 12]]] == [
        "2022-03-04",
        "2022-04-01",
        "2022-04-29",
        "2022-12-09",
        "2023-02-03",
    ]


def test_the_command_writes_its_rows_and_says_that_all_is_past(write, tmp_path, capsys):
    assert m6.main(["--prices", str(write()), "--quick", "--json", str(tmp_path / "m6.json")]) == 0
    assert "lie in the past of whoever runs this" in " ".join(capsys.readouterr().out.split())
    results = json.loads((tmp_path / "m6.json").read_text(encoding="utf-8"))
    rows = {row["model"]: row for row in results["rows"]}
    assert [*rows] == [m6.UNIFORM, *m6.FORECASTS]
    assert_allclose(rows[m6.UNIFORM]["rps_by_window"], 0.16)
    for row in rows.values():
        assert_allclose(row["rps"], np.mean(row["rps_by_window"]))
    assert rows["one-factor Gaussians"]["rps"] < rows["independent Gaussians"]["rps"] < 0.16
    assert len(results["windows"]) == 12
    assert results["note"] == m6.NOTE


def test_information_ratio_is_by_hand():
    frame = pd.DataFrame({"a": [100.0, 110.0, 99.0], "b": [50.0, 50.0, 55.0]})
    daily = m6.log_returns(np.array([0.5, 0.25]), frame)
    assert_allclose(daily, np.log([1 + 0.5 * 0.1, 1 - 0.5 * 0.1 + 0.25 * 0.1]))
    assert_allclose(m6.information_ratio(daily), daily.sum() / np.std(daily, ddof=1))
    assert m6.information_ratio(np.zeros(3)) is None


def test_draws_of_one_factor_correlate_by_the_loadings_of_joint_paths():
    rng = np.random.default_rng(1)
    returns = np.linspace(1, 2, 8) * (rng.standard_normal((60, 1)) + rng.standard_normal((60, 8)))
    returns[:, 3] = 0
    draws = m6.one_factor(returns, 50_000, np.random.default_rng(0))
    assert_allclose(draws.std(axis=1), returns.std(axis=0), rtol=0.02)
    loading = one_factor(returns.T)
    assert loading[3] == 0
    assert_allclose(np.corrcoef(draws[[0, 1]])[0, 1], loading[0] * loading[1], atol=0.02)


def test_no_forecast_reads_prices_after_the_start_of_its_window(prices, monkeypatch):
    seen = []
    monkeypatch.setattr(
        m6, "FORECASTS", {"spy": lambda known, draws, rng: (seen.append(known), m6.independent(known, draws, rng))[1]}
    )
    m6.run(prices, 20, 0)
    whole = [*seen]
    for k in (0, 5, 11):
        seen.clear()
        other = prices.copy()
        other[other.index > m6.BOUNDARIES[k]] *= np.linspace(1, 2, len(ASSETS))
        m6.run(other, 20, 0)
        for ours, theirs in zip(whole[: k + 1], seen, strict=False):
            assert_array_equal(ours, theirs)
        if k < 11:
            assert not np.array_equal(whole[k + 1], seen[k + 1])


def test_a_missing_price_is_the_last_one_before_it(write, prices):
    last = pd.Timestamp("2022-11-28")
    found = m6.read_prices(write(lambda t: t[(t["symbol"] != "A03") | (t["date"] <= last)]))
    assert_allclose(found.loc[found.index > last, "A03"], prices["A03"][last])
    assert_allclose(found["A04"], prices["A04"])
    results = m6.run(found, 50, 0)
    assert all(np.isfinite(row["rps"]) for row in results["rows"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.rename(columns={"price": "close"}), "no column price; it has date, symbol, close"),
        (lambda t: t.assign(price=t["price"].where(t.index != 4, -1)), "line 6 has no date or no positive price"),
        (lambda t: t.assign(date=t["date"].astype(str).where(t.index != 4, "soon")), "line 6 has no date"),
        (lambda t: pd.concat([t, t.head(1)]), "is the second of its asset and day"),
        (lambda t: t[t["date"] < "2022-12-01"], "no prices of 2022-12-09, where a window"),
        (lambda t: t[t["symbol"] < "A05"], "5 asset"),
        (lambda t: t[t["date"] >= "2022-02-10"], "A00 has fewer than 20 days of prices before 2022-03-04"),
        (lambda t: t[(t["symbol"] != "A07") | (t["date"] >= "2022-03-01")], "A07 has fewer than 20 days"),
    ],
)
def test_an_unusable_file_is_one_line(write, change, words, capsys):
    with pytest.raises(SystemExit) as end:
        m6.main(["--prices", str(write(change))])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "--prices is needed"), (["--prices", "nowhere.csv"], "no such file")]
)
def test_a_missing_file_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        m6.main(arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err
