"""dense.py: the same laws as a forecast's, scored by horizon at every bar once."""

import numpy as np
import pytest
import torch

from tsf_llm.evaluation.dense import law_figures
from tsf_llm.evaluation.walk_forward import walk_forward
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer


@pytest.fixture(scope="module")
def asked(make_bars, tiny_model):
    """A model, its processor, two tickers as it sees them, and the day from which they are scored."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns"], context_length=600)
    bars = [make_bars(300, ticker=name, seed=seed) for seed, name in enumerate(("AAA", "BBB"))]
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars)
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "horizons": [1, 5, 20]}
    model = tiny_model(num_features=len(extractor.names), max_position_embeddings=700, **tokens)
    return model, processor, processor.encode(bars), bars[0]["timestamp"].iloc[240]


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_figures_are_those_of_forecasts_with_the_same_context(asked, horizon):
    model, processor, series, start = asked
    figures = law_figures(model, processor, series, start=start, end=None)[horizon]
    options = {"horizon": horizon, "stride": 1, "baselines": (), "progress": False}
    walk = walk_forward(TsfLlmPipeline(model=model, processor=processor), series, start=start, end=None, **options)
    assert figures["n"] == len(walk.origin) == 2 * (60 - horizon)
    assert figures["days"] == 60 - horizon
    assert figures["crps"] == pytest.approx(float(walk.crps().mean()), rel=1e-5)
    pit = walk.pit()
    assert figures["coverage_80"] == pytest.approx(((pit >= 0.1) & (pit <= 0.9)).mean(), abs=0.02)


def test_windows_cover_every_bar_once_with_half_a_context(asked):
    model, processor, series, start = asked
    seen = []

    class Watched(torch.nn.Module):
        config, device = model.config, model.device

        def forward(self, **batch):
            seen.append(batch["attention_mask"])
            return model(**batch)

    extractor = TsfLlmFeatureExtractor(feature_groups=["returns"], context_length=20)
    short = TsfLlmProcessor(extractor, processor.tokenizer)
    figures = law_figures(Watched(), short, series, start=start, end=None)
    assert {h: one["n"] for h, one in figures.items()} == {h: 2 * (60 - h) for h in (1, 5, 20)}
    assert [tuple(mask.shape) for mask in seen] == [(6, 20)] * 2  # 60 bars, 10 a window
    assert all(mask.all() for mask in seen)


def test_dates_without_an_outcome_are_refused(asked):
    model, processor, series, _ = asked
    late = np.datetime_as_string(series[0].timestamp[-10], "D")
    with pytest.raises(ValueError, match="no outcome 20 bars ahead lies between"):
        law_figures(model, processor, series, start=late, end=None)
