"""adapt.py: an adapter stays only where it is better on the validation dates, and the report says what was found."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tsf_llm.serving import adapt as adapt_module
from tsf_llm.serving.adapt import adapt, print_adapted
from tsf_llm.serving.loading import load_pipeline


@pytest.fixture(scope="module")
def run(prices, base_folder):
    """`run(out, ticker=, **options)` -> the report of a small `adapt`."""
    usual = {"data": prices, "stride": 2, "r": 2, "num_train_epochs": 2, "learning_rate": 0.01, "report_samples": 16}
    usual |= {"per_device_train_batch_size": 32, "disable_tqdm": "true"}

    def call(out, ticker="AAA", model=base_folder, **options):
        return adapt(str(model), ticker=ticker, out=out, options={**usual, **options})[0]

    return call


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """Of AAA, with the usual settings."""
    return run(tmp_path_factory.mktemp("usual") / "AAA")


@pytest.fixture(scope="module")
def moving(make_bars, tmp_path_factory):
    """A stock that the base does not know, with jumps on every fifth day: there is much to learn."""
    bars = make_bars(400, ticker="JMP", seed=5)
    steps = np.random.default_rng(5).normal(0, 0.004, 400)
    steps[::5] = 0.06 * np.where(np.arange(80) % 2, 1, -1)
    close = 50 * np.exp(steps.cumsum())
    frame = bars.assign(open=close, high=close * 1.001, low=close / 1.001, close=close)
    path = tmp_path_factory.mktemp("moving") / "moving.csv"
    frame.to_csv(path, index=False)
    return path


def test_keeps_what_is_better_on_the_validation_dates(run, moving, tmp_path):
    report = run(tmp_path / "JMP", ticker="JMP", data=moving, num_train_epochs=12, learning_rate=0.02)
    assert json.loads((tmp_path / "JMP" / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["kept"] is True
    assert report["validation"]["difference"] < 0
    gap = report["validation"]["after"]["crps"] - report["validation"]["before"]["crps"]
    assert gap == pytest.approx(report["validation"]["difference"])
    low, high = report["validation"]["ci95"]
    assert report["validation"]["interval_excludes_zero"] is bool(low > 0 or high < 0)
    assert "the base (CRPS" in report["verdict"]  # of the test dates
    assert load_pipeline(tmp_path / "JMP").model.config.trained_through == report["trained_through"]
    assert [path.name for path in tmp_path.iterdir()] == ["JMP"]  # no checkpoints


def spoilt(model):
    """The adapted model with heads to which all bins are equally likely."""
    plain = model.merge_and_unload()
    with torch.no_grad():
        for head in (plain.lm_head, plain.law_head):
            head.weight.zero_()
    return plain


def test_drops_what_is_not_better_and_says_why(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(adapt_module, "merged", spoilt)
    report = run(tmp_path / "AAA")
    assert report["kept"] is False
    assert report["validation"]["difference"] >= 0
    assert "not lower" in report["reason"]
    assert {path.name for path in (tmp_path / "AAA").iterdir()} == {"report.json", ".tsf_llm.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["AAA"]
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load_pipeline(tmp_path / "AAA")
    print_adapted(report, tmp_path / "AAA")
    text = capsys.readouterr().out
    assert "Not kept" in text
    assert "not used for the choice" in text
    monkeypatch.undo()
    run(tmp_path / "AAA")  # the folder that holds a report alone can be used again


def test_the_test_dates_choose_nothing(run, report, prices, tmp_path):
    """Other outcomes after the validation dates change the test scores and nothing else."""
    bars = pd.read_csv(prices, parse_dates=["timestamp"], float_precision="round_trip")
    later = bars["timestamp"] > pd.Timestamp(report["valid_through"]) + pd.Timedelta(days=1)
    bars.loc[later, ["open", "high", "low", "close"]] *= np.linspace(1, 2, later.sum())[:, None]
    bars.to_csv(tmp_path / "other.csv", index=False)
    other = run(tmp_path / "b", data=tmp_path / "other.csv")
    assert other["before"]["crps"] != report["before"]["crps"]
    assert (other["kept"], other["validation"]) == (report["kept"], report["validation"])


def test_a_ticker_that_the_base_does_not_know_and_bars_of_other_years(run, make_bars, tmp_path):
    make_bars(400, ticker="NEW", seed=9, start="2021-01-04").to_csv(tmp_path / "new.csv", index=False)
    report = run(tmp_path / "NEW", ticker="NEW", data=tmp_path / "new.csv")
    assert report["train_through"] > "2021-06"  # 80/10/10 of its own bars
    assert report["out_of_sample"] is True
    make_bars(400, ticker="OLD", seed=9, start="2001-01-01").to_csv(tmp_path / "old.csv", index=False)
    report = run(tmp_path / "OLD", ticker="OLD", data=tmp_path / "old.csv")
    assert report["out_of_sample"] is False  # the base has seen later prices
    assert report["trained_through"] > report["valid_through"]


@pytest.mark.parametrize(
    ("out_of_sample", "words"),
    [
        (False, "Not out of sample: the base has seen prices through"),
        (None, "Whether this is out of sample is unknown: the base does not say which dates it has seen."),
        (True, ""),
    ],
)
def test_says_what_is_known_of_the_dates(report, tmp_path, capsys, out_of_sample, words):
    print_adapted({**report, "out_of_sample": out_of_sample}, tmp_path)
    told = capsys.readouterr().out
    assert words in told
    assert ("out of sample" in told) == bool(words)


def test_a_killed_run_goes_on(run, tmp_path, monkeypatch):
    steps = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4}
    whole = run(tmp_path / "whole", **steps)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tsf_llm.training.trainer.save_whole", killed)  # after the last step
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "AAA", **steps)
    monkeypatch.undo()
    assert list((tmp_path / ".AAA.checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "AAA").exists()
    again = run(tmp_path / "AAA", **steps)
    assert {key: again[key] for key in ("validation", "after", "valid_loss", "steps")} == {
        key: whole[key] for key in ("validation", "after", "valid_loss", "steps")
    }
    assert not (tmp_path / ".AAA.checkpoints").exists()


def test_logs_to_tensorboard_stay(run, tmp_path):
    run(tmp_path / "AAA", report_to="tensorboard", num_train_epochs=1)
    assert list((tmp_path / "AAA" / "runs").rglob("events.*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ticker": "ZZZ"}, ["ZZZ", "AAA, BBB"]),
        ({"r": 0}, ["r=0"]),
        ({"report_samples": 1}, ["report_samples=1"]),
        ({"target_modules": "nothing"}, ["nothing", "lm_head"]),
        ({"model": "nowhere"}, ["nowhere"]),
        ({"train_through": "2015-02-10", "valid_through": "2015-02-12"}, ["AAA", "2015-02-12"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(run, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        run(tmp_path / "out", **options)
    assert all(word in str(refused.value) for word in words), refused.value
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_neither_a_base_nor_overwritten(run, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter: name the model"):
        run(tmp_path / "out", model=tmp_path)
    with pytest.raises(ValueError, match=r"holds an adapter already: remove it"):
        run(tmp_path)
