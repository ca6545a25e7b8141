"""report.py: forecasts and pairs before and after, their differences, and what is said of them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from tsf_llm.evaluation.distributions import Gaussian, Samples, Scored
from tsf_llm.evaluation.walk_forward import WalkForward
from tsf_llm.preferences.report import Judge, print_findings

DAYS = 60
OUTCOMES = np.random.default_rng(0).normal(0, 0.02, DAYS)


def forecasts(share):
    """A walk-forward of one ticker in which a share of the paths has the sign of the outcome."""
    rng = np.random.default_rng(1)
    right = np.sign(OUTCOMES)[:, None] * np.abs(rng.normal(0.01, 0.01, (DAYS, 40)))
    paths = np.where(rng.random((DAYS, 40)) > share, -right, right)
    return WalkForward(
        ticker=np.repeat("AAA", DAYS),
        origin=pd.date_range("2020-01-01", periods=DAYS, freq="D").to_numpy(),
        realised=OUTCOMES[:, None],
        scale=np.full((DAYS, 1), 0.01),
        steps=[
            {
                "model": Scored.of(Samples(paths), OUTCOMES),
                "random_walk": Gaussian(mean=np.zeros(DAYS), std=np.full(DAYS, 0.02)),
            }
        ],
    )


@pytest.fixture
def judge():
    """`judge(cost_bp)` of dated pairs."""
    origins = pd.date_range("2020-01-01", periods=DAYS, freq="D")
    data = SimpleNamespace(args=SimpleNamespace(horizon=1))
    pairs = Dataset.from_dict({"origin": origins})
    return lambda cost_bp=5.0: Judge(data=data, pairs=pairs, noise=None, cost_bp=cost_bp, seed=0)


def scores(margin):
    """How a model scores the better and the worse path of each pair."""
    return np.random.default_rng(2).normal(margin, 0.1, (DAYS, 1)) * [1, 0]


def test_undated_pairs_keep_their_order(judge):
    assert (judge().pair_dates == forecasts(0.5).origin).all()
    undated = Judge(data=None, pairs=Dataset.from_dict({"chosen": [1, 2, 3]}), noise=None, cost_bp=None, seed=0)
    assert undated.pair_dates.tolist() == [0, 1, 2]


def test_differences_are_after_minus_before_and_each_has_a_verdict(judge):
    report = judge().report((forecasts(0.5), scores(0.1)), (forecasts(0.8), scores(0.5)))
    assert set(report["difference"]) == {"crps", "utility", "pair_accuracy", "margin"}
    for name, one in report["difference"].items():
        assert one["difference"] == pytest.approx(report["after"][name] - report["before"][name], abs=1e-9)
    assert report["difference"]["utility"]["verdict"].startswith("better than before")
    assert report["difference"]["margin"]["verdict"].startswith("better than before")
    held = {"always_long", "always_short", "nothing"}
    assert set(report["baselines"]) == {"random_walk", *held}
    assert set(report["verdicts"]) == {"random_walk", *(f"utility_against_{name}" for name in held)}
    assert report["warning"] is None


def test_a_series_that_nobody_holds_has_no_utility(judge):
    report = judge(cost_bp=None).report((forecasts(0.5), scores(0.1)), (forecasts(0.8), scores(0.5)))
    assert report["after"]["utility"] is None
    assert set(report["difference"]) == {"crps", "pair_accuracy", "margin"}
    assert set(report["baselines"]) == set(report["verdicts"]) == {"random_walk"}


def test_findings_are_a_line_each(judge, capsys):
    report = judge().report((forecasts(0.5), scores(0.1)), (forecasts(0.8), scores(0.5)))
    print_findings({**report, "warning": "utility rises while CRPS gets worse"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*report["difference"], "utility after costs", "warning"]
    before, after, verdict = (*(report[part]["crps"] for part in ("before", "after")), report["difference"]["crps"])
    assert lines[0] == f"crps: {before:.5g} -> {after:.5g}; {verdict['verdict']}"
