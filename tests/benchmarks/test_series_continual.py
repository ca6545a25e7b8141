"""`series`, continual: quarters in order, forgetting where a task is replaced, and less of it by replay."""

import itertools

import numpy as np
import pytest

from tsf_llm.benchmarks import series_continual, series_tweets
from tsf_llm.benchmarks.series_continual import Quarter, Rows, go_through, quarters
from tsf_llm.benchmarks.series_tweets import Collection


def quarter(seed, sign, n=400):
    """Labels are told by the first input, one way or the other; the second says which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    table = np.column_stack([sign * (2 * labels - 1) + rng.normal(0, 0.3, n), np.full(n, sign), rng.normal(size=n)])
    dates = np.datetime64("2015-01-01") + 100 * seed + np.arange(n) // 10
    return Quarter(f"Q{seed}", Rows(table[:360], labels[:360]), Rows(table[360:], labels[360:]), dates)


@pytest.fixture(scope="module")
def changed():
    return [quarter(0, 1.0), quarter(1, -1.0), quarter(2, -1.0), quarter(3, -1.0)]


def test_what_is_replaced_is_forgotten_and_replay_keeps_it(changed):
    plain = go_through(changed, 0)
    replayed = go_through(changed, 0, share=0.5)
    anchored = go_through(changed, 0, ewc=1000.0)
    assert plain.scores["forgetting"] > 0.1
    assert replayed.scores["forgetting"] < 0.5 * plain.scores["forgetting"]
    assert anchored.scores["forgetting"] < plain.scores["forgetting"]
    assert plain.scores["test"] > 0.9
    assert np.mean(plain.losses["forward"]) == pytest.approx(plain.scores["forward"])


def test_a_seed_says_it_all_and_the_last_quarter_is_never_learned(changed):
    one = go_through(changed, 1, share=0.3)
    assert one == go_through(changed, 1, share=0.3)
    last = changed[-1]
    parts = [Rows(part.inputs.numpy(), 1 - part.labels.numpy()) for part in (last.replayed, last.kept_back)]
    flipped = Quarter(last.name, *parts, last.dates)
    other = go_through([*changed[:-1], flipped], 1, share=0.3)
    assert other.scores["test"] == pytest.approx(1 - one.scores["test"])
    assert other.scores["forgetting"] == one.scores["forgetting"]


def test_quarters_follow_the_dates_of_outcomes(tmp_path):
    bars, tweets = series_tweets.made_up()
    found = quarters(Collection(bars, tweets, series_tweets.made_up_encoder(tmp_path), None))
    assert [one.name for one in found] == ["2015Q1", "2015Q2", "2015Q3", "2015Q4"]
    for one, other in itertools.pairwise(found):
        assert one.dates.max() < other.dates.min()
        assert len(one.kept_back) == pytest.approx(0.1 * len(one.dates), abs=1)


def test_the_words_follow_the_numbers(changed):
    rows = [
        type("Row", (), {"model": name, "found": go_through(changed, 0, **way)})
        for name, way in series_continual.WAYS.items()
    ]
    assert "some of what it learns is there in the next quarter" in series_continual.more(rows)
    for row in rows:
        row.found.scores["forward"] = 0.5
    assert "mostly noise" in series_continual.more(rows)
