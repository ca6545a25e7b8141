"""run.py: one failure stops nothing, finished work is found again, and only under the same inputs."""

from dataclasses import replace

import numpy as np
import pytest

from tsf_llm.evaluation.baselines import run as running
from tsf_llm.evaluation.baselines.catalogue import YEARLY, Baseline, choose
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.evaluation.baselines.run import STAND_IN, run
from tsf_llm.evaluation.distributions import Gaussian

CALLS = []


def fits(panel, steps):
    """Fails on the series called BAD."""
    CALLS.append(panel.series[0].ticker)
    if panel.series[0].ticker == "BAD":
        raise ValueError("did not converge")
    count = len(panel.origin)
    return {step: Gaussian(np.zeros(count), np.full(count, 0.1 * step)) for step in steps}


FITTED = Baseline("fitted", fits, YEARLY)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TSF_LLM_CACHE", str(tmp_path))
    CALLS.clear()


@pytest.fixture
def panel(make_series):
    rng = np.random.default_rng(0)
    prices = [np.exp(rng.normal(0, 0.01, 200).cumsum()) for _ in range(2)]
    return Panel(
        [make_series(one, ticker=name) for one, name in zip(prices, ("AAA", "BAD"), strict=True)],
        [np.arange(50, 60)] * 2,
    )


def ask(panel, baselines, **options):
    outcome = np.random.default_rng(1).normal(0, 0.01, (len(panel.origin), 2))
    return run(baselines, panel, [1, 2], outcome, np.ones(len(outcome)), progress=False, **options)


def test_a_failure_leaves_its_reason_and_the_others_their_scores(panel):
    found, failed = ask(panel, [FITTED, *choose("drift")])
    assert failed == {
        "fitted": "1 of 2 series: BAD: did not converge; 10 of 20 forecasts are those of historical_volatility_20"
    }
    stand_in, bad = ask(panel, choose("historical_volatility_20"))[0], panel.which == 1
    for part in ("losses", "quantiles", "p_up", "variance"):
        ours, theirs = (getattr(one[name][2], part) for one, name in ((found, "fitted"), (stand_in, STAND_IN.name)))
        np.testing.assert_array_equal(ours[bad], theirs[bad])
    losses = (one[name][2].losses[~bad] for one, name in ((found, "fitted"), (stand_in, STAND_IN.name)))
    assert not np.array_equal(*losses)
    assert found["drift"][1].known.all()


def test_all_quantiles_of_every_step_are_kept_unless_one_asks_for_few(panel, monkeypatch):
    monkeypatch.setattr(running, "MANY_STEPS", 1)
    whole, few = (ask(panel, [FITTED], brief=brief)[0]["fitted"] for brief in (False, True))
    assert [one.quantiles.shape[1] for one in (whole[1], few[1], few[2])] == [99, 9, 99]
    for step in (1, 2):
        np.testing.assert_array_equal(few[step].quantile([0.1, 0.9]), whole[step].quantile([0.1, 0.9]))


def test_a_row_of_mostly_stand_ins_is_left_out(panel):
    few = Panel(panel.series, [np.arange(50, 54), np.arange(50, 60)])
    found, failed = ask(few, [FITTED])
    assert found == {}
    assert failed["fitted"].endswith("10 of 14 forecasts are missing, so it has no row")


def test_what_fails_everywhere_has_no_row(panel):
    found, failed = ask(panel.alone()[1], [FITTED])
    assert found == {}
    assert failed == {"fitted": "BAD: did not converge"}


def test_finished_work_is_found_again_to_the_bit(panel):
    first, _ = ask(panel, [FITTED])
    again, _ = ask(panel, [FITTED])
    assert CALLS == ["AAA", "BAD", "BAD"]
    for part in ("losses", "quantiles", "p_up"):
        np.testing.assert_array_equal(getattr(first["fitted"][2], part), getattr(again["fitted"][2], part))


def test_other_bars_are_other_work_and_a_torn_file_is_none(panel, make_series, tmp_path):
    ask(panel, [FITTED])
    panel.series[0].close[10] *= 1.01
    ask(panel, [FITTED])
    assert CALLS.count("AAA") == 2
    for path in (tmp_path / "baselines").iterdir():
        path.write_bytes(b"torn")
    ask(panel, [FITTED])
    assert CALLS.count("AAA") == 3


def test_prices_are_all_that_most_baselines_see(panel):
    """Another model's features change nothing for them; for a learned one they are other work."""
    learned = replace(FITTED, learned=True)
    others = [replace(one, features=one.features + 1, sigma=2 * one.sigma) for one in panel.series]
    ask(panel, [FITTED, learned])
    ask(replace(panel, series=others), [FITTED])
    assert CALLS.count("AAA") == 2
    ask(replace(panel, series=others), [learned])
    assert CALLS.count("AAA") == 3
    bare = panel.prices_alone().series[0]
    assert bare.features.size == 0
    assert np.isnan(bare.sigma).all()


def test_processes_change_nothing(panel):
    alone, together = (ask(panel, choose("fast"), num_proc=n)[0] for n in (1, 2))
    for name, steps in alone.items():
        np.testing.assert_array_equal(steps[2].losses, together[name][2].losses)


def test_running_statistics_are_not_kept(panel, tmp_path):
    ask(panel, choose("fast"))
    assert not (tmp_path / "baselines").exists()
    assert running.cache_folder() == tmp_path / "baselines"


@pytest.mark.parametrize("name", ["drift", "ewma"])
def test_tasks_scored_together_are_scored_as_each_alone(panel, monkeypatch, name):
    panel = replace(panel, rows=[np.arange(150, 160)] * 2)
    together, _ = ask(panel, choose(name), keep=False)
    monkeypatch.setattr(running, "TOGETHER", 1)
    alone, _ = ask(panel, choose(name), keep=False)
    for step, scored in alone[name].items():
        for part, values in vars(scored).items():
            np.testing.assert_array_equal(getattr(together[name][step], part), values)
