"""supervised.py: trains every head, reproduces and resumes, keeps what a base knows, learns rules and no noise."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.training import supervised


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_trains_on_the_market(train, prices, tmp_path):
    """All tickers of the data are the market, unless a file is."""
    train(tmp_path / "universe", feature_groups="market", num_train_epochs=1, report_samples=8, calendar="XNYS")
    universe = TsfLlmProcessor.from_pretrained(tmp_path / "universe").feature_extractor
    assert universe.fitted_with_market
    assert universe.calendar == "XNYS"
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    features = universe.encode(bars, market=bars)[0].features
    assert features[100, [universe.names.index(name) for name in ("market_beta_63", "market_abs_return_21")]].all()
    index = tmp_path / "index.csv"
    bars[bars["ticker"] == "BBB"].to_csv(index, index=False)
    train(tmp_path / "index", feature_groups="market", num_train_epochs=1, market=index)
    other = TsfLlmProcessor.from_pretrained(tmp_path / "index").feature_extractor
    assert other.center != universe.center
    assert other.center["*"][other.names.index("market_dispersion")] == 0.0  # one index has none


@pytest.mark.parametrize("head", ["regression", "quantile", "classification"])
def test_trains_every_head(train, tmp_path, head):
    report = train(tmp_path, head=head, num_train_epochs=1, report_samples=8)
    model = TsfLlmForPrediction.from_pretrained(tmp_path)
    assert (model.config.prediction_type, model.config.prediction_length) == (head, 2)
    assert math.isfinite(report["valid_loss"])
    if head != "classification":
        assert report["after"]["crps"] > 0
    assert (report["after"].get("coverage_80") is not None) == (head == "quantile")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tmp_path / name, seed=seed)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_resumed_equals_uninterrupted(train, tmp_path):
    options = {
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 5,
        "eval_steps": 5,
        "save_total_limit": 9,
    }
    train(tmp_path, **options)
    whole = weights(tmp_path)
    checkpoints = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) >= 3
    (tmp_path / "model.safetensors").unlink()
    train(tmp_path, **options, resume_from_checkpoint=checkpoints[0])
    assert same(weights(tmp_path), whole)


def test_augmented_and_weighted_training_differs_reproduces_and_resumes(train, tmp_path):
    options = {
        "augment": ["crop=0.5", "jitter=0.1"],
        "sample_weights": "recency:90",
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 5,
        "eval_steps": 5,
        "save_total_limit": 9,
    }
    report = train(tmp_path / "a", **options)
    assert report["augment"] == {"jitter": 0.1, "crop": 0.5}
    assert report["sample_weights"] == "recency:90"
    whole = weights(tmp_path / "a")
    plain = train(tmp_path / "plain", **{**options, "augment": "crop=0.001", "sample_weights": "none"})
    assert not same(weights(tmp_path / "plain"), whole)
    assert report["windows"] == plain["windows"]
    train(tmp_path / "a", **options, resume_from_checkpoint=_within(tmp_path / "a", epoch=1))
    assert same(weights(tmp_path / "a"), whole)


def _within(folder, *, epoch):
    """A checkpoint inside an epoch, where the data of the rest of it is still to come."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        reached = json.loads((path / "trainer_state.json").read_text())["epoch"]
        if epoch < reached < epoch + 1:
            return path
    raise AssertionError("no checkpoint lies within the epoch")


def test_an_untrained_model_is_scored_on_a_sample_without_baselines(train, tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "UNTRAINED_ORIGINS", 12)
    report = train(tmp_path, num_train_epochs=1, report_samples=8)
    assert 2 <= report["before"]["n"] <= 12 < report["after"]["n"]
    assert report["before_scored_on"] == f"{report['before']['n']} of {report['after']['n']} origins"
    again = train(tmp_path / "again", model_name_or_path=tmp_path, num_train_epochs=1, report_samples=8)
    assert again["before"]["n"] == again["after"]["n"]  # one that has learned is compared on all


def test_checkpoints_load_as_they_are(base_folder):
    [checkpoint, *_] = base_folder.glob("checkpoint-*")
    TsfLlmForCausalLM.from_pretrained(checkpoint)
    assert TsfLlmProcessor.from_pretrained(checkpoint).fitted_through is not None


