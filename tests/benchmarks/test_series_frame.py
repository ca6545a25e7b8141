"""Rows: kept once by all that they depend on, found again, and whole."""

from dataclasses import replace

import pytest

from tsf_llm.benchmarks.series_frame import Context, Found, read_row


@pytest.fixture
def context(tmp_path):
    return Context("made", tmp_path / "rows", None, (0,), True, None, lambda line: None)


def test_a_row_is_measured_once_for_each_of_its_settings(context):
    calls = []

    def measure():
        calls.append(1)
        return Found(losses={"mse": [1.0, 3.0]}, scores={"mae": 5.0})

    first = context.row("a", "24 steps", measure, seed=0, width=8)
    assert first.found.scores == {"mse": 2.0, "mae": 5.0}
    assert context.row("a", "24 steps", measure, seed=0, width=8) == first
    assert len(calls) == 1
    for other in ({"seed": 1, "width": 8}, {"seed": 0, "width": 9}):
        context.row("a", "24 steps", measure, **other)
    replace(context, quick=False).row("a", "24 steps", measure, seed=0, width=8)
    assert len(calls) == 4


def test_what_is_only_looked_for_is_not_computed(context):
    others = replace(context, models=("b",))
    assert others.row("a", "24 steps", lambda: pytest.fail("computed")) is None
    kept = context.row("a", "24 steps", lambda: Found(scores={"mse": 1.0}))
    assert others.row("a", "24 steps", lambda: pytest.fail("computed")) == kept
    assert others.row("b", "24 steps", lambda: Found(scores={"mse": 2.0})).found.scores == {"mse": 2.0}


def test_a_failing_model_leaves_no_row(context):
    def measure():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        context.row("a", "24 steps", measure)
    assert context.row("a", "24 steps", lambda: Found(scores={"mse": 1.0})).found.scores == {"mse": 1.0}


def test_a_torn_row_is_named(context):
    context.row("a", "24 steps", lambda: Found(scores={"mse": 1.0}))
    [path] = context.out.glob("made*.json")
    path.write_text(path.read_text(encoding="utf-8")[:50], encoding="utf-8")
    with pytest.raises(ValueError, match="is no row"):
        read_row(path)
