"""adapters.py: what an adapter changes and what it must not, alone, merged, mixed, reloaded and while generating."""

import subprocess
import sys

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from packaging.version import Version
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.integrations.peft import MIN_PEFT_VERSION

from tsf_llm.modeling_tsf_llm import TsfLlmBatchNorm, TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.products_tsf_llm import TsfLlmLinear
from tsf_llm.training import adapters
from tsf_llm.training.adapters import LoraArguments, adapter_name, attach, lora_config, merged, mixed
from tsf_llm.training.arguments import DataArguments
from tsf_llm.training.data import TrainingData
from tsf_llm.training.models import load_model
from tsf_llm.versions_tsf_llm import CACHE

NAMES = ["A", "BRK-B", "^GSPC"]  # each a trap: a part of `lora_A`, a dash, a sign of regular expressions
swapped_by_transformers = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"this release of transformers itself swaps adapters of peft {MIN_PEFT_VERSION} or later alone",
)


@torch.no_grad()
def logits(model, batch, **kwargs):
    return model(**batch, **kwargs).logits


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@swapped_by_transformers
def test_reloaded_equals_saved_by_peft_and_by_transformers(tiny_model, tiny_batch, make_adapter, close):
    batch, folder = tiny_batch(), make_adapter("AAPL")
    by_peft = PeftModel.from_pretrained(tiny_model(), folder).eval()
    native = tiny_model()
    loading = native.load_adapter(str(folder), adapter_name="AAPL")
    assert not loading.missing_keys
    assert not loading.unexpected_keys
    native.set_adapter("AAPL")
    close(logits(native, batch), logits(by_peft, batch))
    native.disable_adapters()
    base = logits(tiny_model(), batch)
    assert torch.equal(logits(native, batch), base)
    native.enable_adapters()
    assert not torch.allclose(logits(native, batch), base, atol=1e-2)


@swapped_by_transformers
def test_transformers_swaps_adapters_that_it_loaded_one_after_the_other(tiny_model, tiny_batch, make_adapter):
    """Its load report calls the first one's weights missing and newly initialized. They are neither."""
    folders, batch = [make_adapter(name, seed=i) for i, name in enumerate(NAMES)], tiny_batch()
    model = tiny_model()
    for name, folder in zip(NAMES, folders, strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    for name, folder in zip(NAMES, folders, strict=True):
        model.set_adapter(name)
        assert torch.equal(logits(model, batch), logits(attach(tiny_model(), folder), batch))


def test_base_is_unchanged_to_the_bit_with_adapters_off_and_after_unloading(tiny_model, tiny_batch, make_adapter):
    base, batch = tiny_model(), tiny_batch()
    before, answer = state(base), logits(base, batch)
    model = attach(base, make_adapter("AAPL"))
    assert not torch.equal(logits(model, batch), answer)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), answer)
    model.merge_adapter()
    model.unmerge_adapter()
    back = attach(tiny_model(), make_adapter("IBM")).unload()
    assert same(state(back), before)
    assert torch.equal(logits(back, batch), answer)


@pytest.mark.parametrize(
    "args", [LoraArguments(r=2), LoraArguments(r=2, target_experts=True)], ids=["linear", "fused"]
)
def test_merged_equals_unmerged(tiny_model, tiny_batch, make_adapter, close, args):
    model, batch = attach(tiny_model(), make_adapter("AAPL", args=args)), tiny_batch()
    plain = merged(model)
    assert type(plain) is TsfLlmForCausalLM
    assert type(plain.model.layers[0].self_attn.kv_b_proj) is TsfLlmLinear  # the absorbed decoding is back
    close(logits(plain, batch), logits(model, batch))
    assert any("lora_" in name for name, _ in model.named_parameters())  # a copy was merged