def test_fine_tuning_goes_on_from_the_folder_with_its_processor(train, base_folder, tmp_path):
    train(tmp_path, model_name_or_path=base_folder, num_train_epochs=1, learning_rate=1e-5)
    base, more = weights(base_folder), weights(tmp_path)
    assert not same(base, more)
    assert all((base[key] - more[key]).abs().max() < 1e-2 for key in base)
    before, after = (TsfLlmProcessor.from_pretrained(folder) for folder in (base_folder, tmp_path))
    assert before.tokenizer.bin_edges == after.tokenizer.bin_edges


def test_a_fine_tuned_model_forgets_no_date(train, base_folder, tmp_path):
    """Weights that have seen later prices stay marked, and scores on those dates are no test."""
    base = json.loads((base_folder / "report.json").read_text())
    earlier = {"train_through": "2015-10-30", "valid_through": "2015-12-31"}
    more = train(tmp_path, model_name_or_path=base_folder, num_train_epochs=1, **earlier)
    assert base["out_of_sample"] is True
    assert more["out_of_sample"] is False
    assert more["trained_through"] == base["trained_through"] > more["valid_through"]
    assert load_pipeline(tmp_path).model.config.trained_through == base["trained_through"]


def test_one_epoch_moves_every_parameter_and_logs_the_balance_of_the_experts(train, tmp_path):
    train(tmp_path, num_train_epochs=1, save_strategy="steps", eval_strategy="steps", save_steps=1, eval_steps=1)
    steps = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    first, last = weights(steps[0]), weights(steps[-1])
    assert [key for key in first if torch.equal(first[key], last[key])] == []
    state = json.loads((steps[-1] / "trainer_state.json").read_text())
    balances = [entry["aux_loss"] for entry in state["log_history"] if "aux_loss" in entry]
    assert balances
    assert all(0.9 < balance < 2 for balance in balances)


def test_a_ticker_that_is_too_short_is_named_and_left_out(train, prices, make_bars, tmp_path, caplog):
    path = tmp_path / "prices.csv"
    short = [make_bars(22, ticker="SHORT", seed=3), make_bars(5, ticker="FIVE", seed=4)]
    pd.concat([pd.read_csv(prices, parse_dates=["timestamp"]), *short]).to_csv(path, index=False)
    report = train(tmp_path / "out", data=path, num_train_epochs=1)
    assert "skipped SHORT: 22 bars, and a ticker needs 23" in caplog.text
    assert list(report["skipped"]) == ["SHORT", "FIVE"]
    assert report["data"].startswith("prices.csv: AAA, BBB, from")
    pd.concat(short).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"SHORT: 22 bars, .* 23 .*; FIVE: 5 bars"):
        train(tmp_path / "refused", data=path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "quantile"}, ["is a causal_lm model, not quantile", "--head causal_lm"]),
        ({"model_name_or_path": "mixed"}, ["its processor gives", "its model wants", "different trainings"]),
        ({"model_name_or_path": None, "continue_from": "nowhere"}, ["continue_from=nowhere", "no such folder"]),
    ],
)
def test_a_folder_of_another_kind_is_refused(train, base_folder, prices, tmp_path, options, words):
    mixed = tmp_path / "mixed"
    TsfLlmForCausalLM.from_pretrained(base_folder).save_pretrained(mixed)
    other = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["bar"]), TsfLlmTokenizer(n_bins=64))
    other.fit(pd.read_csv(prices, parse_dates=["timestamp"])).save_pretrained(mixed)
    chosen = {"model_name_or_path": base_folder, **options}
    if chosen["model_name_or_path"] == "mixed":
        chosen["model_name_or_path"] = mixed
    with pytest.raises(ValueError, match=r".") as refused:
        train(tmp_path / "out", **chosen)
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_another_horizon_is_for_a_causal_lm_alone(train, base_folder, tmp_path):
    train(tmp_path / "longer", model_name_or_path=base_folder, horizon=3, max_steps=1)
    train(tmp_path / "head", head="regression", max_steps=1)
    with pytest.raises(ValueError, match=r"predicts 2 step\(s\), not 3: add --horizon 2"):
        train(tmp_path / "out", head="regression", model_name_or_path=tmp_path / "head", horizon=3)


def test_the_model_to_start_from_is_not_written_over(train, base_folder):
    before = (base_folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="choose another folder"):
        train(base_folder, model_name_or_path=base_folder)
    assert (base_folder / "model.safetensors").read_bytes() == before


