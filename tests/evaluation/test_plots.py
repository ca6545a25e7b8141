import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation import plots

QUANTILES = {"q05": -1.64, "q10": -1.28, "q25": -0.67, "q50": 0.0, "q75": 0.67, "q90": 1.28, "q95": 1.64}


@pytest.fixture
def bars():
    steps = 0.015 * np.random.default_rng(0).standard_normal(130)
    return pd.DataFrame(
        {"timestamp": pd.bdate_range("2012-10-01", periods=130), "close": 100 * np.exp(np.cumsum(steps))}
    )


@pytest.fixture
def forecast(bars):
    past, future = bars[:110], bars[110:120]
    step = np.arange(1, 11)
    table = pd.DataFrame(
        {"ticker": "AAPL", "origin": past["timestamp"].iloc[-1], "step": step, "timestamp": future["timestamp"]}
    )
    for name, deviation in QUANTILES.items():
        table[name] = past["close"].iloc[-1] * np.exp(deviation * 0.015 * np.sqrt(step))
    return table.assign(mean=table["q50"], p_up=0.53)


ROWS = [
    {"model": model, "horizon": horizon, "crps": crps * np.sqrt(horizon), "crps_ci95": interval, "n": 1234}
    for horizon in (1, 5)
    for model, crps, interval in (
        ("tsf-llm", 0.0101, [0.0101 * np.sqrt(horizon) - 0.001, 0.0101 * np.sqrt(horizon) + 0.001]),
        ("random_walk", 0.0107, None),
        ("historical_volatility_20", 0.0104, [0.0104 * np.sqrt(horizon) - 0.001, 0.0104 * np.sqrt(horizon) + 0.001]),
    )
]
LOG = [
    *({"step": step, "loss": 5 / (1 + step / 100), "epoch": step / 300} for step in range(10, 901, 10)),
    *({"step": step, "eval_loss": 1 + 4 / (1 + step / 100), "epoch": step / 300} for step in (300, 600, 900)),
    {"step": 900, "train_loss": 1.0, "train_runtime": 12.0, "epoch": 3.0},
]


def assert_only_a_picture(path):
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().startswith(b"\x89PNG")
    height, width = imread(path).shape[:2]
    assert 1000 < width < 2000
    assert 300 < height < 2000
    assert imread(path)[..., :3].std() > 0.02  # not blank


def test_fan_chart(bars, forecast, tmp_path):
    path = plots.fan_chart(bars, forecast, tmp_path / "fan.png", realised=bars)
    assert path == tmp_path / "fan.png"
    assert_only_a_picture(path)


def test_fan_chart_shows_no_close_after_the_origin_unless_asked(bars, forecast, tmp_path):
    drawn = [plots.fan_chart(past, forecast, tmp_path / "fan.png").read_bytes() for past in (bars, bars[:110])]
    assert drawn[0] == drawn[1]
    assert plots.fan_chart(bars, forecast, tmp_path / "fan.png", realised=bars).read_bytes() != drawn[0]


def test_loss_curve(tmp_path):
    assert_only_a_picture(plots.loss_curve(LOG, tmp_path / "new" / "loss.png"))


@pytest.mark.parametrize("kind", ["loss", "eval_loss"])
def test_loss_curve_with_one_kind_of_loss(kind, tmp_path):
    assert_only_a_picture(plots.loss_curve([entry for entry in LOG if kind in entry], tmp_path / "loss.png"))


def test_pit_histogram(tmp_path):
    pit = np.random.default_rng(1).uniform(size=500)
    assert_only_a_picture(plots.pit_histogram(pit, tmp_path / "pit.png", name="tsf-llm"))


def test_score_bars(tmp_path):
    assert_only_a_picture(plots.score_bars(ROWS, tmp_path / "scores.png", highlight="tsf-llm"))


def test_threads_draw_the_same_picture(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda i: plots.loss_curve(LOG, tmp_path / f"{i}.png"), range(4)))
    assert len({path.read_bytes() for path in paths}) == 1


def test_no_global_figure_is_created():
    code = "import sys, tsf_llm.evaluation.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unusable_input_is_refused_with_a_remedy(bars, forecast, tmp_path):
    two = pd.concat([forecast, forecast.assign(ticker="MSFT")])
    with pytest.raises(ValueError, match="2 pairs of ticker and origin: pass the rows of exactly one"):
        plots.fan_chart(bars, two, tmp_path / "fan.png")
    with pytest.raises(ValueError, match="no close of AAPL at or before"):
        plots.fan_chart(bars[115:], forecast, tmp_path / "fan.png")
    with pytest.raises(ValueError, match="neither 'loss' nor 'eval_loss'"):
        plots.loss_curve([{"step": 1, "train_loss": 1.0}], tmp_path / "loss.png")
    with pytest.raises(ValueError, match="no PIT values"):
        plots.pit_histogram(np.array([]), tmp_path / "pit.png", name="tsf-llm")
    with pytest.raises(ValueError, match="no rows of results"):
        plots.score_bars([], tmp_path / "scores.png")
    assert not list(tmp_path.iterdir())


def test_a_plain_series_is_called_a_value(bars, forecast, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    plots.fan_chart(
        bars.rename(columns={"close": "value"}), forecast, tmp_path / "fan.png", realised=bars.assign(value=1)
    )
    plots.score_bars(ROWS, tmp_path / "scores.png", kind=UNIVARIATE)
    fan, scores = drawn
    assert fan.axes[0].get_ylabel() == "value"
    assert "value" in fan.axes[0].get_legend_handles_labels()[1]
    assert "close" not in fan.axes[0].get_title(loc="left")
    assert scores.axes[0].get_xlabel() == "CRPS 1 bar ahead (mean one-step changes), n = 1,234"


def test_no_rows_have_no_plot(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        plots.leak_bars([], tmp_path / "leak.png")


def test_equity_curves_show_each_strategy_and_what_it_is_compared_with(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    times = np.datetime64("2020-01-01") + np.arange(4)
    curves = {"sign": np.array([1, 1.2, 0.9, 1.0]), "kelly": np.ones(4), "buy_and_hold": np.array([1, 1, 1, 2.0])}
    plots.equity_curves(times, curves, tmp_path / "equity.png", band=np.array([[0.9] * 4, [1.1] * 4]), note="a note")
    [figure] = drawn
    above, below = figure.axes
    assert above.get_legend_handles_labels()[1] == ["sign", "kelly", "buy and hold"]
    assert below.lines[0].get_ydata().tolist() == pytest.approx([0, 0, -0.25, 1 / 1.2 - 1])
    assert "a note" in above.get_title(loc="left")
