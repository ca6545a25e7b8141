"""every_bar.py: the laws of a forecast, from every bar and for several horizons at once, and none of the future."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.calibration_tsf_llm import Calibration
from tsf_llm.evaluation.every_bar import Outcomes, baselines, forecasts
from tsf_llm.evaluation.walk_forward import walk_forward
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

START, END = "2016-04-01", "2016-06-30"


@pytest.fixture(scope="module")
def series(pipe, bars):
    return pipe.processor.encode(bars)


@pytest.fixture(scope="module")
def direct(tiny_model, bars):
    """A model that names the laws of its horizons."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=16)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32), horizons=[1, 3]).fit(bars, through="2015-12-31")
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "horizons": [1, 3]}
    return TsfLlmPipeline(model=tiny_model(**tokens), processor=processor)


def asked(series, *horizons):
    return [Outcomes.of(series, START, END, horizon) for horizon in horizons]


def test_they_are_those_of_a_walk_forward_with_stride_one(pipe, series):
    options = {"start": START, "end": END, "stride": 1, "samples": 8, "progress": False}
    found = forecasts(pipe, series, asked(series, 1, 3), samples=8, progress=False)
    walk = walk_forward(pipe, series, horizon=3, baselines=["garch_t", "har_range"], **options)
    assert_array_equal(found[1].losses, walk.crps())
    assert_array_equal(found[1].quantiles, walk.steps[-1]["model"].quantiles)
    [outcomes] = asked(series, 3)
    for name in ("ticker", "origin", "due"):
        assert_array_equal(getattr(outcomes, name), getattr(walk, name))
    assert_array_equal(outcomes.realised, walk.realised[:, -1])
    theirs, failed = baselines(["garch_t", "har_range"], series, outcomes, progress=False)
    assert failed == walk.failed
    for name, scored in theirs.items():
        assert_array_equal(scored.losses, walk.crps(name))


def test_each_horizon_has_all_its_origins(pipe, bars):
    cut = bars[bars["timestamp"] <= END]
    series = pipe.processor.encode(cut)
    both = asked(series, 1, 5)
    assert [len(one.origin) for one in both] == [2 * 64, 2 * 60]
    found = forecasts(pipe, series, both, samples=8, progress=False)
    assert [len(one.losses) for one in found] == [2 * 64, 2 * 60]
    assert all(one.known.all() for one in found)


def test_nothing_after_an_origin_shapes_its_law(pipe, series, bars):
    fence = pd.Timestamp("2016-05-13")
    later = bars["timestamp"] > fence
    scale = np.where(later, 3.0, 1.0)[:, None]
    other = bars.copy()
    other[["open", "high", "low", "close"]] *= scale
    whole, moved = ((one, asked(one, 1, 2)) for one in (series, pipe.processor.encode(other)))
    ours, theirs = (forecasts(pipe, *pair, samples=8, progress=False) for pair in (whole, moved))
    for outcomes, left, right in zip(whole[1], ours, theirs, strict=True):
        before = outcomes.origin <= fence.to_datetime64()
        assert 0 < before.sum() < len(before)
        assert_array_equal(left.quantiles[before], right.quantiles[before])
        assert not np.array_equal(left.quantiles[~before], right.quantiles[~before])
        known = outcomes.due <= fence.to_datetime64()
        assert_array_equal(left.losses[known], right.losses[known])


def test_a_calibration_is_used_as_forecasts_use_it(pipe, series, monkeypatch):
    monkeypatch.setattr(type(pipe), "calibration", lambda *_: Calibration([0.0], [2.0]))
    wide = forecasts(pipe, series, asked(series, 1, 2), samples=8, progress=False)
    monkeypatch.setattr(type(pipe), "calibration", lambda *_: None)
    narrow = forecasts(pipe, series, asked(series, 1, 2), samples=8, progress=False)
    spread = [(one.quantiles[:, 89] - one.quantiles[:, 9]).mean() for one in (*wide, *narrow)]
    assert spread[0] == pytest.approx(2 * spread[2])
    assert spread[1] == spread[3]


def test_a_model_without_a_law_of_returns_is_refused(pipe, series, monkeypatch):
    monkeypatch.setattr(type(pipe), "samples_paths", property(lambda pipe: False))
    with pytest.raises(ValueError, match="no law of a return: name another"):
        forecasts(pipe, series, asked(series, 1), progress=False)


def test_origins_that_share_a_window_look_back_over_fewer_bars(direct, series):
    """Of each four, the last over all 16, the first over 13."""
    outcomes = asked(series, 1, 3)
    found = forecasts(direct, series, outcomes, per_window=4, progress=False)
    for fewer in range(4):
        settings = direct.processor.feature_extractor.to_dict() | {"context_length": 16 - fewer}
        processor = TsfLlmProcessor(TsfLlmFeatureExtractor.from_dict(settings), direct.processor.tokenizer)
        shorter = TsfLlmPipeline(model=direct.model, processor=processor)
        for shared, exact in zip(found, forecasts(shorter, series, outcomes, progress=False), strict=True):
            mine = np.tile(np.arange(len(shared.losses) // 2)[::-1] % 4 == fewer, 2)
            assert_allclose(shared.quantiles[mine], exact.quantiles[mine], atol=1e-6)
            assert not np.allclose(shared.quantiles[~mine], exact.quantiles[~mine], atol=1e-6)


def test_what_cannot_share_a_window_is_refused(direct, series):
    with pytest.raises(ValueError, match="9 origins to a window: 8 at most"):
        forecasts(direct, series, asked(series, 1), per_window=9, progress=False)
    with pytest.raises(ValueError, match="this model has no law of 4 steps"):
        forecasts(direct, series, asked(series, 4), per_window=2, progress=False)
