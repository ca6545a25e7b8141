"""Points, slopes and curves that end; how long anything takes is never asserted."""

import pytest

from tsf_llm.benchmarks import growth
from tsf_llm.benchmarks.peers import Field

QUICK = Field(model="mini", quick=True)


class Here:
    """A worker that is this process."""

    def __init__(self, threads):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def do(self, work, *args):
        return work(*args)


@pytest.fixture
def points(monkeypatch):
    """Every size takes its own number of seconds."""
    monkeypatch.setattr(growth, "Worker", Here)
    monkeypatch.setattr(
        growth,
        "point",
        lambda name, place, size: dict.fromkeys(("cpu", "wall", "counts"), size / 48) | {"size": size, "peak_mb": 1.0},
    )


def test_curves_grow_and_end_before_what_would_take_too_long(points):
    found = growth.run(QUICK, 1, lambda line: None)
    assert [one["size"] for one in found["context"]["points"]] == [128, 256, 512, 1024, 2048]
    assert found["context"]["slope"] == pytest.approx(1)
    assert [one["size"] for one in found["series"]["points"]] == [16, 64, 256, 1024]  # 4,096 would take 85 s
    assert found["series"]["ended_before"] == 4096
    told = growth.table(found).cells
    assert [growth.CURVES["context"].title, "128", "2.67", "2.67", "1", ""] in told
    assert ["", "2,048", "42.7", "42.7", "1", "1.00"] in told
    assert ["", "4,096", "over 75 s", "", "", ""] in told
    above, below = growth.draw(found).axes
    assert "slope 1.00" in above.get_legend_handles_labels()[1][0]
    assert len(below.lines) == len(growth.CURVES)


def test_the_smallest_size_is_kept(points):
    found = growth.run(QUICK, 1, lambda line: None, largest=4)
    assert [[one["size"] for one in curve["points"]] for curve in found.values()] == [[128], [256], [16], [1, 4]]
    assert found["context"]["slope"] is None


def test_a_slope_is_that_of_the_last_factor_of_eight():
    points = [{"size": size, "counts": max(size**2, 4096.0)} for size in (1, 8, 64, 128, 512)]
    assert growth.slope(points) == pytest.approx(2)
