"""Folders that an earlier version saved open as ever and give the numbers that they gave then.

`fixtures/saved` holds, of version 0.1.0 and under its file names: a causal LM (`sft`), an adapter on it (`lora`), its
int8 copy (`compress`), a converted original (`convert`), bars, and for each folder its outputs on these bars.
`code.zip` holds the code files that each of them carried, with which it also opens where this package is not there."""

import inspect
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.serving.loading import load_pipeline

SAVED = Path(__file__).parent / "fixtures" / "saved"


def uniforms_then(tickers, origins, samples, horizon, seed, loading=None):
    """The numbers of sampled paths as they were before they were stratified."""
    names = (f"{ticker} {origin.isoformat()}".encode() for ticker, origin in zip(tickers, origins, strict=True))
    draws = (np.random.default_rng([seed, zlib.crc32(name)]).random((horizon, samples)) for name in names)
    return torch.cat([torch.from_numpy(one.T) for one in draws])


def outputs(pipe, bars):
    """Features of the last window, what the model says of it, and the forecast, as tensors."""
    batch = pipe.processor(bars)
    inputs = {key: batch[key] for key in ("past_values", "attention_mask")}
    out, samples = {"past_values": batch["past_values"]}, {}
    with torch.no_grad():
        if pipe.model.can_generate():
            samples = {"samples": 16, "seed": 0}
            out["logits"] = pipe.model(**batch).logits
            out["tokens"] = pipe.model.generate(**batch, max_new_tokens=2, do_sample=False)
        else:
            out["prediction"] = pipe.model(**inputs).prediction
    then = {"path_uniforms": uniforms_then, "spread": lambda uniforms, come: uniforms}
    with patch.multiple(sys.modules[type(pipe).__module__], create=True, **then):
        forecast = pipe(bars, horizon=2, **samples).drop(columns=["ticker", "origin", "timestamp"])
    out["forecast"] = torch.tensor(forecast.to_numpy(float))
    return {key: tensor.contiguous() for key, tensor in out.items()}


WITH_ITS_OWN_CODE = f"""
import sys, zlib
from unittest.mock import patch
folder, bars, target = sys.argv[1:]

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsf_llm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np, pandas as pd, torch
from safetensors.torch import save_file
from transformers import pipeline

{inspect.getsource(uniforms_then)}
{inspect.getsource(outputs)}

pipe = pipeline("time-series-forecasting", model=folder, trust_remote_code=True)
for part in (pipe, pipe.model, pipe.processor):
    assert type(part).__module__.startswith("transformers_modules.")
save_file(outputs(pipe, pd.read_csv(bars, parse_dates=["timestamp"])), target)
"""


def assert_as_then(answer, name):
    then = load_file(SAVED / name / "outputs.safetensors")
    assert answer.keys() == then.keys()
    for key, tensor in then.items():
        torch.testing.assert_close(answer[key], tensor, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.fixture
def saved(tmp_path):
    """A copy: whatever a test does, the fixtures stay."""
    return Path(shutil.copytree(SAVED, tmp_path / "saved"))


@pytest.mark.parametrize("name", ["causal", "adapter", "int8", "original"])
def test_opens_with_this_package(saved, name):
    bars = pd.read_csv(saved / "bars.csv", parse_dates=["timestamp"])
    assert_as_then(outputs(load_pipeline(saved / name), bars), name)


def without_this_package(folder, place):
    """Outputs of a folder that is opened by the code in it, in a process that lacks this package."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home"), "HOME": str(place / "home")}
    target = place / "outputs.safetensors"
    command = [sys.executable, "-I", "-c", WITH_ITS_OWN_CODE, str(folder), str(SAVED / "bars.csv"), str(target)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(target)


@pytest.mark.parametrize("name", ["causal", "original"])
def test_opens_with_the_code_that_was_saved_with_it(saved, name, tmp_path):
    with zipfile.ZipFile(saved / "code.zip") as code:
        code.extractall(saved / name)
    assert_as_then(without_this_package(saved / name, tmp_path), name)


@pytest.mark.parametrize("name", ["causal", "int8", "original"])
def test_saved_again_it_carries_the_code_of_this_version(saved, name, tmp_path):
    pipe = load_pipeline(saved / name)
    for part in (pipe.model, pipe.processor):
        part.save_pretrained(tmp_path / "again")
    assert_as_then(without_this_package(tmp_path / "again", tmp_path), name)
