"""loading.py: a model, or base and adapter, becomes a pipeline; what is missing, moved or does not match is named."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel, get_peft_model

from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.products_tsf_llm import TsfLlmLinear
from tsf_llm.serving.loading import find_base, find_model, is_adapter, load_pipeline
from tsf_llm.training.adapters import LoraArguments, lora_config, save_adapter
from tsf_llm.training.models import digest, load_model


@pytest.fixture
def home(base_folder, tmp_path):
    """A folder as `lora.py` leaves it: the base, and in `AAA` a random adapter of it."""
    folder = tmp_path / "home"
    shutil.copytree(base_folder, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    add_adapter(folder, "AAA")
    return folder


def add_adapter(folder, ticker, *, base_model=None, trained_through="2030-01-01", **settings):
    base = load_model(folder)
    config = lora_config(base, LoraArguments(r=2, **settings))
    config.init_lora_weights = False
    model = get_peft_model(base, config)
    about = {"ticker": ticker, "data": "made up", "base_digest": digest(load_model(folder)), "horizon": 2}
    about |= {"train_through": "2029-01-01", "valid_through": "2030-01-01", "trained_through": trained_through}
    processor = TsfLlmProcessor.from_pretrained(folder)
    save_adapter(model, processor, folder / ticker, about, base_model=base_model or str(folder.resolve()))
    return folder / ticker


@pytest.fixture
def bars(prices):
    return pd.read_csv(prices, parse_dates=["timestamp"])


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_forecasts_with_an_adapter_as_the_unmerged_model_does(home, bars):
    """Paths sampled on the cache: the merged model's absorbed decoding against the wrapped projection's expansion."""
    merged = load_pipeline(home / "AAA")
    assert type(merged.model.model.layers[0].self_attn.kv_b_proj) is TsfLlmLinear
    unmerged = PeftModel.from_pretrained(load_model(home), home / "AAA").eval().get_base_model()
    wrapped = TsfLlmPipeline(model=unmerged, processor=TsfLlmProcessor.from_pretrained(home))
    paths = [pipe.sample(pipe.processor(bars), horizon=4, samples=64) for pipe in (merged, wrapped)]
    # Float noise moves laws by less than 1e-5, and may move a path over the edge of a bin, but not many.
    assert np.mean(~np.isclose(*paths, atol=1e-5)) < 0.02
    base = load_pipeline(home)
    assert np.mean(~np.isclose(paths[0], base.sample(base.processor(bars), horizon=4, samples=64))) > 0.5


def test_cached_forecasts_equal_uncached_ones_under_lora(home, bars):
    unmerged = PeftModel.from_pretrained(load_model(home), home / "AAA").eval()
    batch = TsfLlmProcessor.from_pretrained(home)(bars)
    inputs = {key: batch[key] for key in ("input_ids", "past_values", "attention_mask")}
    torch.manual_seed(0)
    cached = unmerged.generate(**inputs, max_new_tokens=4, do_sample=True)
    torch.manual_seed(0)
    uncached = unmerged.generate(**inputs, max_new_tokens=4, do_sample=True, use_cache=False)
    assert cached.tolist() == uncached.tolist()


def test_warns_of_dates_that_base_or_adapter_has_seen(home, bars):
    later = load_pipeline(home / "AAA")
    assert later.model.config.trained_through == "2030-01-01"
    base = load_model(home).config.trained_through
    earlier = add_adapter(home, "BBB", trained_through="2001-01-01")
    assert load_pipeline(earlier).model.config.trained_through == base


def test_the_pipeline_warns_that_an_adapters_forecast_is_in_sample(home, bars, caplog):
    from tsf_llm import pipeline_tsf_llm

    pipeline_tsf_llm.logger.warning_once.cache_clear()
    pipeline_tsf_llm.logger.addHandler(caplog.handler)
    try:
        load_pipeline(home / "AAA")(bars[bars["ticker"] == "AAA"], horizon=1, samples=4)
    finally:
        pipeline_tsf_llm.logger.removeHandler(caplog.handler)
    assert "Forecasts from 2030-01-01 or earlier are not out of sample" in caplog.text


def test_the_processor_is_the_adapters_or_else_the_bases(home):
    edit(
        home / "AAA" / "processor_config.json",
        **{
            "feature_extractor": {
                **json.loads((home / "AAA" / "processor_config.json").read_text())["feature_extractor"],
                "clip": 7.0,
            }
        },
    )
    assert load_pipeline(home / "AAA").processor.feature_extractor.clip == 7.0
    for name in ("processor_config.json", "tokenizer_config.json"):
        (home / "AAA" / name).unlink()
    assert load_pipeline(home / "AAA").processor.feature_extractor.clip == 10.0


def test_finds_the_base_where_it_is_named_or_above_after_a_move(home, tmp_path, monkeypatch):
    assert find_base(str(home / "AAA")) == str(home.resolve())
    moved = tmp_path / "elsewhere"
    home.rename(moved)
    assert find_base(str(moved / "AAA")) == str(moved.resolve())
    assert load_pipeline(moved / "AAA").model.config.trained_through == "2030-01-01"
    (moved / "adapters").mkdir()
    (moved / "AAA").rename(moved / "adapters" / "AAA")
    assert find_base(str(moved / "adapters" / "AAA")) == str(moved.resolve())
    config = moved / "adapters" / "AAA" / "adapter_config.json"
    edit(config, base_model_name_or_path="../../../other")
    shutil.copytree(moved, tmp_path / "other", ignore=shutil.ignore_patterns("adapters"))
    assert (tmp_path / "other").samefile(find_base(str(config.parent)))  # from the adapter's folder
    edit(config, base_model_name_or_path="other")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "other").samefile(find_base("elsewhere/adapters/AAA"))  # from here
    edit(config, base_model_name_or_path=None)
    assert find_base(str(config.parent)) == str(moved.resolve())


def test_an_adapter_without_its_base_is_refused(home, tmp_path):
    lone = tmp_path / "a" / "b" / "AAA"
    shutil.copytree(home / "AAA", lone)
    edit(lone / "adapter_config.json", base_model_name_or_path="/gone/base")
    with pytest.raises(FileNotFoundError, match=r"adapter of /gone/base, which is not there.*base_model_name_or_path"):
        load_pipeline(lone)
    edit(lone / "adapter_config.json", base_model_name_or_path="organisation/base")
    assert find_base(str(lone)) == "organisation/base"


def test_an_adapter_of_other_weights_or_of_another_shape_is_refused(home, train, small_model, tmp_path):
    train(tmp_path / "tuned", model_name_or_path=home, num_train_epochs=1)
    shutil.copytree(home / "AAA", tmp_path / "tuned" / "AAA")
    edit(tmp_path / "tuned" / "AAA" / "adapter_config.json", base_model_name_or_path="..")
    with pytest.raises(ValueError, match="trained on other weights than those of"):
        load_pipeline(tmp_path / "tuned" / "AAA")
    wider = json.dumps({**json.loads(small_model), "hidden_size": 24})
    train(tmp_path / "wider", model_config=wider, num_train_epochs=1)
    shutil.copytree(tmp_path / "tuned" / "AAA", tmp_path / "wider" / "AAA")
    (tmp_path / "wider" / "AAA" / "adapter.json").unlink()  # an adapter that peft alone has made has none
    with pytest.raises(ValueError, match="does not fit the base: size mismatch"):
        load_pipeline(tmp_path / "wider" / "AAA")


def test_a_processor_of_other_features_is_refused(home):
    path = home / "AAA" / "processor_config.json"
    fields = json.loads(path.read_text())
    fitted = fields["feature_extractor"]["fitted"]
    for numbers in (fitted["names"], *fitted["center"].values(), *fitted["scale"].values()):
        numbers.pop()
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"gives 63 features, the model wants 64"):
        load_pipeline(home / "AAA")


def test_fused_experts_load_alone(home, bars):
    folder = add_adapter(home, "BBB", target_experts=True)
    assert len(load_pipeline(folder)(bars, horizon=2, samples=8)) == 4


def test_tells_models_adapters_and_neither_apart(home, tmp_path):
    assert (is_adapter(str(home)), is_adapter(str(home / "AAA"))) == (False, True)
    assert find_model(home / "AAA") == str(home / "AAA")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no model"):
        find_model(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="organisation/name"):
        find_model("nowhere")
    edit(home / "config.json", model_type="llama")
    with pytest.raises(ValueError, match="'llama' model"):
        load_pipeline(home)
