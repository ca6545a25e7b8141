"""Tails: longer ones share buffers, and leave the tail before them as it was."""

import numpy as np

from tsf_llm.bars_tsf_llm import BarArrays
from tsf_llm.serving.stream_bars import ROOM, Tail

COLUMNS = ["close", "volume"]


def bar(day):
    time = np.array([day], "datetime64[D]").astype("datetime64[ns]")
    return BarArrays(COLUMNS, time, np.array([[day], [2.0 * day]]))


def tail(days):
    bars = [bar(day) for day in range(days)]
    return Tail.of(COLUMNS, np.concatenate([one.timestamp for one in bars]), np.hstack([one.values for one in bars]))


def test_a_longer_tail_has_the_last_bars_however_many_came():
    longer = tail(20)
    for day in range(20, 20 + 3 * ROOM):
        longer = longer.with_bar(bar(day), 30)
    assert len(longer) == 30
    assert longer.bars["close"].tolist() == list(range(3 * ROOM - 10, 3 * ROOM + 20))
    assert (longer.bars["volume"] == 2 * longer.bars["close"]).all()
    assert longer.last == longer.bars["timestamp"][-1] == bar(3 * ROOM + 19).timestamp[0]
    assert len(longer.times) <= 30 + ROOM


def test_the_tail_before_stays_as_it_was():
    for days in (ROOM, ROOM + 1):
        before = tail(20)
        for day in range(20, 20 + days):
            before = before.with_bar(bar(day), 40)
        known = before.bars.frame()
        refused = before.with_bar(bar(10_000), 40)
        assert refused.bars["close"][-1] == 10_000
        assert before.bars.frame().equals(known)
        taken = before.with_bar(bar(20 + days), 40)
        assert taken.bars["close"].tolist() == list(range(days - 19, days + 21))
