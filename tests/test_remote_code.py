"""A saved folder stands on its own: it loads with `trust_remote_code=True`, offline, from any directory and without
this package, gives the same numbers, and can be saved again from there."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.original_features_tsf_llm import OriginalFeatureExtractor
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor

LOAD_AND_RUN = """
import json, pathlib, sys
source, target, again = map(pathlib.Path, sys.argv[1:])

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsf_llm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np, pandas as pd, torch
import transformers as t

bars = pd.read_csv(source / "bars.csv", parse_dates=["timestamp"], float_precision="round_trip")
facts, arrays = {}, {}
for kind in ("causal", "prediction"):
    folder = str(source / kind)
    load = lambda auto: getattr(t, auto).from_pretrained(folder, trust_remote_code=True)
    config, processor, model = load("AutoConfig"), load("AutoProcessor"), load("AutoModel")
    parts = {"config": config, "processor": processor, "model": model}
    parts |= {"feature_extractor": load("AutoFeatureExtractor"), "tokenizer": load("AutoTokenizer")}
    batch = processor(bars)
    inputs = {key: batch[key] for key in ("past_values", "attention_mask")}
    arrays[f"{kind}.past_values"] = batch["past_values"]
    arrays[f"{kind}.edges"] = parts["tokenizer"].bin_edges
    arrays[f"{kind}.centers"] = parts["feature_extractor"].center["*"]
    with torch.no_grad():
        arrays[f"{kind}.hidden"] = model(**inputs).last_hidden_state
        if kind == "causal":
            parts["head"] = head = load("AutoModelForCausalLM")
            arrays["causal.logits"] = head(**batch).logits
            arrays["causal.tokens"] = head.generate(**batch, max_new_tokens=4, do_sample=False)
        else:
            parts["head"] = head = load("AutoModelForTimeSeriesPrediction")
            arrays["prediction.quantiles"] = head(**inputs).prediction
    parts["pipeline"] = pipe = t.pipeline("time-series-forecasting", model=folder, trust_remote_code=True)
    arrays[f"{kind}.forecast"] = pipe(bars, horizon=3, samples=16).drop(columns=["ticker", "origin", "timestamp"])
    facts[kind] = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    head.save_pretrained(again / kind)
    processor.save_pretrained(again / kind)
np.savez(target / "outputs.npz", **{name: np.asarray(array, dtype=float) for name, array in arrays.items()})
(target / "facts.json").write_text(json.dumps({"classes": facts, "package": "tsf_llm" in sys.modules}))
"""

LOAD_PROCESSOR = (
    LOAD_AND_RUN[: LOAD_AND_RUN.index("facts, arrays")]
    + """
folder = str(source / "processor")
load = lambda auto: getattr(t, auto).from_pretrained(folder, trust_remote_code=True)
parts = [load("AutoProcessor"), load("AutoFeatureExtractor")]
parts[0].save_pretrained(again)
np.save(target / "past_values.npy", parts[0](bars)["past_values"])
names = [type(part).__name__ for part in (parts[0].feature_extractor, parts[1])]
(target / "facts.json").write_text(json.dumps(names))
"""
)


def run_alone(code, source, place, again):
    """Runs `code` in a new process with its own home, directory and module cache."""
    (place / "elsewhere").mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home"), "HOME": str(place / "home")}
    command = [sys.executable, "-I", "-c", code, str(source), str(place), str(again)]
    done = subprocess.run(command, cwd=place / "elsewhere", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def run_without_package(source, place, again):
    """Outputs and facts of `LOAD_AND_RUN`."""
    run_alone(LOAD_AND_RUN, source, place, again)
    with np.load(place / "outputs.npz", allow_pickle=False) as outputs:
        return dict(outputs), json.loads((place / "facts.json").read_text())


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_config):
    """A folder with bars and two saved models, and what both give in this process."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    inside = 100 * np.exp(rng.normal(0, 0.01, (700, 4)).cumsum(axis=1) + rng.normal(0, 0.01, (700, 1)).cumsum(axis=0))
    prices = {"open": inside[:, 0], "high": inside.max(axis=1), "low": inside.min(axis=1), "close": inside[:, 3]}
    volume = rng.lognormal(12, 0.5, 700)
    bars = pd.DataFrame({"timestamp": pd.bdate_range("2015-01-01", periods=700), **prices, "volume": volume})
    bars.to_csv(folder / "bars.csv", index=False)
    processor = TsfLlmProcessor().fit(bars)
    tokenizer = processor.tokenizer
    config = {
        "num_features": len(processor.feature_extractor.names),
        "vocab_size": tokenizer.vocab_size,
        "pad_token_id": tokenizer.pad_token_id,
        "bar_token_id": tokenizer.bar_token_id,
        "prediction_type": "quantile",
    }
    torch.manual_seed(0)
    models = {"causal": TsfLlmForCausalLM(tiny_config(**config)).eval()}
    models["prediction"] = TsfLlmForPrediction(tiny_config(**config)).eval()
    batch, outputs = processor(bars), {}
    inputs = {key: batch[key] for key in ("past_values", "attention_mask")}
    for kind, model in models.items():
        model.save_pretrained(folder / kind)
        processor.save_pretrained(folder / kind)
        outputs[f"{kind}.past_values"] = batch["past_values"]
        outputs[f"{kind}.edges"] = tokenizer.bin_edges
        outputs[f"{kind}.centers"] = processor.feature_extractor.center["*"]
        forecast = TsfLlmPipeline(model=model, processor=processor)(bars, horizon=3, samples=16)
        outputs[f"{kind}.forecast"] = forecast.drop(columns=["ticker", "origin", "timestamp"])
    with torch.no_grad():
        outputs["causal.hidden"] = models["causal"].model(**inputs).last_hidden_state
        outputs["causal.logits"] = models["causal"](**batch).logits
        outputs["causal.tokens"] = models["causal"].generate(**batch, max_new_tokens=4, do_sample=False)
        outputs["prediction.hidden"] = models["prediction"](**inputs).last_hidden_state
        outputs["prediction.quantiles"] = models["prediction"](**inputs).prediction
    return folder, {name: np.asarray(array, dtype=float) for name, array in outputs.items()}


