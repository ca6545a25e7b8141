"""Features, streams and fresh processes; how long anything takes is never asserted."""

from dataclasses import replace

import pytest

from tsf_llm.benchmarks import whole_way
from tsf_llm.benchmarks.peers import Field

QUICK = Field(model="mini", quick=True)


def test_a_command_is_timed_from_outside():
    once = whole_way.apart(1, "import sys; assert sys.argv[1:] == ['word']", "word")
    assert once.cpu > 0
    assert once.wall > 0
    with pytest.raises(ValueError, match="run it to see why"):
        whole_way.apart(1, "raise SystemExit(3)")


@pytest.mark.parametrize("name", whole_way.STARTS)
def test_what_starts_is_code(name):
    code, *_ = whole_way.STARTS[name]
    compile(code, name, "exec")


def test_features_of_last_windows_and_of_all_bars():
    batch = whole_way.task_of("window", "mini", 2, 300)()
    assert batch["past_values"].shape == (2, 128, 88)
    assert [len(one.features) for one in whole_way.task_of("encode", "mini", 2, 300)()] == [300, 300]


@pytest.mark.slow
def test_a_first_forecast():
    assert whole_way.first_forecast(QUICK, replace(whole_way.TINY, first=2), 1).cpu > 0
