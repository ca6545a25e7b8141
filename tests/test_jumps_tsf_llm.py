"""Jumps: a single one sets no volatility, nothing is read ahead, and its likely cause is said."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import PRICES, check_bars, difference_scale, return_volatility, volatility_bars
from tsf_llm.jumps_tsf_llm import believed, jump_report, jumps, like_a_split, usual_deviation

ROWS = 300


@pytest.fixture
def bars(make_bars):
    return make_bars(ROWS, start="2023-01-02").assign(volume=1e6)


def scaled(bars, rows, factor, *, volume=True):
    """The bars with other prices in these rows, as a split or a change of units has them."""
    bars = bars.copy()
    bars.loc[bars.index[rows], PRICES] *= factor
    if volume:
        bars.loc[bars.index[rows], "volume"] /= factor
    return bars


def wild(rows=2000, seed=0):
    rng = np.random.default_rng(seed)
    changes = 0.01 * rng.standard_t(3, rows)
    changes[[5, 900]], changes[700:720], changes[1500:1600] = (-2.3, 4.6), np.nan, 0.0
    return np.append(np.nan, changes)


@pytest.mark.parametrize("scale", [lambda r: return_volatility(r, 0.94, 1e-4, 6.0), usual_deviation])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_scale_reads_nothing_ahead_to_the_bit(scale, seed):
    changes = wild(seed=seed)
    whole = scale(changes)
    for n in [*range(1, 70), 701, 719, 723, 900, 901, 902, 906, 1501, 1605, 2000]:
        # What is usual at a row is known before it; that of the first 20 changes only once there are 20.
        known = n if (~np.isnan(changes[:n])).sum() >= 20 else 0
        assert scale(changes[:n])[:known].tobytes() == whole[:known].tobytes(), n
        other = np.concatenate((changes[:n], 3.0 * changes[n:] + 0.1))
        assert scale(other)[:known].tobytes() == whole[:known].tobytes(), n


@pytest.mark.parametrize("cap", [None, 6.0])
@pytest.mark.parametrize("decay", [0.94, 0.98])
def test_the_volatility_is_that_of_pandas_and_reads_so_many_changes(decay, cap):
    changes = wild(3000)
    sigma = return_volatility(changes, decay, 1e-4, cap)
    squares = pd.Series(believed(changes, cap) ** 2)
    variance = squares.ewm(alpha=1 - decay, ignore_na=True, min_periods=20).mean()
    np.testing.assert_allclose(sigma, np.sqrt(variance).clip(lower=1e-4), rtol=1e-13)
    known = np.flatnonzero(~np.isnan(changes))
    for end in (2500, 2700, len(known)):
        some = known[end - volatility_bars(decay) : end]
        assert return_volatility(changes[some], decay, 1e-4, cap)[-1] == sigma[some[-1]]


@pytest.mark.parametrize("scale", [lambda r: return_volatility(r, 0.94, 1e-4, 6.0), usual_deviation])
def test_series_side_by_side_have_the_bits_of_each_alone(scale):
    series = np.column_stack([wild(seed=seed) for seed in range(5)])
    series[:50, 1] = series[1900:, 2] = series[10:, 3] = series[:, 4] = np.nan
    together = scale(series)
    for column in range(5):
        assert scale(series[:, column]).tobytes() == together[:, column].tobytes()


def test_usual_is_the_median_move_before_by_hand():
    changes = wild()
    known = np.flatnonzero(~np.isnan(changes))
    usual = usual_deviation(changes)
    assert np.isnan(usual[np.isnan(changes)]).all()
    for i in (20, 64, 300, 899, 903, 1300, 1590):
        before = np.abs(changes[known[max(0, i - 63) : i]])
        soon = np.abs(changes[known[i - 5 : i]])
        sizes = [np.median(before[before > 0])] if (before > 0).sum() >= 5 else []
        sizes += [np.sort(soon)[1]] if (soon > 0).all() else []
        np.testing.assert_allclose(usual[known[i]], 1.4826 * max(sizes, default=np.nan), rtol=1e-12)


@pytest.mark.parametrize("at", [3, 40, 200, 299])
@pytest.mark.parametrize("jump", [np.log(0.1), np.log(100.0)])
def test_one_jump_does_not_set_the_volatility(at, jump):
    changes = 0.01 * np.random.default_rng(1).normal(size=300)
    jumped = changes.copy()
    jumped[at] += jump
    usual, now = return_volatility(changes, 0.94, 1e-4, 6.0), return_volatility(jumped, 0.94, 1e-4, 6.0)
    assert np.nanmax(now / usual) < 2.2
    assert np.nanmax(return_volatility(jumped, 0.94, 1e-4) / usual) > 10  # without the cap it does
    values = [np.cumsum(one * 1e6) for one in (changes, jumped)]
    plain, spiked = (difference_scale(np.diff(one), 0.98, 0.1, 6.0) for one in values)
    assert np.nanmax(spiked / plain) < 2.2


def test_a_cap_changes_nothing_where_nothing_jumps():
    changes = 0.01 * np.random.default_rng(2).normal(size=500)
    assert return_volatility(changes, 0.94, 1e-4, 6.0).tobytes() == return_volatility(changes, 0.94, 1e-4).tobytes()


def test_a_new_regime_is_believed_within_days():
    rng = np.random.default_rng(3)
    changes = np.concatenate((0.0002 * rng.normal(size=300), 0.01 * rng.normal(size=60)))  # a peg that breaks
    sigma = return_volatility(changes, 0.94, 1e-4, 6.0)
    assert sigma[299] < 0.0003
    assert sigma[325] > 0.5 * return_volatility(changes, 0.94, 1e-4)[325]


def test_thin_trading_is_no_jump():
    changes = np.zeros(300)
    changes[::4] = 0.01 * np.random.default_rng(4).normal(size=75)
    sizes = usual_deviation(changes)[40:]
    assert (sizes > 0.003).all()
    np.testing.assert_allclose(
        return_volatility(changes, 0.94, 1e-4, 6.0)[40:], return_volatility(changes, 0.94, 1e-4)[40:], rtol=0.3
    )


@pytest.mark.parametrize(
    ("rows", "factor", "said"),
    [
        (slice(-3, None), 0.1, "near a 10:1 split: adjust the prices, or run `tsf-llm clean` with a split column"),
        (slice(-3, None), 0.5, "near a 2:1 split"),
        (slice(-3, None), 2 / 3, "near a 1.5:1 split"),
        (slice(-1, None), 1 / 20, "near a 20:1 split"),  # at the very last bar
        (slice(-90, None), 8.0, "near a 1:8 reverse split"),
        (slice(-1, None), 100.0, "near a factor of 100, as from another unit"),  # pence for pounds
        (slice(-20, None), 0.01, "near a factor of 100, as from another unit"),
        (slice(-2, None), 1000.0, "near a factor of 1000, as from another unit"),
        (slice(-5, -4), 100.0, "and back on the next row, as a wrong one does"),
        (slice(-5, -4), 0.1, "and back on the next row, as a wrong one does"),
    ],
)
def test_a_jump_is_said_with_its_day_and_likely_cause(bars, rows, factor, said):
    jumped = scaled(bars, rows, factor)
    row = jumped.index[rows][0]
    report = jump_report(check_bars(jumped, "A"), "close")
    moved = 100 * (jumped["close"][row] / jumped["close"][row - 1] - 1)
    assert f"close moved by {moved:+.1f} % on {bars['timestamp'][row].date()}, " in report
    assert said in report
    assert jump_report(check_bars(bars, "A"), "close") is None


def test_a_crash_is_no_split_and_is_said_near_an_origin_only(bars):
    crash = scaled(bars, slice(-3, None), 0.55, volume=False)
    crash.loc[ROWS - 3, "volume"] = 2e7
    crash = check_bars(crash, "A")
    assert "a real move, or prices on another scale" in jump_report(crash, "close")
    assert jump_report(crash, "close", since=ROWS) is None  # of a history, only what is likely wrong
    split = check_bars(scaled(bars, slice(-90, None), 0.25), "A")
    assert "4:1" in jump_report(split, "close", since=ROWS - 64, wrong_since=ROWS - 252)
    assert jump_report(split, "close", since=ROWS - 64, wrong_since=ROWS - 64) is None


def test_several_jumps_are_counted(bars):
    twice = scaled(scaled(bars, slice(-60, None), 0.5), slice(-3, None), 0.25)
    assert "(1 more before), near a 4:1 split" in jump_report(check_bars(twice, "A"), "close")


def test_bars_that_always_move_so_are_no_jump(bars):
    moves = 0.3 * np.random.default_rng(5).normal(size=ROWS)
    assert not jumps(moves, of_prices=True)[25:].any()
    assert jumps(np.full(5, -0.7), of_prices=True).all()  # nothing is usual yet


@pytest.mark.parametrize(
    ("row", "last", "said"),
    [
        (-3, None, "near a factor of 1000, as from another unit"),
        (-1, None, "near a factor of 1000, as from another unit"),
        (-5, -4, "and back on the next row"),
    ],
)
def test_values_that_jump_are_said(row, last, said):
    value = 500 + np.random.default_rng(6).normal(size=ROWS)
    value[row:last] *= 1000
    frame = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=ROWS, freq="h"), "value": value})
    report = jump_report(frame, "value", since=ROWS)
    assert f"value moved from {value[row - 1]:g} to {value[row]:g} on {frame['timestamp'].iloc[row]}" in report
    assert said in report
    assert jump_report(frame.iloc[: row - 2], "value") is None
    value[-1] = np.nan
    jump_report(frame, "value")


def test_only_quiet_moves_near_a_ratio_look_like_a_split():
    volume = np.full(40, 1e6)
    move = np.zeros(39)
    move[30] = np.log(0.5) + 0.03
    assert np.flatnonzero(~np.isnan(like_a_split(move, move, volume))).tolist() == [30]
    np.testing.assert_allclose(like_a_split(move, move, volume)[30], 2.0)
    volume[31] = 1e7  # ten times the shares at half the price: five times the money
    assert np.isnan(like_a_split(move, move, volume)).all()
