"""backtest.py: costs by hand, no look ahead, delisting and gaps, and later bars that change nothing before them."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation.backtest import GONE, Accounts, Prices, buy_and_hold, random_entries, trade


def prices(opens, closes) -> Prices:
    """Of one ticker, or of several as columns; None is a missing bar."""
    both = [np.array(one, dtype=float) for one in (opens, closes)]
    opened, closed = (one[:, None] if one.ndim == 1 else one for one in both)
    times = np.datetime64("2020-01-01") + np.arange(len(opened))
    return Prices(times, [f"T{k}" for k in range(opened.shape[1])], opened, closed)


def random_prices(T=400, N=3, seed=0, gap=0.01, day=0.01) -> tuple[Prices, np.ndarray, np.ndarray]:
    """Prices and their overnight and intraday log returns `[T,N]`, all independent."""
    rng = np.random.default_rng(seed)
    overnight, intraday = rng.normal(0, gap, (T, N)), rng.normal(0, day, (T, N))
    closed = 100 * np.exp(np.cumsum(overnight + intraday, axis=0))
    return prices(closed / np.exp(intraday), closed), overnight, intraday


def run(panel: Prices, weights, cost_bp=0.0, decided=None, last=None) -> Accounts:
    """One strategy that decides at every close but the last."""
    last = len(panel.times) - 1 if last is None else last
    decided = np.arange(last) if decided is None else np.asarray(decided)
    return trade(panel, decided, np.asarray(weights, dtype=float)[None, : len(decided)], cost_bp, last=last)


def test_costs_by_hand():
    """Bought at 10 with a cost of 0.001, worth 1.1 at 11; sold there for a cost of 0.0011."""
    accounts = run(prices([9, 10], [9, 11]), [[1.0]], cost_bp=10)
    assert accounts.equity[0, -1] == pytest.approx(1.1 - 0.001 - 0.0011, abs=1e-15)
    assert run(prices([9, 10], [9, 11]), [[1.0]]).equity[0, -1] == pytest.approx(1.1, abs=1e-15)
    assert accounts.exposure[0, -1] == pytest.approx(1.1 / 1.099)
    longer = run(prices([9, 10, 11], [9, 11, 11]), [[1.0]], cost_bp=10, decided=[0])
    assert longer.equity[0, 1] == pytest.approx(1.099, abs=1e-15)
    assert longer.equity[0, 2] == pytest.approx(1.0979, abs=1e-15)


def test_a_short_position_earns_what_the_price_loses_and_pays_too():
    accounts = run(prices([10, 10], [10, 9]), [[-1.0]], cost_bp=10)
    assert accounts.equity[0, -1] == pytest.approx(1.1 - 0.001 - 0.0009, abs=1e-15)
    assert accounts.net[0, -1] < 0


def test_every_change_is_charged():
    flat = prices([5.0] * 7, [5.0] * 7)
    weights = [[1], [1], [-1], [-1], [0], [0.5]]
    accounts = run(flat, weights, cost_bp=10)
    changes = np.array([0, 1, 0, 2, 0, 1, 0.5 + 0.5])  # the last one gets in and out
    # on constant prices the weights drift by the costs alone
    assert accounts.turnover[0] == pytest.approx(changes, abs=0.01)
    assert 1 - accounts.equity[0, -1] == pytest.approx(0.001 * changes.sum(), rel=0.01)
    assert np.diff(accounts.equity[0])[[0, 2, 4, 5]] == pytest.approx([-0.001, -0.002, -0.001, -0.001], rel=0.02)


def test_a_kept_position_drifts_for_nothing():
    panel, *_ = random_prices()
    weights = np.full((399, 3), np.nan)
    weights[0] = 1 / 3
    accounts = run(panel, weights, cost_bp=10)
    assert (accounts.turnover[0] > 0).sum() == 2
    gains = (panel.close[-1] / panel.open[1]).mean()
    assert accounts.equity[0, -1] == pytest.approx(gains * 0.999 - 0.001, rel=1e-12)


def test_constant_prices_earn_nothing_and_cost_what_they_cost():
    flat = prices([5.0] * 7, [5.0] * 7)
    assert (run(flat, np.ones((6, 1))).equity == 1).all()
    assert (run(flat, np.zeros((6, 1)), cost_bp=10).equity == 1).all()


def test_a_signal_is_traded_at_the_next_open_and_not_before():
    """Who knows the next bar gains its open to close; one bar late there is nothing left of it."""
    panel, _, intraday = random_prices(gap=0)
    known = np.sign(intraday) / 3
    clairvoyant, late = run(panel, known[1:]), run(panel, known[:-1])
    gained = np.log(clairvoyant.equity[0, -1])
    assert gained > 1.5
    assert abs(np.log(late.equity[0, -1])) < 3 * 0.01 * np.sqrt(400 / 3)
    assert clairvoyant.returns[0] == pytest.approx((np.exp(intraday[1:]) - 1) * known[1:] @ np.ones(3), abs=1e-12)


def test_nobody_gets_the_gap_between_a_close_and_the_next_open():
    panel, overnight, _ = random_prices(day=0)
    next_gap, gap_after = np.sign(overnight[1:]) / 3, np.sign(overnight[2:]) / 3
    assert abs(np.log(run(panel, next_gap).equity[0, -1])) < 3 * 0.01 * np.sqrt(400 / 3)
    assert np.log(run(panel, gap_after, decided=np.arange(398)).equity[0, -1]) > 1.5  # who is in before it


def test_later_bars_change_nothing_before_them():
    panel, *_ = random_prices(seed=3)
    panel.open[100:140, 1] = panel.close[100:140, 1] = np.nan
    panel.open[350:, 2] = panel.close[350:, 2] = np.nan
    weights = np.random.default_rng(4).uniform(-0.3, 0.3, (399, 3))
    weights[::3] = np.nan
    weights[0] = 0.3
    whole = run(panel, weights, cost_bp=7)
    for cut in (90, 105, 130, 149, 300, 352, 380):
        short = run(panel.part(0, cut), weights, cost_bp=7)
        for name in ("equity", "turnover", "costs", "exposure", "net"):
            assert np.array_equal(getattr(short, name)[:, :cut], getattr(whole, name)[:, :cut]), name
        other = Prices(panel.times, panel.tickers, panel.open.copy(), panel.close.copy())
        other.open[cut:] *= 2
        other.close[cut:] *= 3
        assert np.array_equal(run(other, weights, cost_bp=7).equity[:, :cut], whole.equity[:, :cut])


def test_a_delisted_ticker_is_closed_at_its_last_price_after_some_bars():
    T = GONE + 6
    opens = np.full((T, 2), 10.0)
    opens[3:, 1] = np.nan
    weights = np.full((T - 1, 2), np.nan)
    weights[0] = [0, 1]
    accounts = run(prices(opens, opens), weights, cost_bp=10)
    traded = np.flatnonzero(accounts.turnover[0])
    assert traded.tolist() == [1, 2 + GONE]
    assert accounts.stranded.tolist() == [1]
    assert (accounts.exposure[0, 3 + GONE :] == 0).all()
    assert accounts.equity[0, -1] == pytest.approx(1 - 0.001 - 0.001)


def test_a_position_without_a_bar_on_the_last_day_is_counted():
    opens = [[10, 10], [10, 10], [10, None]]
    accounts = run(prices(opens, opens), [[0.5, 0.5], [np.nan, np.nan]])
    assert accounts.stranded.tolist() == [1]
    assert accounts.equity[0, -1] == 1


def test_a_missing_bar_is_traded_at_the_next_open_and_counted_as_late():
    accounts = run(prices([10, None, 10, 10], [10, None, 11, 11]), [[1], [np.nan], [np.nan]])
    assert accounts.equity[0].tolist() == pytest.approx([1, 1, 1.1, 1.1])
    assert accounts.late.tolist() == [1]


def test_a_later_decision_takes_the_place_of_one_that_waits():
    accounts = run(prices([10, None, 10, 10], [10, None, 11, 11]), [[1], [0], [0]])
    assert (accounts.equity == 1).all()


def test_a_gap_in_the_bars_is_earned_when_the_price_is_back():
    accounts = run(prices([10, 10, None, 12], [10, 10, None, 12]), [[1], [np.nan], [np.nan]])
    assert accounts.equity[0].tolist() == pytest.approx([1, 1, 1, 1.2])


def test_who_loses_everything_stays_at_zero():
    accounts = run(prices([10, 10, 10, 10], [10, 25, 5, 5]), [[-1], [-1], [-1]], cost_bp=10)
    assert accounts.equity[0].tolist() == [1, 0, 0, 0]
    assert np.isfinite(accounts.returns).all()


def test_strategies_do_not_meet():
    panel, *_ = random_prices(T=60)
    weights = np.random.default_rng(5).uniform(-0.3, 0.3, (2, 59, 3))
    together = trade(panel, np.arange(59), weights, np.array([0.0, 20.0]), last=59)
    for k, cost in enumerate((0.0, 20.0)):
        assert np.array_equal(together.equity[k], run(panel, weights[k], cost_bp=cost).equity[0])


def test_prices_of_frames_share_their_times():
    first = pd.DataFrame({"timestamp": pd.date_range("2020-01-01", periods=3), "open": [1.0, 2, 3], "close": 4.0})
    panel = Prices.of({"A": first, "B": first.iloc[1:].assign(close=5.0)})
    assert panel.open[:, 0].tolist() == [1, 2, 3]
    assert np.isnan(panel.close[0, 1])
    assert panel.close[1:, 1].tolist() == [5, 5]
    assert panel.missed().tolist() == [[0, 1], [0, 0], [0, 0]]


def test_buy_and_hold_buys_what_is_there_once():
    opens = [[10, None], [10, 10], [10, 10]]
    weights = buy_and_hold(prices(opens, opens), np.array([0, 1]))
    assert weights[0].tolist() == [1, 0]
    assert np.isnan(weights[1]).all()


def test_random_entries_hold_as_much_at_other_times_and_on_other_tickers():
    weights = np.random.default_rng(6).normal(size=(20, 4))
    drawn = random_entries(weights, 50, seed=1)
    assert drawn.shape == (50, 20, 4)
    assert np.allclose(np.sort(drawn.reshape(50, -1)), np.sort(weights.ravel()))
    gross = np.abs(weights).sum(axis=1)
    assert all(np.allclose(np.sort(np.abs(one).sum(axis=1)), np.sort(gross)) for one in drawn)
    assert np.array_equal(drawn, random_entries(weights, 50, seed=1))
    assert not np.array_equal(drawn, random_entries(weights, 50, seed=2))
