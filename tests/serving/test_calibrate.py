"""`tsf-llm calibrate`: a too narrow model is widened, what does not help is not used, only our own file is written."""

import json
import shutil

import pandas as pd
import pytest

from tsf_llm.common.files import WRITTEN, adopt
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.training.arguments import DataArguments
from tsf_llm.training.data import TrainingData

TRAINED, SEEN = "2016-06-30", "2017-12-29"


@pytest.fixture(scope="module")
def long_prices(make_bars, tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "prices.csv"
    pd.concat([make_bars(1000, ticker=name, seed=k) for k, name in enumerate("ABCD")]).to_csv(path, index=False)
    return path


@pytest.fixture
def folder(long_prices, tiny_model, tmp_path):
    """`folder(width)` -> a saved model whose bins are `width` times as wide as they were fitted."""

    def build(width):
        extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=16)
        bars = pd.read_csv(long_prices, parse_dates=["timestamp"])
        processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=256)).fit(bars, through=TRAINED)
        edges = (processor.tokenizer.fitted_edges * width).tolist()
        processor.tokenizer = TsfLlmTokenizer(n_bins=256, bin_edges=edges)
        model = tiny_model(vocab_size=258, pad_token_id=256, bar_token_id=257, initializer_range=0.02)
        model.config.trained_through = SEEN
        out = tmp_path / f"model{width}"
        model.save_pretrained(out)
        processor.save_pretrained(out)
        adopt(out, ["processor_config.json"], by="training")
        return out

    return build


def forecast(run, model, data, out, *words):
    code, _, error = run("forecast", "--model", model, "--data", data, "--samples", 32, "--out", out, *words)
    return code, out.read_bytes() if code == 0 else error


def test_a_too_narrow_model_is_widened_everywhere(run, folder, long_prices, tmp_path):
    model, out = folder(0.5), tmp_path / "forecast.csv"
    files = {path: path.read_bytes() for path in model.iterdir()}
    _, raw = forecast(run, model, long_prices, out, "--horizon", 1)
    code, text, _ = run("calibrate", "--model", model, "--data", long_prices, "--horizon", 1)
    assert (code, "Kept." in text, "better than no calibration" in text) == (0, True, True), text
    assert {path.name for path in model.iterdir() if path.read_bytes() != files.get(path)} == {"processor_config.json"}
    state = json.loads((model / "processor_config.json").read_text())["calibration"]
    assert 1.5 < state["spread"][0] < 2.5
    assert state["through"] <= SEEN
    assert state["start"] > TRAINED

    _, off = forecast(run, model, long_prices, out, "--horizon", 1, "--calibration", "off")
    assert off == raw
    width = pd.read_csv(out).eval("q90 - q10")
    _, auto = forecast(run, model, long_prices, out, "--horizon", 1)
    assert (pd.read_csv(out).eval("q90 - q10") > 1.4 * width).all()
    _, on = forecast(run, model, long_prices, out, "--horizon", 1, "--calibration", "on")
    assert on == auto != off
    code, error = forecast(run, model, long_prices, out, "--horizon", 2, "--calibration", "on")
    assert (code, "it has 1 step(s), not 2" in error) == (2, True)

    period = ["--start", "2018-01-02", "--end", "2018-10-01", "--baselines", "random_walk"]
    results = {}
    for choice, horizon in (("auto", 1), ("off", 1), ("auto", 2)):
        words = [
            "--horizon",
            horizon,
            "--samples",
            16,
            "--calibration",
            choice,
            "--out",
            tmp_path / f"{choice}{horizon}",
        ]
        code, _, error = run("evaluate", "--model", model, "--data", long_prices, *period, *words)
        assert code == 0, error
        results[choice, horizon] = json.loads((tmp_path / f"{choice}{horizon}" / "results.json").read_text())
    used, unused, farther = (one["calibration"] for one in results.values())
    assert (used["used"], unused["used"], farther["used"]) == (True, False, False)
    assert used["before"] == unused["before"]
    assert unused["after"] is None
    assert abs(used["after"]["coverage_80"] - 0.8) < 0.05 < abs(used["before"]["coverage_80"] - 0.8)
    assert used["after"]["crps"] == results["auto", 1]["rows"][0]["crps"] < used["before"]["crps"]
    assert results["off", 1]["rows"][1] == results["auto", 1]["rows"][1]

    adapted = load_pipeline(model).processor
    assert adapted.calibration == state
    data = TrainingData.read(DataArguments(data=str(long_prices), horizon=1), model=str(model))
    assert data.processor.calibration is None  # it goes to other weights