def test_sizes_that_the_data_fix_cannot_be_chosen(train, tmp_path):
    with pytest.raises(ValueError, match="num_features"):
        train(tmp_path, model_config='{"num_features": 3}')
    with pytest.raises(ValueError, match="multiple of 4"):
        train(tmp_path, model_config='{"hidden_size": 15}')


def series_of_signs(flip, *, rows=900, ticker="AAA", seed=0, surprise=0.03):
    """Bars whose next direction follows from the last one: the other (`flip=1`), the same (0) or any (0.5)."""
    rng = np.random.default_rng(seed)
    turned = rng.random(rows) < (flip if flip == 0.5 else abs(flip - surprise))
    signs = np.where(np.cumsum(turned) % 2, -1.0, 1.0)
    close = 50 * np.exp((signs * np.abs(rng.normal(0, 0.01, rows))).cumsum())
    open_ = np.concatenate(([50.0], close[:-1]))
    up, down = np.exp(np.abs(rng.normal(0, 0.003, (2, rows))))
    prices = {"open": open_, "high": np.maximum(open_, close) * up, "low": np.minimum(open_, close) / down}
    times = pd.date_range("2015-01-01", periods=rows, freq="B")
    return pd.DataFrame({"timestamp": times, "ticker": ticker, **prices, "close": close, "volume": 1000.0})


@pytest.fixture
def learn(train, tmp_path):
    """`learn(flip, **options)` -> the report of a training on such a series."""

    def run(flip, **options):
        path = tmp_path / "signs.csv"
        pd.concat([series_of_signs(flip, ticker=t, seed=i) for i, t in enumerate("AB")]).to_csv(path, index=False)
        usual = {"horizon": 1, "stride": 1, "context_length": 8, "feature_groups": "bar", "report_samples": 32}
        usual |= {"per_device_train_batch_size": 64, "learning_rate": 1e-2, "num_train_epochs": 3, "data": path}
        return train(tmp_path / "out", **{**usual, **options})

    return run


@pytest.mark.parametrize("head", ["causal_lm", pytest.param("quantile", marks=pytest.mark.slow)])
def test_a_planted_rule_is_learned(learn, head):
    report = learn(1, head=head)
    low, _ = report["after"]["direction_ci95"]
    assert report["after"]["direction_accuracy"] > low > 0.9
    assert all(words.startswith("better than") for words in report["verdicts"].values())
    assert report["before"]["direction_accuracy"] < low - 0.1  # random weights may know a part of so short a rule


def test_noise_is_not_learned(learn):
    report = learn(0.5)
    low, high = report["after"]["direction_ci95"]
    assert low < 0.5 < high
    assert not any(words.startswith("better than") for words in report["verdicts"].values())


def test_the_weights_go_on_with_a_processor_of_another_frequency(train, base_folder, make_bars, tmp_path):
    """What is fitted is fitted on the new bars before their fence: changing later ones changes no bit of it."""
    hours = make_bars(900, ticker="HHH", freq="h", seed=5)
    later = hours["timestamp"] > hours["timestamp"].iloc[700]
    fences = {f"{part}_through": str(hours["timestamp"].iloc[row]) for part, row in (("train", 700), ("valid", 800))}
    options = {"model_name_or_path": base_folder, "refit_processor": True, "num_train_epochs": 1, **fences}
    for name, bars in (("one", hours), ("two", hours.assign(volume=hours["volume"].where(~later, 5.0)))):
        bars.to_csv(tmp_path / f"{name}.csv", index=False)
        train(tmp_path / name, **options, data=tmp_path / f"{name}.csv")
    old, one, two = (TsfLlmProcessor.from_pretrained(f) for f in (base_folder, tmp_path / "one", tmp_path / "two"))
    assert one.feature_extractor.names == old.feature_extractor.names
    assert (old.feature_extractor.bar_seconds, one.feature_extractor.bar_seconds) == (86400, 3600)
    assert one.tokenizer.bin_edges != old.tokenizer.bin_edges
    assert one.tokenizer.horizons == old.tokenizer.horizons
    assert one.tokenizer.law_edges == two.tokenizer.law_edges
    assert one.feature_extractor.fitted == two.feature_extractor.fitted
    with pytest.raises(ValueError, match="name it with model_name_or_path"):
        train(tmp_path / "none", refit_processor=True)
