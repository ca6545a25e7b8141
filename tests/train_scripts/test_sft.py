"""sft.py: what it writes, how its words are read, that a killed run resumes, and how it refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.common.errors import one_line_errors
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.train_scripts import sft


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_leaves_a_model_its_processor_and_a_report(train, tmp_path):
    report = train(tmp_path, report_samples=16)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    for part in ("before", "after"):
        assert 0 < report[part]["crps"] < 1
        assert 0 <= report[part]["coverage_80"] <= 1
    assert report["before"]["crps"] != report["after"]["crps"]
    assert set(report["baselines"]) == set(report["verdicts"]) == {"random_walk", "drift", "historical_volatility_20"}
    assert report["train_through"] < report["valid_through"]
    assert not list(tmp_path.glob("*.bin"))  # nothing pickled beside the weights
    pipe = load_pipeline(tmp_path)
    assert isinstance(pipe.model, TsfLlmForCausalLM)
    assert pipe.model.config.trained_through == report["valid_through"]
    assert pipe.processor.fitted_through == report["train_through"]
    assert (tmp_path / "loss.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "nowhere.csv"}, ["nowhere.csv", "does not exist"]),
        ({"train_through": "2030-01-01"}, ["must increase", "inside the data"]),
        ({"model_config": '{"hidden_sise": 3}'}, ["hidden_sise", "TsfLlmConfig"]),
        ({"horizon": 500}, ["AAA: 400 bars", "needs 521", "more history"]),
        ({"tickers": "ZZZ"}, ["ZZZ", "AAA"]),
        ({"feature_groups": "magic"}, ["magic", "returns"]),
        ({"n_bins": 7}, ["n_bins=7"]),
        ({"augment": "blur=2"}, ["blur", "jitter"]),
        ({"sample_weights": "recency"}, ["half-life", "recency:365"]),
        ({"learning_rate": 0}, ["learning_rate=0.0", "above 0"]),
        ({"learning_rate": -1e-3}, ["learning_rate=-0.001", "above 0"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(train, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        train(tmp_path / "out", **options)
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_an_empty_file_is_refused(train, prices, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text(prices.read_text().partition("\n")[0] + "\n")
    with pytest.raises(ValueError, match=r"empty\.csv has no rows"):
        train(tmp_path / "out", data=empty)


def test_killed_and_resumed_equals_uninterrupted(train, prices, small_model, command_line, tmp_path):
    """SIGKILL in the middle of training, with dropout, whose random state must come back too."""
    fields = json.dumps({**json.loads(small_model), "hidden_dropout": 0.2})
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4, "max_steps": 40}
    options |= {"model_config": fields, "num_train_epochs": None, "learning_rate": 1e-4}
    options |= {"early_stopping_patience": 0, "disable_tqdm": None}
    usual = {"data": prices, "context_length": 16, "horizon": 2, "stride": 2, "n_bins": 32, "report_samples": 0}
    usual |= {"per_device_train_batch_size": 32, "logging_steps": 2}
    words = command_line(**{**usual, **options, "output_dir": tmp_path / "killed"})
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "-m", "tsf_llm.train_scripts.sft", *words], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "killed").glob("checkpoint-*/trainer_state.json")):
                assert run.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert "step 4 of 40" in (tmp_path / "log").read_text()  # a line per validation where there is no terminal
    reached = max(int(path.name.split("-")[1]) for path in (tmp_path / "killed").glob("checkpoint-*"))
    assert reached < 40
    train(tmp_path / "killed", **options, resume_from_checkpoint="true")
    train(tmp_path / "whole", **options)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_a_wrong_word_ends_in_one_line_and_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors("sft"):
        sft.main(*sft.parse(["--learning_rate", "0", "--output_dir", str(tmp_path / "out")]))
    assert capsys.readouterr().err.startswith("sft: error: learning_rate=0.0: must be above 0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["debug_sft", "quickstart", "5m", "27m"])
def test_shipped_configs_are_understood_without_a_gpu(name, tmp_path):
    path = Path(sft.__file__).parent / "configs" / f"{name}.yaml"
    data, model, training = sft.parse(["--config", str(path), "--output_dir", str(tmp_path)])
    assert model.model_config
    assert data.horizon == 5
    assert training.probe_bf16 == (name in ("5m", "27m"))


@pytest.mark.parametrize("name", ["5m", "27m"])
def test_shipped_configs_show_some_400_thousand_bars_and_validate_often(name, tmp_path):
    path = Path(sft.__file__).parent / "configs" / f"{name}.yaml"
    data, _, training = sft.parse(["--config", str(path), "--output_dir", str(tmp_path)])
    assert training.max_steps * training.per_device_train_batch_size * data.context_length == 409_600
    assert training.max_steps / training.eval_steps >= 8


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        sft.parse(["--help"])
    text = capsys.readouterr().out
    assert "    python -m tsf_llm.train_scripts.sft --config train_scripts/configs/debug_sft.yaml --output_dir" in text
    assert "--continue_from outputs/27m --data prices.parquet --replay 0.3" in text
    assert text.index("Go on after a crash") < text.index("--learning_rate LEARNING_RATE")


def test_unknown_keys_fail(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("learning_rat: 0.1\n")
    with pytest.raises(ValueError, match=r"config.yaml: unknown: learning_rat; did you mean --learning_rate\?"):
        sft.parse(["--config", str(config)])
    with pytest.raises(SystemExit, match="2"):
        sft.parse(["--learning_rate", "fast"])
    assert "fast" in capsys.readouterr().err.splitlines()[-1]


def test_yaml_and_command_line_meet(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("horizon: 7\nlearning_rate: 5.0e-4\nmodel_config:\n  hidden_size: 24\n")
    data, model, training = sft.parse(["--config", str(config), "--horizon", "9"])
    assert (data.horizon, training.learning_rate, model.model_config) == (9, 5e-4, {"hidden_size": 24})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("horizon: [1, 2]", "horizon: invalid int value"),
        ("horizon: 2.5", "horizon: invalid int value"),
        ("horizon: abc", "invalid int value"),
        ("horizon:", "horizon is empty"),
        ("learning_rate: [1]", "learning_rate: invalid float value"),
        ("learning_rate: fast", "invalid float value"),
    ],
)
def test_a_yaml_file_is_read_as_strictly_as_a_command_line(tmp_path, capsys, text, told):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        sft.parse(["--config", str(config)])
    assert told in capsys.readouterr().err


def test_dates_names_and_switches_of_a_yaml_file_are_what_they_look_like(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("train_through: 2019-12-31\ntickers: [AAA, 600000]\nresume_from_checkpoint: true\n")
    data_args, _, training_args = sft.parse(["--config", str(config), "--output_dir", str(tmp_path)])
    assert (data_args.train_through, data_args.tickers) == ("2019-12-31", ["AAA", "600000"])
    assert training_args.checkpoint_to_resume() is None  # there is none yet
    config.write_text("tickers: AAA")
    assert sft.parse(["--config", str(config)])[0].tickers == ["AAA"]
