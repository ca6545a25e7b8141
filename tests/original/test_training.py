"""training.py: training on the published sequences finds their leak and says so, and what is refused."""

import json

import pytest

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.original import training as sequences
from tsf_llm.original_features_tsf_llm import OriginalFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.train_scripts import sft


@pytest.fixture
def train(folder, small_model, command_line):
    """`train(output_dir, **options)` -> the report."""

    def run(output_dir, **options):
        chosen = {"data": folder, "head": "regression", "output_dir": output_dir, "num_train_epochs": 3}
        chosen |= {"disable_tqdm": True, "model_config": small_model, "learning_rate": 5e-3, **options}
        return sft.main(*sft.parse(command_line(**chosen)))

    return run


def test_training_finds_the_leak_and_says_so(train, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sequences.logger, "warning", said.append)
    report = train(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "future_return_10d" in said[0]
    assert said[0] == report["leak"]
    assert "training median" in report["direction_about"]
    before, after, ridge = report["before"], report["after"], report["baselines"]["ridge"]
    assert after["mse"] < 0.9 * before["mse"]
    assert ridge["mse"] < 0.7 * ridge["mse_constant_0"]
    assert ridge["direction_accuracy"] > 0.7 > ridge["direction_base_rate"]
    assert report["baselines"]["constant_0"]["mse"] == after["mse_constant_0"]
    assert report["baselines"]["constant_0"]["direction_accuracy"] is None
    assert "future returns" in TsfLlmForPrediction.from_pretrained(tmp_path).config.trained_on
    assert isinstance(TsfLlmProcessor.from_pretrained(tmp_path).feature_extractor, OriginalFeatureExtractor)
    assert (tmp_path / "loss.png").exists()
    assert not list(tmp_path.glob("*.bin"))


def test_fine_tunes_a_folder_with_or_without_its_processor(train, folder, tmp_path, tiny_model):
    base = tmp_path / "base"
    vocabulary = {"vocab_size": 258, "pad_token_id": 256, "bar_token_id": 257}
    tiny_model(TsfLlmForPrediction, num_features=64, prediction_length=1, **vocabulary).save_pretrained(base)
    train(tmp_path / "once", model_name_or_path=base, num_train_epochs=1)
    processor = TsfLlmProcessor.from_pretrained(tmp_path / "once")
    processor.fit(read_bars("sample", ["IBM"])).save_pretrained(tmp_path / "once")
    train(tmp_path / "twice", model_name_or_path=tmp_path / "once", num_train_epochs=1)
    again = TsfLlmProcessor.from_pretrained(tmp_path / "twice").feature_extractor
    assert again.target_scale == processor.feature_extractor.target_scale


def test_what_cannot_train_on_them_is_refused(train, tmp_path, tiny_model):
    with pytest.raises(ValueError, match="--head regression"):
        train(tmp_path / "out", head="causal_lm")
    tiny_model(TsfLlmForPrediction).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="64 inputs and one number"):
        train(tmp_path / "out", model_name_or_path=tmp_path / "other")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [{"augment": "jitter=0.1"}, {"context_dropout": 0.3}, {"sample_weights": "volatility"}]
)
def test_options_of_windows_are_refused(train, tmp_path, option):
    with pytest.raises(ValueError, match="leave them out"):
        train(tmp_path / "out", **option)
