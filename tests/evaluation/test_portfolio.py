"""What tickers do together: against closed forms, by hand, and beside the forecast of each."""

import doctest

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from tsf_llm.evaluation import portfolio as module
from tsf_llm.evaluation.portfolio import PORTFOLIO, joint_forecast, portfolio_table, risk, share_best, weights_of
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline, path_uniforms

ASKED = {"horizon": 2, "samples": 64}


@pytest.fixture(scope="module")
def pipe(small, tiny_model):
    sizes = {"num_features": len(small.feature_extractor.names), "vocab_size": 34, "pad_token_id": 32}
    sizes |= {"bar_token_id": 33, "horizons": [1, 5]}
    return TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, **sizes), processor=small)


@pytest.fixture(scope="module")
def bars(make_bars):
    """Six tickers, two of them twins; one more ended earlier, and one has too few bars."""
    parts = [make_bars(120, ticker=name, seed=seed) for name, seed in zip("ABCDEF", (1, 1, 2, 3, 4, 5), strict=True)]
    return pd.concat([*parts, make_bars(100, ticker="OLD", seed=6), make_bars(3, ticker="NEW", seed=7)])


def keys(tickers, steps=1):
    """As a forecast begins."""
    return pd.DataFrame(
        {
            "ticker": np.repeat(tickers, steps),
            "origin": pd.Timestamp("2020-01-03"),
            "step": np.tile(np.arange(1, steps + 1), len(tickers)),
            "timestamp": np.tile(pd.bdate_range("2020-01-06", periods=steps), len(tickers)),
        }
    )


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(module) == (0, 2)


def test_risk_of_a_normal_law_is_the_closed_form():
    found = risk(stats.norm.ppf(np.arange(1, 100_000) / 100_000, 0.01, 0.02)[None])
    assert_allclose(found["mean"], 0.01, atol=1e-5)
    assert_allclose(found["p_loss"], stats.norm.cdf(-0.5), atol=1e-4)
    for percent, share in ((95, 0.05), (99, 0.01)):
        assert_allclose(found[f"var_{percent}"], -stats.norm.ppf(share, 0.01, 0.02), atol=1e-4)
        tail = -0.01 + 0.02 * stats.norm.pdf(stats.norm.ppf(share)) / share
        assert_allclose(found[f"es_{percent}"], tail, atol=1e-4)


def test_a_portfolio_of_one_factor_is_the_closed_form():
    """Small Gaussian returns by `path_uniforms`: variance w' S w, with the correlations of the loadings."""
    b, sigma, weights = np.array([0.9, 0.6, 0.0]), np.array([0.001, 0.002, 0.003]), np.array([0.5, 0.3, 0.2])
    uniforms = path_uniforms("ABC", [pd.Timestamp("2020-01-03")] * 3, 50_000, 1, 0, b).view(3, 50_000, 1)
    paths = sigma[:, None, None] * stats.norm.ppf(uniforms.numpy())
    table = portfolio_table(keys(["A", "B", "C"]), paths, weights, b)
    correlation = np.outer(b, b) + np.diag(1 - b**2)
    std = np.sqrt(weights * sigma @ correlation @ (weights * sigma))
    whole = table.iloc[0]
    for level, name in ((0.05, "q05"), (0.25, "q25"), (0.9, "q90")):
        assert_allclose(whole[name], stats.norm.ppf(level, 0, std), atol=0.03 * std)
    assert_allclose(whole["var_99"], -stats.norm.ppf(0.01, 0, std), atol=0.06 * std)
    loose = np.sqrt(((weights * sigma) ** 2).sum())
    assert abs(whole["var_99"] - 2.326 * loose) > 0.2 * std  # independent tickers would promise less risk


@pytest.mark.parametrize("count", [2, 10, 64, 99, 100, 150, 1000])
def test_the_worst_are_worse_than_what_they_exceed(count):
    returns = np.random.default_rng(count).standard_t(3, (50, count))
    found = risk(returns)
    assert (found["es_95"] >= found["var_95"]).all()
    assert (found["es_99"] >= found["var_99"]).all()
    assert (found["var_99"] >= found["var_95"]).all()
    assert (found["es_99"] >= found["es_95"]).all()
    assert_allclose(found["var_95"], -found["q05"])


