"""What reading pairs and training on them are tested with: an untrained processor, and tiny models for its tokens."""

import numpy as np
import pytest

from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

BINS, STEPS = 32, 3
SIZES = {"vocab_size": BINS + 2, "pad_token_id": BINS, "bar_token_id": BINS + 1}


@pytest.fixture(scope="module")
def processor():
    edges = np.linspace(-3, 3, BINS + 1).tolist()
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=12)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS, bin_edges=edges))


@pytest.fixture
def lm(tiny_model):
    """`lm(**overrides)` -> a tiny causal LM."""
    return lambda **overrides: tiny_model(TsfLlmForCausalLM, **SIZES, **overrides)


@pytest.fixture
def head(tiny_model):
    """`head(**overrides)` -> a tiny regression head."""
    usual = {"prediction_type": "regression", "prediction_length": STEPS, **SIZES}
    return lambda **overrides: tiny_model(TsfLlmForPrediction, **{**usual, **overrides})
