"""lora.py: what it leaves, that it starts from the same base and seed, resumes, and how it refuses."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModel

from tsf_llm.common.errors import one_line_errors
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.train_scripts import lora
from tsf_llm.training import adapters


@pytest.fixture(scope="module")
def adapt(prices, base_folder, command_line):
    """`adapt(output_dir, **options)` -> the report of a small `lora` run on `prices`."""
    usual = {"model_name_or_path": base_folder, "data": prices, "horizon": 2, "stride": 2, "report_samples": 8, "r": 2}
    usual |= {"num_train_epochs": 2, "per_device_train_batch_size": 32, "learning_rate": 0.01, "disable_tqdm": True}

    def run(output_dir, **options):
        return lora.main(*lora.parse(command_line(**{**usual, "output_dir": output_dir, **options})))

    return run


@pytest.fixture(scope="module")
def both(adapt, tmp_path_factory):
    """Folder and report of adapters of both tickers. Read only."""
    folder = tmp_path_factory.mktemp("both")
    return folder, adapt(folder)


def weights(folder, name="adapter_model.safetensors"):
    return load_file(folder / name)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_leaves_the_base_an_adapter_per_ticker_and_a_report(both, base_folder):
    folder, report = both
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    assert same(weights(folder, "model.safetensors"), weights(base_folder, "model.safetensors"))
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__ == "TsfLlmModel"
    for part in [report, *report["tickers"].values()]:
        assert part["before"]["crps"] != part["after"]["crps"] > 0
        assert 0 <= part["after"]["coverage_80"] <= 1
        assert part["ci95"][0] < part["difference"] < part["ci95"][1]
        assert "the base (CRPS" in part["verdict"]
        assert part["after"]["crps"] - part["before"]["crps"] == pytest.approx(part["difference"])
    assert list(report["tickers"]) == ["AAA", "BBB"]
    assert report["after"]["n"] == sum(one["after"]["n"] for one in report["tickers"].values())
    assert set(report["baselines"]) == {"random_walk", "drift", "historical_volatility_20"}
    assert report["out_of_sample"] is True
    for ticker in ("AAA", "BBB"):
        facts = json.loads((folder / ticker / "adapter.json").read_text())
        assert facts["trained_through"] == report["valid_through"]
        assert TsfLlmProcessor.from_pretrained(folder / ticker).fitted_through == report["train_through"]
        assert not [path for path in (folder / ticker).iterdir() if path.suffix in (".bin", ".pt", ".pth")]
        assert load_pipeline(folder / ticker).model.config.trained_through == report["valid_through"]
    assert not same(weights(folder / "AAA"), weights(folder / "BBB"))
    tensors = weights(folder / "AAA")
    assert all("lora_" in name for name in tensors)
    assert all(tensor.abs().sum() > 0 for tensor in tensors.values())  # every adapter has learned


def test_an_adapter_does_not_depend_on_its_neighbours(both, adapt, tmp_path):
    adapt(tmp_path, tickers="BBB", report_samples=0)
    assert same(weights(tmp_path / "BBB"), weights(both[0] / "BBB"))
    assert not (tmp_path / "AAA").exists()
    assert json.loads((tmp_path / "report.json").read_text())["before"] == {}
    adapt(tmp_path / "other", tickers="BBB", report_samples=0, seed=1)
    assert not same(weights(tmp_path / "other" / "BBB"), weights(both[0] / "BBB"))


def test_a_ticker_sees_its_own_training_dates_alone(both, adapt, prices, tmp_path):
    """Other bars of the other ticker, and other bars after the validation dates, change nothing."""
    import pandas as pd

    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    columns = ["open", "high", "low", "close"]
    bars.loc[bars["ticker"] == "AAA", columns] *= 3
    bars.loc[bars["timestamp"] > pd.Timestamp(both[1]["valid_through"]) + pd.Timedelta(days=1), columns] *= 2
    bars.to_csv(tmp_path / "other.csv", index=False)
    adapt(tmp_path / "out", tickers="BBB", data=tmp_path / "other.csv", report_samples=0)
    assert same(weights(tmp_path / "out" / "BBB"), weights(both[0] / "BBB"))


def test_resumed_equals_uninterrupted_and_keeps_what_is_finished(both, adapt, tmp_path):
    steps = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4}
    steps |= {"save_total_limit": 9, "report_samples": 0}
    adapt(tmp_path, **steps)
    whole, finished = weights(tmp_path / "BBB"), (tmp_path / "AAA" / "adapter_model.safetensors").stat()
    shutil.rmtree(tmp_path / "BBB")
    checkpoints = sorted((tmp_path / "checkpoints" / "BBB").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert len(checkpoints) >= 3
    for later in checkpoints[1:]:
        shutil.rmtree(later)
    report = adapt(tmp_path, **steps, resume_from_checkpoint="true")
    assert same(weights(tmp_path / "BBB"), whole)
    assert (tmp_path / "AAA" / "adapter_model.safetensors").stat().st_mtime_ns == finished.st_mtime_ns
    assert report["tickers"]["AAA"]["steps"] == report["tickers"]["BBB"]["steps"] > 4
    adapt(tmp_path, **steps, resume_from_checkpoint="true", r=3)  # another run: nothing of the old one fits it
    assert LoraConfig.from_pretrained(tmp_path / "AAA").r == 3


def test_scores_of_a_resumed_run_are_those_of_the_first(both, adapt, tmp_path):
    shutil.copytree(both[0], tmp_path / "copy")
    again = adapt(tmp_path / "copy", resume_from_checkpoint="true")
    for key in ("before", "after", "difference", "verdict"):
        assert again[key] == both[1][key]


def test_the_base_is_trained_first_on_all_tickers(adapt, prices, small_model, tmp_path):
    config = tmp_path / "base.yaml"
    config.write_text(
        "context_length: 16\nstride: 4\nn_bins: 32\nnum_train_epochs: 1\ndisable_tqdm: true\n"
        f"model_config: {small_model}\n"
    )
    report = adapt(tmp_path / "out", model_name_or_path=None, base_config=config, tickers="BBB", num_train_epochs=1)
    base = json.loads((tmp_path / "out" / "base" / "report.json").read_text())
    assert "AAA, BBB" in base["data"]
    assert [report[key] == base[key] for key in ("train_through", "valid_through")] == [True, True]
    assert list(report["tickers"]) == ["BBB"]


def test_scalers_of_the_ticker_are_saved_with_it(adapt, tmp_path):
    adapt(tmp_path, tickers="AAA", per_ticker="true", report_samples=0, num_train_epochs=1)
    own, common = (
        TsfLlmProcessor.from_pretrained(folder).feature_extractor for folder in (tmp_path / "AAA", tmp_path)
    )
    assert own.center["AAA"] != own.center["*"] == common.center["*"]
    assert load_pipeline(tmp_path / "AAA").processor.feature_extractor.center == own.center


def test_fused_experts_are_adapted_on_request(adapt, both, tmp_path):
    adapt(tmp_path, tickers="AAA", target_experts="true", report_samples=0, num_train_epochs=1)
    assert any(".experts." in name for name in weights(tmp_path / "AAA"))
    assert not any(".experts." in name for name in weights(both[0] / "AAA"))
    assert isinstance(load_pipeline(tmp_path / "AAA").model, TsfLlmForCausalLM)


def test_one_adapter_for_all_tickers_together(adapt, tmp_path):
    report = adapt(tmp_path, together="shop", num_train_epochs=1)
    assert list(report["tickers"]) == ["shop"]
    assert json.loads((tmp_path / "shop" / "adapter.json").read_text())["ticker"] == "shop"
    assert not (tmp_path / "AAA").exists()
    alone = adapt(tmp_path / "alone", tickers="AAA", num_train_epochs=1)["tickers"]["AAA"]
    assert report["tickers"]["shop"]["windows"]["train"] == 2 * alone["windows"]["train"]
    assert report["after"]["n"] == 2 * alone["after"]["n"]
    with pytest.raises(ValueError, match="leave per_ticker out"):
        adapt(tmp_path / "refused", together="shop", per_ticker="true")


@pytest.mark.parametrize("head", ["quantile", pytest.param("regression", marks=pytest.mark.slow)])
def test_heads_get_adapters(adapt, train, tmp_path, head):
    train(tmp_path / "base", head=head, num_train_epochs=1)
    report = adapt(tmp_path / "out", model_name_or_path=tmp_path / "base", tickers="AAA", num_train_epochs=1)
    assert report["before"]["crps"] != report["after"]["crps"]
    assert load_pipeline(tmp_path / "out" / "AAA").model.config.prediction_type == head
    with pytest.raises(ValueError, match=r"horizon=5.*2 bar"):
        adapt(tmp_path / "wrong", model_name_or_path=tmp_path / "base", horizon=5)


def test_batch_norm_of_the_base_keeps_its_statistics(adapt, train, small_model, tmp_path):
    fields = json.dumps({**json.loads(small_model), "norm_type": "batch_norm"})
    train(tmp_path / "base", num_train_epochs=1, model_config=fields)
    adapt(tmp_path / "out", model_name_or_path=tmp_path / "base", report_samples=0, num_train_epochs=1)
    assert same(*(weights(tmp_path / name, "model.safetensors") for name in ("base", "out")))
    digests = {json.loads((tmp_path / "out" / t / "adapter.json").read_text())["base_digest"] for t in ("AAA", "BBB")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tickers": "ZZZ"}, ["ZZZ", "AAA"]),
        ({"r": 0}, ["r=0"]),
        ({"target_modules": "nothing"}, ["nothing", "q_proj"]),
        ({"train_through": "2015-02-10", "valid_through": "2015-02-12"}, ["AAA", "window"]),
        ({"model_name_or_path": None}, ["base_config"]),
        ({"model_name_or_path": "nowhere"}, ["nowhere"]),
        ({"model_name_or_path": "{adapter}"}, ["is an adapter"]),
        ({"resume_from_checkpoint": "some/checkpoint-4"}, ["give true"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(adapt, both, tmp_path, capsys, options, words):
    options = {key: str(both[0] / "AAA") if value == "{adapter}" else value for key, value in options.items()}
    with pytest.raises(SystemExit, match="2"), one_line_errors("lora"):
        adapt(tmp_path / "out", **options)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lora: error: ")
    assert all(word in error for word in words), error
    assert not list((tmp_path / "out").glob("*/adapter_config.json"))


def test_a_ticker_too_short_and_names_that_collide_are_refused(adapt, make_bars, prices, tmp_path):
    import pandas as pd

    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    late = make_bars(60, ticker="NEW", start=str(bars["timestamp"].max() - pd.Timedelta(days=90)))
    pd.concat([bars, late]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(ValueError, match="NEW"):
        adapt(tmp_path / "out", data=tmp_path / "new.csv", tickers="NEW")
    with pytest.raises(ValueError, match=r"folder B-A is wanted twice"):
        adapters.folders_of(["B.A", "B-A"], tmp_path)
    with pytest.raises(ValueError, match=r"folder base is wanted twice"):
        adapters.folders_of(["base"], tmp_path)


def test_the_shipped_configs_are_complete(command_line):
    for name in ("debug_lora.yaml", "lora.yaml"):
        path = lora.Path(lora.__file__).parent / "configs" / name
        data, base, adapter, training = lora.parse(["--config", str(path), "--model_name_or_path", "base"])
        assert (data.data, base.model_name_or_path, training.report_to) == ("sample", "base", [])
        assert adapter.r > 0


@pytest.mark.slow
def test_the_debug_config_on_the_sample(tmp_path):
    path = lora.Path(lora.__file__).parent / "configs" / "debug_lora.yaml"
    report = lora.main(*lora.parse(["--config", str(path), "--output_dir", str(tmp_path)]))
    assert list(report["tickers"]) == ["AAPL", "IBM"]
    assert 0 < report["after"]["crps"] < 0.1
    assert 0.5 < report["after"]["coverage_80"] <= 1