def test_the_table_by_hand():
    """Two tickers, four paths, two steps: simple returns, bought and held."""
    first, second = [[0.1, 0.2], [-0.1, 0.0], [0.0, 0.0], [0.3, -0.5]], [[0.0, 0.1], [0.2, 0.0], [0.0, 0.1], [0, 0]]
    simple = np.array([first, second])
    table = portfolio_table(keys(["A", "B"], 2), np.log1p(simple), np.array([0.75, 0.25]), np.array([0.5, 0.4]))
    assert table["ticker"].tolist() == [PORTFOLIO, PORTFOLIO, "A", "A", "B", "B"]
    assert table["step"].tolist() == [1, 2] * 3
    assert table["weight"].tolist() == [1, 1, 0.75, 0.75, 0.25, 0.25]
    assert table["loading"].tolist()[2:] == [0.5, 0.5, 0.4, 0.4]
    held = 0.75 * simple[0] + 0.25 * simple[1]
    assert_allclose(table["mean"], [*held.mean(axis=0), *simple.mean(axis=1).ravel()])
    assert_allclose(table["p_loss"][:2], [(held[:, 0] < 0).mean() + 0.125, (held[:, 1] < 0).mean() + 0.125])
    assert_allclose(table["p_best"][2:], [(1 + 0 + 0.5 + 1) / 4, (1 + 0.5 + 0 + 0) / 4, 1.5 / 4, 2.5 / 4])
    assert table["p_best"][:2].isna().all()
    assert table["p_top_fifth"].isna().all()  # of two tickers none is a fifth


def test_every_path_has_one_best_and_one_fifth():
    returns = np.random.default_rng(0).normal(size=(10, 500))
    assert_allclose(share_best(returns).sum(), 1)
    assert_allclose(share_best(np.zeros((4, 3))), 0.25)
    table = portfolio_table(keys(list("ABCDEFGHIJ")), returns[..., None] / 100, np.full(10, 0.1), np.zeros(10))
    assert_allclose(table["p_best"].sum(), 1)
    assert_allclose(table["p_top_fifth"].sum(), 2)
    assert (table["p_top_fifth"][1:] >= table["p_best"][1:]).all()


def test_weights_are_shares():
    assert weights_of({"A": 0.33, "B": 0.33, "C": 0.33}, ["A", "B", "C"], {}).tolist() == pytest.approx([1 / 3] * 3)
    assert weights_of({"B": 1.3, "A": -0.3}, ["A", "B"], {}).tolist() == [-0.3, 1.3]
    for weights in ({"A": 50, "B": 50}, {"A": 0.5}, {"A": np.nan, "B": 1}, {}):
        with pytest.raises(ValueError, match=r"weights: their sum is .*must be 1: give shares"):
            weights_of(weights, ["A", "B"], {})
    with pytest.raises(ValueError, match="weights: there is no Z among A, B; give it no weight"):
        weights_of({"Z": 1}, ["A", "B"], {})
    with pytest.raises(ValueError, match=r"weights: OLD: its last bar .*; give it no weight"):
        weights_of({"OLD": 1}, ["A", "B"], {"OLD": "OLD: its last bar is of 2019"})


# With a model


