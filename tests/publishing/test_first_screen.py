"""The first screen: its lines draw its picture, and its table of inputs is what the shipped models do."""

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from tsf_llm.data_prep.sources import read_bars, read_market
from tsf_llm.publishing import first_screen
from tsf_llm.serving.loading import load_pipeline

ROOT = Path(first_screen.__file__).parents[1]


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("mini")


@pytest.fixture(scope="module")
def apple():
    return read_bars("sample", ["AAPL"]).tail(400)


def test_the_lines_draw_the_picture(capsys):
    path = ROOT / first_screen.PICTURE
    assert path.stat().st_size < 120_000
    kept, drawn = imread(path), imread(io.BytesIO(first_screen.picture(ROOT)))
    assert kept.shape == drawn.shape
    assert np.abs(kept - drawn).mean() < 0.02  # fonts differ between releases of matplotlib
    assert "q50" in capsys.readouterr().out
    assert len([line for line in first_screen.lines(ROOT).splitlines() if line]) <= 10


def test_the_tables_are_those_of_the_model():
    for page, template in first_screen.PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert f"<!-- inputs -->\n{first_screen.inputs(ROOT, template)}\n<!-- /inputs -->" in text


def test_what_is_said_to_be_ignored_changes_nothing(pipe, apple):
    forecast = pipe(apple, horizon=5)
    others = pd.concat([apple, read_bars("sample", ["IBM"]).tail(300)])
    beside = pipe(others, horizon=5).head(5)  # sums of a larger batch differ in the last bits
    pd.testing.assert_frame_equal(forecast, beside, rtol=1e-5)
    assert forecast.equals(pipe(apple.assign(sentiment=1.0, earnings=2.0), horizon=5))
    assert forecast.drop(columns="ticker").equals(pipe(apple.assign(ticker="X"), horizon=5).drop(columns="ticker"))


def test_what_is_said_to_be_used_changes_the_forecast(pipe, apple):
    forecast = pipe(apple, horizon=5)["q10"]
    for market in (read_market("sample"), read_bars("sample")):
        assert not forecast.equals(pipe(apple, horizon=5, market=market)["q10"])
    without = pipe(apple.assign(volume=np.nan), horizon=5)["q10"]
    assert without.notna().all()
    assert not forecast.equals(without)


def test_an_adjusted_close_adjusts_once(pipe, apple):
    raw = apple.assign(
        adj_close=apple["close"], **{name: 2 * apple[name] for name in ("open", "high", "low", "close")}
    )
    raw["volume"] /= 2
    np.testing.assert_allclose(pipe(raw, horizon=5)["q50"], pipe(apple, horizon=5)["q50"], rtol=1e-9)


def test_a_page_without_lines_or_a_picture_is_refused(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="no block of Python"):
        first_screen.lines(tmp_path)
    page.write_text("```python\nx = 1\n```\n")
    monkeypatch.setattr(sys, "argv", ["first_screen", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(first_screen.__name__, run_name="__main__")
    assert end.value.code == 2
    assert "draw no fan.png" in capsys.readouterr().err
