"""What walks forward and what evaluates share: bars, a pipeline of an untrained model, made-up results."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

GROUPS = ["bar"]  # five features, as the tiny model wants


@pytest.fixture(scope="module")
def bars(make_bars):
    return pd.concat([make_bars(400, ticker="AAA", seed=1), make_bars(400, ticker="BBB", seed=2)])


@pytest.fixture(scope="module")
def processor(bars):
    extractor = TsfLlmFeatureExtractor(feature_groups=GROUPS, context_length=16)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, through="2015-12-31")


@pytest.fixture(scope="module")
def pipe(tiny_model, processor):
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33}
    return TsfLlmPipeline(model=tiny_model(**tokens), processor=processor)


@pytest.fixture(scope="session")
def synthetic():
    """The functions of `synthetic_results.py`."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("synthetic_results.py"))))
