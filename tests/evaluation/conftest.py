"""What walks forward and what evaluates share: bars, a pipeline of an untrained model, made-up results."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import KINDS, split_tickers
from tsf_llm.evaluation import track_record
from tsf_llm.evaluation.track_record import GRID, GRID_COLUMNS, LEVELS, TrackRecord
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

GROUPS = ["bar"]  # five features, as the tiny model wants


@pytest.fixture(scope="module")
def bars(make_bars):
    return pd.concat([make_bars(400, ticker="AAA", seed=1), make_bars(400, ticker="BBB", seed=2)])


@pytest.fixture(scope="module")
def times(bars):
    return bars["timestamp"].unique()


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


FACTS = {"version": "1.0", "code": None, "model": "tiny", "model_digest": "aa" * 16, "processor_digest": "bb" * 8}
FACTS |= {"kind": "ohlcv", "calibration": "auto, none", "seed": 0, "samples": 256, "market": 0}


def uniform_forecast(bars, origin, horizon, width, kind):
    """A frame as the pipeline gives it: step h is uniform within `width` * h around the last value."""
    frames = []
    for name, frame in bars.items():
        last = frame.set_index("timestamp")[kind.value][origin]
        steps = np.arange(1, horizon + 1)
        quantiles = kind.level(last, width * steps[:, None] * (2 * LEVELS - 1))
        columns = {"ticker": name, "origin": origin, "step": steps, "mean": last, "p_up": 0.5}
        columns["timestamp"] = pd.bdate_range(origin, periods=horizon + 1)[1:]
        frames.append(pd.DataFrame(columns | dict(zip(GRID_COLUMNS, quantiles.T, strict=True))))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def log_forecasts(tmp_path, monkeypatch):
    """`log_forecasts(bars, origins, ...)` -> the path of a record of uniform laws, written in the night after each."""

    def write(
        bars, origins, *, horizon=2, width=0.02, path=tmp_path / "record.sqlite", after="20h", whole=False, **facts
    ):
        facts = FACTS | {"horizon": horizon} | facts
        kind = KINDS[track_record.kind_in(facts["kind"])]
        for origin in map(pd.Timestamp, origins):
            known = split_tickers(bars if whole else bars[bars["timestamp"] <= origin], kind)
            now = origin + pd.Timedelta(after)
            monkeypatch.setattr(track_record, "utc_now", lambda now=now: now)
            TrackRecord(path).append(uniform_forecast(known, origin, horizon, width, kind), known, facts)
        return path

    assert len(GRID) == len(LEVELS)
    return write
