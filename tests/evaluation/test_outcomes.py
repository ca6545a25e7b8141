"""What came true, by hand: outcomes, months, splits, what later bars must not change."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE
from tsf_llm.evaluation.outcomes import BASELINES
from tsf_llm.evaluation.reconcile import reconcile
from tsf_llm.evaluation.track_record import TrackRecord


def crps_of_uniform(y, width):
    """On [-width, width], in closed form."""
    u = np.clip((y + width) / (2 * width), 0, 1)
    return 2 * width * (u**2 - u + 1 / 3) + np.maximum(np.abs(y) - width, 0)


def returns(bars, ticker, origins, step):
    close = bars[bars["ticker"] == ticker].set_index("timestamp")["close"]
    at = close.index.get_indexer(pd.DatetimeIndex(origins))
    return np.log(close.to_numpy()[at + step] / close.to_numpy()[at])


def run(path, bars, out, kind=OHLCV, **options):
    return reconcile(path, bars, kind=kind, out=out, **options)


def test_scores_are_those_computed_by_hand(bars, times, log_forecasts, tmp_path):
    origins = times[-40:-1]
    found = run(log_forecasts(bars, origins), bars, tmp_path / "out")
    [model] = found["models"]
    assert (found["sound"], model["model"], model["horizons"]) == (True, "tiny", [2])
    assert found["counts"] == {"scored": 39 * 4 - 2, "open": 2, "late": 0, "repeated": 0, "unmatched": 0}
    assert (model["origins"], model["bars_between"]) == (78, 78)
    for step, width, last in ((1, 0.02, -1), (2, 0.04, -2)):
        scored = times[-40:last]
        outcomes = np.array([returns(bars, name, scored, step) for name in ("AAA", "BBB")])
        part = model["steps"][str(step)]
        row = part["rows"][0]
        assert [one["model"] for one in part["rows"]] == ["model", *BASELINES["ohlcv"]]
        np.testing.assert_allclose(row["crps"], crps_of_uniform(outcomes, width).mean(), rtol=1e-5)
        assert row["coverage_80"] == pytest.approx((np.abs(outcomes) <= 0.8 * width).mean())
        assert row["coverage_90"] == pytest.approx((np.abs(outcomes) <= 0.9 * width).mean())
        assert (row["n"], row["num_dates"], row["direction_n"]) == (2 * len(scored), len(scored), 0)  # P(up) is a half
        assert part["verdict"].startswith(("better", "worse", "no edge"))
        close = bars.set_index(["ticker", "timestamp"])["close"]
        walk = [np.log(close[name]).diff().dropna() for name in ("AAA", "BBB")]
        stds = [np.sqrt((one[: scored[0]] ** 2).mean() * step) for one in walk]
        assert part["rows"][1]["crps"] == pytest.approx(np.mean(stds) * 0.56, rel=0.4)  # its size, of normal laws


def test_months_are_those_of_the_outcomes(bars, times, log_forecasts, tmp_path):
    origins = times[-60:-1]
    found = run(log_forecasts(bars, origins, horizon=1), bars, tmp_path / "out")
    months = found["models"][0]["steps"]["1"]["months"]
    due = pd.DatetimeIndex(times[-59:]).strftime("%Y-%m")
    assert list(months) == sorted(set(due))
    for name, month in months.items():
        scored = origins[due == name]
        outcomes = np.array([returns(bars, ticker, scored, 1) for ticker in ("AAA", "BBB")])
        assert (month["n"], month["dates"]) == (2 * len(scored), len(scored))
        np.testing.assert_allclose(month["model"], crps_of_uniform(outcomes, 0.02).mean(), rtol=1e-5)
        words = month["verdicts"]["random_walk"]["verdict"]
        assert ("too few dates" in words) == (len(scored) < 10)


def test_what_comes_later_changes_no_score(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-40:-1])
    earlier = bars[bars["timestamp"] <= times[-11]]
    kept = bars["timestamp"] <= times[-11]
    other = bars.assign(
        **{name: bars[name].where(kept, bars[name] * 1.5) for name in ("open", "high", "low", "close")}
    )
    whole, part, moved = (run(path, one, tmp_path / "out") for one in (bars, earlier, other))
    last = str(pd.Timestamp(times[-11]).strftime("%Y-%m"))
    assert part["counts"]["open"] > whole["counts"]["open"]
    for step in ("1", "2"):
        months = [one["models"][0]["steps"][step]["months"] for one in (whole, part, moved)]
        assert len(months[1]) > 1
        for name in months[1]:
            if name != last:
                assert months[0][name] == months[1][name] == months[2][name]


def test_the_outcome_is_the_bar_so_many_steps_later_whatever_the_calendar_said(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-20:-10], horizon=2)
    holes = bars[bars["timestamp"] != times[-9]]  # a session that the calendar had and the exchange had not
    row = run(path, holes, tmp_path / "out")["models"][0]["steps"]["2"]["rows"][0]
    outcomes = np.array([returns(holes, name, times[-20:-10], 2) for name in ("AAA", "BBB")])
    np.testing.assert_allclose(row["crps"], crps_of_uniform(outcomes, 0.04).mean(), rtol=1e-5)


def test_late_and_repeated_forecasts_stand_apart(bars, times, log_forecasts, tmp_path):
    log_forecasts(bars, times[-40:-20], horizon=1)
    log_forecasts(bars, times[-40:-35], horizon=1, width=1e-6, seed=3)  # better, but second
    path = log_forecasts(bars, times[-60:-40], horizon=1, whole=True)
    found = run(path, bars, tmp_path / "out")
    [model] = found["models"]
    assert found["counts"] == {"scored": 40, "open": 0, "late": 40, "repeated": 10, "unmatched": 0}
    assert (model["steps"]["1"]["n"], model["late"]["1"]["n"]) == (40, 40)
    outcomes = np.array([returns(bars, name, times[-40:-20], 1) for name in ("AAA", "BBB")])
    np.testing.assert_allclose(
        model["steps"]["1"]["rows"][0]["crps"], crps_of_uniform(outcomes, 0.02).mean(), rtol=1e-5
    )


def test_what_has_no_outcome_is_told_and_why(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[[-300, -30, -20, -10]], horizon=1)
    data = bars[
        (bars["ticker"] == "AAA") & (bars["timestamp"] != times[-20]) & (bars["timestamp"] > times[-310])
    ].copy()
    prices = ["open", "high", "low", "close"]
    data.loc[data["timestamp"] == times[-9], prices] = np.nan
    found = run(path, data, tmp_path / "out")
    assert found["counts"] == {"scored": 1, "open": 0, "late": 0, "repeated": 0, "unmatched": 7}
    told = {why: (one["rows"], one["tickers"]) for why, one in found["unmatched"].items()}
    assert told == {
        "the data have no such ticker": (4, ["BBB"]),
        "the data have no bar at the origin": (1, ["AAA"]),
        "the bar of the outcome has no close": (1, ["AAA"]),
        "too few bars before the origin: give earlier ones": (1, ["AAA"]),
    }
    assert "too few" in found["models"][0]["steps"]["1"]["verdicts"]["random_walk"]["verdict"]
    nothing = run(path, bars.assign(ticker="CCC").drop_duplicates("timestamp"), tmp_path / "other")
    assert (nothing["counts"]["scored"], nothing["models"][0]["steps"]) == (0, {})


def test_a_split_since_then_changes_nothing_and_is_told(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-30:-2])
    prices = ["open", "high", "low", "close"]
    split = bars.assign(**{name: bars[name].where(bars["ticker"] == "BBB", bars[name] / 4) for name in prices})
    before, after = run(path, bars, tmp_path / "a"), run(path, split, tmp_path / "b")
    assert before["other_close"] == {}
    assert after["other_close"] == {"AAA": {"origins": 28, "ratio": pytest.approx(0.25)}}
    rows = [one["models"][0]["steps"]["2"]["rows"][0] for one in (before, after)]
    assert rows[0]["crps"] == pytest.approx(rows[1]["crps"], rel=1e-12)


def test_plain_series_are_scored_on_differences_in_their_own_units(bars, times, log_forecasts, tmp_path):
    values = bars[["timestamp", "close"]].assign(series_id=bars["ticker"]).rename(columns={"close": "value"})
    values["value"] -= values["value"].mean()  # of any sign
    path = log_forecasts(values, times[-30:-1], horizon=1, width=1.5, kind="univariate")
    found = run(path, values, tmp_path / "out", kind=UNIVARIATE)
    row = found["models"][0]["steps"]["1"]["rows"][0]
    losses = []
    for _, one in values.groupby("series_id"):
        moved = one["value"].diff().to_numpy()
        unit = pd.Series(np.abs(moved)).expanding().mean().to_numpy()
        losses += [crps_of_uniform(moved[at + 1], 1.5) / unit[at] for at in range(370, 399)]
    np.testing.assert_allclose(row["crps"], np.mean(losses), rtol=1e-5)
    assert [one["model"] for one in found["models"][0]["steps"]["1"]["rows"]][1] == "random_walk"
    assert run(path, bars, tmp_path / "other")["unmatched"].keys() == {
        "is about univariate series, the data are ohlcv"
    }


def test_baselines_are_bound_by_what_all_rows_tell(times, log_forecasts, tmp_path):
    """Whole numbers near zero: a normal law that may not pass zero, nor lie between, is the nearer one."""
    rng, name = np.random.default_rng(0), "shop"
    values = pd.DataFrame({"timestamp": times, "series_id": name, "value": rng.poisson(0.4, len(times)).astype(float)})

    def crps(out, *kinds):
        for n, kind in enumerate(kinds):
            options = {"path": tmp_path / f"{out}.sqlite", "horizon": 1, "model_digest": f"{n:032d}"}
            path = log_forecasts(values, times[-60:-1], kind=kind, **options)
        found = run(path, values, tmp_path / out, kind=UNIVARIATE)
        rows = found["models"][0]["steps"]["1"]["rows"]
        assert found["counts"]["scored"] == 59 * len(kinds)
        assert TrackRecord(path).kinds() == ["univariate"]
        return next(one["crps"] for one in rows if one["model"] == "random_walk")

    free, bounded = crps("free", "univariate"), crps("bounded", "univariate nonnegative integer")
    assert bounded < 0.9 * free
    assert crps("mixed", "univariate", "univariate nonnegative integer") == free
    assert free > crps("half", "univariate nonnegative integer", "univariate nonnegative") > bounded