@pytest.fixture(scope="module")
def remote(saved, tmp_path_factory):
    """The first run, from the saved folder; the second, from what the first saved, with the first folder gone."""
    place = tmp_path_factory.mktemp("remote")
    folder = place / "copy"
    shutil.copytree(saved[0], folder)
    first = run_without_package(folder, place / "first", place / "again")
    again = {path.relative_to(place / "again").as_posix() for path in (place / "again").rglob("*")}
    shutil.copy(folder / "bars.csv", place / "again")
    shutil.rmtree(folder)
    return {
        "first": first,
        "second": run_without_package(place / "again", place / "second", place / "third"),
        "again": again,
    }


@pytest.mark.parametrize("run", ["first", "second"])
def test_classes_come_from_the_folder(remote, run):
    facts = remote[run][1]
    assert not facts["package"]
    for kind, auto_model, head in [
        ("causal", "TsfLlmModel", "TsfLlmForCausalLM"),
        ("prediction", "TsfLlmForPrediction", "TsfLlmForPrediction"),
    ]:
        wanted = {
            "config": "TsfLlmConfig",
            "processor": "TsfLlmProcessor",
            "feature_extractor": "TsfLlmFeatureExtractor",
            "tokenizer": "TsfLlmTokenizer",
            "model": auto_model,
            "head": head,
            "pipeline": "TsfLlmPipeline",
        }
        assert facts["classes"][kind] == {part: ["transformers_modules", name] for part, name in wanted.items()}


@pytest.mark.parametrize("run", ["first", "second"])
def test_remote_outputs_equal_ours(saved, remote, run):
    outputs, wanted = remote[run][0], saved[1]
    assert set(outputs) == set(wanted)
    for name, array in wanted.items():
        assert array.size > 0
        np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["causal", "prediction"])
def test_folder_holds_all_code_whoever_saved_it(saved, remote, kind, code_files):
    for name in code_files:
        assert (saved[0] / kind / name).is_file()
        assert f"{kind}/{name}" in remote["again"]


def test_nothing_saved_is_a_pickle(remote):
    suffixes = {name.rsplit(".", 1)[1] for name in remote["again"] if "." in name}
    assert suffixes == {"py", "json", "safetensors"}


def test_a_processor_alone_takes_no_code_of_the_model_along(make_bars, tmp_path):
    """The original's, whose extractor is a class of its own."""
    bars = make_bars(200)
    processor = TsfLlmProcessor(OriginalFeatureExtractor()).fit(bars)
    bars.to_csv(tmp_path / "bars.csv", index=False)
    processor.save_pretrained(tmp_path / "processor")
    run_alone(LOAD_PROCESSOR, tmp_path, tmp_path / "place", tmp_path / "again")
    for folder in ("processor", "again"):
        code = {path.stem.removesuffix("_tsf_llm") for path in (tmp_path / folder).glob("*.py")}
        assert {"processing", "feature_extraction", "tokenization", "original_features"} < code
        assert not code & {"configuration", "modeling", "original_modeling", "front_end", "quantization", "pipeline"}
    assert json.loads((tmp_path / "place" / "facts.json").read_text()) == ["OriginalFeatureExtractor"] * 2
    np.testing.assert_array_equal(np.load(tmp_path / "place" / "past_values.npy"), processor(bars)["past_values"])
