"""What the commands' tests share: a run of the command line, a small model of the embedded prices, plain series."""

import copy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import sft
from tsf_llm.training.arguments import DataArguments
from tsf_llm.training.data import new_processor


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(*words)` -> exit code, stdout, stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def loads(tmp_path_factory):
    """A wide file: two columns of numbers, hourly, and a flag that is known in advance."""
    path, rng = tmp_path_factory.mktemp("loads") / "loads.csv", np.random.default_rng(0)
    hours = np.arange(900)
    flag = (rng.uniform(size=900) < 0.2).astype(int)
    load = 5 * np.sin(2 * np.pi * hours / 24) + rng.normal(0, 1, 900) + 8 * flag
    table = {"date": pd.date_range("2021-01-01", periods=900, freq="h"), "OT": load, "HUFL": hours, "flag": flag}
    pd.DataFrame(table).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def sales():
    """Three shops by day, of whole numbers with zeros; a promotion is known six days after the last value."""
    rng, days = np.random.default_rng(0), np.arange(206)
    frames = []
    for i in range(3):
        promo = (rng.uniform(size=206) < 0.2).astype(float)
        units = rng.poisson(2 + i + 2 * (days % 7 > 4) + 3 * promo).astype(float)
        units[200:] = np.nan
        frame = {"timestamp": pd.date_range("2023-01-01", periods=206, freq="D"), "series_id": f"shop {i}"}
        frames.append(pd.DataFrame(frame).assign(value=units, promo=promo, town="ab"[i % 2]))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="session")
def shop_pipe(sales, tiny_model):
    """`shop_pipe()`: a new one each time, of a quantile head in series form, whose random weights are large."""
    args = DataArguments(
        horizon=6,
        context_length=32,
        feature_groups=["changes"],
        n_bins=32,
        known_covariates=["promo"],
        static_covariates=["town"],
        nonnegative=True,
        integer=True,
    )
    processor = new_processor(args, UNIVARIATE, series_form=True).fit(sales[sales["value"].notna()], "2023-05-31")
    extractor = processor.feature_extractor
    sizes = {"num_features": len(extractor.names), "prediction_length": 6, "prediction_type": "quantile"}
    sizes |= {**extractor.series_fields(), "patch_length": 4, "zero_inflated": True, "horizons": None}

    def build():
        torch.manual_seed(0)
        model = tiny_model(TsfLlmForPrediction, **sizes)
        model.config.trained_through = "2023-06-10"
        return TsfLlmPipeline(model=model, processor=copy.deepcopy(processor))

    return build


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model of the embedded prices, as the quick start leaves it, but trained in seconds. Read only."""
    folder = tmp_path_factory.mktemp("model")
    config = Path(sft.__file__).parent / "configs" / "debug_sft.yaml"
    words = ["--output_dir", folder, "--num_train_epochs", 1, "--report_samples", 0, "--disable_tqdm", "true"]
    sft.main(*sft.parse(["--config", str(config), *map(str, words)]))
    return folder


@pytest.fixture(scope="session")
def law_processor(make_bars):
    """Few features and a short window."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=24)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(32)).fit(make_bars(400, seed=7))


@pytest.fixture(scope="session")
def law_pipe(law_processor, tiny_model):
    """`law_pipe(**overrides)`: a causal LM with laws, whose random weights are large: its answers depend on bars."""

    def build(processor=law_processor, **overrides):
        sizes = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "horizons": processor.tokenizer.horizons}
        sizes["num_features"] = len(processor.feature_extractor.names)
        model = tiny_model(TsfLlmForCausalLM, **{**sizes, **overrides})
        return TsfLlmPipeline(model=model, processor=processor)

    return build