@pytest.mark.parametrize("attention_type", ["mla", "gqa"])
def test_mixed_batch_equals_one_by_one(tiny_model, tiny_batch, make_adapter, close, attention_type):
    options = {"attention_type": attention_type}
    folders = [make_adapter(name, seed=i, **options) for i, name in enumerate(NAMES)]
    model, batch = mixed(tiny_model(**options), folders), tiny_batch(rows=4)
    names = [NAMES[2], "__base__", NAMES[0], NAMES[1]]
    together = logits(model, batch, adapter_names=names)
    for row, name in enumerate(names):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        own = tiny_model(**options)
        if name != "__base__":
            own = attach(own, folders[NAMES.index(name)])
        close(together[row], logits(own, alone)[0])
    assert not torch.allclose(together[2], logits(tiny_model(**options), batch)[2], atol=1e-2)


def test_hot_swapped_equals_loaded_alone(tiny_model, tiny_batch, make_adapter):
    folders, batch = [make_adapter(name, seed=i) for i, name in enumerate(NAMES)], tiny_batch()
    model = mixed(tiny_model(), folders)
    for name, folder in reversed(list(zip(NAMES, folders, strict=True))):
        model.set_adapter(name)
        assert torch.equal(logits(model, batch), logits(attach(tiny_model(), folder), batch))


def test_generates_with_a_mix_as_one_by_one(tiny_model, tiny_batch, make_adapter):
    folders = [make_adapter(name, seed=i) for i, name in enumerate(NAMES[:2])]
    model, batch = mixed(tiny_model(), folders), tiny_batch(tokens=0, rows=2)
    together = model.generate(**batch, adapter_names=NAMES[:2], max_new_tokens=4, do_sample=False)
    for row, folder in enumerate(folders):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        own = attach(tiny_model(), folder).generate(**alone, max_new_tokens=4, do_sample=False)
        assert together[row].tolist() == own[0].tolist()


def test_cached_decoding_equals_uncached_with_an_adapter(tiny_model, tiny_batch, make_adapter, close):
    """Token by token on the cache, the same tokens given: the wrapped projection must not be bypassed."""
    model, batch = attach(tiny_model(), make_adapter("AAPL")), tiny_batch(tokens=4, padding=0)
    whole = logits(model, batch)
    bars = {key: value[:, :6] for key, value in batch.items()}
    with torch.no_grad():
        out = model(**bars, use_cache=True)
        steps = [out.logits[:, -1]]
        for step in range(6, 9):
            token = batch["input_ids"][:, step : step + 1]
            mask = batch["attention_mask"][:, : step + 1]
            out = model(input_ids=token, attention_mask=mask, past_key_values=out[CACHE], use_cache=True)
            steps.append(out.logits[:, -1])
    close(torch.stack(steps, 1), whole[:, 5:9])


def test_fused_experts_are_refused_in_a_mix(tiny_model, tiny_batch, make_adapter):
    fused = make_adapter("IBM", args=LoraArguments(r=2, target_experts=True))
    with pytest.raises(ValueError, match=r"IBM: trained with target_experts.*cannot be mixed"):
        mixed(tiny_model(), [make_adapter("AAPL"), fused])
    with pytest.raises(ValueError, match="each of another name"):
        mixed(tiny_model(), [fused, fused])


def test_targets_every_linear_layer_but_none_of_the_front_end(tiny_model):
    config = lora_config(
        tiny_model(use_t2t=True, t2t_hidden_size=8, t2t_patch_size=2, t2t_patch_overlap=1), LoraArguments()
    )
    model = tiny_model(use_t2t=True, t2t_hidden_size=8, t2t_patch_size=2, t2t_patch_overlap=1)
    wrapped = {name for name, _ in get_peft_model(model, config).named_parameters() if "lora_A" in name}
    assert len(wrapped) == sum(
        isinstance(one, nn.Linear) and "front_end" not in name
        for name, one in tiny_model(
            use_t2t=True, t2t_hidden_size=8, t2t_patch_size=2, t2t_patch_overlap=1
        ).named_modules()
    )
    assert {"lm_head", "input_projection", "kv_b_proj"} <= set(config.target_modules)
    assert config.target_parameters is None


def test_a_tied_head_is_left_alone(tiny_model):
    assert "lm_head" not in lora_config(tiny_model(tie_word_embeddings=True), LoraArguments()).target_modules