def test_what_does_not_help_is_said_and_not_used(run, folder, long_prices, tmp_path):
    model, out = folder(1.0), tmp_path / "forecast.csv"
    _, raw = forecast(run, model, long_prices, out, "--horizon", 3)
    dates = ["--start", "2017-11-01", "--end", SEEN]
    code, text, _ = run("calibrate", "--model", model, "--data", long_prices, "--horizon", 3, "--samples", 8, *dates)
    assert (code, "Not kept: " in text) == (0, True)
    state = json.loads((model / "processor_config.json").read_text())["calibration"]
    assert (state["kept"], "too short" in state["reason"]) == (False, True)
    assert forecast(run, model, long_prices, out, "--horizon", 3) == (0, raw)
    code, error = forecast(run, model, long_prices, out, "--horizon", 3, "--calibration", "on")
    assert (code, "too short" in error, len(error.strip().splitlines())) == (2, True, 1)


def test_bars_of_the_test_change_nothing(run, folder, long_prices, tmp_path):
    later = pd.read_csv(long_prices)
    later.loc[later["timestamp"] > SEEN, ["open", "high", "low", "close"]] *= 1.7
    later.to_csv(tmp_path / "later.csv", index=False)
    model, states = folder(0.7), []
    for data in (long_prices, tmp_path / "later.csv"):
        code, _, error = run("calibrate", "--model", model, "--data", data, "--horizon", 1, "--ticker", "A,B")
        assert code == 0, error
        states.append(json.loads((model / "processor_config.json").read_text())["calibration"])
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--start", "2016-06-30"], f"lies in the training dates, which end on {TRAINED}"),
        (["--end", "2018-01-02"], f"lies after {SEEN}, where the test begins"),
        (["--end", "2016-01-04"], "no date lies between"),
        (["--calibration", "auto"], "No such option"),
    ],
)
def test_dates_of_training_and_test_are_refused(run, folder, long_prices, words, expected):
    model = folder(1.0)
    before = (model / "processor_config.json").read_bytes()
    code, _, error = run("calibrate", "--model", model, "--data", long_prices, *words)
    assert (code, expected in error) == (2, True), error
    assert (model / "processor_config.json").read_bytes() == before


def test_a_later_training_of_the_same_processor_counts(run, folder, long_prices):
    model = folder(1.0)
    (model / "report.json").write_text(json.dumps({"train_through": "2017-03-31"}))
    code, _, error = run("calibrate", "--model", model, "--data", long_prices, "--start", "2017-01-02")
    assert (code, "which end on 2017-03-31" in error) == (2, True)


def test_a_folder_that_is_not_ours_is_left_alone(run, folder, long_prices, tmp_path):
    model = folder(1.0)
    shutil.copytree(model, tmp_path / "old")
    (tmp_path / "old" / "calibration_tsf_llm.py").unlink()
    (model / WRITTEN).unlink()
    before = (model / "processor_config.json").read_bytes()
    cases = {model: "does not say that processor_config.json is ours", tmp_path / "old": "an older version"}
    for path, expected in (cases | {tmp_path / "none": "no folder"}).items():
        code, _, error = run("calibrate", "--model", path, "--data", long_prices)
        assert (code, expected in error, len(error.strip().splitlines())) == (2, True, 1), error
    assert (model / "processor_config.json").read_bytes() == before


def test_a_hostile_state_is_one_line(run, folder, long_prices, tmp_path):
    model = folder(1.0)
    path = model / "processor_config.json"
    saved = json.loads(path.read_text())
    for state in ({"kept": True, "shift": [1e9], "spread": [1.0], "through": SEEN}, [], "on"):
        path.write_text(json.dumps(saved | {"calibration": state}))
        code, error = forecast(run, model, long_prices, tmp_path / "forecast.csv", "--horizon", 1)
        assert (code, "processor_config.json" in error, len(error.strip().splitlines())) == (2, True, 1), error
