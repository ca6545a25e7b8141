"""The command line: what each command writes, and how each refuses bad input."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.tables import SAMPLE_FILE, SAMPLE_INDEX


def test_evaluate_writes_rows_and_plots(run, model, tmp_path):
    period = ["--start", "2012-06-01", "--end", "2012-12-31", "--horizon", 5, "--samples", 64]
    code, text, _ = run("evaluate", "--model", model, "--data", "sample", *period, "--out", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"results.json", "report.html", "scores.png", "pit.png", ".tsf_llm.json"}
    for key in ("model", "horizon", "crps", "mase", "mae", "rmse", "coverage_80", "direction_accuracy"):
        assert all(key in row for row in results["rows"]), key
    for key in ("direction_ci95", "direction_base_rate", "rank_ic"):
        assert results["rows"][0][key] is not None, key
    assert "random_walk" in text


def test_backtest_trades_beside_buy_and_hold_and_counts_trials(run, model, tmp_path):
    out, log = tmp_path / "out", tmp_path / "trials.jsonl"
    period = ["--start", "2012-06-01", "--end", "2012-12-31", "--horizon", 5, "--samples", 16, "--out", out]
    code, text, error = run("backtest", "--model", model, "--data", "sample", *period, "--rule", "sign,kelly")
    assert code == 0, error
    assert {path.name for path in out.iterdir()} == {"backtest.json", "equity.png", ".tsf_llm.json"}
    results = json.loads((out / "backtest.json").read_text())
    assert [*results["strategies"]] == ["sign", "kelly", "buy_and_hold"]
    assert (results["trials"], len(log.read_text().splitlines())) == (2, 2)
    assert "buy and hold" in text
    assert "2 trial(s)" in text


def test_explain_writes_figures_and_a_page(run, model, tmp_path):
    options = ["--start", "2012-06-01", "--end", "2012-12-31", "--most", 10, "--repeats", 1, "--ticker", "IBM,MSFT"]
    code, text, _ = run("explain", "--model", model, "--data", "sample", *options, "--out", tmp_path)
    result = json.loads((tmp_path / "explain.json").read_text())
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"explain.json", "explain.html", ".tsf_llm.json"}
    assert (result["windows"], result["tickers"]) == (20, ["IBM", "MSFT"])
    assert result["groups"][0]["name"] in text
    code, _, error = run("explain", "--model", model, "--data", "sample", "--start", "2030-01-01", "--out", tmp_path)
    assert code == 2
    assert "no forecast of 1 step(s) can be scored" in error
    swapped = ["--start", "2012-12-31", "--end", "2012-06-01"]
    assert run("explain", "--model", model, "--data", "sample", *swapped, "--out", tmp_path)[0] == 2


def test_a_calendar_dates_forecasts_and_checks_evaluations(run, model, tmp_path):
    out = tmp_path / "forecast.csv"
    chosen = ["--model", model, "--data", "sample", "--ticker", "AAPL", "--samples", 16]
    dates = {
        "XHKG": ["2012-07-03", "2012-07-04"],
        "XPHS": ["2012-07-02", "2012-07-03"],
        "24/7": ["2012-06-30", "2012-07-01"],
    }
    for name, expected in dates.items():  # Hong Kong closed on 2 July
        code, _, error = run(
            "forecast", *chosen, "--horizon", 2, "--as-of", "2012-06-29", "--calendar", name, "--out", out
        )
        assert code == 0, error
        assert pd.read_csv(out)["timestamp"].tolist() == expected
    period = ["--start", "2012-06-01", "--end", "2012-12-31", "--horizon", 5, "--out", tmp_path / "scores"]
    for name, share in {"XNYS": 1.0, "XLON": 0.9}.items():
        code, text, _ = run("evaluate", *chosen, *period, "--calendar", name)
        results = json.loads((tmp_path / "scores" / "results.json").read_text())
        assert results["calendar"] == name
        assert share - 0.3 <= results["on_calendar"] <= share
        assert ("came when XLON has none" in text) == (name == "XLON")
    for command in (["forecast", "--horizon", 2, "--out", out], ["evaluate", *period]):
        code, _, error = run(*command, *chosen, "--calendar", "xbom")
        assert code == 2
        assert "calendar='xbom': no such calendar; take XBOM" in error


def test_evaluate_takes_several_horizons_and_the_baselines_that_are_named(run, model, tmp_path):
    period = ("--start", "2012-06-01", "--end", "2012-06-20", "--horizon", "1,3", "--baselines", "drift,ewma")
    code, _, _ = run("evaluate", "--model", model, "--data", "sample", "--ticker", "IBM", *period, "--out", tmp_path)
    assert code == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {(row["model"], row["horizon"]) for row in rows} == {
        (name, horizon) for name in ("model", "drift", "ewma") for horizon in (1, 3)
    }


@pytest.mark.parametrize("horizon", ["0", "1,x", "", "5,"])
def test_evaluate_refuses_what_is_no_horizon(run, tmp_path, horizon):
    period = ("--start", "2012-06-01", "--end", "2012-06-20", "--horizon", horizon)
    code, _, error = run("evaluate", "--model", "nowhere", "--data", "sample", *period, "--out", tmp_path)
    assert code == 2
    assert "give bars ahead, as 5, or several, as 1,5,20" in error


def test_evaluate_says_when_the_model_has_seen_the_period(run, model, tmp_path):
    period = ["--start", "2009-06-01", "--end", "2009-12-31", "--horizon", 5, "--samples", 16]
    code, text, _ = run("evaluate", "--model", model, "--data", "sample", *period, "--out", tmp_path)
    assert code == 0
    assert json.loads((tmp_path / "results.json").read_text())["out_of_sample"] is False
    assert "Not out of sample" in text


@pytest.fixture(scope="module")
def risers(make_bars, tmp_path_factory):
    """A price file of a stock that rises by about one standard deviation a day, as no stock of the sample does."""
    bars, rng = make_bars(900, ticker="RISE", seed=4), np.random.default_rng(4)
    close = 50 * np.exp(rng.normal(0.004, 0.001, 900).cumsum())
    path = tmp_path_factory.mktemp("risers") / "risers.csv"
    bars.assign(open=close, high=close * 1.001, low=close / 1.001, close=close).to_csv(path, index=False)
    return path


def test_adapt_keeps_a_better_adapter_that_the_other_commands_take(run, model, risers, tmp_path):
    words = ["--model", model, "--ticker", "RISE", "--data", risers, "--samples", 16, "--out", tmp_path / "RISE"]
    code, text, _ = run("adapt", *words, "--epochs", 6, "--learning-rate", 0.01, "--rank", 4)
    report = json.loads((tmp_path / "RISE" / "report.json").read_text())
    assert (code, report["kept"], report["lora"]["r"], report["horizon"]) == (0, True, 4, 5)
    assert report["validation"]["interval_excludes_zero"] is True
    assert "Kept" in text
    assert "better than the base" in text
    chosen = ["--model", tmp_path / "RISE", "--data", risers, "--horizon", 5]
    code, _, _ = run("forecast", *chosen, "--out", tmp_path / "with.csv")
    assert code == 0
    run("forecast", "--model", model, *chosen[2:], "--out", tmp_path / "without.csv")
    with_adapter, without = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("with", "without"))
    assert with_adapter["p_up"].iloc[-1] > without["p_up"].iloc[-1]
    period = ["--start", report["valid_through"], "--end", "2030-01-01", "--samples", 16]
    code, _, _ = run("evaluate", *chosen, *period, "--out", tmp_path / "scores")
    assert code == 0
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert (results["trained_through"], results["out_of_sample"]) == (report["trained_through"], False)
    code, text, _ = run("audit", "--model", tmp_path / "RISE", "--data", risers)
    assert (code, json.loads(text)["passed"]) == (0, True)
    code, _, error = run("adapt", *words)
    assert (code, "remove it" in error, len(error.strip().splitlines())) == (2, True, 1)


def test_adapt_drops_an_adapter_that_is_no_better_and_ends_well(run, model, tmp_path):
    """A rate at which nothing is learned: the same is not better."""
    words = ["--model", model, "--ticker", "FB", "--data", "sample", "--samples", 8, "--epochs", 1]
    dates = ["--train-through", "2012-10-31", "--valid-through", "2012-12-31", "--learning-rate", "1e-30"]
    code, text, _ = run("adapt", *words, *dates, "--out", tmp_path / "FB")
    report = json.loads((tmp_path / "FB" / "report.json").read_text())
    assert (code, report["kept"]) == (0, False)
    assert report["validation"]["difference"] == pytest.approx(0, abs=1e-8)
    assert "Not kept" in text
    assert {path.name for path in (tmp_path / "FB").iterdir()} == {"report.json", ".tsf_llm.json"}


def test_a_market_in_parts(run, train, tmp_path, warnings_of):
    """Trained beside the sample and its VIX; a lone ticker has the VIX, or nothing, and is told what it lacks."""
    index = tmp_path / "vix_daily.csv.gz"
    pd.read_csv(SAMPLE_INDEX).drop(columns="ticker").to_csv(index, index=False)
    groups = ["bar", "range", "leverage", "events", "market", "implied"]
    report = train(
        *(tmp_path / "model",),
        **{"data": "sample", "tickers": ["AAPL", "IBM", "MSFT"], "market": "sample", "feature_groups": groups},
        **{"context_dropout": 0.3, "num_train_epochs": 0.02, "stride": 40},
    )
    assert report["context_dropout"] == 0.3
    words = ["--model", tmp_path / "model", "--data", "sample", "--ticker", "AAPL", "--horizon", 2, "--samples", 8]
    told = {}
    for name, market in (("all", "sample"), ("vix", index), ("both", f"{SAMPLE_FILE},{index}"), ("none", None)):
        more = [] if market is None else ["--market", market]
        out = tmp_path / f"{name}.csv"
        line = ["forecast", *words, "--as-of", "2012-06-29", "--out", out, *more]
        warnings = warnings_of(lambda line=line: run(*line))
        told[name] = [one for one in warnings if one.endswith("what features read of it is masked")]
    assert [len(lines) for lines in told.values()] == [0, 1, 0, 2]
    assert "no universe or index was given (market=, --market" in told["vix"][0]
    assert (tmp_path / "both.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()
    assert len({(tmp_path / f"{name}.csv").read_bytes() for name in ("all", "vix", "none")}) == 3


def test_a_market_is_refused_by_a_model_that_reads_none(run, model, tmp_path):
    options = ["--model", model, "--data", "sample", "--market", "sample", "--horizon", 2, "--samples", 8]
    code, _, error = run("forecast", *options, "--out", tmp_path / "forecast.csv")
    assert code == 2
    assert "no feature of this processor reads it" in error
    code, _, error = run("evaluate", *options, "--start", "2012-06-01", "--end", "2012-07-01", "--out", tmp_path)
    assert code == 2
    assert "no feature of this processor reads it" in error


SAMPLE = ["--data", "sample"]
FORECAST = ["forecast", "--horizon", 5, "--out", "forecast.csv"]
EVALUATE = ["evaluate", "--horizon", 5, "--out", "evaluation"]
ADAPT = ["adapt", "--out", "adapter"]
BACKTEST = ["backtest", "--horizon", 5, "--out", "backtest", "--model", "{model}", *SAMPLE]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*FORECAST, "--model", "nowhere", *SAMPLE], ["nowhere"]),
        ([*FORECAST, "--model", "{model}", "--data", "nowhere.csv"], ["nowhere.csv", "does not exist"]),
        ([*FORECAST, "--model", "{model}", *SAMPLE, "--ticker", "ZZZ"], ["ZZZ", "AAPL"]),
        ([*FORECAST, "--model", "{model}", *SAMPLE, "--as-of", "someday"], ["someday"]),
        ([*FORECAST, "--model", "{model}", *SAMPLE, "--as-of", "1999-01-01"], ["1999"]),
        ([*FORECAST, "--model", "{model}", *SAMPLE, "--plot", "fan.png"], ["--ticker"]),
        ([*EVALUATE, "--model", "{model}", *SAMPLE, "--start", "2012-06-01", "--end", "2012-01-01"], ["swap"]),
        ([*EVALUATE, "--model", "{model}", *SAMPLE, "--start", "2031-01-01", "--end", "2032-01-01"], ["2013-03-01"]),
        (
            [*EVALUATE, "--model", "{model}", "--data", "{bad}", "--start", "2012-01-01", "--end", "2013-01-01"],
            ["row"],
        ),
        ([*BACKTEST, "--start", "2012-06-01", "--end", "2012-01-01"], ["swap"]),
        ([*BACKTEST, "--start", "2031-01-01", "--end", "2032-01-01"], ["2031-01-01"]),
        ([*BACKTEST, "--start", "2012-01-01", "--end", "2012-02-01", "--rule", "magic"], ["magic", "long-short"]),
        (["audit", "--data", "sample", "--features", "nowhere.py"], ["nowhere.py"]),
        (["audit", "--data", "sample", "--model", "nowhere"], ["nowhere"]),
        (["quickstart", "--ticker", "ZZZ", "--out", "q"], ["ZZZ", "AAPL"]),
        ([*ADAPT, "--model", "{model}", *SAMPLE, "--ticker", "ZZZ"], ["ZZZ", "AAPL"]),
        ([*ADAPT, "--model", "{model}", *SAMPLE, "--ticker", "IBM", "--rank", 0], ["r=0"]),
        ([*ADAPT, "--model", "nowhere", *SAMPLE, "--ticker", "IBM"], ["nowhere"]),
        ([*ADAPT, "--model", "{model}", *SAMPLE, "--ticker", "IBM", "--train-through", "1990-01-01"], ["2000-03-01"]),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(run, model, tmp_path, monkeypatch, words, says):
    bad = tmp_path / "bad.csv"
    bad.write_text("date,open,high,low,close,volume\n2012-01-03,1,2,3,oops,5\n")
    monkeypatch.chdir(tmp_path)
    code, _, error = run(*(str(word).format(model=model, bad=bad) for word in words))
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
    assert all(word in error for word in says), error
    assert {path.name for path in tmp_path.iterdir()} == {"bad.csv"}  # nothing half-written


def test_help_teaches(run):
    code, text, _ = run("--help")
    assert code == 0
    assert all(name in text for name in ("quickstart", "forecast", "evaluate", "audit", "leak"))
    for command in (
        "quickstart",
        "forecast",
        "evaluate",
        "calibrate",
        "backtest",
        "explain",
        "adapt",
        "audit",
        "leak",
    ):
        assert "Example: tsf-llm" in run(command, "--help")[1]


# Plain series


def test_the_commands_take_a_plain_series(run, train, loads, tmp_path):
    series = {"data": loads, "value_column": "OT", "known_covariates": "flag", "horizon": 6, "num_train_epochs": 1}
    train(tmp_path / "model", **series)
    chosen = ["--model", tmp_path / "model", "--data", loads, "--value", "OT"]
    out, plot = tmp_path / "forecast.csv", tmp_path / "fan.png"
    code, _, _ = run("forecast", *chosen, "--horizon", 72, "--samples", 16, "--out", out, "--plot", plot)
    assert (code, len(pd.read_csv(out)), plot.exists()) == (0, 72, True)
    period = ["--start", "2021-02-04", "--end", "2021-02-06", "--horizon", 6, "--samples", 16]
    code, text, _ = run("evaluate", *chosen, *period, "--out", tmp_path)
    assert code == 0
    assert "mean one-step changes" in text
    code, text, _ = run("audit", *chosen)
    assert (code, json.loads(text)["passed"]) == (0, True)
    words = ["--ticker", "OT", "--epochs", 1, "--samples", 8, "--out", tmp_path / "adapter"]
    code, text, _ = run("adapt", *chosen, *words)
    assert (code, "CRPS" in text) == (0, True)
    code, _, error = run("audit", "--data", loads)
    assert (code, "--value" in error) == (2, True)
    code, _, error = run("forecast", *chosen[:2], "--data", "sample", "--horizon", 2, "--out", out)
    assert (code, len(error.strip().splitlines())) == (2, 1)


def test_a_key_of_an_unknown_name_is_named_and_taken(run, model, make_bars, tmp_path):
    bars = pd.concat([make_bars(400, ticker=name, seed=ord(name)) for name in "XY"]).rename(columns={"ticker": "leg"})
    bars.to_csv(tmp_path / "prices.csv", index=False)
    options = ["--model", model, "--data", tmp_path / "prices.csv", "--horizon", 2, "--samples", 8]
    code, _, error = run("forecast", *options, "--out", tmp_path / "a.csv")
    assert code == 2
    assert "column 'leg' (X, Y, ...)" in error
    assert run("forecast", *options, "--out", tmp_path / "a.csv", "--id", "leg")[0] == 0
    assert pd.read_csv(tmp_path / "a.csv")["ticker"].unique().tolist() == ["X", "Y"]
    clean = ["clean", "--data", tmp_path / "prices.csv", "--out", tmp_path / "clean.parquet"]
    assert run(*clean)[0] == 2
    assert run(*clean, "--id", "leg")[0] == 0
    assert pd.read_parquet(tmp_path / "clean.parquet")["ticker"].unique().tolist() == ["X", "Y"]


def test_adapt_passes_no_rule_over(run, base_folder, prices):
    code, _, error = run("adapt", "--model", base_folder, "--ticker", "AAA", "--data", prices, "--resample", "sum")
    assert (code, "--resample sum is for plain series" in error) == (2, True), error