def test_the_usual_forecast_is_untouched_and_the_table_beside_it(pipe, bars):
    frame, table = joint_forecast(pipe, bars, **ASKED)
    pd.testing.assert_frame_equal(frame, pipe(bars, **ASKED), check_exact=True)
    assert table["ticker"].unique().tolist() == [PORTFOLIO, *"ABCDEF"]
    assert set(table.attrs["skipped"]) == {"OLD", "NEW"}
    own = frame[frame["ticker"].isin([*"ABCDEF"])].reset_index(drop=True)
    rows = table[table["ticker"] != PORTFOLIO].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows[["ticker", "origin", "step", "timestamp"]], own.iloc[:, :4])
    last = bars.groupby("ticker")["close"].last()[rows["ticker"]].to_numpy()
    inner = (rows["step"] <= pipe.law_reach).to_numpy()
    assert_allclose(1 + rows["q50"][inner], own["q50"][inner] / last[inner], rtol=2e-3)
    assert rows["loading"][:4].tolist() == [0.95 if one > 0.95 else one for one in rows["loading"][:4]]
    again = joint_forecast(pipe, bars, **ASKED)[1]
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_twins_carry_more_risk_together_than_strangers(pipe, bars):
    def share_kept(weights):
        """Width of the portfolio beside that of its parts, of which only a common move keeps all."""
        table = joint_forecast(pipe, bars, horizon=1, samples=1000, weights=weights)[1]
        width = (table["q90"] - table["q10"]).to_numpy()
        return width[0] / (table["weight"].to_numpy()[1:] @ width[1:])

    alone, twins, strangers = (share_kept(one) for one in ({"A": 1}, {"A": 0.5, "B": 0.5}, {"A": 0.5, "D": 0.5}))
    assert alone == pytest.approx(1)
    assert strangers < 0.85 < 0.9 < twins < 1


def test_no_bar_after_the_origin_is_read(pipe, bars):
    cut = bars["timestamp"].iloc[90]
    past = joint_forecast(pipe, bars[bars["timestamp"] <= cut], **ASKED)[1]
    later = bars.copy()
    later.loc[later["timestamp"] > cut, ["open", "high", "low", "close"]] *= 2.0
    pd.testing.assert_frame_equal(joint_forecast(pipe, later, **ASKED, as_of=cut)[1], past, check_exact=True)
    assert "OLD" in set(past["ticker"])  # at that date it had its last bar with the others


def test_weights_of_a_ticker_that_ended_are_refused(pipe, bars):
    with pytest.raises(ValueError, match=r"weights: OLD: its last bar is of 2015-05-20, .*--as-of; give it no weight"):
        joint_forecast(pipe, bars, **ASKED, weights={"A": 0.5, "OLD": 0.5})
    with pytest.raises(ValueError, match=r"weights: NEW: .*bars.*; give it no weight"):
        joint_forecast(pipe, bars, **ASKED, weights={"A": 0.5, "NEW": 0.5})
    with pytest.raises(ValueError, match="OLD: its last bar is of"):
        joint_forecast(pipe, bars[bars["ticker"] != "NEW"], **ASKED, strict=True)


def test_what_cannot_be_joint_is_refused(pipe, small, bars, tiny_model):
    with pytest.raises(ValueError, match="A is alone: a joint forecast needs two tickers or more"):
        joint_forecast(pipe, bars[bars["ticker"] == "A"], **ASKED)
    with pytest.raises(ValueError, match="OLD: its last bar is of"):
        joint_forecast(pipe, bars[bars["ticker"].isin(["A", "OLD"])], **ASKED)
    head = tiny_model(TsfLlmForPrediction, num_features=len(small.feature_extractor.names), prediction_type="quantile")
    with pytest.raises(ValueError, match="needs sampled paths, which a model with a head has not"):
        joint_forecast(TsfLlmPipeline(model=head, processor=small), bars, **ASKED)


def test_a_calibration_moves_the_joint_paths_too(pipe, small, bars):
    kept = {"kept": True, "shift": [0.0, 0.0], "spread": [2.0, 2.0], "through": "2014-12-31"}
    parts = small.feature_extractor, small.tokenizer
    wider = TsfLlmPipeline(model=pipe.model, processor=type(small)(*parts, calibration=kept))
    tables = [joint_forecast(one, bars, **ASKED)[1] for one in (wider, pipe)]
    widths = [np.log((1 + one["q90"]) / (1 + one["q10"]))[2:] for one in tables]
    assert_allclose(widths[0], 2 * widths[1], rtol=1e-2)
    off = joint_forecast(wider, bars, **ASKED, calibration="off")[1]
    assert_array_equal(off["q50"], tables[1]["q50"])