def test_heads_get_an_adapter_too(tiny_model, tiny_batch, make_adapter, close):
    options = {"cls": TsfLlmForPrediction, "prediction_type": "quantile"}
    folder = make_adapter("AAPL", **options)
    model, batch = attach(tiny_model(**options), folder), tiny_batch(tokens=0)
    inputs = {key: batch[key] for key in ("past_values", "attention_mask")}
    assert "head" in model.peft_config["default"].target_modules
    close(logits(merged(model), inputs), logits(model, inputs))
    assert not torch.allclose(logits(model, inputs), logits(tiny_model(**options), inputs), atol=1e-3)


def test_running_statistics_stay_while_frozen(tiny_model, tiny_batch):
    model = tiny_model(norm_type="batch_norm").train()
    before = state(model)
    with adapters.frozen(model):
        model(**tiny_batch())
    assert same(state(model), before)
    model(**tiny_batch())
    assert not same(state(model), before)
    assert {norm.momentum for norm in model.modules() if isinstance(norm, TsfLlmBatchNorm)} == {0.1}


def test_names_are_safe_for_torch_and_file_systems():
    assert [adapter_name(one) for one in ("AAPL", "BRK.B", "BTC/USD", "^GSPC", "EURUSD=X", "../x", "New York")] == [
        "AAPL",
        "BRK-B",
        "BTC-USD",
        "^GSPC",
        "EURUSD=X",
        "---x",
        "New-York",
    ]


@pytest.mark.parametrize(
    "wrong", [{"r": 0}, {"lora_alpha": 0}, {"lora_dropout": 1.0}], ids=["rank", "alpha", "dropout"]
)
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoraArguments(**wrong)


def test_an_unknown_target_is_refused_with_those_there_are(tiny_model):
    with pytest.raises(ValueError, match=r"q_prj.*kv_b_proj"):
        lora_config(tiny_model(), LoraArguments(target_modules=["q_proj", "q_prj"]))


def test_an_adapter_of_another_shape_is_refused(tiny_model, make_adapter):
    with pytest.raises(ValueError, match=r"AAPL does not fit the base: size mismatch"):
        attach(tiny_model(hidden_size=48), make_adapter("AAPL"))


# Fences and scalers


@pytest.fixture
def data(prices, base_folder):
    """`data(**arguments)` -> the prices with the processor of the small base."""

    def read(**options):
        args = DataArguments(**{"data": str(prices), "horizon": 2, "stride": 2, "report_samples": 8, **options})
        base = load_model(base_folder)
        return TrainingData.read(args, str(base_folder), base.config).with_fences_of(base.config), base

    return read


def test_fences_are_the_bases_own_while_the_bars_reach_beyond(data, prices, tmp_path):
    mine, base = data()
    assert str(mine.split.valid_through.date()) == base.config.trained_through
    assert str(mine.split.train_through.date()) == mine.processor.fitted_through
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    bars["timestamp"] += pd.Timedelta(days=3650)
    bars.to_csv(tmp_path / "later.csv", index=False)
    later, _ = data(data=str(tmp_path / "later.csv"))
    assert later.split.train_through.year == mine.split.train_through.year + 10  # 80 percent of these bars
    chosen, _ = data(train_through="2015-10-30", valid_through="2015-12-31")
    assert str(chosen.split.valid_through.date()) == "2015-12-31"


def test_own_scalers_stand_beside_the_common_ones_and_see_training_dates_alone(data):
    everything, _ = data(per_ticker=True)
    mine = adapters.for_ticker(everything, "BBB")
    own = adapters.with_own_scalers(mine, "BBB").processor
    common, fitted = mine.processor.feature_extractor, own.feature_extractor
    assert fitted.center["*"] == common.center["*"]
    assert fitted.center["BBB"] != common.center["*"]
    assert own.tokenizer.bin_edges == mine.processor.tokenizer.bin_edges
    assert own.fitted_through == mine.processor.fitted_through
    later = mine.bars["timestamp"] > mine.split.train_through
    changed = mine.bars.copy()
    changed.loc[later, ["open", "high", "low", "close"]] *= np.linspace(1, 3, later.sum())[:, None]
    other = adapters.with_own_scalers(adapters.dataclasses.replace(mine, bars=changed), "BBB").processor
    assert other.feature_extractor.center == fitted.center
    bars = mine.bars[mine.bars["timestamp"] <= mine.split.train_through]
    values = {
        name: pipe.feature_extractor.encode(bars)[0].features
        for name, pipe in (("own", own), ("base", mine.processor))
    }
    assert abs(np.median(values["own"], axis=0)).max() < abs(np.median(values["base"], axis=0)).max()


