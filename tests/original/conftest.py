"""What the tests of the published sequences share: the sequence files of two tickers, and the leak of the sample."""

import numpy as np
import pytest

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.feature_extraction_tsf_llm import center_and_scale
from tsf_llm.original.leak import measure_leak
from tsf_llm.original_features_tsf_llm import original_features, original_sequences, original_split, original_target


def published(bars):
    """X and y of the training rows, as the original leaves them."""
    part = original_split(len(bars))[0]
    table = original_features(bars, expose_leak=True).to_numpy()
    target = original_target(bars["close"]).fillna(0).to_numpy()[:, None]
    scaled = []
    for values in (table, target):
        center, scale = center_and_scale(values[part], "robust")
        scaled.append((values - center) / scale)
    return original_sequences(scaled[0], scaled[1][:, 0], part)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("stocks")
    for ticker, bars in read_bars("sample", ["AAPL", "IBM"]).groupby("ticker"):
        X, y = published(bars.tail(1000).reset_index(drop=True))
        np.savez(where / f"{ticker}_train_sequences.npz", X=X, y=y)
    return where


@pytest.fixture(scope="session")
def results():
    return measure_leak(read_bars("sample"))
