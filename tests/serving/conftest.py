"""What the commands' tests share: a run of the command line, a small model of the embedded prices, plain series."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer
from tsf_llm.train_scripts import sft


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