def test_own_scalers_survive_saving(data, tmp_path):
    everything, _ = data()
    own = adapters.with_own_scalers(adapters.for_ticker(everything, "AAA"), "AAA").processor
    own.save_pretrained(tmp_path)
    again = TsfLlmProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.center == own.feature_extractor.center
    assert again.feature_extractor.per_ticker is True


def test_validation_looks_at_no_outcome_behind_its_fence(data):
    everything, base = data()
    mine = adapters.for_ticker(everything, "AAA")
    result = adapters.validation(mine, base)
    stamps = mine.bars["timestamp"]
    last = stamps[stamps <= mine.split.valid_through].iloc[-1]
    outcome = [stamps[stamps > origin].iloc[1] for origin in result.origin]  # two bars ahead
    assert max(outcome) <= last
    assert pd.Timestamp(result.origin.min()) > mine.split.train_through
    changed = mine.bars.copy()
    changed.loc[stamps > mine.split.valid_through, "close"] *= 1.5
    series = mine.processor.feature_extractor.encode(changed)
    other = adapters.validation(adapters.dataclasses.replace(mine, bars=changed, series=series), base)
    assert np.array_equal(other.steps[-1]["model"].quantiles, result.steps[-1]["model"].quantiles)


def test_a_wrong_horizon_or_ticker_is_refused(data, tiny_model, base_folder):
    everything, _ = data()
    with pytest.raises(ValueError, match=r"no ticker 'ZZZ'.*AAA, BBB"):
        adapters.for_ticker(everything, "ZZZ")
    config = tiny_model(TsfLlmForPrediction).config
    config.architectures = ["TsfLlmForPrediction"]
    with pytest.raises(ValueError, match=r"horizon=5, but .* answers for 3 bar\(s\)"):
        TrainingData.read(DataArguments(horizon=5), str(base_folder), config)


def test_an_adapter_loads_in_a_fresh_process_by_peft_alone(base_folder, tmp_path):
    """With remote code and `AutoModel`, from the path that the adapter names."""
    base = load_model(base_folder)
    config = lora_config(base, LoraArguments(r=2))
    config.init_lora_weights = False
    model = get_peft_model(base, config)
    about = {
        "ticker": "AAA",
        "data": "d",
        "train_through": "a",
        "valid_through": "b",
        "trained_through": "c",
        "horizon": 2,
    }
    processor = TsfLlmProcessor.from_pretrained(base_folder)
    adapters.save_adapter(model, processor, tmp_path / "AAA", about, base_model=str(base_folder))
    card = (tmp_path / "AAA" / "README.md").read_text()
    assert "base_model:" not in card  # the card is for the Hub, the path is not
    assert str(base_folder) not in card
    assert "# AAA\n" in card
    assert "tsf-llm forecast --model FOLDER --data prices.csv --horizon 2 --out forecast.csv" in card
    code = (
        "import sys; from peft import AutoPeftModelForCausalLM; from transformers import AutoProcessor\n"
        f"model = AutoPeftModelForCausalLM.from_pretrained({str(tmp_path / 'AAA')!r}, trust_remote_code=True)\n"
        f"AutoProcessor.from_pretrained({str(tmp_path / 'AAA')!r}, trust_remote_code=True)\n"
        "assert 'tsf_llm.modeling_tsf_llm' not in sys.modules\n"
        "print(float(sum(w.double().sum() for w in model.merge_and_unload().state_dict().values())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    expected = sum(w.double().sum() for w in merged(model).state_dict().values())
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(float(expected), rel=1e-6)
