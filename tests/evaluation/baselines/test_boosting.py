from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines import boosting
from tsf_llm.evaluation.baselines.boosting import lightgbm
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

pytest.importorskip("lightgbm")
N, FIRST = 1500, 1100


def series(seed: int, planted: float) -> EncodedSeries:
    """Daily values whose next difference the first of three features tells in part."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((N, 3)).astype(np.float32)
    moves = rng.standard_normal(N) + planted * np.concatenate([[0], features[:-1, 0]])
    return EncodedSeries(
        ticker=f"S{seed}",
        timestamp=np.datetime64("2015-01-01") + np.arange(N).astype("timedelta64[D]"),
        features=features,
        observed=np.ones(N, bool),
        close=np.cumsum(moves),
        log_return=moves,
        sigma=np.full(N, np.sqrt(1 + planted**2)),
    )


def panel(planted: float = 1.5) -> Panel:
    return Panel([series(1, planted), series(2, planted)], [np.arange(FIRST, N - 6)] * 2, kind=UNIVARIATE)


def crps(law, asked: Panel, step: int) -> float:
    pairs = zip(asked.series, asked.rows, strict=True)
    return law.crps(np.concatenate([one.close[rows + step] - one.close[rows] for one, rows in pairs])).mean()


def test_a_planted_signal_is_found():
    laws, asked = lightgbm(panel(), [1, 5]), panel()
    assert crps(laws[1], asked, 1) < 0.65 * 0.564 * np.sqrt(3.25)  # of the law of the differences
    assert 0.75 < np.mean([low <= y <= high for (low, high), y in _intervals(laws[1], asked)]) < 0.85
    assert crps(laws[5], asked, 5) < 0.97 * 0.564 * np.sqrt(5 * 3.25)


def _intervals(law, asked):
    outcome = np.concatenate(
        [one.close[rows + 1] - one.close[rows] for one, rows in zip(asked.series, asked.rows, strict=True)]
    )
    return zip(law.quantile([0.1, 0.9]), outcome, strict=True)


def test_noise_gives_no_edge():
    skill = 1 - crps(lightgbm(panel(0.0), [1])[1], panel(0.0), 1) / 0.564
    assert -0.06 < skill < 0.06


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(boosting, "TREES", 20)
    assert_array_equal(lightgbm(panel(), [1], threads=2)[1].values, lightgbm(panel(), [1])[1].values)


def test_too_little_history_is_one_line():
    asked = replace(panel(), rows=[np.arange(60, 80)] * 2)
    with pytest.raises(ValueError, match=r"to train and to stop on.*give earlier bars"):
        lightgbm(asked, [1])


def test_a_missing_package_is_one_line_with_its_remedy(monkeypatch):
    monkeypatch.setattr(boosting, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"lightgbm is not installed: pip install 'tsf-llm\[baselines\]'"):
        lightgbm(panel(), [1])
