"""models.py: a model by name, what is refused before it is loaded, and what it is called."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.training import models
from tsf_llm.training.models import (
    check_start,
    digest,
    find_model,
    head_of,
    is_hub_name,
    load_causal_lm,
    load_model,
    load_processor,
    public_name,
)


@pytest.mark.parametrize(
    ("config", "told"),
    [('{"a": ', "is no JSON"), ("[1]", "no JSON object"), ('{"model_type": "gpt2"}', "'gpt2' model")],
)
def test_a_broken_or_foreign_config_is_refused(tmp_path, config, told):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=told):
        find_model(tmp_path)


def test_load_model_refuses_an_adapter(make_adapter):
    with pytest.raises(ValueError, match="is an adapter: name the model"):
        load_model(make_adapter("AAPL"))


def test_the_digest_tells_weights_apart(tiny_model):
    model = tiny_model()
    assert digest(model) == digest(copy.deepcopy(model))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-6
    assert digest(model) != digest(tiny_model())
    assert digest(tiny_model().bfloat16()) != digest(tiny_model())


@pytest.mark.parametrize(
    ("cls", "head"),
    [(TsfLlmForCausalLM, "causal_lm"), (TsfLlmForPrediction, "quantile"), (TsfLlmForPrediction, "classification")],
)
def test_a_model_is_loaded_as_what_it_was_saved_as(tiny_model, tmp_path, cls, head):
    fields = {} if head == "causal_lm" else {"prediction_type": head}
    model = tiny_model(cls, **fields)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert (type(loaded), head_of(loaded)) == (cls, head)
    assert digest(loaded) == digest(model)


@pytest.mark.parametrize(("change", "told"), [("lost", "1 weights are missing, as lm_head.weight"), ("nan", "NaN")])
def test_weights_that_are_missing_or_no_numbers_are_refused(tiny_model, tmp_path, change, told):
    """transformers would fill the place of the first at random, and forecast."""
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    last = weights.pop("lm_head.weight")
    if change == "nan":
        weights["lm_head.weight"] = last * float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=told):
        load_model(tmp_path)


def test_what_samples_no_paths_is_refused_where_paths_are_wanted(tiny_model, tmp_path):
    tiny_model(TsfLlmForPrediction).save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="samples no paths: rewards want a causal LM"):
        load_causal_lm(tmp_path / "head", "rewards want")
    tiny_model().save_pretrained(tmp_path / "lm")
    assert load_causal_lm(tmp_path / "lm", "rewards want").can_generate()


def test_a_folder_without_processor_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="holds no processor"):
        load_processor(tmp_path)
    small.save_pretrained(tmp_path)
    assert isinstance(load_processor(tmp_path), TsfLlmProcessor)


def test_names_are_those_of_folders_or_of_the_hub(tmp_path):
    for name, known in {
        "org/name": True,
        "org/na.me-2": True,
        "name": False,
        "a/b/c": False,
        "../name": False,
    }.items():
        assert is_hub_name(name) is known
    assert find_model("org/name") == public_name("org/name") == "org/name"
    with pytest.raises(FileNotFoundError, match="organisation/name"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_model(tmp_path)
    assert public_name(str(tmp_path)) == tmp_path.name


def test_the_shipped_models_have_names_which_folders_here_go_before(tiny_model, tmp_path, monkeypatch):
    root = tmp_path / "clone"
    monkeypatch.setattr(models, "SHIPPED", {"shipped": root, "mini": root / "mini"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model 'shipped' lies beside the code in .*: a wheel has none"):
        find_model("shipped")
    for folder, seed in ((root, 0), (root / "mini", 1), (tmp_path / "mini", 2)):
        tiny_model(seed=seed).save_pretrained(folder)
    assert find_model("shipped") == str(root)
    assert digest(load_model("shipped")) == digest(tiny_model(seed=0))
    assert digest(load_model("mini")) == digest(tiny_model(seed=2))
    monkeypatch.chdir(tmp_path.parent)
    assert digest(load_model("mini")) == digest(tiny_model(seed=1))
    with pytest.raises(ValueError, match=f"{root} holds no processor"):
        load_processor("shipped")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 54000000\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (POINTER, "is a pointer of git-lfs, not the weights: fetch them with `git lfs pull`"),
        (None, "wants .* weights or more, but the files beside it hold 5,000 bytes"),
    ],
)
def test_a_pointer_or_a_part_of_the_weights_is_no_model(tiny_model, tmp_path, content, told):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content or path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=told):
        load_model(tmp_path)


def test_a_start_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="choose another folder"):
        check_start(str(tmp_path / "model"), "model")
    check_start(str(tmp_path / "model"), "other")
