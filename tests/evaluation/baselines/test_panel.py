"""Panel: fences are yearly from the first origin, the same for all series, and serve the origins behind them."""

import numpy as np

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines.panel import Panel, filled, moment


def test_fences_are_yearly_and_every_origin_has_one(make_panel):
    panel = make_panel(np.full(1000, 1.0), np.arange(100, 1000, 7))
    fences = panel.fences()
    assert fences[0][0] == panel.origin[0]
    assert [str(fence)[4:10] for fence, _ in fences] == [str(panel.origin[0])[4:10]] * 4
    np.testing.assert_array_equal(np.concatenate([positions for _, positions in fences]), np.arange(len(panel.origin)))
    for fence, positions in fences:
        assert (panel.origin[positions] >= fence).all()


def test_an_origin_on_the_anniversary_of_a_leap_day_is_served_by_one_fence(make_series):
    one = make_series(np.full(1000, 1.0), start="2016-02-29")
    fences = Panel([one], [np.arange(0, 1000)]).fences()
    assert [str(fence)[:10] for fence, _ in fences] == ["2016-02-29", "2017-02-28", "2018-02-28", "2019-02-28"]


def test_each_series_alone_keeps_the_fences_of_all(make_series):
    pair = [make_series(np.full(500, 1.0), ticker=name) for name in ("A", "B")]
    panel = Panel(pair, [np.array([50, 400]), np.array([60, 450])])
    np.testing.assert_array_equal(panel.which, [0, 0, 1, 1])
    starts = {fence for part in panel.alone() for fence, _ in part.fences()}
    assert starts <= {fence for fence, _ in panel.fences()}
    assert panel.alone()[1].fences()[0][0] == panel.origin[0]


def test_a_missing_value_is_the_last_known_one(make_series):
    np.testing.assert_array_equal(filled(make_series([np.nan, 2, np.nan], UNIVARIATE), UNIVARIATE), [np.nan, 2, 2])


def test_a_fence_is_told_with_its_time_only_where_it_has_one():
    assert moment(np.datetime64("2011-06-01T00:00:00.000000000")) == "2011-06-01"
    assert moment(np.datetime64("2011-06-01T07:00")) == "2011-06-01 07:00:00"
