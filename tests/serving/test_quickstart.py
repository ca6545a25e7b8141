"""quickstart.py: the quick start for real, on the embedded prices and on a plain series."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS
from tsf_llm.serving import cli
from tsf_llm.serving import quickstart as quick


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tsf-llm", "quickstart", "--from-scratch", "--ticker", "IBM", "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return out


def test_quickstart_leaves_calibrated_results(quickstart):
    results = json.loads((quickstart / "results.json").read_text())
    rows = {row["model"]: row for row in results["rows"]}
    standard = ["random_walk", "drift", "historical_volatility_20", "ewma", "garch_t", "har_range"]
    assert list(rows) == ["model", *standard]
    assert 0.70 <= rows["model"]["coverage_80"] <= 0.90
    assert rows["model"]["crps"] < 1.05 * rows["historical_volatility_20"]["crps"]
    assert results["out_of_sample"] is True
    assert results["trained_through"] < results["start"] < results["end"]
    assert json.loads((quickstart / "audit.json").read_text())["passed"] is True


def test_quickstart_writes_everything_the_readme_names(quickstart):
    names = {path.name for path in quickstart.iterdir()}
    plots = {"forecast.png", "hindsight.png", "scores.png", "pit.png"}
    assert names == {"model", "forecast.csv", "results.json", "report.html", "audit.json", ".tsf_llm.json", *plots}
    for picture in [*(quickstart / name for name in plots), quickstart / "model" / "loss.png"]:
        assert Image.open(picture).size[0] > 900
    names = {path.name for path in quickstart.rglob("*")}
    assert [name for name in names if name.endswith((".bin", ".pt", ".pkl")) or name[0] == "."] == [".tsf_llm.json"]
    frame = pd.read_csv(quickstart / "forecast.csv")
    assert list(frame.columns) == FORECAST_COLUMNS
    assert frame["ticker"].unique().tolist() == ["IBM"]


@pytest.fixture(scope="module")
def series_quickstart(tmp_path_factory, loads):
    out = tmp_path_factory.mktemp("series_quickstart")
    words = ["--dataset", loads, "--value", "OT", "--known-covariates", "flag", "--horizon", 6, "--out", out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tsf-llm", "quickstart", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return out


def test_quickstart_takes_a_plain_series(series_quickstart):
    results = json.loads((series_quickstart / "results.json").read_text())
    rows = {row["model"]: row for row in results["rows"]}
    plain = ["random_walk", "drift", "historical_volatility_20", "seasonal_naive", "ewma", "garch_t"]
    assert list(rows) == ["model", *plain]
    assert rows["seasonal_naive"]["crps"] < rows["random_walk"]["crps"]
    assert rows["model"]["crps"] < 2 * rows["random_walk"]["crps"]
    assert (results["horizon"], results["tickers"], results["out_of_sample"]) == (6, ["OT"], True)
    assert json.loads((series_quickstart / "audit.json").read_text())["passed"] is True
    frame = pd.read_csv(series_quickstart / "forecast.csv")
    assert list(frame.columns) == FORECAST_COLUMNS
    assert frame["ticker"].unique().tolist() == ["OT"]


def test_quickstart_with_a_head_that_knows_its_steps_alone(run, loads, tmp_path):
    words = ["--dataset", loads, "--value", "OT", "--horizon", 3, "--head", "quantile", "--out", tmp_path]
    code, out, error = run("quickstart", *words)
    assert (code, error) == (0, "")  # no bar where there is no terminal, and no library's warning
    assert "{" not in out
    assert re.search(r"^step \d+ of \d+: .*validation [\d.]+$", out, re.MULTILINE)
    assert len(pd.read_csv(tmp_path / "forecast.csv")) == 3
    code, _, error = run("quickstart", "--head", "regression", "--out", tmp_path)
    assert (code, "--head regression" in error) == (2, True)


def test_a_quick_start_looks_at_a_part_of_much_data(monkeypatch):
    monkeypatch.setattr(quick, "MOST_BARS", 10)
    monkeypatch.setattr(quick, "MOST_SERIES", 3)
    lengths = {"a": 4, "b": 3, "c": 2, "d": 20, "e": 1}
    bars = pd.DataFrame({"series_id": np.repeat([*lengths], [*lengths.values()])})
    bars["value"] = bars.groupby("series_id").cumcount()

    def kept(*names, first):
        some = bars[bars["series_id"].isin(names)]
        found = quick.bounded(some, UNIVARIATE, first)
        return found.groupby("series_id", sort=False)["value"].agg(["size", "max"]).apply(tuple, axis=1).to_dict()

    assert kept("a", "b", first="b") == {"a": (4, 3), "b": (3, 2)}
    assert kept(*"abce", first="e") == {"a": (4, 3), "b": (3, 2), "e": (1, 0)}  # three series
    assert kept(*"abcd", first="b") == {"a": (4, 3), "b": (3, 2), "c": (2, 1)}  # whole ones
    assert kept(*"abcd", first="d") == {"d": (10, 19)}  # the last bars of a long one
